"""Augmentation of spike events: each takes a data set and a generator and returns a data set.

`augmentations` chains them, `published_noise` as the published loader does. All samples are changed at once; events
that leave the units are removed, events that leave the time window are dropped when they are binned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from surgrad.datasets.binning import gather
from surgrad.datasets.events import Augmentation, EventDataset


@dataclass(frozen=True)
class Compose:
    """One augmentation after the other."""

    augmentations: Sequence[Augmentation]

    def __call__(self, dataset: EventDataset, generator: torch.Generator) -> EventDataset:
        """Returns the changed data set."""
        for augmentation in self.augmentations:
            dataset = augmentation(dataset, generator)
        return dataset


@dataclass(frozen=True)
class Drop:
    """Every spike is lost with probability p."""

    p: float

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p_drop = {self.p}: a probability lies in [0, 1]")

    def __call__(self, dataset: EventDataset, generator: torch.Generator) -> EventDataset:
        """Returns the data set with the spikes that are left."""
        keep = torch.rand(dataset.nb_events, generator=generator) >= self.p
        return _keep(dataset, dataset.times, dataset.units, keep.numpy())


@dataclass(frozen=True)
class Insert:
    """Spurious spikes: int(p nb_steps nb_units) per sample, uniform over the window and the units.

    Args:
        p: probability of a spurious spike in a cell (one unit, one step).
        dt: time step (s).
        nb_steps: steps in the window.
    """

    p: float
    dt: float
    nb_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p_insert = {self.p}: a probability lies in [0, 1]")

    def __call__(self, dataset: EventDataset, generator: torch.Generator) -> EventDataset:
        """Returns the data set with the spurious spikes after each sample's own."""
        nb_new = int(self.p * self.nb_steps * dataset.nb_units)
        shape = (len(dataset), nb_new)
        new_times = torch.rand(shape, generator=generator).numpy() * (self.nb_steps * self.dt)
        new_units = torch.randint(dataset.nb_units, shape, generator=generator).numpy()
        sample = np.arange(len(dataset))
        offsets = dataset.offsets + nb_new * np.arange(len(dataset) + 1)
        old = np.arange(dataset.nb_events) + nb_new * dataset.samples()
        new = (dataset.offsets[1:] + nb_new * sample)[:, None] + np.arange(nb_new)
        times = np.empty(offsets[-1], dtype=np.float32)
        units = np.empty(offsets[-1], dtype=dataset.units.dtype)
        times[old], times[new] = dataset.times, new_times
        units[old], units[new] = dataset.units, new_units
        return dataset.with_events(times, units, offsets)


@dataclass(frozen=True)
class TimeJitter:
    """t <- t + N(0, sigma^2), independent for every spike; sigma in s."""

    sigma: float

    def __call__(self, dataset: EventDataset, generator: torch.Generator) -> EventDataset:
        """Returns the data set with moved spikes."""
        noise = torch.randn(dataset.nb_events, generator=generator).numpy()
        return dataset.with_events(dataset.times + self.sigma * noise, dataset.units, dataset.offsets)


@dataclass(frozen=True)
class UnitJitter:
    """unit <- round(unit + U(-width/2, width/2)), independent for every spike; width in units.

    The published loader rounds down, which moves half of all spikes by one unit however small the width;
    here the mean stays where it is.
    """

    width: float

    def __call__(self, dataset: EventDataset, generator: torch.Generator) -> EventDataset:
        """Returns the data set with moved spikes; those moved off the units are removed."""
        noise = torch.rand(dataset.nb_events, generator=generator).numpy() - 0.5
        return _move_units(dataset, self.width * noise)


@dataclass(frozen=True)
class UnitShift:
    """unit <- round(unit + N(0, sigma^2)), one shift for all spikes of a sample; sigma in units."""

    sigma: float

    def __call__(self, dataset: EventDataset, generator: torch.Generator) -> EventDataset:
        """Returns the data set with shifted samples; spikes shifted off the units are removed."""
        shift = self.sigma * torch.randn(len(dataset), generator=generator).numpy()
        return _move_units(dataset, shift[dataset.samples()])


