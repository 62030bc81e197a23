"""Connections whose delays belong to neurons: one for every axon, or one for every dendrite.

A delay for every synapse costs a second matrix of parameters and a scattered sum over synapses. One delay for a
neuron costs a vector, and the delayed sum is a product with the plain weights beside a shift of its input or of its
result (Bouhadjar et al. 2026). In a loop of a layer to itself, axonal delays are those of DelRec (Queant et al. 2025).
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from surgrad.errors import UserError
from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.cpu.delays import spread
from surgrad.kernels.cpu.products import linear
from surgrad.kernels.philox import NoiseKey, uniform
from surgrad.network.connections import DelayedDense, _own_part


class AxonalDelays(DelayedDense):
    """All-to-all connection with a delay per presynaptic neuron: I_i(t) = sum_j w_ij s_j(t - d_j).

    While training, a spike with the delay of d steps arrives after n steps with a share that falls linearly with
    |n - d| and is 0 from 1 + ``width`` steps on; the shares of a spike sum to 1. Without a width this is the
    interpolation of `DelayedDense`. A wide triangle lets gradients compare arrivals that are far apart; its width
    shrinks by the factor ``shrink`` per epoch. Evaluation takes a width of 0.

    Args:
        in_shape: as in `Dense`.
        nb_units: as in `Dense`.
        max_delay: s. Delays start anywhere from min_delay to it with equal probability.
        trainable: as in `DelayedDense`.
        seed: as in `DelayedDense`.
        rounded: as in `DelayedDense`.
        min_delay: lower end of the range, s.
        width: of the triangle in the first epoch, beyond that of the interpolation, s.
        shrink: factor of the width per epoch.

    Raises:
        UserError: for a negative width, or a factor outside 0 to 1.

    Source: in a loop, Queant et al. 2025 (DelRec: width 10 steps). No spike arrives before it is sent: where that cuts
    the triangle, theirs is not normalised.
    """

    kind = "axonal"

    def __init__(
        self,
        in_shape: int | Sequence[int],
        nb_units: int,
        max_delay: float,
        trainable: bool = True,
        seed: int = 0,
        rounded: bool = False,
        min_delay: float = 0.0,
        width: float = 0.0,
        shrink: float = 0.95,
    ):
        super().__init__(in_shape, nb_units, max_delay, trainable, seed, rounded, min_delay)
        if not 0 <= width < math.inf or not 0 < shrink <= 1:
            raise UserError(
                f"width={width} s, shrink={shrink}: allowed are a width of 0 or more, and a factor above 0, at most 1"
            )
        self.first_width, self.shrink = width, shrink
        self.begin_epoch(1)

    def _starts(self, seed: int) -> Tensor:
        return uniform(NoiseKey(seed), 0, torch.zeros(1, dtype=torch.int64), (self.fan_in,))

    def begin_epoch(self, number: int) -> None:
        self.width = self.first_width * self.shrink ** (number - 1)

    def nb_taps(self, dt: float) -> int:
        """As of `DelayedDense`, and the width while training."""
        return super().nb_taps(dt) + (math.ceil(self.width / dt) if self.training else 0)

    def shares(self, dt: float) -> Iterator[Tensor]:
        """Shares of the spikes that arrive after 0, 1, … nb_taps - 1 steps, (1, fan_in) each."""
        if not self.training or not self.width:
            yield from super().shares(dt)
            return
        steps = self.steps(dt)
        arrivals = torch.arange(self.nb_taps(dt), dtype=steps.dtype, device=steps.device)
        height = F.relu(1 + self.width / dt - (arrivals[:, None, None] - steps).abs())
        yield from height / height.sum(0)

    def spec(self, name: str, dt: float | None = None) -> ConnectionSpec:
        """What kernels are given of this connection, called ``name`` in messages; dt in s."""
        if dt is None:
            raise UserError(f"{name} has delays, which need the time step of a Network")
        own = _own_part(self, DendriticDelays if self.kind == "dendritic" else AxonalDelays)
        delays: dict[str, Any] = {"shares": self._table(dt), "nb_taps": self.nb_taps(dt), "own": own}
        function = partial(self, dt=dt)
        return ConnectionSpec(name, self.kind, self.out_shape, function, self.in_shape, self.weight, **delays)

    def _table(self, dt: float) -> Tensor:
        """`shares` as one tensor (nb_taps, N)."""
        return torch.cat([share.reshape(1, -1) for share in self.shares(dt)])

    def forward(self, s: Tensor, dt: float, shift: int = 0) -> Tensor:  # type: ignore[override]
        """As of `DelayedDense`, by a single product."""
        return linear(self._spread(s.flatten(2).to(self.weight.dtype), dt, shift), self.weight)

    def _spread(self, x: Tensor, dt: float, shift: int) -> Tensor:
        return spread(x, F.pad(self._table(dt), (0, 0, shift, 0)))


class DendriticDelays(AxonalDelays):
    """All-to-all connection with a delay per postsynaptic neuron: I_i(t) = sum_j w_ij s_j(t - d_i).

    Shares and arguments are those of `AxonalDelays`.
    """

    kind = "dendritic"

    def _starts(self, seed: int) -> Tensor:
        return uniform(NoiseKey(seed), 0, torch.zeros(1, dtype=torch.int64), self.out_shape).T

    def forward(self, s: Tensor, dt: float, shift: int = 0) -> Tensor:  # type: ignore[override]
        """As of `DelayedDense`, by a single product."""
        return self._spread(linear(s.flatten(2).to(self.weight.dtype), self.weight), dt, shift)
