"""The network over time on the CPU: one call into compiled code per forward and backward pass (`lif.cpp`).

Tensors are brought into its layout and back by differentiable operations (`layout.py`); the compiled scan itself is
one autograd function over all layers.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from surgrad.errors import known
from surgrad.kernels import finite
from surgrad.kernels.call import Address, Options
from surgrad.kernels.contract import LayerSpec, NetworkSpec, ReadoutSpec
from surgrad.kernels.cpu.build import built_library
from surgrad.kernels.cpu.descriptors import Call, Plan, Stage, knows, rows
from surgrad.kernels.cpu.layout import Layout, pack, pack_events, pack_weight, unpack
from surgrad.kernels.cpu.memory import empty
from surgrad.kernels.events import Events
from surgrad.kernels.philox import NoiseKey
from surgrad.kernels.reference import delayed
from surgrad.kernels.state import LayerState, NetworkOutput, NetworkState
from surgrad.neurons.lif import LIF, LIFState


class _Inputs(NamedTuple):
    """Differentiable tensors of a layer in the kernel's layout: ``s`` (B, *units), spikes of the step before."""

    w: Tensor | None
    r: Tensor | None
    a: Tensor
    b: Tensor
    current: Tensor | None
    i: Tensor | None
    u: Tensor | None
    s: Tensor | None


class _Outputs(NamedTuple):
    """What a layer returns: counts (B, places); ``out`` (T, B, n), y of a readout or spikes if recorded; end state."""

    counts: Tensor | None
    out: Tensor | None
    i: Tensor
    u: Tensor
    s: Tensor | None


class _Needs(NamedTuple):
    """Which gradients by the `_Inputs` of a layer are asked for."""

    w: bool
    r: bool
    a: bool
    b: bool
    current: bool
    i: bool
    u: bool
    s: bool


Group = TypeVar("Group", _Inputs, _Outputs, _Needs)


def _by_layer(kind: type[Group], values: Sequence[Any]) -> list[Group]:
    width = len(kind._fields)
    return [kind._make(values[k : k + width]) for k in range(0, len(values), width)]


class _Kept(NamedTuple):
    """What the backward pass needs of the forward pass of a layer: its spikes, states between blocks, spikes before."""

    bits: Tensor | None
    checkpoints: Tensor | None
    before: Tensor | None