@dataclass(frozen=True)
class TimeStretch:
    """t <- f t, one factor f ~ U(low, high) for all spikes of a sample."""

    low: float = 0.9
    high: float = 1.1

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"time stretch U({self.low}, {self.high}): need 0 < low <= high")

    def __call__(self, dataset: EventDataset, generator: torch.Generator) -> EventDataset:
        """Returns the data set with stretched samples."""
        factor = self.low + (self.high - self.low) * torch.rand(len(dataset), generator=generator).numpy()
        return dataset.with_events(dataset.times * factor[dataset.samples()], dataset.units, dataset.offsets)


@dataclass(frozen=True)
class TimeMask:
    """One window of every sample is silent: its width ~ U(0, share duration), its place anywhere in the sample.

    Args:
        share: largest width in units of the duration.
        duration: of a sample (s).

    Source: Park et al. 2019 (SpecAugment, section 2), whose images these spikes are.
    """

    share: float
    duration: float

    def __post_init__(self) -> None:
        _require_share("time_mask", self.share)

    def __call__(self, dataset: EventDataset, generator: torch.Generator) -> EventDataset:
        """Returns the data set without the spikes in each sample's window."""
        start, end = (self.duration * x[dataset.samples()] for x in _windows(len(dataset), self.share, generator))
        return _keep(dataset, dataset.times, dataset.units, (dataset.times < start) | (dataset.times >= end))


@dataclass(frozen=True)
class UnitMask:
    """One band of neighbouring units is silent in every sample: its width ~ U(0, share nb_units), anywhere.

    Args:
        share: largest width in units of the number of units.

    Source: Park et al. 2019 (SpecAugment, section 2).
    """

    share: float

    def __post_init__(self) -> None:
        _require_share("unit_mask", self.share)

    def __call__(self, dataset: EventDataset, generator: torch.Generator) -> EventDataset:
        """Returns the data set without the spikes in each sample's band."""
        windows = _windows(len(dataset), self.share, generator)
        start, end = (np.round(dataset.nb_units * x)[dataset.samples()] for x in windows)
        return _keep(dataset, dataset.times, dataset.units, (dataset.units < start) | (dataset.units >= end))


@dataclass(frozen=True)
class CutMix:
    """With probability p a window of a sample holds the spikes of another one of its class in the batch instead.

    So a word begins in one voice and ends in another, under the same label: the mixing of Yun et al. 2019 without its
    mixed labels. The window lies anywhere and has a width ~ U(0, duration). Every sample gives to one sample and takes
    from one; a sample that is alone in its class stays as it is.

    Args:
        p: probability.
        duration: of a sample (s).
    """

    p: float
    duration: float

    def __post_init__(self) -> None:
        _require_share("p_cutmix", self.p)

    def __call__(self, dataset: EventDataset, generator: torch.Generator) -> EventDataset:
        """Returns the data set with mixed samples, each one's own spikes first."""
        partner = _partners(dataset.labels, generator)
        start, end = (self.duration * x for x in _windows(len(dataset), 1.0, generator))
        alone = partner == np.arange(len(dataset))
        end[alone | (torch.rand(len(dataset), generator=generator).numpy() >= self.p)] = 0  # nothing lies before that
        positions, offsets = gather(dataset.offsets, np.concatenate([np.arange(len(dataset)), partner]))
        times = dataset.times[positions]
        sample = np.tile(np.arange(len(dataset)), 2).repeat(np.diff(offsets))
        taken = (times >= start[sample]) & (times < end[sample])
        taken[: dataset.nb_events] ^= True
        chosen = np.flatnonzero(taken)
        chosen = chosen[np.argsort(sample[chosen], kind="stable")]
        counts = np.bincount(sample[chosen], minlength=len(dataset))
        return dataset.with_events(
            times[chosen], dataset.units[positions[chosen]], np.concatenate([[0], np.cumsum(counts)])
        )


