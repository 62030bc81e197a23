"""What goes into and comes out of a network: plain tuples of tensors, so that nothing is hidden in modules."""

from collections import namedtuple
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from surgrad.errors import known
from surgrad.neurons.lif import LIFState


class LayerState(NamedTuple):
    """State of one layer between two calls: i, u and the last spikes, each (B, *units)."""

    i: Tensor
    u: Tensor
    s: Tensor


class AdaptiveLayerState(NamedTuple):
    """`LayerState` of adaptive neurons, with their adaptation current w."""

    i: Tensor
    u: Tensor
    s: Tensor
    w: Tensor


class DelayedLayerState(NamedTuple):
    """`AdaptiveLayerState` of a layer with recurrent delays; w is 0 in neurons without adaptation.

    pending: recurrent currents on their way, which arrive at the next, second, … step, (steps, B, *units).
    """

    i: Tensor
    u: Tensor
    s: Tensor
    w: Tensor
    pending: Tensor


AnyLayerState = LayerState | AdaptiveLayerState | DelayedLayerState


@cache
def state_of_layer(state: Any) -> Any:
    """`LayerState` for a neuron's `State`: with what it has besides i and u behind the spikes."""
    more = state._fields[2:]
    return namedtuple(f"{state.__name__}OfLayer", (*LayerState._fields, *more)) if more else LayerState


def kind_of(adaptive: bool, recurrent_delays: bool, state: Any = LIFState) -> Any:
    """The class of a layer's state, of neurons with this `State`."""
    return DelayedLayerState if recurrent_delays else AdaptiveLayerState if adaptive else state_of_layer(state)


class NetworkState(NamedTuple):
    """State of a network between two calls.

    step: time index of the next step (it addresses the noise).
    pending: currents still on their way through the learned delays of each layer and the readout, (steps, B, *units),
        None where there are none.
    """

    layers: tuple[AnyLayerState, ...]
    readout: LIFState | None
    last_input: Tensor
    step: int
    pending: tuple[Tensor | None, ...] = ()


class NetworkOutput(NamedTuple):
    """What a forward pass returns.

    readout: (T, B, classes), or None without a readout.
    counts: spikes per neuron summed over time, one (B, *units) per spiking layer; gradients flow through them.
    spikes: one (T, B, *units) per spiking layer if recorded, else None; gradients flow through them.
    state: to be handed to the next call, if asked for.
    """

    readout: Tensor | None
    counts: list[Tensor]
    spikes: list[Tensor] | None
    state: NetworkState | None

    @property
    def y(self) -> Tensor:
        """``readout`` of a network that has one. Raises: UserError for another."""
        return known("the readout of a network without one", self.readout)

    @property
    def recorded(self) -> list[Tensor]:
        """``spikes`` where they were recorded. Raises: UserError where they were not."""
        return known("spikes, without record=True,", self.spikes)
