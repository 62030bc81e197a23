"""A batch of spike events on a time grid, as networks take it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor


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
        counts: (E,) int32, spikes that each event stands for; None: one.
    """

    steps: Tensor
    units: Tensor
    offsets: Tensor
    labels: Tensor
    ids: Tensor
    nb_steps: int
    unit_shape: tuple[int, ...]
    counts: Tensor | None = None

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
        """The spikes as a (T, B, *unit_shape) tensor of 0 and 1, or of their counts."""
        x = torch.zeros(self.nb_steps, len(self), self.nb_units, dtype=dtype, device=self.steps.device)
        flat = (self.steps.long() * len(self) + self.samples) * self.nb_units + self.units
        x.view(-1)[flat] = 1 if self.counts is None else self.counts.to(dtype)
        return x.view(self.nb_steps, len(self), *self.unit_shape)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EventBatch:
        """The same batch on another device."""
        names = ("steps", "units", "offsets", "labels", "ids", *(() if self.counts is None else ("counts",)))
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
