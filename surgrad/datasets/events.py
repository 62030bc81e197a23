"""Data sets of spike events in memory, and batches of them on a time grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# A time k dt that was rounded to float32 (dt and the product: two roundings of 2^-24 each) opens bin k.
# The relative slack is twice that; float32 times carry no information below it.
EDGE_TOLERANCE = 2.0**-22

# Events handled at once while binning: bounds the temporary memory to a few tens of MiB.
_CHUNK_EVENTS = 1 << 21


@dataclass(frozen=True)
class EventBatch:
    """Spikes of B samples on a grid of T steps; sample b owns events ``offsets[b]:offsets[b+1]``.

    Args:
        steps: (E,) int32, nondecreasing within a sample; at most one event per (sample, step, unit).
        units: (E,) int32, flat index into ``unit_shape``.
        offsets: (B+1,) int64.
        labels: (B,) int64, -1 where there is none.
        ids: (B,) int64, index of the sample in the whole data set (addresses counter-based noise).
        nb_steps: T.
        unit_shape: shape of the input units of one step.
    """

    steps: Tensor
    units: Tensor
    offsets: Tensor
    labels: Tensor
    ids: Tensor
    nb_steps: int
    unit_shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nb_units(self) -> int:
        return prod(self.unit_shape)

    @property
    def samples(self) -> Tensor:
        """(E,) int64: the sample that owns each event."""
        lengths = self.offsets.diff()
        index = torch.arange(len(lengths), device=lengths.device)
        return torch.repeat_interleave(index, lengths, output_size=len(self.steps))

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The spikes as a (T, B, *unit_shape) tensor of 0 and 1."""
        x = torch.zeros(self.nb_steps, len(self), self.nb_units, dtype=dtype, device=self.steps.device)
        flat = (self.steps.long() * len(self) + self.samples) * self.nb_units + self.units
        x.view(-1)[flat] = 1
        return x.view(self.nb_steps, len(self), *self.unit_shape)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EventBatch:
        """The same batch on another device."""
        names = ("steps", "units", "offsets", "labels", "ids")
        return replace(self, **{n: getattr(self, n).to(device, non_blocking=non_blocking) for n in names})

    @classmethod
    def from_dense(cls, x: Tensor, labels: Tensor | None = None, ids: Tensor | None = None) -> EventBatch:
        """The events of a (T, B, *units) tensor of 0 and 1; labels default to -1, ids to 0..B-1.

        Raises:
            ValueError: an entry is neither 0 nor 1.
        """
        nb_steps, nb_samples, *unit_shape = x.shape
        fired = x != 0
        if not torch.equal(fired.to(x.dtype), x):
            raise ValueError("dense spikes must be 0 or 1")
        sample, step, unit = fired.transpose(0, 1).flatten(2).nonzero().unbind(1)
        counts = torch.bincount(sample, minlength=nb_samples)
        if labels is None:
            labels = torch.full((nb_samples,), -1, dtype=torch.int64, device=x.device)
        if ids is None:
            ids = torch.arange(nb_samples, device=x.device)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(step.int(), unit.int(), offsets, labels.long(), ids.long(), nb_steps, tuple(unit_shape) or (1,))


@dataclass(frozen=True, eq=False)
class BinnedEvents:
    """Events of N samples on a grid: sorted by (sample, step, unit), duplicates collapsed to one.

    Args:
        steps: (E,) uint16 or int32.
        units: (E,) uint16 or int32.
        offsets: (N+1,) int64.
        dropped: number of events outside the window.
    """

    steps: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    dropped: int