def _forward(plan: Plan, inputs: list[_Inputs], needs_backward: bool) -> tuple[list[_Outputs], list[_Kept]]:
    """All layers, all steps."""
    call = Call(plan, [x[:5] for x in inputs], backward=False)
    blocks = -(-plan.T // plan.block)
    outputs, kept = [], []
    for k, (stage, x) in enumerate(zip(plan.stages, inputs, strict=True)):
        layout, spiking = stage.layout, stage.neuron is not None
        bits = empty(plan.B, plan.T, layout.words, dtype=torch.int64) if spiking else None
        counts = torch.empty(plan.B, layout.places) if spiking and plan.counts else None
        out = empty(plan.T, plan.B, stage.nb_units) if plan.record or not spiking else None
        keep = needs_backward and (spiking or x.a.requires_grad or x.b.requires_grad)
        checkpoints = empty(blocks, plan.B, 2, layout.places) if keep else None
        i_last, u_last = torch.empty(plan.B, layout.places), torch.empty(plan.B, layout.places)
        before = None if x.s is None else pack(x.s[None], layout)
        call.point(k, bits=bits, checkpoints=checkpoints, counts=counts, out=out, i_last=i_last, u_last=u_last)
        call.point(k, i_first=x.i, u_first=x.u, bits_before=before, membranes=plan.membranes)
        kept.append(_Kept(bits, checkpoints, before))
        outputs.append(_Outputs(counts, out, i_last, u_last, None))
    built_library().surgrad_forward(ctypes.addressof(call.network))
    if plan.return_state:
        for k, (stage, (bits, *_)) in enumerate(zip(plan.stages, kept, strict=True)):
            if bits is not None:
                outputs[k] = outputs[k]._replace(s=unpack(bits[:, -1:], stage.layout)[0])
    return outputs, kept


class _Scan(torch.autograd.Function):
    """From the plan and the `_Inputs` of every layer to the `_Outputs` of every layer."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        outputs, ctx.kept = _forward(plan, _by_layer(_Inputs, tensors), any(ctx.needs_input_grad))
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        return tuple(x for found in outputs for x in found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        plan, inputs = ctx.plan, _by_layer(_Inputs, ctx.saved_tensors)
        call = Call(plan, [x[:5] for x in inputs], backward=True)
        needed = _by_layer(_Needs, ctx.needs_input_grad[1:])
        returned: list[list[Tensor | None]] = []
        firsts: list[Tensor | None] = []
        wants_spikes = any(need.s for need in needed)
        for k, (stage, x, need, g) in enumerate(
            zip(plan.stages, inputs, needed, _by_layer(_Outputs, gradients), strict=True)
        ):
            layout = stage.layout
            _point_gradients(call, plan, k, g)
            partials = [
                torch.zeros(call.threads, *t.shape) if n and t is not None else None
                for t, n in ((x.w, need.w), (x.r, need.r))
            ]
            trained_tau = need.a or need.b
            taus = [torch.zeros(call.threads, layout.places) if trained_tau else None for _ in "ab"]
            call.layers[k].trained_tau = trained_tau
            g_current = empty(*x.current.shape) if need.current and x.current is not None else None
            first = [torch.empty(plan.B, layout.places) if n else None for n in (need.i, need.u, wants_spikes)]
            bits, checkpoints, before = ctx.kept[k]
            call.point(k, bits=bits, checkpoints=checkpoints, bits_before=before)
            call.point(k, g_feedforward=partials[0], g_recurrent=partials[1], g_a=taus[0], g_b=taus[1])
            call.point(k, g_current=g_current, g_i_first=first[0], g_u_first=first[1], g_first=first[2])
            returned.append([*partials, *taus, g_current, first[0], first[1]])
            firsts.append(first[2])
        built_library().surgrad_backward(ctypes.addressof(call.network))
        found: list[Tensor | None] = []
        for k, (own, need) in enumerate(zip(returned, needed, strict=True)):
            found += [None if sums is None else sums.sum(0) for sums in own[:4]]
            found += [*own[4:], _earlier_spikes(plan, k, firsts) if need.s else None]
        return None, *found


def _point_gradients(call: Call, plan: Plan, k: int, g: _Outputs) -> None:
    """Point layer k of a backward call to the gradients of its outputs."""
    stage = plan.stages[k]
    layout = stage.layout
    counts, out = g.counts, None
    if stage.neuron is None or g.out is not None or not plan.counts:
        out = rows(g.out, plan.T, plan.B, stage.nb_units)
        call.layers[k].g_out_t, call.layers[k].g_out_b = out.stride()[:2]
    elif counts is None:
        counts = torch.zeros(plan.B, layout.places)
    s = None if g.s is None else layout.to_places(g.s)
    counts, i, u = (None if x is None else x.contiguous() for x in (counts, g.i, g.u))
    call.point(k, g_out=out, g_counts=counts, g_i_last=i, g_u_last=u, g_s_last=s)


@torch.enable_grad()
def _earlier_spikes(plan: Plan, k: int, firsts: list[Tensor | None]) -> Tensor:
    """dL/ds (B, *units) of the step before the first, from dL/dI of the first: recurrence, and the layer above."""
    stage = plan.stages[k]
    s = torch.zeros(plan.B, *stage.layout.unit_shape, requires_grad=True)
    recurrent = stage.spec.recurrent if isinstance(stage.spec, LayerSpec) else None
    targets = [(recurrent, k)] if recurrent is not None else []
    if plan.delay and k + 1 < len(plan.stages):
        targets.append((plan.stages[k + 1].spec.incoming, k + 1))
    total = torch.zeros_like(s)
    for connection, above in targets:
        cotangent = plan.stages[above].layout.from_places(known("the gradient by the first current", firsts[above]))
        total += torch.autograd.grad(connection.function(s), s, cotangent)[0]
    return total


def _scan(
    plan: Plan, current: Tensor | None = None, state: Sequence[tuple[Tensor, ...]] | None = None
) -> list[_Outputs]:
    """Run a plan; the first layer may be driven by a ``current`` (T, B, n), channels last; states of the layers."""
    inputs = []
    for k, stage in enumerate(plan.stages):
        spec, layout = stage.spec, stage.layout
        recurrent = spec.recurrent if isinstance(spec, LayerSpec) else None
        w = None if stage.below is None else pack_weight(spec.incoming, stage.below, layout)
        r = None if recurrent is None else pack_weight(recurrent, layout, layout)
        a, b = layout.constant(spec.a), layout.constant(spec.b)
        first: tuple[Tensor | None, ...] = (*(state[k] if state else ()), None, None, None)[:3]
        i, u = (None if x is None else layout.to_places(x) for x in first[:2])
        s = first[2]
        inputs.append(_Inputs(w, r, a, b, current if k == 0 else None, i, u, s))
    tensors = [x for found in inputs for x in found]
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        return _by_layer(_Outputs, _Scan.apply(plan, *tensors))
    return _forward(plan, inputs, needs_backward=False)[0]


def obstacle(network: NetworkSpec) -> str | None:
    """What of a network of plain LIF neurons the compiled code does not know, or None."""
    if network.changed_input is not None:
        return network.changed_input
    for layer in network.stack:
        for connection in (layer.feedforward, getattr(layer, "recurrent", None)):
            if connection is not None and connection.own:
                return f"{connection.name} ({connection.own})"
        if isinstance(layer, LayerSpec):
            reason = unknown_neuron(layer)
            if reason is not None:
                return reason
    return None


def unknown_neuron(layer: LayerSpec) -> str | None:
    """Why the compiled scan does not know the neuron of a layer, or None."""
    neuron = layer.neuron
    if type(neuron) is not LIF:
        return f"{layer.name} ({type(neuron).__name__} neurons)"
    return None if knows(neuron) else f"{layer.name} ({neuron.surrogate} with {neuron.escape_noise})"


def channels_last(x: Tensor) -> Tensor:
    """(T, B, channels, *spatial) -> (T, B, n) with the channel running fastest; contiguous."""
    return x.contiguous() if x.dim() == 3 else x.movedim(2, -1).flatten(2).contiguous()


def channels_first(x: Tensor, unit_shape: tuple[int, ...]) -> Tensor:
    """The other way: (T, B, n) -> (T, B, channels, *spatial), a view."""
    return x if len(unit_shape) == 1 else x.view(*x.shape[:2], *unit_shape[1:], unit_shape[0]).movedim(-1, 2)


def scan(
    layer: LayerSpec,
    current: Tensor,
    old: LayerState | None,
    address: Address,
    memory: str = "full",
    return_membrane: bool = False,
) -> tuple[Tensor, Tensor | None, LayerState]:
    """One layer driven by a current, as `surgrad.kernels.reference.scan`."""
    T, B = current.shape[:2]
    stage = Stage(layer, Layout.padded(layer.unit_shape))
    plan = Plan([stage], T, B, 0, address, memory=memory, counts=False, record=True)
    if return_membrane:
        plan.membranes = empty(T, B, stage.nb_units)
    (found,) = _scan(plan, channels_last(current), None if old is None else [old])
    spikes = channels_first(known("spikes", found.out), layer.unit_shape)
    membranes = None if plan.membranes is None else channels_first(plan.membranes, layer.unit_shape)
    i, u = (stage.layout.from_places(x) for x in (found.i, found.u))
    return spikes, membranes, LayerState(i, u, spikes[-1])


def integrate(layer: ReadoutSpec, current: Tensor, state: LIFState | None = None) -> tuple[Tensor, LIFState]:
    """A leaky integrator driven by a current (T, B, C), as `surgrad.kernels.reference.integrate`."""
    T, B = current.shape[:2]
    stage = Stage(layer, Layout.padded(layer.unit_shape))
    plan = Plan([stage], T, B, 0, Address(NoiseKey(), torch.arange(B)))
    (found,) = _scan(plan, channels_last(current), None if state is None else [state])
    y = channels_first(known("y", found.out), layer.unit_shape)
    return y, LIFState(*(stage.layout.from_places(x) for x in (found.i, found.u)))


def _packed_input(network: NetworkSpec, x: Tensor | Events, options: Options) -> tuple[Tensor | None, Tensor | None]:
    """Bits of the input and of the step before it; None where it is not binary, or its gradient is asked for."""
    shape = x.unit_shape if isinstance(x, Events) else tuple(x.shape[2:])
    layout, before = Layout(shape, shape[0]), options.state.last_input if options.state is not None else None
    asked = torch.is_grad_enabled() and any(isinstance(y, Tensor) and y.requires_grad for y in (x, before))
    if asked or (isinstance(x, Events) and x.counts is not None):
        return None, None
    earlier = None if before is None else pack(before[None], layout)
    if before is not None and earlier is None:
        return None, None
    return pack_events(x, layout) if isinstance(x, Events) else pack(x, layout), earlier


def run(network: NetworkSpec, x: Tensor | Events, options: Options) -> NetworkOutput:
    """Run a whole network."""
    T, B, *in_shape = (x.nb_steps, len(x), *x.unit_shape) if isinstance(x, Events) else x.shape
    state = options.state
    bits, before = _packed_input(network, x, options)
    below = None if bits is None else Layout(tuple(in_shape), in_shape[0])
    stages = []
    for layer in network.stack:
        stages.append(Stage(layer, Layout.padded(layer.unit_shape), below))
        below = stages[-1].layout
    plan = Plan(stages, T, B, network.delay, options.address, options.truncate, options.memory, bits, before)
    plan.record, plan.return_state = options.record, options.return_state
    current = None
    if bits is None:
        x = x.dense(network.dtype) if isinstance(x, Events) else x.to(network.dtype)
        earlier = delayed(x, network.delay, state.last_input if state is not None else None)
        current = channels_last(stages[0].spec.incoming.function(earlier))
    states = None if state is None else [*state.layers, *([state.readout] if state.readout is not None else [])]
    found = _scan(plan, current, states)
    return finite.confirmed(_output(network, plan, x, found), network, [f.i for f in found], x)


def _output(network: NetworkSpec, plan: Plan, x: Tensor | Events, found: list[_Outputs]) -> NetworkOutput:
    nb_layers = len(network.layers)
    hidden = list(zip(plan.stages, found, strict=True))[:nb_layers]
    end = None
    if plan.return_state:
        layers = tuple(
            LayerState(stage.layout.from_places(f.i), stage.layout.from_places(f.u), known("last spikes", f.s))
            for stage, f in hidden
        )
        readout = None
        if network.readout is not None:
            readout = LIFState(*(plan.stages[-1].layout.from_places(y) for y in (found[-1].i, found[-1].u)))
        if isinstance(x, Events) and plan.input_bits is not None:
            last = unpack(known("input bits", plan.input_bits)[:, -1:], Layout(x.unit_shape, x.unit_shape[0]))[0]
        else:
            last = (x.dense(network.dtype) if isinstance(x, Events) else x)[-1].to(network.dtype).clone()
        end = NetworkState(layers, readout, last, plan.address.first_step + plan.T)
    spikes = None
    if plan.record:
        spikes = [channels_first(known("spikes", f.out), stage.layout.unit_shape) for stage, f in hidden]
    return NetworkOutput(
        found[-1].out if network.readout is not None else None,
        [stage.layout.from_places(known("counts", f.counts)) for stage, f in hidden],
        spikes,
        end,
    )
