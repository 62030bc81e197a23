"""The input of a population on its way to the neurons: units that are dropped or pooled, currents that are mapped.

All stand outside the scan over time, so that every kernel does the same. Dropped units are random numbers of the
library (`surgrad.kernels.philox`), whose address is that of the sample: a run draws the same ones on every kernel, in
any batch split, and when it goes on after an interruption.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgrad.kernels.events import Events
from surgrad.kernels.philox import NoiseKey, uniform

if TYPE_CHECKING:
    from surgrad.kernels.contract import ConnectionSpec

#: Added to the number of a population: no layer has such a number, so that no noise is drawn twice.
STREAM = 1 << 16


@dataclass(frozen=True, eq=False)
class InputSpec:
    """How the input of a population is changed.

    Args:
        name: where it stands in its network, for messages.
        dropout: probability p that a presynaptic unit is silent for a whole sample; what is left counts 1 / (1 - p).
        function: from currents (T, B, *units) to currents of the same shape, or None.
        tensors: parameters and buffers of ``function``, with their names.
        number: of the population, the readout's after all layers; part of the address of what is dropped.
        pool: from spikes (..., *below) to what the connection takes (..., *in_shape), or None.
        below: units of the spikes that are pooled.
        residual: connection from the layer with the number ``source``, further below; added to the current; or None.
        source: see there.
    """

    name: str
    dropout: float = 0.0
    function: Callable[[Tensor], Tensor] | None = None
    tensors: tuple[tuple[str, Tensor], ...] = ()
    number: int = 0
    pool: Callable[[Tensor], Tensor] | None = None
    below: tuple[int, ...] = ()
    residual: "ConnectionSpec | None" = None
    source: int = 0

    @property
    def what(self) -> str:
        """In words, for messages."""
        parts = [f"dropout of {self.dropout:g}"] if self.dropout else []
        parts += ["pooling"] if self.pool is not None else []
        parts += ["a residual connection"] if self.residual is not None else []
        return " and ".join([*parts, *(["currents that are mapped"] if self.function is not None else [])])

    def spikes(
        self, below: Tensor | Events, before: Tensor | None, noise: NoiseKey, ids: Tensor
    ) -> tuple[Tensor | Events, Tensor | None]:
        """What is left, and pooled, of the spikes below (T, B, *units), and of those of the step before (B, *units).

        Args:
            below: spikes or events.
            before: of the step before the first, or None.
            noise: key of the call's random numbers.
            ids: (B,) int64, numbers of the samples.
        """
        below, before = self._left(below, before, noise, ids)
        if self.pool is None:
            return below, before
        below = below.dense(torch.get_default_dtype()) if isinstance(below, Events) else below
        return self.pool(below), None if before is None else self.pool(before)

    def _left(
        self, below: Tensor | Events, before: Tensor | None, noise: NoiseKey, ids: Tensor
    ) -> tuple[Tensor | Events, Tensor | None]:
        """Without those that are dropped."""
        if not self.dropout:
            return below, before
        shape = below.unit_shape if isinstance(below, Events) else tuple(below.shape[2:])
        kept = uniform(replace(noise, layer=STREAM + self.number), 0, ids, shape) > self.dropout
        if isinstance(below, Events):
            left: Tensor | Events = below.where(kept.flatten(1))
        else:
            left = below * kept
        return left, None if before is None else before * kept

    def current(self, current: Tensor) -> Tensor:
        """The current (T, B, *units) that reaches the neurons."""
        if self.dropout:
            current = current / (1 - self.dropout)
        return current if self.function is None else self.function(current)


def kept_in_loop(
    dropout: float, index: int, noise: NoiseKey, ids: Tensor, unit_shape: tuple[int, ...]
) -> Tensor | None:
    """What spikes count in the recurrence of a layer, 0 or 1 / (1 - dropout), (B, *units); None without dropout.

    Args:
        dropout: probability that a neuron is silent there for a whole sample.
        index: number of the layer.
        noise: key of the call's random numbers.
        ids: (B,) int64, numbers of the samples.
        unit_shape: of the layer.
    """
    if not dropout:
        return None
    drawn = uniform(replace(noise, layer=2 * STREAM + index), 0, ids, unit_shape)
    return (drawn > dropout) / (1 - dropout)
