"""Adaptive LIF neurons over time on the CPU: `surgrad.kernels.reference.adaptive`, compiled (`adaptive.cpp`).

Layout, buffers and descriptors are those of `network.py` for a single layer that is driven by a current.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from surgrad.errors import known
from surgrad.kernels.call import Address
from surgrad.kernels.contract import LayerSpec
from surgrad.kernels.cpu.build import compiled
from surgrad.kernels.cpu.descriptors import Call, Plan, Stage, fields, knows, rows
from surgrad.kernels.cpu.layout import Layout, pack, pack_weight
from surgrad.kernels.cpu.memory import empty
from surgrad.kernels.cpu.network import channels_first, channels_last
from surgrad.kernels.state import AdaptiveLayerState
from surgrad.neurons.lif import AdaptiveLIF

_pointer = ctypes.c_void_p


class AdaptiveDesc(ctypes.Structure):
    _fields_ = fields(_pointer, "network", "decay", "a", "b", "w_first", "w_last") + fields(
        _pointer, "g_w_last", "g_w_first", "g_decay", "g_a", "g_b"
    )


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
    if type(neuron) is not AdaptiveLIF:
        return f"{layer.name} ({type(neuron).__name__} neurons)"
    return None if knows(neuron) else f"{layer.name} ({neuron.surrogate} with {neuron.escape_noise})"


class _Scan(torch.autograd.Function):
    """Spikes (T, B, n), channels last, and i, u, w after the last step (B, places).

    Inputs: the plan; spikes of the step before as bits; (i, u, w) of the first step or None; current (T, B, n);
    recurrent weight or None; decays and couplings by place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        before: Tensor | None,
        i: Tensor | None,
        u: Tensor | None,
        w: Tensor | None,
        current: Tensor,
        recurrent: Tensor | None,
        a: Tensor,
        b: Tensor,
        *adaptation: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        layout = plan.stages[0].layout
        call = Call(plan, [(None, recurrent, a, b, current)], backward=False)
        T, B, nb_units = current.shape
        bits, spikes = empty(B, T, layout.words, dtype=torch.int64), empty(T, B, nb_units)
        checkpoints = empty(-(-T // plan.block), B, 3, layout.places) if any(ctx.needs_input_grad) else None
        ends = [torch.empty(B, layout.places) for _ in range(3)]
        call.point(0, i_first=i, u_first=u, bits_before=before, bits=bits, out=spikes)
        call.point(0, checkpoints=checkpoints, i_last=ends[0], u_last=ends[1])
        described = _describe(call, adaptation, w_first=w, w_last=ends[2])
        library().adaptive_forward(ctypes.byref(described))
        ctx.plan, ctx.kept = plan, (bits, checkpoints, before)
        ctx.save_for_backward(i, u, w, current, recurrent, a, b, *adaptation)
        return spikes, *ends

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *g_ends: Tensor | None) -> tuple[Tensor | None, ...]:
        _, _, _, current, recurrent, a, b, *adaptation = ctx.saved_tensors
        plan, needed = ctx.plan, ctx.needs_input_grad[2:]
        call = Call(plan, [(None, recurrent, a, b, current)], backward=True)
        places = plan.stages[0].layout.places
        gradient = rows(gradient, *current.shape)
        call.layers[0].g_out_t, call.layers[0].g_out_b = gradient.stride()[:2]
        g_i, g_u, g_w = (None if g is None else g.contiguous() for g in g_ends)
        firsts = [torch.empty(plan.B, places) if need else None for need in needed[:3]]
        sums = [torch.zeros(call.threads, places) for _ in range(5)]
        g_current = torch.empty_like(current) if needed[3] else None
        g_recurrent = torch.zeros(call.threads, *recurrent.shape) if needed[4] else None
        bits, checkpoints, before = ctx.kept
        call.point(0, bits=bits, checkpoints=checkpoints, bits_before=before, g_out=gradient, g_a=sums[0], g_b=sums[1])
        call.point(0, g_current=g_current, g_recurrent=g_recurrent, g_i_last=g_i, g_u_last=g_u)
        call.point(0, g_i_first=firsts[0], g_u_first=firsts[1])
        described = _describe(
            call, adaptation, g_decay=sums[2], g_a=sums[3], g_b=sums[4], g_w_last=g_w, g_w_first=firsts[2]
        )
        library().adaptive_backward(ctypes.byref(described))
        g_recurrent = None if g_recurrent is None else g_recurrent.sum(0)
        return None, None, *firsts, g_current, g_recurrent, *(partial.sum(0) for partial in sums)


def _describe(call: Call, adaptation: Sequence[Tensor], **others: Tensor | None) -> AdaptiveDesc:
    tensors = dict(zip(("decay", "a", "b"), adaptation, strict=True)) | others
    pointers = {name: None if x is None else x.data_ptr() for name, x in tensors.items()}
    return AdaptiveDesc(network=ctypes.addressof(call.network), **pointers)


def scan(
    layer: LayerSpec,
    current: Tensor,
    old: AdaptiveLayerState | None,
    address: Address,
    memory: str = "full",
    return_membrane: bool = False,
) -> tuple[Tensor, None, AdaptiveLayerState]:
    """Spikes and end state of one adaptive layer driven by a current, as `surgrad.kernels.reference.scan`."""
    T, B = current.shape[:2]
    layout = Layout.padded(layer.unit_shape)
    first: tuple[Tensor | None, ...] = (None, None, None)
    before = None
    if old is not None:
        current = with_earlier_spikes(layer, current, old.s)
        first = tuple(layout.to_places(x) for x in (old.i, old.u, old.w))
        before = None if old.s.requires_grad else pack(old.s[None], layout)
    plan = Plan([Stage(layer, layout)], T, B, 0, address, memory=memory)
    weight = None if layer.recurrent is None else pack_weight(layer.recurrent, layout, layout)
    adaptation = known(f"{layer.name}.adaptation", layer.adaptation)
    constants = [layout.constant(x) for x in (layer.a, layer.b, *adaptation)]
    spikes, *ends = _Scan.apply(plan, before, *first, channels_last(current), weight, *constants)
    spikes = channels_first(spikes, layer.unit_shape)
    i, u, w = (layout.from_places(x) for x in ends)
    return spikes, None, AdaptiveLayerState(i, u, spikes[-1], w)


def with_earlier_spikes(layer: LayerSpec, current: Tensor, s: Tensor) -> Tensor:
    """``current`` with what spikes of the step before bring through the recurrence, if their gradient is asked for."""
    if layer.recurrent is None or not s.requires_grad:
        return current
    return torch.cat([current[:1] + layer.recurrent.function(s), current[1:]])
