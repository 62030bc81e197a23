"""Connections whose delays belong to neurons, or to channels: one for every axon, or one for every dendrite.

A delay for every synapse costs a second matrix of parameters and a scattered sum over synapses. One delay for a
neuron costs a vector, and the delayed sum is a product with the plain weights beside a shift of its input or of its
result (Bouhadjar et al. 2026). In a loop of a layer to itself, axonal delays are those of DelRec (Queant et al. 2025).
The neurons of a channel share their delay as they share their weights, so that a convolution stays one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgrad.errors import UserError
from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.cpu.delays import spread
from surgrad.kernels.cpu.products import linear
from surgrad.kernels.philox import NoiseKey, uniform
from surgrad.network.connections import Conv, DelayedDense, Dense, _own_part
from surgrad.network.delays import Delayed, DelayOptions


class NeuronDelays(Delayed):
    """What connections with a delay per neuron or channel have in common.

    While training, a spike with the delay of d steps arrives after n steps with a share that falls linearly with
    |n - d| and is 0 from 1 + ``width`` steps on; the shares of a spike sum to 1. Without a width this is the
    interpolation of `DelayedDense`. A wide triangle lets gradients compare arrivals that are far apart; its width
    shrinks by the factor ``shrink`` per epoch. Evaluation takes a width of 0.

    Attributes:
        kind: "axonal" or "dendritic".
    """

    kind: ClassVar[str]

    def _give_width(self, width: float, shrink: float) -> None:
        if not 0 <= width < math.inf or not 0 < shrink <= 1:
            raise UserError(
                f"width={width} s, shrink={shrink}: allowed are a width of 0 or more, and a factor above 0, at most 1"
            )
        self.first_width, self.shrink = width, shrink
        self.begin_epoch(1)

    def begin_epoch(self, number: int) -> None:
        self.width = self.first_width * self.shrink ** (number - 1)

    def nb_taps(self, dt: float) -> int:
        """As of `DelayedDense`, and the width while training."""
        return super().nb_taps(dt) + (math.ceil(self.width / dt) if self.training else 0)

    def shares(self, dt: float) -> Iterator[Tensor]:
        """Shares of the spikes that arrive after 0, 1, … nb_taps - 1 steps, in the shape of the delays each."""
        if not self.training or not self.width:
            yield from super().shares(dt)
            return
        steps = self.steps(dt)
        arrivals = torch.arange(self.nb_taps(dt), dtype=steps.dtype, device=steps.device)
        height = F.relu(1 + self.width / dt - (arrivals[:, None, None] - steps).abs())
        yield from height / height.sum(0)

    def _table(self, dt: float) -> Tensor:
        """`shares` as one tensor (nb_taps, N)."""
        return torch.cat([share.reshape(1, -1) for share in self.shares(dt)])

    def _spread(self, x: Tensor, dt: float, shift: int, repeated: int = 1) -> Tensor:
        """x (T, B, units) at the steps at which it arrives; each delay is that of ``repeated`` units in a row."""
        table = self._table(dt)
        if repeated > 1:
            table = table.repeat_interleave(repeated, 1)
        return spread(x, F.pad(table, (0, 0, shift, 0)))


class AxonalDelays(NeuronDelays, DelayedDense):
    """All-to-all connection with a delay per presynaptic neuron: I_i(t) = sum_j w_ij s_j(t - d_j).

    How a spike is shared between steps: `NeuronDelays`.

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
        self._give_width(width, shrink)

    def _starts(self, seed: int) -> Tensor:
        return _starts(seed, (self.fan_in,))

    def spec(self, name: str, dt: float | None = None) -> ConnectionSpec:
        """What kernels are given of this connection, called ``name`` in messages; dt in s."""
        if dt is None:
            raise UserError(f"{name} has delays, which need the time step of a Network")
        own = _own_part(self, DendriticDelays if self.kind == "dendritic" else AxonalDelays)
        delays: dict[str, Any] = {"shares": self._table(dt), "nb_taps": self.nb_taps(dt), "own": own}
        function = partial(self, dt=dt)
        return ConnectionSpec(name, self.kind, self.out_shape, function, self.in_shape, self.weight, **delays)

    def forward(self, s: Tensor, dt: float, shift: int = 0) -> Tensor:  # type: ignore[override]
        """As of `DelayedDense`, by a single product."""
        return linear(self._spread(s.flatten(2).to(self.weight.dtype), dt, shift), self.weight)


