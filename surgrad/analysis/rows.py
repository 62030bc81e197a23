"""Runs and rows grouped, chosen, compared and tabulated: the one way for reports, notebooks and figures.

An item is a run folder that is read (`RunRecord`) or a row: a plain dictionary with the settings and final numbers of a
run, so that what a figure shows can be kept beside the code in a small file and drawn again without the runs. Keys are
those of a row, or dotted ones of a run's configuration; a number is one of a row, or a final number of a run.
"""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import yaml

from surgrad.errors import UserError
from surgrad.runs import files, tables
from surgrad.runs.intervals import Interval, interval
from surgrad.runs.record import RunRecord, load_runs

Row = dict[str, Any]
#: What a curve shows at one value of the swept setting: one number per run, and their mean with its interval.
Point = tuple[np.ndarray, Interval]


class Item(Protocol):
    """A run that is read, or a row."""

    def get(self, key: str, /) -> Any:
        """The value of a setting, None without one."""


AnItem = TypeVar("AnItem", bound=Item)
#: A number of an item: its name, or a function that takes it from the item.
Number = str | Callable[[Any], float]
Groups = dict[tuple[Any, ...], list[AnItem]]


# ---------------------------------------------------------------- groups
def order(value: Any) -> tuple[Any, ...]:
    """Sort key for settings of any kind: none, numbers by size, then texts, the numbers in them by size."""
    if value is None:
        return (0,)
    if isinstance(value, int | float):
        return (1, math.inf if math.isnan(value) else value)
    return (2, tables.natural(str(value).strip("[]")))  # [128] before [128, 128]


def grouped(items: Iterable[AnItem], *keys: str) -> "Groups[AnItem]":
    """Items by the values of keys, such as "method.name", sorted as `order` says."""
    groups: Groups[AnItem] = {}
    for item in items:
        groups.setdefault(tuple(_setting(item, key) for key in keys), []).append(item)
    return {values: groups[values] for values in sorted(groups, key=lambda values: [order(value) for value in values])}


def _setting(item: Item, key: str) -> Any:
    value = item.get(key)
    return str(value) if isinstance(value, list | dict) else value


def chosen(items: Iterable[AnItem], **settings: Any) -> list[AnItem]:
    """The items with these values."""
    return [item for item in items if all(item.get(key) == value for key, value in settings.items())]


def only_data_set(items: Sequence[AnItem], name: str | None = None, key: str = "dataset") -> list[AnItem]:
    """The items on one data set: ``name``, or the one of most items.

    Args:
        items: rows or runs.
        name: of the data set.
        key: the key that holds it ("dataset.name" of runs).

    Raises:
        UserError: if none is on ``name``.
    """
    groups = {values[0]: group for values, group in grouped(items, key).items()}
    name = name or max(groups, key=lambda one: len(groups[one]))
    if name not in groups:
        raise UserError(f"no run on the data set {name!r}; there are: {', '.join(map(str, groups))}")
    return groups[name]


