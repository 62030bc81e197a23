"""What one call of the GPU's kernels consists of: layers, chunks of time, and what is kept for the backward pass."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from surgrad.errors import known
from surgrad.kernels import precision
from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.gpu.layer import Population, Saved


class LayerTensors(NamedTuple):
    """The differentiable tensors of a layer: ``weight`` is None where it is driven by a current.

    ``i``, ``u`` and ``before``, spikes of the step before the first (not of a readout), are None where it starts anew.
    """

    weight: Tensor | None
    recurrent: Tensor | None
    a: Tensor
    b: Tensor
    i: Tensor | None
    u: Tensor | None
    before: Tensor | None


class LayerNeeds(NamedTuple):
    """Which gradients by the `LayerTensors` of a layer are asked for."""

    weight: bool
    recurrent: bool
    a: bool
    b: bool
    i: bool
    u: bool
    before: bool


@dataclass(frozen=True)
class Chunk:
    """Steps start to stop; ``cut`` where no gradient comes in from later steps (truncated backpropagation)."""

    start: int
    stop: int
    cut: bool


@dataclass(frozen=True)
class Stage:
    """A layer in one call; ``feedforward`` is None where what comes in is the current itself, ``u0`` where u starts."""

    population: Population
    feedforward: ConnectionSpec | None
    u0: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, *units)."""
        return self.population.nb_samples, *self.population.unit_shape


@dataclass
class Kept:
    """What the forward pass of a layer leaves to its backward pass.

    spikes: (T + 1, B, *units) uint8, row 0 is the step before the first; None of a readout.
    saved: checkpoints of every chunk. ``currents``: of every chunk, without the recurrent part.
    """

    spikes: Tensor | None = None
    saved: list[Saved | None] = field(default_factory=list)
    currents: list[Tensor | None] = field(default_factory=list)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows of the ``spikes`` of a spiking layer."""
        return known("the spikes of a readout", self.spikes)[start:stop]

    @property
    def segments(self) -> list[int]:
        """Steps between the checkpoints of every chunk, 0 where there are none."""
        return [saved.segment if saved else 0 for saved in self.saved]

    def tensors(self) -> list[Tensor | None]:
        """For autograd, which frees them after the backward pass."""
        found = [self.spikes]
        for saved, current in zip(self.saved, self.currents, strict=True):
            found += [None if saved is None else saved.i, None if saved is None else saved.u, current]
        return found

    @classmethod
    def of(cls, tensors: Iterator[Tensor | None], segments: Sequence[int]) -> "Kept":
        """What `tensors` gave, put back."""
        kept = cls(next(tensors))
        for segment in segments:
            i, u = next(tensors), next(tensors)
            kept.saved.append(None if i is None or u is None else Saved(i, u, segment))
            kept.currents.append(next(tensors))
        return kept


@dataclass
class Plan:
    """Everything about one call that is not a differentiable tensor.

    ``return_membranes``: of the first layer at every step. ``return_last_spikes`` and ``return_spikes``: of the last
    step and of all, of every spiking layer, as differentiable outputs.
    """

    stages: list[Stage]
    delay: int
    key: Tensor
    ids: Tensor
    first_step: int
    chunks: list[Chunk]
    keep_currents: bool
    differentiable: bool
    return_membranes: bool = False
    return_last_spikes: bool = False
    return_spikes: bool = False

    def products(self, inputs: Tensor) -> AbstractContextManager[None]:
        """Products in the precision of this call, on the device of its inputs."""
        return precision.products(self.stages[0].population.precision, inputs.device)


def array_bytes(device: torch.device, memory: str) -> int:
    """The largest array over time of a chunk: a 32nd of the memory of its GPU, at most 2 GiB.

    Beside what is kept for the backward pass, about four such arrays live at a time. With ``memory`` "recompute" a
    fourth of that. Where there is no GPU, as if there was one of 64 GiB.
    """
    of_gpu = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 1 << 36
    return min(of_gpu // 32, 1 << 31) // (4 if memory == "recompute" else 1)


def chunks(nb_steps: int, longest: int, truncate: int) -> list[Chunk]:
    """Cut T steps into few chunks of at most ``longest``, none across a multiple of ``truncate`` (0: none)."""
    period = min(truncate or nb_steps, nb_steps)
    longest = -(-period // -(-period // longest))  # as many, of equal length
    found = []
    for start in range(0, nb_steps, period):
        end = min(start + period, nb_steps)
        for inner in range(start, end, longest):
            stop = min(inner + longest, end)
            found.append(Chunk(inner, stop, cut=stop == end))
    return found
