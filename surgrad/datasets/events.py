"""Data sets of spike events in memory, and batches of them on a time grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surgrad.datasets.batch import EventBatch
from surgrad.datasets.binning import BinnedEvents, DeviceEvents, bin_events, bin_on_device, chunks, gather, index_type

_IN_ORDER = np.empty(0, np.int64)  # stands for the ids 0..N-1 of a data set that was given none


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
    ids: np.ndarray = field(default_factory=lambda: _IN_ORDER)
    name: str = "events"
    class_names: tuple[str, ...] | None = None
    dropped: int = field(default=0, init=False)  # events outside the window of the latest binning
    _cache: tuple[tuple[float, int, bool], BinnedEvents] | None = field(default=None, init=False, repr=False)
    _on_device: tuple[tuple[torch.device, float, int, bool], _DeviceSamples] | None = field(
        default=None, init=False, repr=False
    )

    def __post_init__(self) -> None:
        self.times = np.asarray(self.times, dtype=np.float32)
        units = np.asarray(self.units)
        _check_range(units, self.nb_units, "unit", self.name)
        self.units = units.astype(index_type(self.nb_units), copy=False)
        self.offsets = np.asarray(self.offsets, dtype=np.int64)
        self.labels = np.asarray(self.labels, dtype=np.int64)
        _check_range(self.labels, self.nb_classes, "label", self.name)
        ids = np.arange(len(self.labels)) if self.ids is _IN_ORDER else self.ids
        self.ids = np.asarray(ids, dtype=np.int64)
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
        """The samples ``indices``, (M,) integers in 0..N-1 or (N,) bools, as a data set that keeps their ``ids``."""
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
        for first, last in chunks(self.offsets):
            event = slice(self.offsets[first], self.offsets[last])
            sample = np.repeat(np.arange(last - first), np.diff(self.offsets[first : last + 1]))
            flat = np.bincount(sample * self.nb_units + self.units[event], minlength=(last - first) * self.nb_units)
            counts[first:last] = flat.reshape(last - first, self.nb_units)
        return counts

    def grouped(self, width: int) -> EventDataset:
        """The same events with ``width`` neighbouring units in one; the last may hold fewer."""
        if width < 1:
            raise ValueError(f"{self.name}: groups of {width} units, at least one is needed")
        return self if width == 1 else replace(self, units=self.units // width, nb_units=-(-self.nb_units // width))

    def binned(self, dt: float, nb_steps: int, counted: bool = False) -> BinnedEvents:
        """Events on the grid of ``nb_steps`` steps of ``dt`` seconds; the latest grid is kept in memory."""
        key = (float(dt), int(nb_steps), counted)
        if self._cache is None or self._cache[0] != key:
            self._cache = None
            grid = {"dt": dt, "nb_steps": nb_steps, "nb_units": self.nb_units, "counted": counted}
            binned = bin_events(self.times, self.units, self.offsets, **grid)  # type: ignore[arg-type]
            self._cache = (key, binned)
            self.dropped = binned.dropped
        return self._cache[1]

    def _binned_on(self, device: torch.device, dt: float, nb_steps: int, counted: bool) -> _DeviceSamples:
        """The whole data set on the grid, on a device; the latest is kept there."""
        key = (device, float(dt), int(nb_steps), counted)
        if self._on_device is None or self._on_device[0] != key:
            self._on_device = None
            events = self.binned(dt, nb_steps, counted).to(device)
            self._on_device = (key, _DeviceSamples(events, *self._labels_and_ids(slice(None), device)))
        return self._on_device[1]

    def _labels_and_ids(self, indices: np.ndarray | slice, device: torch.device) -> tuple[Tensor, Tensor]:
        labels, ids = (torch.from_numpy(values[indices]).to(device) for values in (self.labels, self.ids))
        return labels, ids

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
        device: torch.device | str = "cpu",
        counted: bool = False,
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
            device: where the batches are. On a GPU the binned data set is sent there once and each batch is gathered
                there; augmented batches are binned there.
            counted: whether spikes of one unit in one step are counted (`EventBatch.counts`), not only seen.

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
        return Batches(self, groups, dt, nb_steps, unit_shape, augment, seed, torch.device(device), counted)


_HOST = torch.device("cpu")

Augmentation = Callable[[EventDataset, torch.Generator], EventDataset]


#: steps, units, offsets, counts, labels and ids of a batch
_BatchTensors = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor]


class _DeviceSamples(NamedTuple):
    """Binned events, labels and ids of a whole data set, on one device."""

    events: DeviceEvents
    labels: Tensor
    ids: Tensor


class Batches(Iterator[EventBatch]):
    """One pass over a data set; see `EventDataset.batches`."""

    def __init__(
        self,
        dataset: EventDataset,
        groups: list[np.ndarray],
        dt: float,
        nb_steps: int,
        unit_shape: tuple[int, ...],
        augment: Augmentation | None,
        seed: int | None,
        device: torch.device = _HOST,
        counted: bool = False,
    ) -> None:
        self.device, self.counted = device, counted
        self.dataset, self.groups, self.dt, self.nb_steps = dataset, groups, dt, nb_steps
        self.unit_shape, self.augment, self.seed = unit_shape, augment, seed
        self.position = 0
        self._dropped: int | Tensor = 0

    def __len__(self) -> int:
        """Number of batches of the whole pass."""
        return len(self.groups)

    def __next__(self) -> EventBatch:
        if self.position >= len(self.groups):
            raise StopIteration
        indices = self.groups[self.position]
        self.position += 1
        take = self._from_host if self.device.type == "cpu" else self._on_device
        steps, units, offsets, counts, labels, ids = take(indices)
        return EventBatch(steps, units, offsets, labels, ids, self.nb_steps, self.unit_shape, counts)

    @property
    def dropped(self) -> int:
        """Events of the augmented batches so far that fell outside the window."""
        return int(self._dropped)

    def _from_host(self, indices: np.ndarray) -> _BatchTensors:
        if self.augment is None:
            steps, units, offsets, counts = self.dataset.binned(self.dt, self.nb_steps, self.counted).of(indices)
        else:
            part = self._augmented(indices)
            binned = bin_events(part.times, part.units, part.offsets, **self._grid(part))
            self._dropped += binned.dropped
            steps, units, offsets, counts = binned.steps, binned.units, binned.offsets, binned.counts
        arrays = steps.astype(np.int32), units.astype(np.int32), offsets
        step, unit, offset = map(torch.from_numpy, arrays)
        repeats = None if counts is None else torch.from_numpy(counts)
        return step, unit, offset, repeats, *self.dataset._labels_and_ids(indices, self.device)

    def _grid(self, part: EventDataset) -> dict[str, Any]:
        """What binning needs beside events."""
        return {"dt": self.dt, "nb_steps": self.nb_steps, "nb_units": part.nb_units, "counted": self.counted}

    def _on_device(self, indices: np.ndarray) -> _BatchTensors:
        if self.augment is None:
            whole = self.dataset._binned_on(self.device, self.dt, self.nb_steps, self.counted)
            index = torch.from_numpy(indices).to(self.device, non_blocking=True)
            bounds = self.dataset.binned(self.dt, self.nb_steps, self.counted).offsets
            nb_events = int((bounds[indices + 1] - bounds[indices]).sum())
            return *whole.events.of(index, nb_events), whole.labels[index], whole.ids[index]
        part = self._augmented(indices)
        arrays = (part.times, part.units.astype(np.int32), part.offsets)
        times, units, offsets = (torch.from_numpy(x).to(self.device) for x in arrays)
        events, dropped = bin_on_device(times, units, offsets, **self._grid(part))
        self._dropped = self._dropped + dropped
        own = events.steps, events.units, events.offsets, events.counts
        return *own, *self.dataset._labels_and_ids(indices, self.device)

    def _augmented(self, indices: np.ndarray) -> EventDataset:
        # One generator per batch: a batch does not depend on how the batches before it drew.
        assert self.augment is not None
        assert self.seed is not None
        generator = torch.Generator().manual_seed((self.seed + self.position) % 2**63)
        return self.augment(self.dataset.subset(indices), generator)


def _check_range(values: np.ndarray, size: int, what: str, name: str) -> None:
    if values.size and (values.min() < 0 or values.max() >= size):
        bad = values[(values < 0) | (values >= size)][0]
        raise ValueError(f"{name}: {what} {bad} is out of range, allowed are 0..{size - 1}")
