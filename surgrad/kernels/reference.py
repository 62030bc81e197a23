"""The specification: plain PyTorch loops over time, any device, any floating dtype, differentiated by autograd.

Every other kernel computes the same forward and the same adjoint.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from surgrad.datasets.events import EventBatch
from surgrad.kernels.philox import NoiseKey, uniform
from surgrad.kernels.state import AdaptiveLayerState, LayerState, NetworkOutput, NetworkState
from surgrad.network.connections import Conv, DelayedDense, Dense
from surgrad.network.layers import SpikingLayer
from surgrad.neurons.lif import (
    LIF,
    AdaptationValues,
    AdaptiveLIF,
    AdaptiveState,
    LIFState,
    adaptive_step,
    lif_step,
    readout_step,
    spike,
)

if TYPE_CHECKING:
    from surgrad.network.network import Network

State = TypeVar("State", LIFState, AdaptiveState)


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
    """Scan one LIF layer over time (equations in `surgrad.neurons.lif`).

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
    if state is None:
        state = LIFState(*(torch.zeros_like(current[0]) for _ in range(2)))

    def step(state: LIFState, drive: Tensor, s: Tensor) -> LIFState:
        return lif_step(state, drive, s, a, b, neuron)

    return _scan(current, step, neuron, recurrence, state, previous, noise, ids, first_step, memory)


def adaptive(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    adaptation: AdaptationValues,
    neuron: AdaptiveLIF,
    *,
    recurrence: Callable[[Tensor], Tensor] | None = None,
    state: AdaptiveState | None = None,
    previous: Tensor | None = None,
    noise: NoiseKey | None = None,
    ids: Tensor | None = None,
    first_step: int = 0,
    memory: str = "full",
) -> tuple[Tensor, Tensor, AdaptiveState]:
    """Scan one layer of adaptive LIF neurons: as `lif`, with the constants of the adaptation."""
    if state is None:
        state = AdaptiveState(*(torch.zeros_like(current[0]) for _ in range(3)))

    def step(state: AdaptiveState, drive: Tensor, s: Tensor) -> AdaptiveState:
        return adaptive_step(state, drive, s, a, b, adaptation, neuron)

    return _scan(current, step, neuron, recurrence, state, previous, noise, ids, first_step, memory)


