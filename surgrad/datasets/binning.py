"""Events on a time grid: binned and gathered on the host by NumPy, or by torch on the device where they stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# A time k dt that was rounded to float32 (dt and the product: two roundings of 2^-24 each) opens bin k.
# The relative slack is twice that; float32 times carry no information below it.
EDGE_TOLERANCE = 2.0**-22

# Events handled at once while binning: bounds the temporary memory to a few tens of MiB.
_CHUNK_EVENTS = 1 << 21

# Cells of a grid for each event up to which counting, or marking, all of them is faster than sorting the events.
_COUNTED_CELLS, _SEEN_CELLS = 8, 64


@dataclass(frozen=True, eq=False)
class BinnedEvents:
    """Events of N samples on a grid: sorted by (sample, step, unit), duplicates collapsed to one.

    Args:
        steps: (E,) uint16 or int32.
        units: (E,) uint16 or int32.
        offsets: (N+1,) int64.
        dropped: number of events outside the window.
        counts: (E,) int32, how many were collapsed to each; None where they are not counted.
    """

    steps: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    dropped: int
    counts: np.ndarray | None = None

    def of(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Steps, units, offsets and counts of the samples ``indices`` (M,), in their order."""
        positions, offsets = gather(self.offsets, indices)
        counts = None if self.counts is None else self.counts[positions]
        return self.steps[positions], self.units[positions], offsets, counts

    def to(self, device: torch.device | str) -> DeviceEvents:
        """The same events on a device, to stay there."""
        arrays = (self.steps.astype(np.int32), self.units.astype(np.int32), self.offsets, self.counts)
        tensors = (None if array is None else torch.from_numpy(array).to(device) for array in arrays)
        return DeviceEvents(*tensors)  # type: ignore[arg-type]  # counts alone may be None


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
    times: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
    *,
    dt: float,
    nb_steps: int,
    nb_units: int,
    counted: bool = False,
) -> BinnedEvents:
    """Puts events on a grid of ``nb_steps`` steps of ``dt`` seconds; the order of events does not matter.

    Args:
        times: (E,) event times (s).
        units: (E,) unit of every event, 0..nb_units-1.
        offsets: (N+1,) int64, sample n owns events ``offsets[n]:offsets[n+1]``.
        dt: time step (s).
        nb_steps: number of steps; events outside [0, nb_steps dt) are dropped and counted.
        nb_units: number of units.
        counted: whether events of one unit in one step are counted, not only seen.
    """
    if not dt > 0:
        raise ValueError(f"dt = {dt} s: the time step must be positive")
    if nb_steps < 1:
        raise ValueError(f"nb_steps = {nb_steps}: at least one step is needed")
    nb_samples = len(offsets) - 1
    step_type = index_type(nb_steps)
    steps_out, units_out, counts_out, repeats = [], [], [], []
    for first, last in chunks(offsets):
        event = slice(offsets[first], offsets[last])
        step = time_to_step(times[event], dt)
        inside = (step >= 0) & (step < nb_steps)
        sample = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))[inside]
        key = (sample * nb_steps + step[inside].astype(np.int64)) * nb_units + units[event][inside]
        key, times_seen = _cells(key, (last - first) * nb_steps * nb_units, counted)
        repeats.append(times_seen)
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
        counts=np.concatenate([np.zeros(0, np.int32), *repeats]) if counted else None,
    )


def _cells(key: np.ndarray, nb_cells: int, counted: bool) -> tuple[np.ndarray, np.ndarray]:
    """The cells of a grid that hold events, in order, and how many each holds (int32; only where ``counted``).

    Args:
        key: (E,) int64, cell of every event, 0..nb_cells-1; its order may change.
        nb_cells: of the grid. With few for each event all cells are looked at, with many the events are sorted.
        counted: whether the numbers are wanted.
    """
    if counted and nb_cells <= _COUNTED_CELLS * len(key):
        numbers = np.bincount(key, minlength=nb_cells)
        found = np.flatnonzero(numbers != 0)
        return found, numbers[found].astype(np.int32)
    if not counted and nb_cells <= _SEEN_CELLS * len(key):
        seen = np.zeros(nb_cells, bool)
        seen[key] = True
        return np.flatnonzero(seen), np.zeros(0, np.int32)
    key.sort()
    first_of_cell = np.concatenate([[True], key[1:] != key[:-1]])[: len(key)]
    begins = np.flatnonzero(first_of_cell)
    return key[begins], np.diff(begins, append=len(key)).astype(np.int32)


def chunks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of samples that hold about ``_CHUNK_EVENTS`` events each."""
    first, nb_samples = 0, len(offsets) - 1
    while first < nb_samples:
        last = int(np.searchsorted(offsets, offsets[first] + _CHUNK_EVENTS, side="right")) - 1
        last = min(max(last, first + 1), nb_samples)
        yield first, last
        first = last


def index_type(size: int) -> type[np.integer]:
    return np.uint16 if size <= 1 << 16 else np.int32


@dataclass(frozen=True, eq=False)
class DeviceEvents:
    """`BinnedEvents` on a device: steps, units (E,) int32, offsets (N+1,) int64, counts (E,) int32 or None."""

    steps: Tensor
    units: Tensor
    offsets: Tensor
    counts: Tensor | None = None

    def of(self, indices: Tensor, nb_events: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Steps, units, offsets and counts of the samples ``indices`` (M,), in their order.

        Args:
            indices: (M,) on the device.
            nb_events: of these samples in all, if known: spares waiting for the device.
        """
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        positions = torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=nb_events)
        positions += torch.arange(len(positions), device=positions.device)
        counts = None if self.counts is None else self.counts[positions]
        return self.steps[positions], self.units[positions], offsets, counts


def bin_on_device(
    times: Tensor,
    units: Tensor,
    offsets: Tensor,
    *,
    dt: float,
    nb_steps: int,
    nb_units: int,
    counted: bool = False,
) -> tuple[DeviceEvents, Tensor]:
    """`bin_events` where the events are.

    Args:
        times: (E,) s, float.
        units: (E,) integers.
        offsets: (N+1,) integers.
        dt: time step, s.
        nb_steps: number of steps.
        nb_units: number of units.
        counted: as in `bin_events`.

    Returns:
        the events, and the number of those outside the window as a 0-d tensor.
    """
    step = torch.floor(times.double() / dt * (1.0 + EDGE_TOLERANCE))
    inside = (step >= 0) & (step < nb_steps)
    sample = torch.repeat_interleave(offsets.diff(), output_size=len(times))
    key = ((sample * nb_steps + step.long()) * nb_units + units.long())[inside]
    repeats = None
    if counted:
        key, repeats = key.unique(return_counts=True)
    else:
        key = key.unique()
    step, sample = key // nb_units % nb_steps, key // (nb_units * nb_steps)
    counts = torch.bincount(sample, minlength=len(offsets) - 1)
    binned = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    counts_of = None if repeats is None else repeats.int()
    events = DeviceEvents(step.int(), (key % nb_units).int(), binned, counts_of)
    return events, (~inside).sum()