def finished(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Only the runs that ended well; the others have no final numbers. Raises: UserError if none did."""
    done = [run for run in runs if run.status == "done"]
    if not done:
        raise UserError(f"none of {len(runs)} runs is done: {', '.join(sorted({run.status for run in runs}))}")
    return done


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """Keys that tell the runs apart, seeds left out: as few as say all that differs, names before numbers.

    A key that only follows another (`method.target_sigma_u` of `method.name`) is not needed, and neither is a seed that
    is that of the run in all of them (`dataset.split_seed`).
    """
    settings = tables.differences(runs)
    keys = [key for key in settings[0] if not _is_seed(settings, key)] if settings else []
    all_apart = _nb_groups(settings, keys)
    needed: list[str] = []
    for key in sorted(keys, key=_rank):
        if _nb_groups(settings, [*needed, key]) > _nb_groups(settings, needed):
            needed.append(key)
        if _nb_groups(settings, needed) == all_apart:
            break
    return needed


def _is_seed(settings: Sequence[Mapping[str, Any]], key: str) -> bool:
    last = key.rpartition(".")[2]
    return last == "seed" or (last.endswith("seed") and all(one[key] == one.get("seed") for one in settings))


def _rank(key: str) -> tuple[Any, ...]:
    last = key.rpartition(".")[2]
    return (last != "name", last != "_target_", key.count("."), tables.natural(key))


def _nb_groups(settings: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> int:
    return len({repr([one[key] for key in keys]) for one in settings})


def by_difference(runs: Sequence[RunRecord], *first: str) -> tuple[list[str], dict[str, list[RunRecord]]]:
    """The keys in which runs differ, seeds apart, and the runs by the values of all of them.

    A group's name is what a legend or table shows: "superspike", "superspike, nb_epochs=3".

    Args:
        runs: finished runs.
        first: keys that are always named, and first, as far as the runs have them.
    """
    keys = [key for key in first if any(run.get(key) is not None for run in runs)]
    keys += [key for key in differing(runs) if key not in keys]
    return keys, {label(keys, values): group for values, group in grouped(runs, *keys).items()}


def label(keys: Sequence[str], values: Sequence[Any]) -> str:
    """The settings of a group in one line: names and classes as they are, the others with their key."""
    parts = []
    for key, value in zip(keys, values, strict=True):
        last = key.rpartition(".")[2]
        if last in ("name", "_target_"):
            parts.append(str(value).rpartition(".")[2] if last == "_target_" else str(value))
        else:
            parts.append(f"{last}={tables.number(value)}")
    return ", ".join(parts) or "all runs"


def grouping(keys: Sequence[str], groups: Mapping[Any, Sequence[Any]]) -> str:
    """A sentence that says how runs were put together."""
    sizes = ", ".join(f"{name}: {len(group)}" for name, group in groups.items())
    by = f"by {', '.join(keys)}" if keys else "all together, for they differ in the seed alone"
    return f"Runs grouped {by} ({sizes})."


# ---------------------------------------------------------------- numbers
def number(item: Any, which: Number) -> float:
    """A number of a row or run, NaN without one."""
    value = which(item) if callable(which) else item.get(which) if isinstance(item, Mapping) else _of(item, which)
    return math.nan if value is None else float(value)


def _of(run: RunRecord, name: str) -> float | None:
    value = tables.metric(run, name)
    return value if isinstance(value, int | float) else None


def column(items: Iterable[Any], which: Number) -> np.ndarray:
    """A number of every item, NaN where it is missing."""
    return np.array([number(item, which) for item in items], dtype=float)


def point(items: Iterable[Any], which: Number) -> Point:
    """A number of every item, and their mean with its interval."""
    values = column(items, which)
    return values, interval(values)


def points(items: Iterable[AnItem], x: str, y: Number) -> dict[Any, Point]:
    """``y`` of the items at each value of ``x``."""
    return {value: point(group, y) for (value,), group in grouped(items, x).items()}


def curves(items: Iterable[AnItem], name: str, x: str, y: Number) -> dict[Any, dict[Any, Point]]:
    """`points` for each value of ``name``."""
    return {value: points(group, x, y) for (value,), group in grouped(items, name).items()}


def best_setting(items: Sequence[AnItem], keys: Sequence[str], by: Number = "valid_acc") -> list[AnItem]:
    """The items of that combination of ``keys`` with the highest mean of ``by`` over seeds."""
    groups = grouped(items, *keys)
    return groups[max(groups, key=lambda key: column(groups[key], by).mean())]


def paired_difference(first: Sequence[Item], second: Sequence[Item], which: Number, by: str = "seed") -> Interval:
    """Mean and 95 % interval of a number in ``first`` minus that in ``second``, over pairs with the same seed.

    Raises:
        UserError: if no seed is in both, or a seed twice in one of them.
    """
    values = [{item.get(by): number(item, which) for item in items} for items in (first, second)]
    if any(len(by_seed) != len(items) for by_seed, items in zip(values, (first, second), strict=True)):
        raise UserError(f"a {by} occurs twice: give the runs of one setting each")
    shared = sorted(values[0].keys() & values[1].keys())
    if not shared:
        raise UserError(f"no {by} is in both: there is no pair to compare")
    return interval(values[0][one] - values[1][one] for one in shared)


def chance(runs: Sequence[RunRecord]) -> float | None:
    """Accuracy expected by chance: one over the number of readout units; None where they do not classify."""
    nb_classes = runs[0].summary.get("nb_classes")
    return None if nb_classes is None else 1 / nb_classes


def median_value(run: RunRecord, name: str) -> float:
    """Median over epochs of a column of metrics.csv, NaN without one."""
    values = run.metrics.get(name, np.array([math.nan])).astype(float)
    return float(np.nanmedian(values)) if not np.isnan(values).all() else math.nan


def nb_layers(runs: Sequence[RunRecord]) -> int:
    """Hidden layers whose activity all runs recorded."""
    return min(sum(name.startswith("firing_rate-hid_") for name in run.metrics) for run in runs)


# ---------------------------------------------------------------- tables
def table(groups: Mapping[Any, Sequence[Any]], columns: Mapping[str, Number], head: str) -> str:
    """A Markdown table: one row per group, mean ± half the 95 % interval of each column, number of runs.

    Args:
        groups: rows or runs by label.
        columns: for each heading the number it shows.
        head: heading of the first column.
    """
    lines = [f"| {head} | runs | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for key, items in groups.items():
        cells = [shown(interval(column(items, which))) for which in columns.values()]
        parts = key if isinstance(key, tuple) else (key,)
        name = ", ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
        lines.append(f"| {name} | {len(items)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(value: Interval) -> str:
    """An interval for a table: shares to three digits, larger numbers to none, and what never varies without ±."""
    if not value.n or 0 < abs(value.mean) < 10:
        return str(value)
    half = value.high - value.mean
    return f"{value.mean:.0f}" + (f" ± {half:.0f}" if half > 0 else "")


# ---------------------------------------------------------------- files
def started_from(record: RunRecord) -> tuple[str, str]:
    """Script and primary configuration that a run was started from, "" and "" if it was not started by a script."""
    path = record.folder / ".hydra" / "hydra.yaml"
    if not path.exists():
        return "", ""
    job = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["job"]
    return str(job.get("name", "")), str(job["config_name"])


def config_name(record: RunRecord) -> str:
    """The primary configuration that a run was started from, "" if it was not started by a script."""
    return started_from(record)[1]


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
