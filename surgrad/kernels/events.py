"""Spikes as events on a grid, as kernels take them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.kernels.checks import INTEGERS, count_of, require_device

MOST_COUNTED = 2**24  # spikes of one event: what float32 counts exactly


@dataclass(frozen=True, eq=False)
class Events:
    """Spikes of B samples on a grid of T steps; sample b owns events ``offsets[b]:offsets[b+1]``.

    Args:
        steps: (E,) int32: time step and flat index into ``unit_shape`` of every event.
        units: (E,) int32: time step and flat index into ``unit_shape`` of every event.
        offsets: (B+1,) int64.
        nb_steps: T. ``unit_shape``: of the input units.
        counts: (E,) integers up to 2^24, spikes that each event stands for; None: one, however often an event is there.

    Raises:
        UserError: for arrays that do not fit together, and for events outside the window or of no unit.
    """

    steps: Tensor
    units: Tensor
    offsets: Tensor
    nb_steps: int
    unit_shape: tuple[int, ...]
    counts: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "units", "offsets", *(() if self.counts is None else ("counts",))):
            x = getattr(self, name)
            if not isinstance(x, Tensor) or x.dtype not in INTEGERS or x.dim() != 1:
                found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise UserError(f"{name} of the events is {found}; it must be a tensor of integers with one axis")
            require_device(f"{name} of the events", x, self.steps.device)
        object.__setattr__(self, "nb_steps", count_of("nb_steps of the events", self.nb_steps))
        object.__setattr__(self, "unit_shape", tuple(self.unit_shape))
        if len(self.steps) != len(self.units) or not len(self.offsets):
            raise UserError(
                f"events have {len(self.steps)} steps, {len(self.units)} units and {len(self.offsets)} offsets; steps "
                "and units must be as many, and there is one offset more than samples"
            )
        if self.counts is not None and len(self.counts) != len(self.steps):
            raise UserError(f"counts of the events are {len(self.counts)}, but there are {len(self.steps)} events")
        object.__setattr__(self, "offsets", self.offsets.long().contiguous())
        self._require_ranges()
        for name in ("steps", "units"):
            object.__setattr__(self, name, getattr(self, name).int().contiguous())

    def _require_ranges(self) -> None:
        def between(x: Tensor, size: int) -> Tensor:
            low, high = (end.long() for end in x.aminmax())
            return (low >= 0) & (high < size)

        checks = [
            (self.offsets[0] == 0) & (self.offsets[-1] == len(self.steps)) & (self.offsets.diff() >= 0).all(),
            between(self.steps, self.nb_steps) if len(self.steps) else None,
            between(self.units, self.nb_units) if len(self.units) else None,
            between(self.counts, MOST_COUNTED + 1) if self.counts is not None and len(self.counts) else None,
        ]
        words = (
            f"offsets of the events must not decrease and go from 0 to their number, {len(self.steps)}",
            f"steps of the events must lie in 0..{self.nb_steps - 1} (nb_steps={self.nb_steps})",
            f"units of the events must lie in 0..{self.nb_units - 1} (unit_shape={self.unit_shape})",
            f"counts of the events must lie in 0..{MOST_COUNTED}",
        )
        for good, message, x in zip(checks, words, (self.offsets, self.steps, self.units, self.counts), strict=True):
            if good is None or x is None:
                continue
            if good.device.type != "cpu":
                torch._assert_async(good, message)  # the host does not wait; the device stops with this message
            elif not bool(good):
                raise UserError(f"{message}, but found {int(x.min())} to {int(x.max())}")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def nb_units(self) -> int:
        return math.prod(self.unit_shape)

    @property
    def samples(self) -> Tensor:
        """(E,) int64: the sample that owns each event."""
        index = torch.arange(len(self), device=self.steps.device)
        return torch.repeat_interleave(index, self.offsets.diff(), output_size=len(self.steps))

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The spikes as a (T, B, *unit_shape) tensor of 0 and 1, or of their counts."""
        x = torch.zeros(self.nb_steps, len(self), self.nb_units, dtype=dtype, device=self.steps.device)
        cells = (self.steps.long() * len(self) + self.samples) * self.nb_units + self.units
        if self.counts is None:
            x.view(-1)[cells] = 1
        else:
            x.view(-1).index_add_(0, cells, self.counts.to(dtype))
        return x.view(self.nb_steps, len(self), *self.unit_shape)

    @classmethod
    def of(cls, spikes: Tensor) -> "Events":
        """The events of spikes (T, B, *units) of 0 and 1."""
        nb_steps, nb_samples, *unit_shape = spikes.shape
        sample, step, unit = (spikes.detach() != 0).transpose(0, 1).flatten(2).nonzero().unbind(1)
        counts = torch.bincount(sample, minlength=nb_samples)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(step, unit, offsets, nb_steps, tuple(unit_shape))

    def where(self, kept: Tensor) -> "Events":
        """The events of the units that are ``kept`` in their sample, (B, nb_units) of bools."""
        chosen = kept[self.samples, self.units.long()]
        offsets = torch.cat([chosen.new_zeros(1, dtype=torch.int64), chosen.cumsum(0)])[self.offsets]
        counts = None if self.counts is None else self.counts[chosen]
        return Events(self.steps[chosen], self.units[chosen], offsets, self.nb_steps, self.unit_shape, counts)

    def without_repeats(self) -> "Events":
        """Sorted by sample, step and unit, each at most once; those that are counted as they are."""
        if self.counts is not None:
            return self
        key = self.steps.long() * self.nb_units + self.units
        rises = key.diff() > 0
        starts = self.offsets[1:-1]
        rises[starts[(starts > 0) & (starts < len(key))] - 1] = True  # another sample
        if bool(rises.all()):
            return self
        key = (self.samples * (self.nb_steps * self.nb_units) + key).unique()
        step, sample = key // self.nb_units % self.nb_steps, key // (self.nb_units * self.nb_steps)
        counts = torch.bincount(sample, minlength=len(self))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Events(step, key % self.nb_units, offsets, self.nb_steps, self.unit_shape)
