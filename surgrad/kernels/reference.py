"""The specification: plain PyTorch loops over time, any device, any floating dtype, differentiated by autograd.

Every other kernel computes the same forward and the same adjoint.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from surgrad.datasets.events import EventBatch
from surgrad.neurons import LIF, LIFState, lif_step, readout_step, spike
from surgrad.philox import NoiseKey, uniform
from surgrad.state import LayerState, NetworkOutput, NetworkState

if TYPE_CHECKING:
    from surgrad.network import Network


def lif(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    neuron: LIF,
    *,
    recurrence: Callable[[Tensor], Tensor] | None = None,
    state: LIFState | None = None,
    previous: Tensor | None = None,
    noise: NoiseKey | None = None,
    ids: Tensor | None = None,
    first_step: int = 0,
    memory: str = "full",
) -> tuple[Tensor, Tensor, LIFState]:
    """Scan one LIF layer over time (equations in `surgrad.neurons`).

    Args:
        current: (T, B, *units) input current I, without the recurrent part.
        a, b: decays of synapse and membrane, broadcastable to (*units).
        neuron: surrogate, escape noise and reset.
        recurrence: maps spikes s[t-1] (B, *units) to the recurrent part of I[t].
        state: i and u at the first step; zeros if None.
        previous: spikes of the step before the first, (B, *units); zeros if None.
        noise, ids: address of the random numbers and the (B,) global sample indices; needed by stochastic neurons.
        first_step: time index of the first step, which addresses the random numbers.
        memory: "full" keeps every intermediate for the backward pass; "recompute" keeps the states between segments of
            about sqrt(T) steps and computes each segment again, so that memory grows with sqrt(T). Same gradients.
    Returns: spikes (T, B, *units) as 0/1, membrane u[t] at which each was drawn (T, B, *units), state after the
    last step.
    """
    shape = current.shape[1:]
    if state is None:
        state = LIFState(current.new_zeros(shape), current.new_zeros(shape))
    s = current.new_zeros(shape) if previous is None else previous
    length = math.ceil(math.sqrt(len(current))) if memory == "recompute" else len(current)
    spikes, membranes = [], []
    for start in range(0, len(current), length):
        arguments = (
            current[start : start + length],
            a,
            b,
            neuron,
            recurrence,
            state,
            s,
            noise,
            ids,
            first_step + start,
        )
        if memory == "recompute":
            segment = checkpoint(_lif_segment, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            segment = _lif_segment(*arguments)
        spikes.append(segment[0])
        membranes.append(segment[1])
        state, s = segment[2], segment[0][-1]
    return torch.cat(spikes), torch.cat(membranes), state


def _lif_segment(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    neuron: LIF,
    recurrence: Callable[[Tensor], Tensor] | None,
    state: LIFState,
    s: Tensor,
    noise: NoiseKey | None,
    ids: Tensor | None,
    first_step: int,
) -> tuple[Tensor, Tensor, LIFState]:
    """The loop over the steps of ``current``, with ``s`` the spikes of the step before."""
    stochastic = neuron.escape_noise.stochastic
    spikes, membranes = [], []
    for t, drive in enumerate(current.unbind(0)):
        if recurrence is not None:
            drive = drive + recurrence(s)
        r = uniform(noise, first_step + t, ids, current.shape[2:], current.dtype) if stochastic else None
        s = spike(state.u, neuron, r)
        spikes.append(s)
        membranes.append(state.u)
        state = lif_step(state, drive, s, a, b, neuron)
    return torch.stack(spikes), torch.stack(membranes), state


def readout(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    unit_gain: bool = True,
    state: LIFState | None = None,
    u0: float = 0.0,
) -> tuple[Tensor, LIFState]:
    """Scan a leaky integrator: y[t] = u[t+1], (T, B, C), and the state after the last step.

    Args: current (T, B, C); a, b decays; state at the first step, or i = 0 and u = ``u0``.
    """
    if state is None:
        state = LIFState(torch.zeros_like(current[0]), torch.full_like(current[0], u0))
    outputs = []
    for drive in current.unbind(0):
        state = readout_step(state, drive, a, b, unit_gain)
        outputs.append(state.u)
    return torch.stack(outputs), state


def delayed(x: Tensor, delay: int, before: Tensor | None = None) -> Tensor:
    """x[t - delay] for delay 0 or 1, where x[-1] is ``before`` (zeros if None)."""
    if delay == 0:
        return x
    before = torch.zeros_like(x[0]) if before is None else before
    return torch.cat([before[None].to(x.dtype), x[:-1]])


def run(
    network: "Network",
    x: Tensor | EventBatch,
    noise: NoiseKey,
    ids: Tensor,
    *,
    state: NetworkState | None = None,
    record: bool = False,
    return_state: bool = False,
    truncate: int = 0,
    memory: str = "full",
) -> NetworkOutput:
    """Run a whole network, layer by layer (arguments as in `surgrad.network.Network.forward`)."""
    if truncate:
        return _run_truncated(network, x, noise, ids, truncate, state, record, return_state, memory)
    dtype = next(network.parameters()).dtype
    x = x.dense(dtype) if isinstance(x, EventBatch) else x.to(dtype)
    first_step = state.step if state else 0
    below, before = x, state.last_input if state else None
    counts, all_spikes, layer_states = [], [], []
    for index, layer in enumerate(network.layers):
        old = state.layers[index] if state else None
        spikes, _, new = lif(
            layer.feedforward(delayed(below, network.delay, before)),
            layer.tau_syn.decay(network.dt),
            layer.tau_mem.decay(network.dt),
            layer.neuron,
            recurrence=layer.recurrent,
            state=LIFState(old.i, old.u) if old else None,
            previous=old.s if old else None,
            noise=replace(noise, layer=index),
            ids=ids,
            first_step=first_step,
            memory=memory,
        )
        counts.append(spikes.sum(0))
        all_spikes.append(spikes.detach())
        layer_states.append(LayerState(*new, spikes[-1]))
        below, before = spikes, old.s if old else None
    y = readout_state = None
    if network.readout is not None:
        out = network.readout
        y, readout_state = readout(
            out.feedforward(delayed(below, network.delay, before)),
            out.tau_syn.decay(network.dt),
            out.tau_mem.decay(network.dt),
            state=state.readout if state else None,
            u0=out.u0,
            unit_gain=out.unit_gain,
        )
    end = NetworkState(tuple(layer_states), readout_state, x[-1], first_step + len(x)) if return_state else None
    return NetworkOutput(y, counts, all_spikes if record else None, end)


def _run_truncated(
    network: "Network",
    x: Tensor | EventBatch,
    noise: NoiseKey,
    ids: Tensor,
    truncate: int,
    state: NetworkState | None,
    record: bool,
    return_state: bool,
    memory: str,
) -> NetworkOutput:
    """Truncated backpropagation through time: no gradient crosses a multiple of ``truncate`` steps."""
    x = x.dense(next(network.parameters()).dtype) if isinstance(x, EventBatch) else x
    parts = []
    for chunk in x.split(truncate):
        part = run(network, chunk, noise, ids, state=state, record=record, return_state=True, memory=memory)
        state = _detached(part.state)
        parts.append(part)
    return NetworkOutput(
        torch.cat([part.readout for part in parts]) if network.readout is not None else None,
        [sum(counts) for counts in zip(*(part.counts for part in parts), strict=True)],
        [torch.cat(spikes) for spikes in zip(*(part.spikes for part in parts), strict=True)] if record else None,
        state if return_state else None,
    )


def _detached(state: NetworkState) -> NetworkState:
    layers = tuple(LayerState(*(x.detach() for x in layer)) for layer in state.layers)
    readout_state = LIFState(*(x.detach() for x in state.readout)) if state.readout is not None else None
    return NetworkState(layers, readout_state, state.last_input, state.step)
