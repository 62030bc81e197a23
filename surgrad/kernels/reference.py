"""The specification: plain PyTorch loops over time, any device, any floating dtype, differentiated by autograd.

Every other kernel computes the same forward and the same adjoint.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from surgrad.errors import UserError, known
from surgrad.kernels import finite
from surgrad.kernels.call import Address, Options
from surgrad.kernels.contract import ConnectionSpec, LayerSpec, NetworkSpec, ReadoutSpec
from surgrad.kernels.events import Events
from surgrad.kernels.philox import NoiseKey, uniform
from surgrad.kernels.recurrence import DelayedState, delayed_loop, recurrence
from surgrad.kernels.state import (
    AdaptiveLayerState,
    AnyLayerState,
    DelayedLayerState,
    NetworkOutput,
    NetworkState,
    state_of_layer,
)
from surgrad.neurons.lif import (
    LIF,
    AdaptationValues,
    AdaptiveState,
    LIFState,
    adaptive_step,
    readout_step,
    spike,
)

State = TypeVar("State", LIFState, AdaptiveState, DelayedState)


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
        a: decays of synapse and membrane, broadcastable to (*units).
        b: decays of synapse and membrane, broadcastable to (*units).
        neuron: surrogate, escape noise and reset.
        recurrence: maps spikes s[t-1] (B, *units) to the recurrent part of I[t].
        state: `neuron.State` at the first step; zeros if None.
        previous: spikes of the step before the first, (B, *units); zeros if None.
        noise: address of the random numbers and the (B,) global sample indices.
        ids: needed by stochastic neurons.
        first_step: time index of the first step, which addresses the random numbers.
        memory: "full" keeps every intermediate for the backward pass; "recompute" keeps the states between segments of
            about sqrt(T) steps and computes each segment again, so that memory grows with sqrt(T). Same gradients.

    Returns:
        spikes (T, B, *units) as 0/1, membrane u[t] at which each was drawn (T, B, *units), state after the last step.
    """
    if state is None:
        state = neuron.State(*(torch.zeros_like(current[0]) for _ in neuron.State._fields))

    def step(state: LIFState, drive: Tensor, s: Tensor) -> LIFState:
        return neuron.step(state, drive, s, a, b)

    return _scan(current, step, neuron, recurrence, state, previous, noise, ids, first_step, memory)


