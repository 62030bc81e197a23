"""Smooth random manifolds as spike times (Zenke & Vogels 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from surgrad.datasets.events import EventDataset

_PRECISION = 1e-3  # frequencies whose amplitude falls below it are left out ...
_MAX_FREQUENCIES = 1000  # ... and never more than this


def standardize(y: Tensor, eps: float = 1e-7) -> Tensor:
    """(y - min) / (max - min + eps) of every column of y (samples, units)."""
    low, high = y.amin(0), y.amax(0)
    return (y - low) / (high - low + eps)


@dataclass(frozen=True)
class Manifold:
    """A smooth random manifold: nb_units functions of a point x in the unit cube.

    f_e(x) = prod_d sum_{k=0}^{F-1} p0 s_k sin(2 pi (k x_d p1 + p2)), s_k = 1 / ((k+1)^alpha + 1),
    with p0, p1, p2 ~ U(0, 1) per unit, dimension and frequency, F = min(ceil(1e-3^(-1/alpha)), 1000).
    The constant term k = 0 of every dimension has p0 = 0. Source: Zenke & Vogels 2021, methods.

    Args:
        nb_units: embedding dimension.
        dim: dimension of the manifold.
        alpha: fall-off of the spectrum; larger is smoother.
        seed: of the parameters, drawn in float32 by torch's generator.
    """

    nb_units: int
    dim: int
    alpha: float
    seed: int

    @property
    def nb_frequencies(self) -> int:
        """F, the number of terms of the sum."""
        return int(min(np.ceil(_PRECISION ** (-1 / self.alpha)), _MAX_FREQUENCIES))

    def parameters(self) -> Tensor:
        """p0, p1, p2 as (nb_units, dim, 3, F)."""
        generator = torch.Generator().manual_seed(self.seed)
        parameters = torch.rand(self.nb_units, self.dim, 3, self.nb_frequencies, generator=generator)
        parameters[:, :, 0, 0] = 0
        return parameters

    def __call__(self, x: Tensor) -> Tensor:
        """The manifold at the points x (samples, dim), as (samples, nb_units) float32."""
        parameters, x = self.parameters(), x.float()
        product = torch.ones(len(x), self.nb_units)
        for d in range(self.dim):
            total = torch.zeros_like(product)
            # One frequency after the other, in float32: the published order of summation, to the bit.
            for k, (amplitude, scale, phase) in enumerate(parameters[:, d].permute(2, 1, 0)):
                weight = amplitude / ((k + 1) ** self.alpha + 1)
                total += weight * torch.sin(2 * torch.pi * (k * x[:, d, None] * scale + phase))
            product *= total
        return product


@dataclass(frozen=True)
class Randman:
    """Spike-time classification: each class is a random manifold, its coordinates are spike times.

    Args:
        dim_manifold: dimension of each manifold.
        nb_classes: number of classes.
        nb_units: number of input units; each fires ``nb_spikes`` times.
        nb_steps: length of the time grid (steps).
        duration: of a sample (s); the time step is duration / nb_steps.
        step_frac: fraction of the duration that holds spikes.
        nb_samples: samples per class.
        nb_spikes: spikes per unit; each is a manifold of its own.
        alpha: smoothness of the manifolds.
        seed: of everything that is drawn.
    """

    dim_manifold: int = 1
    nb_classes: int = 15
    nb_units: int = 20
    nb_steps: int = 100
    duration: float = 0.2
    step_frac: float = 0.5
    nb_samples: int = 1000
    nb_spikes: int = 1
    alpha: float = 0.5
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("dim_manifold", "nb_classes", "nb_units", "nb_steps", "nb_samples", "nb_spikes"):
            if getattr(self, name) < 1:
                raise ValueError(f"randman: {name} = {getattr(self, name)}, need at least 1")
        if not self.alpha > 0 or not self.duration > 0:
            raise ValueError(f"randman: alpha = {self.alpha} and duration = {self.duration} s must be positive")
        if not 0 < self.step_frac <= 1:
            raise ValueError(f"randman: step_frac = {self.step_frac}, need a fraction in (0, 1]")

    @property
    def dt(self) -> float:
        """Time step (s)."""
        return self.duration / self.nb_steps

    def steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Spike steps and units, (samples, nb_units nb_spikes) each, and labels, (samples,); shuffled.

        step = int(nb_steps step_frac y), y the standardised manifold: no step is later than
        nb_steps step_frac. Draws in the order of the published generator: one seed per class and spike,
        then the points of class after class, then the permutation.
        """
        steps, units, labels = _steps(self)
        return steps.copy(), units.copy(), labels.copy()

    def dataset(self) -> EventDataset:
        """All samples, nb_samples nb_classes of them, with spikes at step dt (s)."""
        steps, units, labels = self.steps()
        return EventDataset(
            times=(steps * self.dt).ravel(),
            units=units.ravel(),
            offsets=np.arange(len(labels) + 1) * steps.shape[1],
            labels=labels,
            nb_units=self.nb_units,
            nb_classes=self.nb_classes,
            name="randman",
        )

    def splits(self, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> tuple[EventDataset, EventDataset, EventDataset]:
        """Training, validation and test set: consecutive shares of the shuffled samples."""
        if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(f"randman: fractions = {fractions}, need three shares that sum to 1")
        dataset = self.dataset()
        cuts = np.rint(np.cumsum([0, *fractions]) * len(dataset)).astype(int)
        train, valid, test = (dataset.subset(np.arange(*cuts[k : k + 2])) for k in range(3))
        return train, valid, test


@lru_cache(maxsize=1)
def _steps(randman: Randman) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `Randman.steps` gives; kept, since all runs of a sweep draw the same."""
    # The published sets come from NumPy's legacy stream; a local one leaves the global state alone.
    rng = np.random.RandomState(randman.seed)
    limit = np.iinfo(np.int64).max
    seeds = rng.randint(limit, size=(randman.nb_classes, randman.nb_spikes), dtype=np.int64)
    classes = []
    for class_seeds in seeds:
        x = torch.from_numpy(rng.rand(randman.nb_samples, randman.dim_manifold))
        manifolds = [Manifold(randman.nb_units, randman.dim_manifold, randman.alpha, int(seed)) for seed in class_seeds]
        classes.append(np.concatenate([standardize(f(x)).numpy() for f in manifolds], axis=1))
    times = np.concatenate(classes).astype(np.float64) * (randman.nb_steps * randman.step_frac)
    units = np.tile(np.arange(randman.nb_units), (len(times), randman.nb_spikes))
    labels = np.repeat(np.arange(randman.nb_classes), randman.nb_samples)
    order = np.arange(len(times))
    rng.shuffle(order)
    return times.astype(np.int64)[order], units[order], labels[order]