def augmentations(
    *, dt: float, nb_steps: int, p_cutmix: float = 0.0, time_mask: float = 0.0, unit_mask: float = 0.0, **noise: float
) -> Compose | None:
    """`CutMix`, then the chain of `published_noise`, then masks; None if all amounts are 0.

    Args:
        dt: time step (s).
        nb_steps: steps in the window.
        p_cutmix: probability of `CutMix`.
        time_mask: largest silent window, as a share of the sample.
        unit_mask: largest silent band, as a share of the units.
        noise: amounts of `published_noise`.
    """
    chain: list[tuple[float, Augmentation]] = [
        (p_cutmix, CutMix(p_cutmix, nb_steps * dt)),
        (time_mask, TimeMask(time_mask, nb_steps * dt)),
        (unit_mask, UnitMask(unit_mask)),
    ]
    published = published_noise(dt=dt, nb_steps=nb_steps, **noise)
    first, *masks = ([augmentation] if amount else [] for amount, augmentation in chain)
    chosen = [*first, *(published.augmentations if published is not None else []), *masks[0], *masks[1]]
    return Compose(chosen) if chosen else None


def published_noise(
    *,
    dt: float,
    nb_steps: int,
    p_drop: float = 0.0,
    p_insert: float = 0.0,
    sigma_t: float = 0.0,
    sigma_u: float = 0.0,
    sigma_u_uniform: float = 0.0,
    time_stretch: float = 0.0,
) -> Compose | None:
    """The published loader's chain: time jitter, unit jitter, unit shift, drop, insert; None if all are 0.

    Args:
        dt: time step (s).
        nb_steps: steps in the window.
        p_drop: probability of losing a spike.
        p_insert: probability of a spurious spike in a cell (one unit, one step).
        sigma_t: standard deviation of the time jitter (s; the published loader counts steps).
        sigma_u: full width of the unit jitter (units).
        sigma_u_uniform: standard deviation of the shift shared by all spikes of a sample (units).
        time_stretch: s, stretches each sample first by a factor ~ U(1 - s, 1 + s); not in the published loader.
    """
    chain: list[tuple[float, Augmentation]] = [
        (time_stretch, TimeStretch(1 - time_stretch, 1 + time_stretch)),
        (sigma_t, TimeJitter(sigma_t)),
        (sigma_u, UnitJitter(sigma_u)),
        (sigma_u_uniform, UnitShift(sigma_u_uniform)),
        (p_drop, Drop(p_drop)),
        (p_insert, Insert(p_insert, dt, nb_steps)),
    ]
    chosen = [augmentation for amount, augmentation in chain if amount]
    return Compose(chosen) if chosen else None


def _require_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name} = {share}: a share lies in [0, 1]")


def _windows(nb_samples: int, share: float, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of a window in (0, 1) per sample: its width ~ U(0, share), anywhere."""
    width, place = torch.rand(2, nb_samples, generator=generator, dtype=torch.float64).numpy()
    start = place * (1 - share * width)
    return start, start + share * width


def _partners(labels: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """(N,): for every sample another one of its label, all of them different; itself where there is no other."""
    order = np.lexsort((torch.rand(len(labels), generator=generator).numpy(), labels))
    ordered = labels[order]
    first = np.searchsorted(ordered, ordered)  # of each class, in the order
    last = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
    partner = np.empty(len(labels), np.int64)
    partner[order] = order[np.where(last, first, np.arange(len(ordered)) + 1)]
    return partner


def _move_units(dataset: EventDataset, shift: np.ndarray) -> EventDataset:
    units = np.floor(dataset.units + shift + 0.5)
    return _keep(dataset, dataset.times, units, (units >= 0) & (units < dataset.nb_units))


def _keep(dataset: EventDataset, times: np.ndarray, units: np.ndarray, keep: np.ndarray) -> EventDataset:
    """The events where ``keep`` holds."""
    kept = np.concatenate([[0], np.cumsum(keep)])
    return dataset.with_events(times[keep], units[keep].astype(np.int64), kept[dataset.offsets])
