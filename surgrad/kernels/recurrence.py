"""The loop of a layer to itself: units that are dropped in it, and spikes that come back after delays."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from surgrad.errors import UserError, known
from surgrad.kernels.call import Address
from surgrad.kernels.contract import LayerSpec
from surgrad.kernels.inputs import kept_in_loop
from surgrad.kernels.state import AnyLayerState, DelayedLayerState
from surgrad.neurons.lif import AdaptiveState, LIFState, adaptive_step


class DelayedState(NamedTuple):
    """`AdaptiveState`, w 0 without adaptation, and recurrent currents on their way, (steps, B, *units)."""

    i: Tensor
    u: Tensor
    w: Tensor
    pending: Tensor


def recurrence(layer: LayerSpec, address: Address) -> Callable[[Tensor], Tensor] | None:
    """The recurrent connection of a layer behind its dropout: from spikes (B, *units), or (T, B, *units)."""
    if layer.recurrent is None:
        return None
    kept = kept_in_loop(layer.recurrent_dropout, layer.index, address.noise, address.ids, layer.unit_shape)
    function = layer.recurrent.function
    return function if kept is None else lambda s: function(s * kept.to(s.dtype))


def with_pending(current: Tensor, old: DelayedLayerState) -> Tensor:
    """Current (T, B, *units) with the recurrent currents that were on their way before the first step."""
    reach = len(old.pending)
    return torch.cat([current[:reach] + old.pending[: len(current)], current[reach:]])


def on_the_way(spikes: Tensor, nb_taps: int, arriving: Callable[[Tensor], Tensor], old: AnyLayerState | None) -> Tensor:
    """Recurrent currents (nb_taps, B, *units) that arrive after the last step.

    Args:
        spikes: (T, B, *units) of the layer.
        nb_taps: steps that a spike reaches.
        arriving: from spikes to currents of all steps that they reach.
        old: state before the first step.
    """
    last = spikes[-nb_taps:]
    pending = arriving(last)[len(last) - 1 :]
    if isinstance(old, DelayedLayerState) and len(spikes) < nb_taps:
        rest = old.pending[len(spikes) :]
        pending = torch.cat([pending[: len(rest)] + rest, pending[len(rest) :]])
    return pending


def delayed_loop(
    layer: LayerSpec, current: Tensor, old: DelayedLayerState | None, address: Address
) -> tuple[DelayedState, Callable[[DelayedState, Tensor, Tensor], DelayedState]]:
    """First state, and a step of a layer with recurrent delays, in which spikes send their currents ahead.

    Args:
        layer: its recurrent connection has delays.
        current: (T, B, *units), which it is driven by.
        old: its state; None: zeros.
        address: of its random numbers.

    Raises:
        UserError: for neurons of more states than these.
    """
    if layer.neuron.State is not LIFState:
        raise UserError(
            f"{layer.name}: {type(layer.neuron).__name__} has more states; recurrent delays know i and u alone"
        )
    connection, arriving = known("recurrent", layer.recurrent), known("recurrence", recurrence(layer, address))

    def step(state: DelayedState, drive: Tensor, s: Tensor) -> DelayedState:
        drive = drive + state.pending[0]
        rest = torch.cat([state.pending[1:], torch.zeros_like(state.pending[:1])])
        on_the_way = rest + arriving(s[None])
        if layer.adaptation is None:
            i, u = layer.neuron.step(LIFState(state.i, state.u), drive, s, layer.a, layer.b)
            return DelayedState(i, u, state.w, on_the_way)
        adapted = AdaptiveState(state.i, state.u, state.w)
        new = adaptive_step(adapted, drive, s, layer.a, layer.b, layer.adaptation, layer.neuron)
        return DelayedState(*new, on_the_way)

    zero = torch.zeros_like(current[0])
    if old is not None:
        return DelayedState(old.i, old.u, zero if layer.adaptation is None else old.w, old.pending), step
    return DelayedState(zero, zero, zero, zero.expand(connection.nb_taps, *zero.shape)), step
