"""Numbers over many runs: means with 95 % intervals, and curves of them over epochs."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from surgrad.runs.record import RunRecord


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
    """Mean ± t s / sqrt(n), Student's t with n - 1 degrees of freedom.

    Args:
        values: one per run; NaN values are left out.
        level: of confidence.
    """
    x = np.array([v for v in values if v is not None and not math.isnan(v)], dtype=float)
    if not len(x):
        return Interval(math.nan, math.nan, math.nan, 0)
    half = math.nan
    if len(x) > 1:
        half = float(student.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


class Curve(NamedTuple):
    """A column of metrics.csv over epochs, mean and interval over runs."""

    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(runs: Sequence[RunRecord], column: str, level: float = 0.95) -> Curve:
    """Mean and interval over runs of a column, at every epoch at which some run has a value."""
    at: dict[int, list[float]] = {}
    for run in runs:
        metrics = run.metrics
        for epoch, value in zip(metrics["epoch"], metrics.get(column, []), strict=False):
            if not math.isnan(value):
                at.setdefault(int(epoch), []).append(float(value))
    epochs = sorted(at)
    bands = [interval(at[epoch], level) for epoch in epochs]
    mean, low, high = (np.array([getattr(band, end) for band in bands]) for end in ("mean", "low", "high"))
    return Curve(np.array(epochs), mean, low, high)
