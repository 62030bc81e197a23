"""Tables over run folders for a terminal: what differs between runs, what came of them, how old and large they are."""

import itertools
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surgrad.runs.record import RunRecord, identity, last_value

WIDTH = 100  # columns

#: Final numbers that a table shows by default, the first two that there are.
KEY_METRICS = ("test_acc", "valid_acc_best_valid", "van_rossum", "l2", "test_loss")

_NARROWEST = 16  # characters that a column keeps when it must give way
_NARROWEST_HEAD = 11


# ---------------------------------------------------------------- text
def render(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = WIDTH, shrink: int = 0) -> str:
    """Columns two spaces apart, numbers to the right; the column `shrink` gives way where a table is too wide."""
    columns = list(zip(*rows, strict=True)) or [()] * len(head)
    heads = [
        _folded(name, max(_NARROWEST_HEAD, *map(len, cells), 0)) for name, cells in zip(head, columns, strict=True)
    ]
    widths = [max(map(len, [*name, *cells])) for name, cells in zip(heads, columns, strict=True)]
    too_wide = sum(widths) + 2 * (len(widths) - 1) - width
    if too_wide > 0:
        widths[shrink] = max(min(_NARROWEST, widths[shrink]), widths[shrink] - too_wide)
    right = [all(map(_is_number, cells)) for cells in columns]
    lines = []
    for row in [*itertools.zip_longest(*heads, fillvalue=""), *rows]:
        shown = [shorten(cell, w) for cell, w in zip(row, widths, strict=True)]
        lines.append("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(shown, widths, right, strict=True)))
    return "\n".join(line.rstrip() for line in lines)


def _folded(name: str, width: int) -> list[str]:
    """A column's name, broken behind underscores into lines of about a width."""
    lines = [""]
    for part in re.findall(r"[^_]+_?|_", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def shorten(text: str, width: int) -> str:
    """A text cut to a width, its end replaced by "…"."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-|nan|[-+]?\d.*", cell) is not None


def number(value: Any) -> str:
    """A value for a table: numbers to four significant digits, "-" for none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def changed(record: RunRecord) -> float:
    """When a run last wrote its summary, s since the epoch of the clock; without one, when its folder changed."""
    path = record.folder / "summary.json"
    return (path if path.exists() else record.folder).stat().st_mtime


def age(record: RunRecord, now: float | None = None) -> str:
    """Time since a run last wrote its summary."""
    seconds = (now or time.time()) - changed(record)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def human(nb_bytes: int) -> str:
    """A number of bytes to read."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nb_bytes >= factor:
            return f"{nb_bytes / factor:.3g} {unit}"
    return f"{nb_bytes} B"


def next_steps(folder: Path, nb_epochs: int | None = None) -> str:
    """Lines that say where to look at a finished run, and how it goes on.

    Args:
        folder: of the run.
        nb_epochs: that it was trained for; None if it is no training.
    """
    figures = sorted(path.name for path in (folder / "Plots").glob("*.png"))
    named = ", ".join(figures[:3]) + ", …" * (len(figures) > 3)
    lines = [f"figures: {here(folder / 'Plots')}: {named}"] if figures else []
    own_id = folder.name.rpartition("-")[2]
    shown = own_id if re.fullmatch("[0-9a-f]{8}", own_id) and "Runs" in folder.parts else f'"{here(folder)}"'
    lines.append(f'look: surgrad.load_run("{here(folder)}") in Python, or: surgrad runs show {shown}')
    if nb_epochs:
        lines.append(f"longer: the same command with nb_epochs={2 * nb_epochs} goes on from here")
    return "\n".join(lines)


# ---------------------------------------------------------------- runs
def metric(record: RunRecord, name: str) -> Any:
    """A final number of a run; while there is none, the last value of the column of metrics.csv of that name.

    None for a damaged run.
    """
    if record.damage:
        return None
    value = record.summary.get(name)
    if value is None and name in record.metrics and record.metrics[name].dtype != object:
        last = last_value(record, name)
        value = None if np.isnan(last) else last
    return value


def key_metrics(records: Sequence[RunRecord]) -> list[str]:
    """The first two of `KEY_METRICS` that any of the runs has."""
    whole = [record for record in records if not record.damage]
    return [name for name in KEY_METRICS if any(name in record.summary for record in whole)][:2]


def differences(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """For each run the settings that are not the same in all of them; "absent" where a run has no such key.

    None for a damaged run.
    """
    settings = [identity(record.config) for record in records if not record.damage]
    keys = sorted(set().union(*settings))
    varied = [key for key in keys if len({repr(one.get(key, "absent")) for one in settings}) > 1]
    cells = ({key: one.get(key, "absent") for key in varied} for one in settings)
    return [{} if record.damage else next(cells) for record in records]


def label(settings: Mapping[str, Any]) -> str:
    """Settings in one line, as on a command line."""
    return " ".join(f"{key}={number(value)}" for key, value in settings.items())


def short_label(settings: Mapping[str, Any]) -> str:
    """Settings for a legend: without seeds and keys that a run does not have, names and classes without a key."""
    parts = []
    for key, value in settings.items():
        last = key.rpartition(".")[2]
        if last.endswith("seed") or value == "absent":
            continue
        shown = str(value).rpartition(".")[2] if last == "_target_" else number(value)
        parts.append(shown if last in ("name", "_target_") else f"{last}={shown}")
    return ", ".join(parts)


def natural(text: str) -> list[Any]:
    """Sort key that puts seed=10 behind seed=9."""
    return [(0, float(part)) if k % 2 else (1, part) for k, part in enumerate(re.split(r"(\d+)", text))]


def common(folders: Sequence[Path]) -> Path:
    """The deepest folder above all of them."""
    return Path(os.path.commonpath([folder.parent for folder in folders]))


def here(path: Path) -> str:
    """A path as seen from where the user is, if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def sweep_table(runs: Sequence[tuple[Sequence[str], str, RunRecord]]) -> str:
    """What came of the runs of a sweep, those that are not done last, and why.

    Args:
        runs: overrides, status and record of each run.
    """
    counted: dict[str, int] = {}
    for _, status, _ in runs:
        counted[status] = counted.get(status, 0) + 1
    root = common([record.folder for _, _, record in runs])
    varied = _varied([overrides for overrides, _, _ in runs])
    metrics = key_metrics([record for _, status, record in runs if status == "done"])
    named = [(own, status, record) for own, (_, status, record) in zip(varied, runs, strict=True)]
    named.sort(key=lambda run: (run[1] != "done", natural(" ".join(run[0]))))

    def table(width: int, named_by: Callable[[Sequence[str], Path], Sequence[str]]) -> str:
        rows = []
        for own, status, record in named:
            path = record.folder.relative_to(root)
            cells = [number(metric(record, name)) for name in metrics]
            rows.append([" ".join(named_by(own, path)) or "-", status, *cells, str(path)])
        first = int(all(row[0] == "-" for row in rows))  # paths say it all
        head = ["run", "status", *metrics, "path"]
        return render(head[first:], [row[first:] for row in rows], width=width)

    lines = [f"{len(runs)} runs in {here(root)}: " + ", ".join(f"{n} {status}" for status, n in counted.items())]
    whole = table(1000, lambda own, path: own)
    lines.append(whole if max(map(len, whole.splitlines())) <= WIDTH else table(WIDTH, _unsaid))
    for _, status, record in named:
        if status not in ("done", "running"):
            reason = record.reason if status == record.status else "nothing is written yet"
            lines.append(shorten(f"{status}: {record.folder.name}: {reason}", WIDTH))
    return "\n".join(lines)


def _unsaid(overrides: Sequence[str], path: Path) -> list[str]:
    """The overrides that a path does not show: neither dataset.nu=1 in …/nu=1+lr=0.1 nor method=a in a/…"""
    said = re.split(r"[/+-]", str(path))
    unsaid = []
    for override in overrides:
        key, _, value = override.partition("=")
        short = value.rpartition(".")[2] if re.fullmatch(r"[^\W\d]\w*(\.\w+)+", value) else value
        if f"{key.rpartition('.')[2]}={short}" not in said and value not in path.parts:
            unsaid.append(override)
    return unsaid


def _varied(products: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each job's overrides those that not all jobs share."""
    shared = set(products[0]).intersection(*products)
    return [[override for override in overrides if override not in shared] for overrides in products]
