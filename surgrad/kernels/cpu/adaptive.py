"""Adaptive LIF neurons over time on the CPU: `surgrad.kernels.reference.adaptive`, compiled (`adaptive.cpp`).

Layout, buffers and descriptors are those of `network.py` for a single layer that is driven by a current.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor

from surgrad.kernels.cpu import network as cpu
from surgrad.kernels.cpu.build import compiled
from surgrad.kernels.cpu.layout import Layout, pack_weight
from surgrad.kernels.cpu.memory import empty
from surgrad.kernels.philox import NoiseKey
from surgrad.kernels.state import LayerState
from surgrad.network.connections import Conv, Dense
from surgrad.neurons.lif import AdaptationValues, AdaptiveLIF, AdaptiveState

_pointer = ctypes.c_void_p


class _Adaptive(ctypes.Structure):
    _fields_ = tuple(
        (name, _pointer) for name in ("network", "decay", "a", "b", "w_first", "w_last", "g_decay", "g_a", "g_b")
    )


@cache
def library() -> ctypes.CDLL:
    """The compiled scan. Raises: UserError if it cannot be compiled."""
    lib = compiled("adaptive")
    for function in (lib.adaptive_forward, lib.adaptive_backward):
        function.argtypes, function.restype = [_pointer], None
    lib.adaptive_size.restype = ctypes.c_int64
    return lib


def supports(neuron: AdaptiveLIF) -> bool:
    """Whether the compiled scan knows the surrogate and the escape noise."""
    return type(neuron.surrogate) in cpu.SURROGATES and type(neuron.escape_noise) in cpu.NOISES


class _Scan(torch.autograd.Function):
    """Spikes (T, B, n), channels last, and w after the last step; inputs as named, decays and couplings by place."""

    @staticmethod
    def forward(
        ctx, plan: cpu.Plan, w_first: Tensor | None, current: Tensor, recurrent: Tensor | None, *constants: Tensor
    ):
        a, b, *adaptation = constants
        layout = plan.stages[0].layout
        call = cpu.Call(plan, (None, recurrent, a, b, current), backward=False)
        T, B, nb_units = current.shape
        state, before = plan.stages[0].state, None
        first = (None, None)
        if state is not None:
            first = tuple(layout.to_places(x) for x in (state.i, state.u))
            before = cpu.pack(state.s[None], layout)[:, 0].contiguous()
        bits, spikes = empty(B, T, layout.words, dtype=torch.int64), empty(T, B, nb_units)
        checkpoints = empty(-(-T // plan.block), B, 3, layout.places) if any(ctx.needs_input_grad) else None
        ends = [torch.empty(B, layout.places) for _ in range(3)]
        call.point(0, i_first=first[0], u_first=first[1], bits_before=before, bits=bits, out=spikes)
        call.point(0, checkpoints=checkpoints, i_last=ends[0], u_last=ends[1])
        described = _describe(call, adaptation, w_first=w_first, w_last=ends[2])
        library().adaptive_forward(ctypes.byref(described))
        ctx.plan, ctx.kept = plan, (bits, checkpoints, before)
        ctx.save_for_backward(current, recurrent, *constants)
        ctx.mark_non_differentiable(*ends)
        return spikes, *ends

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor, *_):
        current, recurrent, a, b, *adaptation = ctx.saved_tensors
        call = cpu.Call(ctx.plan, (None, recurrent, a, b, current), backward=True)
        places = ctx.plan.stages[0].layout.places
        gradient = cpu.rows(gradient, *current.shape)
        call.layers[0].g_out_t, call.layers[0].g_out_b = gradient.stride()[:2]
        sums = [torch.zeros(call.threads, places) for _ in range(5)]
        g_current = torch.empty_like(current) if ctx.needs_input_grad[2] else None
        g_recurrent = torch.zeros(call.threads, *recurrent.shape) if ctx.needs_input_grad[3] else None
        bits, checkpoints, before = ctx.kept
        call.point(0, bits=bits, checkpoints=checkpoints, bits_before=before, g_out=gradient, g_a=sums[0], g_b=sums[1])
        call.point(0, g_current=g_current, g_recurrent=g_recurrent)
        described = _describe(call, adaptation, g_decay=sums[2], g_a=sums[3], g_b=sums[4])
        library().adaptive_backward(ctypes.byref(described))
        g_recurrent = None if g_recurrent is None else g_recurrent.sum(0)
        return None, None, g_current, g_recurrent, *(partial.sum(0) for partial in sums)


def _describe(call: cpu.Call, adaptation: list[Tensor], **others: Tensor | None) -> _Adaptive:
    tensors = dict(zip(("decay", "a", "b"), adaptation, strict=True)) | others
    pointers = {name: None if x is None else x.data_ptr() for name, x in tensors.items()}
    return _Adaptive(network=ctypes.addressof(call.network), **pointers)


def scan(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    adaptation: AdaptationValues,
    neuron: AdaptiveLIF,
    *,
    recurrence: Dense | Conv | None = None,
    state: AdaptiveState | None = None,
    previous: Tensor | None = None,
    noise: NoiseKey | None = None,
    ids: Tensor | None = None,
    first_step: int = 0,
    memory: str = "full",
) -> tuple[Tensor, AdaptiveState]:
    """Spikes and end state of one layer driven by a current; arguments as `surgrad.kernels.reference.adaptive`."""
    T, B, *units = current.shape
    layout = Layout.padded(units)
    old, w_first = None, None
    if state is not None:
        old = LayerState(state.i, state.u, torch.zeros_like(state.u) if previous is None else previous)
        w_first = layout.to_places(state.w)
    noise, ids = noise or NoiseKey(), torch.arange(B) if ids is None else ids.contiguous()
    stage = cpu.Stage(layout, None, None, recurrence, neuron, a, b, noise.layer, unit_gain=neuron.unit_gain, state=old)
    plan = cpu.Plan([stage], T, B, 0, noise, ids, first_step, memory=memory, spikes_as_floats=True)
    weight = None if recurrence is None else pack_weight(recurrence, layout, layout)
    constants = [layout.to_places(x.expand(layout.unit_shape)) for x in (a, b, *adaptation)]
    spikes, *ends = _Scan.apply(plan, w_first, cpu.channels_last(current), weight, *constants)
    spikes = spikes.view(T, B, *units[1:], units[0]).movedim(-1, 2)
    return spikes, AdaptiveState(*(layout.from_places(x) for x in ends))
