"""Analogue signals as spikes: a spike wherever a signal has moved by one threshold since the last."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from surgrad.errors import UserError


class Events(NamedTuple):
    """Spikes of N signals: times (E,) s, units (E,), offsets (N+1,) int64; in order of time within each signal."""

    times: np.ndarray
    units: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class ThresholdCrossing:
    """Delta modulation: unit c spikes each time channel c rises by ``threshold``, unit C + c each time it falls by it.

    The signal is linear between its samples; a reference starts at the first sample and follows by one threshold with
    every spike, so that reference and signal never differ by more than a threshold: x is known from its spikes.

    Args:
        threshold: in units of the signal.
        dt: between samples (s).

    Raises:
        UserError: unless both are positive.
    """

    threshold: float
    dt: float

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.dt > 0):
            raise UserError(f"threshold={self.threshold}, dt={self.dt} s: both must be positive")

    def nb_units(self, nb_channels: int) -> int:
        """Rising and falling spikes of a channel are two units."""
        return 2 * nb_channels

    def __call__(self, x: np.ndarray) -> Events:
        """Spikes of signals x (N, T, C). Raises: UserError if a sample is not finite."""
        x = np.asarray(x, np.float64)
        if not np.isfinite(x).all():
            raise UserError(f"{np.count_nonzero(~np.isfinite(x))} samples of the signal are not finite")
        nb_signals, _, nb_channels = x.shape
        reference = x[:, 0].copy()
        found = [_crossings(x[:, t], x[:, t + 1], reference, self.threshold) for t in range(x.shape[1] - 1)]
        steps = np.repeat(np.arange(len(found)), [len(cell) for cell, _, _ in found])
        cell, falls, fraction = (np.concatenate(parts) for parts in zip(*found, strict=True)) if found else _NONE
        signal, channel = np.divmod(cell, nb_channels)
        times = (steps + fraction) * self.dt
        order = np.lexsort((times, signal))
        counts = np.bincount(signal, minlength=nb_signals)
        return Events(times[order], (channel + nb_channels * falls)[order], np.concatenate([[0], np.cumsum(counts)]))


_NONE = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

# A level that is met up to rounding counts as crossed: samples are often whole multiples of the threshold.
_SLACK = 1e-9


def _crossings(
    before: np.ndarray, after: np.ndarray, reference: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels that (N, C) lines from ``before`` to ``after`` cross: flat index, 1 where falling, share of the step.

    Moves the reference by what was crossed.
    """
    count = np.floor(np.abs(after - reference) / threshold + _SLACK).astype(np.int64)
    sign = np.where(after < reference, -1, 1)
    cell = np.repeat(np.arange(count.size), count.ravel())
    rank = np.arange(len(cell)) - np.repeat(np.cumsum(count) - count.ravel(), count.ravel()) + 1
    level = reference.ravel()[cell] + rank * threshold * sign.ravel()[cell]
    start, rise = before.ravel()[cell], (after - before).ravel()[cell]
    reference += count * sign * threshold
    return cell, (sign.ravel()[cell] < 0).astype(np.int64), np.clip((level - start) / rise, 0, 1)