def adaptive(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    adaptation: AdaptationValues,
    neuron: LIF,
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
    if stochastic:
        key, samples = known("noise", noise), known("ids", ids)
    spikes, membranes = [], []
    for t, drive in enumerate(current.unbind(0)):
        if recurrence is not None:
            drive = drive + recurrence(s)
        r = uniform(key, first_step + t, samples, current.shape[2:], current.dtype) if stochastic else None
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

    Args:
        current: (T, B, C).
        a: decay of the synapse per step.
        b: decay of the membrane per step.
        unit_gain: whether the current is scaled by 1 - b.
        state: at the first step; None for i = 0 and u = ``u0``.
        u0: first membrane potential.
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
    connection: ConnectionSpec,
    below: Tensor | Events,
    delay: int,
    before: Tensor | None = None,
    pending: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Input currents of a layer, (T, B, *units).

    Args:
        connection: from the layer below, whose spikes are ``below`` (T, B, *in_shape).
        delay: steps (0 or 1) that every spike takes, beside those of a delayed connection.
        before: spikes of the step before the first; zeros if None.
        pending: currents of earlier spikes that were still on their way, (steps, B, *units).

    Returns:
        the currents, and those still on their way after the last step (None without learned delays).
    """
    below = below.dense(torch.get_default_dtype()) if isinstance(below, Events) else below
    if connection.has_delays:
        return deliver(connection.function(below, shift=delay), len(below), pending)
    current = connection.function(delayed(below, delay, before))
    expected = (*below.shape[:2], *connection.out_shape)
    if current.shape != expected:
        raise UserError(
            f"{connection.name} gives currents of shape {tuple(current.shape)} for spikes {tuple(below.shape)}; a "
            f"connection maps (..., *in) to (..., *out), here to {tuple(expected)}"
        )
    return current, None


def deliver(current: Tensor, nb_steps: int, pending: Tensor | None) -> tuple[Tensor, Tensor]:
    """Currents of a window with those ``pending`` from before it added, and those that arrive after it."""
    if pending is not None:
        current = torch.cat([current[: len(pending)] + pending, current[len(pending) :]])
    return current[:nb_steps], current[nb_steps:]


class _Loop(TypedDict):
    """What `lif` and `adaptive` have in common."""

    recurrence: Callable[[Tensor], Tensor] | None
    previous: Tensor | None
    noise: NoiseKey
    ids: Tensor
    first_step: int
    memory: str


def scan(
    layer: LayerSpec,
    current: Tensor,
    old: AnyLayerState | None,
    address: Address,
    memory: str = "full",
    return_membrane: bool = False,
) -> tuple[Tensor, Tensor | None, AnyLayerState]:
    """Spikes of a layer driven by ``current``, its membranes if asked for, and its state after the last step."""
    options: _Loop = {
        "recurrence": None if layer.has_recurrent_delays else recurrence(layer, address),
        "previous": old.s if old is not None else None,
        "noise": replace(address.noise, layer=layer.index),
        "ids": address.ids,
        "first_step": address.first_step,
        "memory": memory,
    }
    if layer.has_recurrent_delays:
        assert old is None or isinstance(old, DelayedLayerState)  # see `call.layer_state`
        begin, step = delayed_loop(layer, current, old, address)
        rest = (options["previous"], options["noise"], options["ids"], options["first_step"], memory)
        spikes, membranes, final = _scan(current, step, layer.neuron, None, begin, *rest)
        kept = DelayedLayerState(final.i, final.u, spikes[-1], final.w, final.pending)
        return spikes, membranes if return_membrane else None, kept
    if layer.adaptation is None:
        first = layer.neuron.State(old.i, old.u, *old[3:]) if old is not None else None
        spikes, membranes, last = lif(current, layer.a, layer.b, layer.neuron, state=first, **options)
        new = state_of_layer(layer.neuron.State)(last.i, last.u, spikes[-1], *last[2:])
        return spikes, membranes if return_membrane else None, new
    constants = (layer.a, layer.b, layer.adaptation)
    adapted = AdaptiveState(old.i, old.u, old.w) if isinstance(old, AdaptiveLayerState) else None
    spikes, membranes, end = adaptive(current, *constants, layer.neuron, state=adapted, **options)
    return spikes, membranes if return_membrane else None, AdaptiveLayerState(end.i, end.u, spikes[-1], end.w)


def integrate(layer: ReadoutSpec, current: Tensor, state: LIFState | None = None) -> tuple[Tensor, LIFState]:
    """y of a readout driven by ``current`` (T, B, C), and its state after the last step."""
    return readout(current, layer.a, layer.b, unit_gain=layer.unit_gain, state=state, u0=layer.u0)


#: connection, spikes or events below, delay, spikes of the step before, currents on their way -> as `drive`
Drive = Callable[[ConnectionSpec, Tensor | Events, int, Tensor | None, Tensor | None], tuple[Tensor, Tensor | None]]
#: layer, current, its state, address of the noise, memory -> as `scan`
Scan = Callable[
    [LayerSpec, Tensor, AnyLayerState | None, Address, str],
    tuple[Tensor, Tensor | None, AnyLayerState],
]


class Parts(NamedTuple):
    """What `run` is made of: how currents arise from spikes (or events), and the scans of a layer and of a readout."""

    drive: Drive = drive
    scan: Scan = scan
    integrate: Callable[[ReadoutSpec, Tensor, LIFState | None], tuple[Tensor, LIFState]] = integrate
    takes_events: bool = False


def run(network: NetworkSpec, x: Tensor | Events, options: Options, parts: Parts | None = None) -> NetworkOutput:
    """Run a whole network, layer by layer."""
    parts = parts or Parts()
    if not isinstance(x, Events):
        x = x.to(network.dtype)
    elif not parts.takes_events or options.return_state or options.truncate:
        x = x.dense(network.dtype)
    if options.truncate and isinstance(x, Tensor):
        return _run_truncated(network, x, options, parts)
    nb_steps = x.nb_steps if isinstance(x, Events) else len(x)
    state, address = options.state, options.address
    pending = iter(state.pending if state is not None else ())
    below: Tensor | Events = x
    before = state.last_input if state is not None else None
    on_the_way: list[Tensor | None] = []

    def next_current(layer: LayerSpec | ReadoutSpec) -> Tensor:
        part, spikes, earlier = layer.input, below, before
        if part is not None:
            spikes, earlier = part.spikes(below, before, address.noise, address.ids)
        current, rest = parts.drive(layer.incoming, spikes, network.delay, earlier, next(pending, None))
        on_the_way.append(rest)
        return current if part is None else part.current(current)

    counts, layer_states = [], []
    all_spikes: list[Tensor] = []
    for index, layer in enumerate(network.layers):
        old = state.layers[index] if state is not None else None
        current = next_current(layer)
        if layer.input is not None and layer.input.residual is not None:
            source = layer.input.source
            earlier = state.layers[source].s if state is not None else None
            past, _ = parts.drive(layer.input.residual, all_spikes[source], network.delay, earlier, None)
            current = current + past
        spikes, _, new = parts.scan(layer, current, old, address, options.memory)
        counts.append(spikes.sum(0))
        all_spikes.append(spikes)
        layer_states.append(new)
        below, before = spikes, old.s if old is not None else None
    y = readout_state = None
    if network.readout is not None:
        current = next_current(network.readout)
        y, readout_state = parts.integrate(network.readout, current, state.readout if state is not None else None)
    end = None
    if options.return_state and isinstance(x, Tensor):
        end = NetworkState(tuple(layer_states), readout_state, x[-1], address.first_step + nb_steps, tuple(on_the_way))
    output = NetworkOutput(y, counts, all_spikes if options.record else None, end)
    ends = [s.i for s in (*layer_states, readout_state) if s is not None]
    return finite.confirmed(output, network, ends, x)


def _run_truncated(network: NetworkSpec, x: Tensor, options: Options, parts: Parts) -> NetworkOutput:
    """Truncated backpropagation through time: no gradient crosses a multiple of ``truncate`` steps."""
    found: list[NetworkOutput] = []
    state, first_step = options.state, options.address.first_step
    for chunk in x.split(options.truncate):
        address = replace(options.address, first_step=first_step)
        now = replace(options, address=address, state=state, return_state=True, truncate=0)
        found.append(run(network, chunk, now, parts))
        state, first_step = _detached(known("state", found[-1].state)), first_step + len(chunk)
    return NetworkOutput(
        torch.cat([known("y", part.readout) for part in found]) if network.readout is not None else None,
        [torch.stack(counts).sum(0) for counts in zip(*(part.counts for part in found), strict=True)],
        [torch.cat(spikes) for spikes in zip(*(known("spikes", part.spikes) for part in found), strict=True)]
        if options.record
        else None,
        found[-1].state if options.return_state else None,
    )


def _detached(state: NetworkState) -> NetworkState:
    layers = tuple(type(layer)(*(x.detach() for x in layer)) for layer in state.layers)
    readout_state = LIFState(*(x.detach() for x in state.readout)) if state.readout is not None else None
    pending = tuple(None if x is None else x.detach() for x in state.pending)
    return NetworkState(layers, readout_state, state.last_input, state.step, pending)