def _scan(
    current: Tensor,
    step: Callable[[State, Tensor, Tensor], State],
    neuron: LIF,
    recurrence: Callable[[Tensor], Tensor] | None,
    state: State,
    s: Tensor | None,
    noise: NoiseKey | None,
    ids: Tensor | None,
    first_step: int,
    memory: str,
) -> tuple[Tensor, Tensor, State]:
    """The loop over the steps of ``current``, in segments; ``s`` are the spikes of the step before the first."""
    s = torch.zeros_like(current[0]) if s is None else s
    length = math.ceil(math.sqrt(len(current))) if memory == "recompute" else len(current)
    spikes, membranes = [], []
    for start in range(0, len(current), length):
        arguments = (
            current[start : start + length],
            step,
            neuron,
            recurrence,
            state,
            s,
            noise,
            ids,
            first_step + start,
        )
        if memory == "recompute":
            segment = checkpoint(_segment, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            segment = _segment(*arguments)
        spikes.append(segment[0])
        membranes.append(segment[1])
        state, s = segment[2], segment[0][-1]
    return torch.cat(spikes), torch.cat(membranes), state


def _segment(
    current: Tensor,
    step: Callable[[State, Tensor, Tensor], State],
    neuron: LIF,
    recurrence: Callable[[Tensor], Tensor] | None,
    state: State,
    s: Tensor,
    noise: NoiseKey | None,
    ids: Tensor | None,
    first_step: int,
) -> tuple[Tensor, Tensor, State]:
    stochastic = neuron.escape_noise.stochastic
    spikes, membranes = [], []
    for t, drive in enumerate(current.unbind(0)):
        if recurrence is not None:
            drive = drive + recurrence(s)
        r = uniform(noise, first_step + t, ids, current.shape[2:], current.dtype) if stochastic else None
        s = spike(state.u, neuron, r)
        spikes.append(s)
        membranes.append(state.u)
        state = step(state, drive, s)
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


def drive(
    connection: Dense | Conv,
    below: Tensor,
    dt: float,
    delay: int,
    before: Tensor | None = None,
    pending: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Input currents of a layer, (T, B, *units).

    Args:
        connection: from the layer below, whose spikes are ``below`` (T, B, *in_shape).
        dt: s.
        delay: steps (0 or 1) that every spike takes, beside the learned ones of a `DelayedDense`.
        before: spikes of the step before the first; zeros if None.
        pending: currents of earlier spikes that were still on their way, (steps, B, *units).
    Returns: the currents, and those still on their way after the last step (None without learned delays).
    """
    if isinstance(connection, DelayedDense):
        return deliver(connection(below, dt, delay), len(below), pending)
    return connection(delayed(below, delay, before)), None


def deliver(current: Tensor, nb_steps: int, pending: Tensor | None) -> tuple[Tensor, Tensor]:
    """Currents of a window with those ``pending`` from before it added, and those that arrive after it."""
    if pending is not None:
        current = torch.cat([current[: len(pending)] + pending, current[len(pending) :]])
    return current[:nb_steps], current[nb_steps:]


def scan(
    layer: SpikingLayer, current: Tensor, dt: float, old: LayerState | AdaptiveLayerState | None, **options
) -> tuple[Tensor, LayerState | AdaptiveLayerState]:
    """Spikes of a layer driven by ``current``, and its state after the last step; options as of `lif`."""
    a, b = layer.decays(dt)
    options |= {"recurrence": layer.recurrent, "previous": old.s if old else None}
    if layer.adaptation is None:
        state = LIFState(old.i, old.u) if old else None
        spikes, _, new = lif(current, a, b, layer.neuron, state=state, **options)
        return spikes, LayerState(*new, spikes[-1])
    state = AdaptiveState(old.i, old.u, old.w) if old else None
    spikes, _, new = adaptive(current, a, b, layer.adaptation.values(dt), layer.neuron, state=state, **options)
    return spikes, AdaptiveLayerState(new.i, new.u, spikes[-1], new.w)


class Rooms(NamedTuple):
    """What `run` is made of: how currents arise from spikes (or events), and the scans of a layer and of a readout."""

    drive: Callable = drive
    scan: Callable = scan
    readout: Callable = readout
    takes_events: bool = False


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
    rooms: Rooms | None = None,
) -> NetworkOutput:
    """Run a whole network, layer by layer (arguments as in `surgrad.network.network.Network.forward`)."""
    rooms = rooms or Rooms()
    if truncate:
        return _run_truncated(network, x, noise, ids, truncate, state, record, return_state, memory, rooms)
    dtype = next(network.parameters()).dtype
    if not isinstance(x, EventBatch):
        x = x.to(dtype)
    elif not rooms.takes_events or return_state:
        x = x.dense(dtype)
    nb_steps = x.nb_steps if isinstance(x, EventBatch) else len(x)
    first_step = state.step if state else 0
    pending = iter(state.pending if state else ())
    below, before, on_the_way = x, state.last_input if state else None, []

    def next_current(connection: Dense | Conv) -> Tensor:
        if isinstance(connection, DelayedDense) and not (state or return_state):
            connection.require_within(network.dt, nb_steps)
        current, rest = rooms.drive(connection, below, network.dt, network.delay, before, next(pending, None))
        on_the_way.append(rest)
        return current

    counts, all_spikes, layer_states = [], [], []
    for index, layer in enumerate(network.layers):
        old = state.layers[index] if state else None
        spikes, new = rooms.scan(
            layer,
            next_current(layer.feedforward),
            network.dt,
            old,
            noise=replace(noise, layer=index),
            ids=ids,
            first_step=first_step,
            memory=memory,
        )
        counts.append(spikes.sum(0))
        all_spikes.append(spikes.detach())
        layer_states.append(new)
        below, before = spikes, old.s if old else None
    y = readout_state = None
    if network.readout is not None:
        out = network.readout
        y, readout_state = rooms.readout(
            next_current(out.feedforward),
            *out.decays(network.dt),
            state=state.readout if state else None,
            u0=out.u0,
            unit_gain=out.unit_gain,
        )
    end = None
    if return_state:
        end = NetworkState(tuple(layer_states), readout_state, x[-1], first_step + len(x), tuple(on_the_way))
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
    rooms: Rooms,
) -> NetworkOutput:
    """Truncated backpropagation through time: no gradient crosses a multiple of ``truncate`` steps."""
    x = x.dense(next(network.parameters()).dtype) if isinstance(x, EventBatch) else x
    parts = []
    options = {"record": record, "return_state": True, "memory": memory, "rooms": rooms}
    for chunk in x.split(truncate):
        part = run(network, chunk, noise, ids, state=state, **options)
        state = _detached(part.state)
        parts.append(part)
    return NetworkOutput(
        torch.cat([part.readout for part in parts]) if network.readout is not None else None,
        [sum(counts) for counts in zip(*(part.counts for part in parts), strict=True)],
        [torch.cat(spikes) for spikes in zip(*(part.spikes for part in parts), strict=True)] if record else None,
        state if return_state else None,
    )


def _detached(state: NetworkState) -> NetworkState:
    def cut(tensors: Iterable[Tensor | None]) -> Iterable[Tensor | None]:
        return (None if x is None else x.detach() for x in tensors)

    layers = tuple(type(layer)(*cut(layer)) for layer in state.layers)
    readout_state = LIFState(*cut(state.readout)) if state.readout is not None else None
    return NetworkState(layers, readout_state, state.last_input, state.step, tuple(cut(state.pending)))
