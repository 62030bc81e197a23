"""Statistics of spike trains: rates, Fano factors, intervals.

Spikes are 0/1 of shape (T, trials, *units), of any dtype, as tensors or arrays. Trials are samples, or repeats of one
stimulus. Quantities that silent neurons leave undefined are NaN where they are returned one by one; `defined_mean`
averages the others and says how many there were.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Spikes = Tensor | np.ndarray

_CHUNK_ELEMENTS = 1 << 23  # of (T, trials, units) that are widened from bytes at a time


class Mean(NamedTuple):
    """Mean over the defined values: ``value`` (NaN if there is none), ``nb_defined`` out of ``nb``."""

    value: float
    nb_defined: int
    nb: int

    @property
    def undefined_share(self) -> float:
        """Share of values without a definition, such as windows in which a neuron never fired."""
        return 1 - self.nb_defined / self.nb if self.nb else 0.0


def defined_mean(values: Tensor) -> Mean:
    """Mean of ``values`` without NaN."""
    defined = values[~values.isnan()]
    return Mean(float(defined.double().mean()) if len(defined) else math.nan, len(defined), values.numel())


def _as_spikes(spikes: Spikes) -> Tensor:
    spikes = torch.as_tensor(spikes)
    if spikes.dim() < 3 or 0 in spikes.shape:
        raise ValueError(f"spikes of shape {tuple(spikes.shape)} must be (T, trials, *units), none of them 0")
    return spikes


def firing_rates(spikes: Spikes, dt: float) -> Tensor:
    """n / (T dt) in Hz, (trials, *units).

    Args:
        spikes: (T, trials, *units).
        dt: time step, s.
    """
    spikes = _as_spikes(spikes)
    return spikes.sum(0, dtype=torch.float32) / (len(spikes) * dt)


def moving_counts(spikes: Spikes, window: int) -> Tensor:
    """Spikes in every window of ``window`` steps, N[t] = sum_{k=t}^{t+window-1} s[k]: (T-window+1, trials, *units)."""
    spikes = _as_spikes(spikes)
    _check_window(window, len(spikes))
    total = torch.zeros((len(spikes) + 1, *spikes.shape[1:]), dtype=torch.int32, device=spikes.device)
    torch.cumsum(spikes, 0, dtype=torch.int32, out=total[1:])
    return (total[window:] - total[:-window]).float()


def binned_counts(spikes: Spikes, window: int) -> Tensor:
    """Spikes in successive bins of ``window`` steps, (T // window, trials, *units); steps left over are dropped."""
    spikes = _as_spikes(spikes)
    _check_window(window, len(spikes))
    nb_bins = len(spikes) // window
    return spikes[: nb_bins * window].unflatten(0, (nb_bins, window)).sum(1, dtype=torch.float32)


def _check_window(window: int, nb_steps: int) -> None:
    if not 1 <= window <= nb_steps:
        raise ValueError(f"window={window} steps is not allowed; allowed: 1 to {nb_steps}, the number of steps")


def _variance_over_mean(counts: Tensor, dim: int) -> Tensor:
    variance, mean = torch.var_mean(counts, dim)
    return torch.where(mean > 0, variance / mean, math.nan)


def fano_over_trials(spikes: Spikes, window: int, binned: bool = False) -> Tensor:
    """F = Var[N] / E[N] over trials, for each window and neuron; NaN where a neuron fired in no trial.

    N is the count in a window, the variance unbiased. Over repeats of one stimulus F measures the variability that the
    network adds: 0 for a deterministic network, 1 for Poisson trains (Gygax & Zenke 2025).

    Args:
        spikes: (T, trials, *units), at least two trials.
        window: steps; its duration sets the scale on which variability is measured.
        binned: successive windows instead of a window that moves by one step.

    Returns:
        (windows, *units).
    """
    spikes = _as_spikes(spikes)
    if spikes.shape[1] < 2:
        raise ValueError(f"spikes of {spikes.shape[1]} trial have no variance over trials; give at least 2")
    count = binned_counts if binned else moving_counts
    return _by_units(spikes, lambda chunk: _variance_over_mean(count(chunk, window), 1))


def _by_units(spikes: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a statistic of (T, trials, n) to slices of the flattened units, so that memory stays bounded."""
    units = spikes.shape[2:]
    flat = spikes.flatten(2)
    size = max(1, _CHUNK_ELEMENTS // (flat.shape[0] * flat.shape[1]))
    result = torch.cat([statistic(chunk) for chunk in flat.split(size, dim=2)], dim=-1)
    return result.unflatten(-1, units)


def inter_spike_intervals(spikes: Spikes) -> tuple[Tensor, Tensor]:
    """Steps between successive spikes of the same train.

    Args:
        spikes: (T, trials, *units).

    Returns:
        intervals (n,) int64 in steps; index (n,) of the train of each, flat in (trials, *units).
    """
    trains = _as_spikes(spikes).flatten(1).t()
    train, step = (trains != 0).nonzero(as_tuple=True)
    same = train[1:] == train[:-1]
    return (step[1:] - step[:-1])[same], train[1:][same]


def cv_of_isi(spikes: Spikes, min_intervals: int = 2) -> Tensor:
    """CV = std / mean of the inter-spike intervals of each train: 0 regular, 1 Poisson, above 1 bursting.

    Args:
        spikes: (T, trials, *units).
        min_intervals: trains with fewer are NaN.

    Returns:
        (trials, *units).
    """
    spikes = _as_spikes(spikes)
    intervals, train = inter_spike_intervals(spikes)
    nb_trains = math.prod(spikes.shape[1:])
    zeros = torch.zeros(nb_trains, dtype=torch.float64, device=spikes.device)
    nb = zeros.index_add(0, train, torch.ones_like(train, dtype=torch.float64))
    mean = zeros.index_add(0, train, intervals.double()) / nb
    variance = zeros.index_add(0, train, (intervals - mean[train]) ** 2) / nb
    cv = torch.where(nb >= max(1, min_intervals), variance.sqrt() / mean, math.nan)
    return cv.view(spikes.shape[1:]).float()