def gather(offsets: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the events of the samples ``indices``, one sample after the other, and their offsets.

    Args:
        offsets: (N+1,) int64, sample n owns events ``offsets[n]:offsets[n+1]``.
        indices: (M,) int64, samples in any order, repeats allowed.

    Returns:
        positions (E',) int64 and offsets (M+1,) int64 of the gathered samples.
    """
    starts = offsets[indices]
    lengths = offsets[indices + 1] - starts
    gathered = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.repeat(starts - gathered[:-1], lengths)
    positions += np.arange(gathered[-1])
    return positions, gathered


def time_to_step(times: np.ndarray, dt: float) -> np.ndarray:
    """Time bin floor(t/dt) of every event, as float64; an edge k dt rounded to float32 lies in bin k.

    Computed in float64 as floor((t/dt) (1 + 2^-22)). Times that were stored as float16 are taken as they
    are stored: there an edge may have been rounded down into the bin before it.

    Args:
        times: (E,) event times (s), any float type.
        dt: time step (s).
    """
    position = times.astype(np.float64)
    position /= dt
    position *= 1.0 + EDGE_TOLERANCE
    return np.floor(position, out=position)


def bin_events(
    times: np.ndarray, units: np.ndarray, offsets: np.ndarray, *, dt: float, nb_steps: int, nb_units: int
) -> BinnedEvents:
    """Puts events on a grid of ``nb_steps`` steps of ``dt`` seconds; the order of events does not matter.

    Args:
        times: (E,) event times (s).
        units: (E,) unit of every event, 0..nb_units-1.
        offsets: (N+1,) int64, sample n owns events ``offsets[n]:offsets[n+1]``.
        dt: time step (s).
        nb_steps: number of steps; events outside [0, nb_steps dt) are dropped and counted.
        nb_units: number of units.
    """
    if not dt > 0:
        raise ValueError(f"dt = {dt} s: the time step must be positive")
    if nb_steps < 1:
        raise ValueError(f"nb_steps = {nb_steps}: at least one step is needed")
    nb_samples = len(offsets) - 1
    step_type = _index_type(nb_steps)
    steps_out, units_out, counts_out = [], [], []
    for first, last in _chunks(offsets):
        event = slice(offsets[first], offsets[last])
        step = time_to_step(times[event], dt)
        inside = (step >= 0) & (step < nb_steps)
        sample = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))[inside]
        key = (sample * nb_steps + step[inside].astype(np.int64)) * nb_units + units[event][inside]
        key.sort()
        if len(key):
            key = key[np.concatenate([[True], key[1:] != key[:-1]])]
        key, unit = np.divmod(key, nb_units)
        sample, step = np.divmod(key, nb_steps)
        steps_out.append(step.astype(step_type))
        units_out.append(unit.astype(units.dtype))
        counts_out.append((np.bincount(sample, minlength=last - first), np.count_nonzero(~inside)))
    counts = np.concatenate([c for c, _ in counts_out]) if counts_out else np.zeros(nb_samples, np.int64)
    return BinnedEvents(
        steps=np.concatenate(steps_out) if steps_out else np.zeros(0, step_type),
        units=np.concatenate(units_out) if units_out else units[:0],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        dropped=int(sum(d for _, d in counts_out)),
    )


def _chunks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of samples that hold about ``_CHUNK_EVENTS`` events each."""
    first, nb_samples = 0, len(offsets) - 1
    while first < nb_samples:
        last = int(np.searchsorted(offsets, offsets[first] + _CHUNK_EVENTS, side="right")) - 1
        last = min(max(last, first + 1), nb_samples)
        yield first, last
        first = last


def _index_type(size: int) -> type[np.integer]:
    return np.uint16 if size <= 1 << 16 else np.int32


@dataclass(eq=False)
class EventDataset:
    """All events of a data set in memory: sample n owns events ``offsets[n]:offsets[n+1]``.

    Args:
        times: (E,) event times (s), kept as float32.
        units: (E,) input unit of every event, 0..nb_units-1; kept as uint16 where they fit, else int32.
        offsets: (N+1,) int64.
        labels: (N,) int64, 0..nb_classes-1.
        nb_units: number of input units.
        nb_classes: number of classes.
        speakers: (N,) int64, who spoke, or None.
        ids: (N,) int64, index of each sample in the whole data set; default 0..N-1.
        name: for messages and figures.
        class_names: names of the classes, or None.

    Raises:
        ValueError: arrays that do not fit together, times that are not finite, units or labels out of range.
    """

    times: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    nb_units: int
    nb_classes: int
    speakers: np.ndarray | None = None
    ids: np.ndarray | None = None
    name: str = "events"
    class_names: tuple[str, ...] | None = None
    dropped: int = field(default=0, init=False)  # events outside the window of the latest binning
    _cache: tuple[tuple[float, int], BinnedEvents] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.times = np.asarray(self.times, dtype=np.float32)
        units = np.asarray(self.units)
        _check_range(units, self.nb_units, "unit", self.name)
        self.units = units.astype(_index_type(self.nb_units), copy=False)
        self.offsets = np.asarray(self.offsets, dtype=np.int64)
        self.labels = np.asarray(self.labels, dtype=np.int64)
        _check_range(self.labels, self.nb_classes, "label", self.name)
        if self.ids is None:
            self.ids = np.arange(len(self.labels))
        self.ids = np.asarray(self.ids, dtype=np.int64)
        if self.speakers is not None:
            self.speakers = np.asarray(self.speakers, dtype=np.int64)
        self._check_shapes()

    def _check_shapes(self) -> None:
        nb_samples = len(self.labels)
        for key in ("ids", "speakers"):
            value = getattr(self, key)
            if value is not None and value.shape != (nb_samples,):
                raise ValueError(f"{self.name}: {key} has shape {value.shape}, need ({nb_samples},)")
        if self.offsets.shape != (nb_samples + 1,):
            raise ValueError(f"{self.name}: offsets has shape {self.offsets.shape}, need ({nb_samples + 1},)")
        if self.times.shape != self.units.shape or self.times.ndim != 1:
            raise ValueError(
                f"{self.name}: times {self.times.shape} and units {self.units.shape} must be one list each"
            )
        in_order = self.offsets[0] == 0 and self.offsets[-1] == len(self.times)
        if not in_order or np.any(np.diff(self.offsets) < 0):
            raise ValueError(f"{self.name}: offsets must rise from 0 to the {len(self.times)} events")
        if not np.isfinite(self.times).all():
            raise ValueError(f"{self.name}: an event time is not finite")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nb_events(self) -> int:
        return len(self.times)

    @property
    def duration(self) -> float:
        """Time of the last event (s); 0 without events."""
        return float(self.times.max(initial=0.0))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Event times (s), units and label of one sample."""
        index = range(len(self))[index]
        event = slice(self.offsets[index], self.offsets[index + 1])
        return self.times[event], self.units[event], int(self.labels[index])

    def subset(self, indices: np.ndarray | Tensor | list[int]) -> EventDataset:
        """The samples ``indices`` in that order, as a data set of its own; ``ids`` are kept.

        Args:
            indices: (M,) integers 0..N-1, repeats allowed, or (N,) bools.
        """
        indices = self._indices(indices)
        positions, offsets = gather(self.offsets, indices)
        return EventDataset(
            times=self.times[positions],
            units=self.units[positions],
            offsets=offsets,
            labels=self.labels[indices],
            nb_units=self.nb_units,
            nb_classes=self.nb_classes,
            speakers=None if self.speakers is None else self.speakers[indices],
            ids=self.ids[indices],
            name=self.name,
            class_names=self.class_names,
        )

    def _indices(self, indices: np.ndarray | Tensor | list[int]) -> np.ndarray:
        indices = np.asarray(indices)
        if indices.dtype == bool:
            if indices.shape != (len(self),):
                raise ValueError(f"{self.name}: mask has shape {indices.shape}, need ({len(self)},)")
            return np.flatnonzero(indices)
        indices = indices.astype(np.int64)
        _check_range(indices, len(self), "sample", self.name)
        return indices

    def with_events(self, times: np.ndarray, units: np.ndarray, offsets: np.ndarray) -> EventDataset:
        """The same samples with other events (what an augmentation returns)."""
        return replace(self, times=times, units=units, offsets=offsets)

    def samples(self) -> np.ndarray:
        """(E,) int64: the sample that owns each event."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def counts(self) -> np.ndarray:
        """Number of events of every sample and unit, (N, nb_units) int32."""
        counts = np.zeros((len(self), self.nb_units), dtype=np.int32)
        for first, last in _chunks(self.offsets):
            event = slice(self.offsets[first], self.offsets[last])
            sample = np.repeat(np.arange(last - first), np.diff(self.offsets[first : last + 1]))
            flat = np.bincount(sample * self.nb_units + self.units[event], minlength=(last - first) * self.nb_units)
            counts[first:last] = flat.reshape(last - first, self.nb_units)
        return counts

    def binned(self, dt: float, nb_steps: int) -> BinnedEvents:
        """Events on the grid of ``nb_steps`` steps of ``dt`` seconds; the latest grid is kept in memory."""
        key = (float(dt), int(nb_steps))
        if self._cache is None or self._cache[0] != key:
            self._cache = None
            binned = bin_events(self.times, self.units, self.offsets, dt=dt, nb_steps=nb_steps, nb_units=self.nb_units)
            self._cache = (key, binned)
            self.dropped = binned.dropped
            if binned.dropped:
                logger.info(
                    "%s: %d of %d events lie outside [0, %g) s and are dropped",
                    *(self.name, binned.dropped, self.nb_events, nb_steps * dt),
                )
        return self._cache[1]

    def batches(
        self,
        batch_size: int,
        *,
        dt: float,
        nb_steps: int,
        generator: torch.Generator | None = None,
        augment: Augmentation | None = None,
        unit_shape: tuple[int, ...] | None = None,
        drop_last: bool = False,
    ) -> Batches:
        """One pass over the data set in batches; shuffled if a generator is given.

        The call itself draws the order and (with ``augment``) one seed, nothing is drawn later: the pass
        depends on the generator's state at the call alone, however far it is read.

        Args:
            batch_size: samples in a batch; the last batch may hold fewer.
            dt: time step (s).
            nb_steps: T; events outside [0, T dt) are dropped and counted: in ``dropped`` of the data set, with
                an augmentation in ``dropped`` of the pass.
            generator: CPU generator for the order and the augmentation; None keeps the order.
            augment: changes the events of every batch before binning.
            unit_shape: shape of the input units, default (nb_units,).
            drop_last: leave out a last batch that is not full.

        Returns:
            an iterator of EventBatch, whose ``len`` is the number of batches.
        """
        unit_shape = (self.nb_units,) if unit_shape is None else tuple(unit_shape)
        if prod(unit_shape) != self.nb_units:
            raise ValueError(f"{self.name}: unit_shape {unit_shape} does not hold {self.nb_units} units")
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}: at least one sample is needed")
        if augment is not None and generator is None:
            raise ValueError("an augmentation needs a generator")
        order, seed = np.arange(len(self)), None
        if generator is not None:
            order = torch.randperm(len(self), generator=generator).numpy()
            seed = int(torch.randint(2**62, (), generator=generator))
        nb_full = len(order) // batch_size * batch_size
        cuts = range(0, nb_full if drop_last else len(order), batch_size)
        groups = [order[k : k + batch_size] for k in cuts]
        return Batches(self, groups, dt, nb_steps, unit_shape, augment, seed)


Augmentation = Callable[[EventDataset, torch.Generator], EventDataset]


class Batches(Iterator[EventBatch]):
    """One pass over a data set; see `EventDataset.batches`.

    ``dropped`` counts the events of augmented batches that fell outside the window so far.
    """

    def __init__(
        self,
        dataset: EventDataset,
        groups: list[np.ndarray],
        dt: float,
        nb_steps: int,
        unit_shape: tuple[int, ...],
        augment: Augmentation | None,
        seed: int | None,
    ) -> None:
        self.dataset, self.groups, self.dt, self.nb_steps = dataset, groups, dt, nb_steps
        self.unit_shape, self.augment, self.seed = unit_shape, augment, seed
        self.position = self.dropped = 0

    def __len__(self) -> int:
        """Number of batches of the whole pass."""
        return len(self.groups)

    def __next__(self) -> EventBatch:
        if self.position >= len(self.groups):
            raise StopIteration
        indices = self.groups[self.position]
        self.position += 1
        steps, units, offsets = self._events(indices)
        return EventBatch(
            steps=torch.from_numpy(steps.astype(np.int32)),
            units=torch.from_numpy(units.astype(np.int32)),
            offsets=torch.from_numpy(offsets),
            labels=torch.from_numpy(self.dataset.labels[indices]),
            ids=torch.from_numpy(self.dataset.ids[indices]),
            nb_steps=self.nb_steps,
            unit_shape=self.unit_shape,
        )

    def _events(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.augment is None:
            binned = self.dataset.binned(self.dt, self.nb_steps)
            positions, offsets = gather(binned.offsets, indices)
            return binned.steps[positions], binned.units[positions], offsets
        # One generator per batch: a batch does not depend on how the batches before it drew.
        generator = torch.Generator().manual_seed((self.seed + self.position) % 2**63)
        part = self.augment(self.dataset.subset(indices), generator)
        binned = bin_events(
            part.times,
            part.units,
            part.offsets,
            dt=self.dt,
            nb_steps=self.nb_steps,
            nb_units=part.nb_units,
        )
        self.dropped += binned.dropped
        return binned.steps, binned.units, binned.offsets


def _check_range(values: np.ndarray, size: int, what: str, name: str) -> None:
    if values.size and (values.min() < 0 or values.max() >= size):
        bad = values[(values < 0) | (values >= size)][0]
        raise ValueError(f"{name}: {what} {bad} is out of range, allowed are 0..{size - 1}")
