"""Settings and final numbers of many runs as rows: from run folders, from a CSV file, grouped for tables and figures.

A row is a plain dictionary with the same keys in every row of a study, so that what a figure shows can be kept beside
the code in a small file and drawn again without the runs.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from surgrad.analysis.intervals import Interval, interval
from surgrad.errors import UserError
from surgrad.runs import files
from surgrad.runs.record import RunRecord, load_runs

Row = dict[str, Any]
#: What a curve shows at one value of the swept setting: one number per run, and their mean with its interval.
Point = tuple[np.ndarray, Interval]


def config_name(record: RunRecord) -> str:
    """The primary configuration that a run was started from, "" if it was not started by a script."""
    path = record.folder / ".hydra" / "hydra.yaml"
    return str(OmegaConf.load(path).hydra.job.config_name) if path.exists() else ""


def rows_of(
    where: str | Path, names: Iterable[str], rows: Callable[[RunRecord], Iterable[Row]], published: Path
) -> tuple[list[Row], str]:
    """Rows of the finished runs of some configurations, and a sentence that says where they come from.

    Args:
        where: folder or glob of run folders.
        names: of the primary configurations that count.
        rows: makes the rows of a run.
        published: the CSV file that is read instead if there is no such run.
    """
    names = set(names)
    try:
        runs = [run for run in load_runs(where) if config_name(run) in names and run.status == "done"]
    except FileNotFoundError:
        runs = []
    if runs:
        return [row for run in runs for row in rows(run)], f"{len(runs)} runs below {where}"
    found = read_rows(published)
    return found, f"{len(found)} published rows of {published.name}: there is no finished run below {where}"


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A CSV file with a column per key; floating-point numbers to six significant digits."""
    with files.replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def read_rows(path: Path) -> list[Row]:
    """The rows that `write_rows` wrote: numbers, True and False become what they were."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def chosen(rows: Iterable[Row], **settings: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in settings.items())]


def only_data_set(rows: Sequence[Row], name: str | None = None) -> list[Row]:
    """The rows on one data set: ``name``, or the one of most rows. Raises: UserError if none is on ``name``."""
    sizes = {key[0]: len(group) for key, group in grouped_rows(rows, "dataset").items()}
    name = name or max(sizes, key=lambda key: sizes[key])
    if name not in sizes:
        raise UserError(f"no run on the data set {name!r}; there are: {', '.join(sizes)}")
    return chosen(rows, dataset=name)


def grouped_rows(rows: Iterable[Row], *keys: str) -> dict[tuple, list[Row]]:
    """Rows by the values of some keys, in the order of the values."""
    groups: dict[tuple, list[Row]] = {}
    for row in sorted(rows, key=lambda row: tuple((str(type(row[k])), row[k]) for k in keys)):
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def column(rows: Iterable[Row], key: str) -> np.ndarray:
    """The values of a key, one per row."""
    return np.array([row[key] for row in rows], dtype=float)


def points(rows: Iterable[Row], x: str, y: str) -> dict[Any, Point]:
    """For each value of ``x`` the values of ``y`` and their 95 % interval."""
    return {key: (column(group, y), interval(column(group, y))) for (key,), group in grouped_rows(rows, x).items()}


def curves(rows: Iterable[Row], label: str, x: str, y: str) -> dict[Any, dict[Any, Point]]:
    """`points` for each value of ``label``."""
    return {key: points(group, x, y) for (key,), group in grouped_rows(rows, label).items()}


def best_setting(rows: Sequence[Row], keys: Sequence[str], by: str = "valid_acc") -> list[Row]:
    """The rows of that combination of ``keys`` whose mean of ``by`` over seeds is highest: how a test is not chosen."""
    groups = grouped_rows(rows, *keys)
    return groups[max(groups, key=lambda key: column(groups[key], by).mean())]


def paired_difference(first: Sequence[Row], second: Sequence[Row], key: str, by: str = "seed") -> Interval:
    """Mean and 95 % interval of ``key`` in ``first`` minus that in ``second``, over pairs with the same seed.

    Raises:
        UserError: if no seed is in both, or a seed twice in one of them.
    """
    values = [{row[by]: row[key] for row in rows} for rows in (first, second)]
    if any(len(by_seed) != len(rows) for by_seed, rows in zip(values, (first, second), strict=True)):
        raise UserError(f"a {by} occurs twice: give the rows of one setting each")
    shared = sorted(values[0].keys() & values[1].keys())
    if not shared:
        raise UserError(f"no {by} is in both: there is no pair to compare")
    return interval(values[0][one] - values[1][one] for one in shared)


def rows_table(groups: Mapping[tuple, Sequence[Row]], columns: Mapping[str, str], head: str) -> str:
    """A Markdown table: one row per group, mean ± half the 95 % interval of each column, number of runs.

    Args:
        groups: the groups.
        columns: for each heading the key it shows.
        head: heading of the first column.
    """
    lines = [f"| {head} | runs | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for key, rows in groups.items():
        cells = [shown(interval(column(rows, name))) for name in columns.values()]
        name = ", ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in key)
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(value: Interval) -> str:
    """An interval for a table: shares to three digits, larger numbers to none, and what never varies without ±."""
    if not value.n or 0 < abs(value.mean) < 10:
        return str(value)
    half = value.high - value.mean
    return f"{value.mean:.0f}" + (f" ± {half:.0f}" if half > 0 else "")
