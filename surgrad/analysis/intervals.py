"""Numbers over many runs: means with 95 % intervals, learning curves, tables. Notebooks only call what is here."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from surgrad.runs.record import RunRecord, last_value

Runs = Sequence[RunRecord]


class Interval(NamedTuple):
    """Mean of n values and a confidence interval of the mean; its ends are NaN for fewer than two values."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if not self.n:
            return "-"
        spread = "" if math.isnan(self.low) else f" ± {self.high - self.mean:.3f}"
        return f"{self.mean:.3f}{spread}"


def interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Mean ± t s / sqrt(n), Student's t with n - 1 degrees of freedom; NaN values are left out.

    Args:
        values: one value per run.
        level: confidence level.
    """
    x = np.array([v for v in values if v is not None and not math.isnan(v)], dtype=float)
    if not len(x):
        return Interval(math.nan, math.nan, math.nan, 0)
    half = math.nan
    if len(x) > 1:
        half = float(student.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


def finished(runs: Runs) -> list[RunRecord]:
    """Only the runs that ended well; the others have no final numbers.

    Raises:
        ValueError: if none did.
    """
    done = [run for run in runs if run.status == "done"]
    if not done:
        raise ValueError(f"none of {len(runs)} runs is done: {', '.join(sorted({run.status for run in runs}))}")
    return done


def grouped(runs: Runs, *keys: str) -> dict[tuple, list[RunRecord]]:
    """Runs by the values of configuration keys, such as "method.name", in sorted order."""
    groups: dict[tuple, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: str([run.get(key) for key in keys])):
        groups.setdefault(tuple(run.get(key) for key in keys), []).append(run)
    return groups


def summaries(runs: Runs, name: str) -> np.ndarray:
    """A final number of every run, NaN where it is missing."""
    values = [run.summary.get(name) for run in runs]
    return np.array([math.nan if value is None else value for value in values], dtype=float)


class Curve(NamedTuple):
    """A column of metrics.csv over epochs, mean and interval over runs."""

    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(runs: Runs, column: str, level: float = 0.95) -> Curve:
    """Mean and interval over runs of a column, at every epoch at which some run has a value."""
    at: dict[int, list[float]] = {}
    for run in runs:
        metrics = run.metrics
        for epoch, value in zip(metrics["epoch"], metrics.get(column, []), strict=False):
            if not math.isnan(value):
                at.setdefault(int(epoch), []).append(float(value))
    epochs = sorted(at)
    bands = [interval(at[epoch], level) for epoch in epochs]
    return Curve(np.array(epochs), *(np.array([getattr(b, k) for b in bands]) for k in ("mean", "low", "high")))


def nb_layers(runs: Runs) -> int:
    """Hidden layers of the smallest network among the runs."""
    return min(int(run.get("dataset.nb_hidden_layers", 0)) for run in runs)


def table(groups: dict[tuple, list[RunRecord]], columns: dict[str, Callable[[RunRecord], float]], head: str) -> str:
    """A Markdown table: one row per group, mean ± half the 95 % interval of each column, number of runs."""
    lines = [f"| {head} | runs | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for key, runs in groups.items():
        cells = [str(interval(value(run) for run in runs)) for value in columns.values()]
        lines.append(f"| {', '.join(map(str, key))} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def only_data_set(runs: Runs, name: str | None = None) -> list[RunRecord]:
    """The runs on one data set: ``name``, or the one that most runs used.

    Raises:
        ValueError: naming those there are if none is on ``name``.
    """
    groups = {key[0]: group for key, group in grouped(runs, "dataset.name").items()}
    name = name or max(groups, key=lambda key: len(groups[key]))
    if name not in groups:
        raise ValueError(f"no run on the data set {name!r}; there are: {', '.join(map(str, groups))}")
    return groups[name]


def chance(runs: Runs) -> float:
    """Accuracy expected by chance: one over the number of readout units."""
    return 1 / runs[0].summary["nb_classes"]


def last_values(runs: Runs, column: str) -> np.ndarray:
    """`last_value` of every run."""
    return np.array([last_value(run, column) for run in runs])


def median_value(run: RunRecord, column: str) -> float:
    """Median over epochs of a column of metrics.csv, NaN without one."""
    values = run.metrics.get(column, np.array([math.nan])).astype(float)
    return float(np.nanmedian(values)) if not np.isnan(values).all() else math.nan


def runs_and_interval(values: np.ndarray) -> tuple[np.ndarray, Interval]:
    """What a figure of runs shows: the values and their interval."""
    return values, interval(values)