class DendriticDelays(AxonalDelays):
    """All-to-all connection with a delay per postsynaptic neuron: I_i(t) = sum_j w_ij s_j(t - d_i).

    Shares and arguments are those of `AxonalDelays`.
    """

    kind = "dendritic"

    def _starts(self, seed: int) -> Tensor:
        return _starts(seed, self.out_shape).T

    def forward(self, s: Tensor, dt: float, shift: int = 0) -> Tensor:  # type: ignore[override]
        """As of `DelayedDense`, by a single product."""
        return self._spread(linear(s.flatten(2).to(self.weight.dtype), self.weight), dt, shift)


class ConvAxonalDelays(NeuronDelays, Conv):
    """Convolution with a delay per channel that it takes: I_i(t) = sum_j w_ij * s_j(t - d_j), * over space.

    How a spike is shared between steps: `NeuronDelays`.

    Args:
        in_shape: as in `Conv`.
        filters: as in `Conv`.
        kernel_size: as in `Conv`.
        stride: as in `Conv`.
        padding: as in `Conv`.
        seed: as in `AxonalDelays`.
        width: as in `AxonalDelays`.
        shrink: as in `AxonalDelays`.
        delays: max_delay, min_delay, trainable and rounded, as in `AxonalDelays`.

    Raises:
        UserError: as `Conv` and `AxonalDelays`.
    """

    kind = "axonal"

    def __init__(
        self,
        in_shape: Sequence[int],
        filters: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        *,
        seed: int = 0,
        width: float = 0.0,
        shrink: float = 0.95,
        **delays: Unpack[DelayOptions],
    ):
        super().__init__(in_shape, filters, kernel_size, stride, padding)
        channels = self.in_shape if self.kind == "axonal" else self.out_shape
        self._give_delays(_starts(seed, channels[:1]), **delays)
        self._give_width(width, shrink)

    def spec(self, name: str, dt: float | None = None) -> ConnectionSpec:
        """What kernels are given of this connection, called ``name`` in messages; dt in s."""
        if dt is None:
            raise UserError(f"{name} has delays, which need the time step of a Network")
        own = _own_part(self, ConvDendriticDelays if self.kind == "dendritic" else ConvAxonalDelays)
        shape = (self.kernel_size, self.stride, self.padding)
        delays: dict[str, Any] = {"shares": self._table(dt), "nb_taps": self.nb_taps(dt), "own": own}
        function, kind = partial(self, dt=dt), f"conv_{self.kind}"
        return ConnectionSpec(name, kind, self.out_shape, function, self.in_shape, self.weight, *shape, **delays)

    def forward(self, s: Tensor, dt: float, shift: int = 0) -> Tensor:  # type: ignore[override]
        """Spikes (T, B, *in_shape), ``shift`` steps later -> currents (T + shift + nb_taps - 1, B, *out_shape)."""
        return super().forward(self._late(s, dt, shift))

    def _late(self, x: Tensor, dt: float, shift: int) -> Tensor:
        """x (T, B, channels, *spatial) at the steps at which it arrives."""
        shape = x.shape[2:]
        late = self._spread(x.flatten(2).to(self.weight.dtype), dt, shift, math.prod(shape[1:]))
        return late.unflatten(2, shape)


class ConvDendriticDelays(ConvAxonalDelays):
    """Convolution with a delay per channel that it drives: I_i(t) = sum_j w_ij * s_j(t - d_i), * over space.

    Shares and arguments are those of `ConvAxonalDelays`.
    """

    kind = "dendritic"

    def forward(self, s: Tensor, dt: float, shift: int = 0) -> Tensor:  # type: ignore[override]
        """As of `ConvAxonalDelays`."""
        return self._late(Conv.forward(self, s), dt, shift)


def _starts(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Where delays begin, as shares of the range, (1, *shape)."""
    return uniform(NoiseKey(seed), 0, torch.zeros(1, dtype=torch.int64), shape)


#: Of all-to-all connections, the convolution that has the same delays; those for each synapse have none.
CONVOLUTIONS: dict[Callable[..., nn.Module], Callable[..., nn.Module]] = {
    Dense: Conv,
    AxonalDelays: ConvAxonalDelays,
    DendriticDelays: ConvDendriticDelays,
}
