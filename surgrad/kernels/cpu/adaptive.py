"""Adaptive LIF neurons over time on the CPU: `surgrad.kernels.reference.adaptive`, compiled (`adaptive.cpp`).

Also layers whose spikes come back after delays, or through dropout; plain LIF neurons are adaptive ones without
coupling there. Layout, buffers and descriptors are those of `network.py` for one layer that is driven by a current.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from surgrad.errors import known
from surgrad.kernels.call import Address
from surgrad.kernels.checks import require_shape
from surgrad.kernels.contract import ConnectionSpec, LayerSpec
from surgrad.kernels.cpu.build import compiled
from surgrad.kernels.cpu.descriptors import Call, Plan, Stage, fields, knows, rows
from surgrad.kernels.cpu.layout import LANES, Layout, pack, pack_weight
from surgrad.kernels.cpu.memory import empty
from surgrad.kernels.cpu.network import channels_first, channels_last
from surgrad.kernels.inputs import kept_in_loop
from surgrad.kernels.recurrence import on_the_way, recurrence, with_pending
from surgrad.kernels.state import AdaptiveLayerState, AnyLayerState, DelayedLayerState, LayerState
from surgrad.neurons.lif import LIF, AdaptationValues, AdaptiveLIF

_pointer = ctypes.c_void_p


class AdaptiveDesc(ctypes.Structure):
    _fields_ = fields(_pointer, "network", "decay", "a", "b", "w_first", "w_last") + fields(
        _pointer, "g_w_last", "g_w_first", "g_decay", "g_a", "g_b"
    )
    _fields_ += [*fields(ctypes.c_int64, "euler", "taps", "receiving"), *fields(_pointer, "shares", "kept", "g_shares")]
    _fields_ += [*fields(ctypes.c_int64, "run", "reach"), *fields(_pointer, "synapses", "place", "whole")]


@cache
def library() -> ctypes.CDLL:
    """The compiled scan. Raises: UserError if it cannot be compiled."""
    lib = compiled("adaptive")
    for function in (lib.adaptive_forward, lib.adaptive_backward):
        function.argtypes, function.restype = [_pointer], None
    lib.adaptive_size.restype = ctypes.c_int64
    return lib


def unknown_neuron(layer: LayerSpec) -> str | None:
    """Why the compiled scan does not know the neuron of an adaptive layer, or None."""
    neuron = layer.neuron
    if type(neuron) is not (LIF if layer.adaptation is None else AdaptiveLIF):
        return f"{layer.name} ({type(neuron).__name__} neurons)"
    return None if knows(neuron) else f"{layer.name} ({neuron.surrogate} with {neuron.escape_noise})"


class _Fixed(NamedTuple):
    """What a scan is given that carries no gradient: ``kept`` (B, places), ``before``: earlier spikes as bits.

    ``receiving``: whether the shares of spikes that come back are those of the neurons that they reach. ``reach``:
    steps that a spike reaches through delays of synapses, else 0; ``place``: see `_Synapses`.
    """

    plan: Plan
    euler: bool
    receiving: bool
    kept: Tensor | None
    before: Tensor | None
    reach: int = 0
    place: Tensor | None = None


class _Scan(torch.autograd.Function):
    """Spikes (T, B, n), channels last, and i, u, w after the last step (B, places).

    Inputs: what is fixed; (i, u, w) of the first step or None; current (T, B, n); recurrent weight or None, with delays
    of synapses the weights of `_Synapses`; shares of a spike that come back after 1, 2, … steps (taps, places), or None
    for all after one; decays and couplings by place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        fixed: _Fixed,
        i: Tensor | None,
        u: Tensor | None,
        w: Tensor | None,
        current: Tensor,
        recurrent: Tensor | None,
        shares: Tensor | None,
        a: Tensor,
        b: Tensor,
        *adaptation: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        plan = fixed.plan
        layout = plan.stages[0].layout
        call = Call(plan, [(None, None if fixed.reach else recurrent, a, b, current)], backward=False)
        T, B, nb_units = current.shape
        bits, spikes = empty(B, T, layout.words, dtype=torch.int64), empty(T, B, nb_units)
        keep = any(ctx.needs_input_grad)
        checkpoints = empty(-(-T // plan.block), B, 3, layout.places) if keep else None
        whole = empty(*current.shape) if keep and fixed.reach else None
        ends = [torch.empty(B, layout.places) for _ in range(3)]
        call.point(0, i_first=i, u_first=u, bits_before=fixed.before, bits=bits, out=spikes)
        call.point(0, checkpoints=checkpoints, i_last=ends[0], u_last=ends[1])
        described = _describe(call, fixed, recurrent, shares, adaptation, w_first=w, w_last=ends[2], whole=whole)
        library().adaptive_forward(ctypes.byref(described))
        ctx.fixed, ctx.kept = fixed, (bits, checkpoints)
        ctx.save_for_backward(i, u, w, current if whole is None else whole, recurrent, shares, a, b, *adaptation)
        return spikes, *ends

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *g_ends: Tensor | None) -> tuple[Tensor | None, ...]:
        _, _, _, current, recurrent, shares, a, b, *adaptation = ctx.saved_tensors
        plan, needed = ctx.fixed.plan, ctx.needs_input_grad[1:]
        call = Call(plan, [(None, None if ctx.fixed.reach else recurrent, a, b, current)], backward=True)
        places = plan.stages[0].layout.places
        gradient = rows(gradient, *current.shape)
        call.layers[0].g_out_t, call.layers[0].g_out_b = gradient.stride()[:2]
        g_i, g_u, g_w = (None if g is None else g.contiguous() for g in g_ends)
        firsts = [torch.empty(plan.B, places) if need else None for need in needed[:3]]
        sums = [torch.zeros(call.threads, places) for _ in range(5)]
        g_current = torch.empty_like(current) if needed[3] else None
        g_recurrent = torch.zeros(call.threads, *recurrent.shape) if needed[4] else None
        g_shares = torch.zeros(call.threads, *shares.shape) if needed[5] else None
        bits, checkpoints = ctx.kept
        call.point(0, bits=bits, checkpoints=checkpoints, bits_before=ctx.fixed.before, g_out=gradient)
        call.point(0, g_a=sums[0], g_b=sums[1], g_current=g_current, g_recurrent=g_recurrent)
        call.point(0, g_i_last=g_i, g_u_last=g_u, g_i_first=firsts[0], g_u_first=firsts[1])
        found = {"g_decay": sums[2], "g_a": sums[3], "g_b": sums[4], "g_w_first": firsts[2], "g_shares": g_shares}
        described = _describe(call, ctx.fixed, recurrent, shares, adaptation, g_w_last=g_w, **found)
        library().adaptive_backward(ctypes.byref(described))
        loop = (None if x is None else x.sum(0) for x in (g_recurrent, g_shares))
        return None, *firsts, g_current, *loop, *(partial.sum(0) for partial in sums)


def _describe(
    call: Call,
    fixed: _Fixed,
    recurrent: Tensor | None,
    shares: Tensor | None,
    adaptation: Sequence[Tensor],
    **others: Tensor | None,
) -> AdaptiveDesc:
    tensors = dict(zip(("decay", "a", "b"), adaptation, strict=True)) | others
    tensors |= {"shares": shares, "kept": fixed.kept, "place": fixed.place}
    numbers = {"euler": fixed.euler, "taps": 0 if shares is None else len(shares), "receiving": fixed.receiving}
    if fixed.reach:
        tensors["synapses"] = synapses = known("recurrent weights", recurrent)
        numbers |= {"run": synapses.shape[-1], "reach": fixed.reach}
    pointers = {name: None if x is None else x.data_ptr() for name, x in tensors.items()}
    return AdaptiveDesc(network=ctypes.addressof(call.network), **numbers, **pointers)


class _Synapses(NamedTuple):
    """Delays of synapses in a recurrence, see `synapse_loop.h`.

    weights: (places, places, run) from each neuron to each, over the steps at which its spike arrives.
    place: (places, places) int32, the first of these steps; None: 0.
    reach: place + run is at most that.
    """

    weights: Tensor
    place: Tensor | None
    reach: int


def _synapses(loop: ConnectionSpec, layout: Layout) -> _Synapses:
    """Delays of every synapse: two steps of an interpolated one, or all steps where the shares are others."""

    def by_sender(x: Tensor) -> Tensor:
        missing = layout.places - layout.channels
        return F.pad(x.transpose(0, 1), (0, 0) * (x.dim() - 2) + (0, missing) * 2).contiguous()

    weight, delays = loop.known_weight, known("delays", loop.delays)
    for name, x in (("weight", weight), ("delays", delays)):
        require_shape(f"{loop.name}.{name}", x, (layout.channels,) * 2, "(out, in)")
    if loop.own_shares:
        kernel = known("kernel", loop.kernel)()
        require_shape(f"the kernel of {loop.name}", kernel, (*weight.shape, loop.nb_taps), "(out, in, nb_taps)")
        kernel = by_sender(F.pad(kernel.to(weight.dtype), (0, -loop.nb_taps % LANES)))
        return _Synapses(kernel, None, kernel.shape[-1])
    reach = max(loop.nb_taps, 2)
    whole = delays.detach().floor().clamp(0, reach - 2)
    late = delays - whole
    pairs = torch.stack([weight * (1 - late), weight * late], -1)
    return _Synapses(by_sender(pairs), by_sender(whole.int()), reach)


def scan(
    layer: LayerSpec,
    current: Tensor,
    old: AnyLayerState | None,
    address: Address,
    memory: str = "full",
    return_membrane: bool = False,
    *,
    return_state: bool = True,
) -> tuple[Tensor, None, AnyLayerState]:
    """Spikes and end state of one layer driven by a current, as `surgrad.kernels.reference.scan`.

    Without ``return_state``, currents that are still on their way are left out of the state.
    """
    T, B = current.shape[:2]
    layout = Layout.padded(layer.unit_shape)
    first: tuple[Tensor | None, ...] = (None, None, None)
    before, arriving = None, recurrence(layer, address)
    if old is not None:
        w = None if isinstance(old, LayerState) or layer.adaptation is None else layout.to_places(old.w)
        first = (layout.to_places(old.i), layout.to_places(old.u), w)
    if isinstance(old, DelayedLayerState):
        current = with_pending(current, old)
    elif old is not None and old.s.requires_grad and arriving is not None:
        current = torch.cat([current[:1] + arriving(old.s), current[1:]])
    elif old is not None:
        before = pack(old.s[None], layout)
    kept = kept_in_loop(layer.recurrent_dropout, layer.index, address.noise, address.ids, layer.unit_shape)
    scheme = layer.neuron.scheme if isinstance(layer.neuron, AdaptiveLIF) else ""
    plan = Plan([Stage(layer, layout)], T, B, 0, address, memory=memory)
    loop, weight = layer.recurrent, None
    receiving = loop is not None and loop.kind == "dendritic"
    fixed = _Fixed(plan, scheme == "euler", receiving, None if kept is None else layout.to_places(kept), before)
    if loop is not None and loop.kind == "delayed":
        weight, place, reach = _synapses(loop, layout)
        fixed = fixed._replace(reach=reach, place=place)
    elif loop is not None:
        weight = pack_weight(loop, layout, layout)
    adaptation = layer.adaptation or AdaptationValues(*(torch.zeros(()) for _ in range(3)))
    constants = [layout.constant(x) for x in (layer.a, layer.b, *adaptation)]
    spikes, *ends = _Scan.apply(fixed, *first, channels_last(current), weight, _shares(layer, layout), *constants)
    spikes = channels_first(spikes, layer.unit_shape)
    i, u, w = (layout.from_places(x) for x in ends)
    if loop is not None and loop.has_delays:
        arriving = known("recurrence", arriving)
        pending = on_the_way(spikes, loop.nb_taps, arriving, old) if return_state else spikes[:0]
        return spikes, None, DelayedLayerState(i, u, spikes[-1], w, pending)
    if layer.adaptation is None:
        return spikes, None, LayerState(i, u, spikes[-1])
    return spikes, None, AdaptiveLayerState(i, u, spikes[-1], w)


def _shares(layer: LayerSpec, layout: Layout) -> Tensor | None:
    """Shares of a spike that come back after 1, 2, … steps, (taps, places); None for all of it after one step."""
    if layer.recurrent is None or layer.recurrent.kind == "delayed":
        return None
    if layer.recurrent.shares is not None:
        return layout.to_places(layer.recurrent.shares)
    return torch.ones(1, layout.places) if layer.recurrent_dropout else None
