"""Input currents from spike events on the CPU: `DelayedDense` and `Dense` without their sums over silent inputs.

Every event is added to the currents of all neurons at the steps at which it arrives (`delays.cpp`); in the backward
pass it collects the gradients from there. The specification is `DelayedDense.forward`.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from surgrad.datasets.events import EventBatch
from surgrad.kernels.build import compiled
from surgrad.kernels.layout import LANES
from surgrad.kernels.memory import empty
from surgrad.layers import DelayedDense, Dense

_int, _pointer = ctypes.c_int64, ctypes.c_void_p


class _Synapses(ctypes.Structure):
    _fields_ = (
        [(name, _int) for name in ("nb_in", "nb_out")]
        + [(name, _pointer) for name in ("w0", "w1", "place")]
        + [(name, _int) for name in ("B", "T", "length", "shift", "threads")]
        + [(name, _pointer) for name in ("steps", "units", "offsets")]
    )


@cache
def library() -> ctypes.CDLL:
    """The compiled sums. Raises: UserError if they cannot be compiled."""
    lib = compiled("delays")
    lib.synapses_forward.argtypes, lib.synapses_forward.restype = [_pointer] * 2, None
    lib.synapses_backward.argtypes, lib.synapses_backward.restype = [_pointer] * 5, None
    lib.synapses_size.restype = _int
    return lib


def _by_input(x: Tensor) -> Tensor:
    """(nb_units, fan_in) -> (fan_in, nb_units), zeros up to a multiple of LANES."""
    return F.pad(x.detach().T, (0, -x.shape[0] % LANES)).contiguous()


class _Arrivals(torch.autograd.Function):
    """Currents (length, B, nb_units); ``delay`` in steps is None without delays, ``spikes`` without their gradient."""

    @staticmethod
    def forward(
        ctx, events: EventBatch, length: int, shift: int, spikes: Tensor | None, weight: Tensor, delay: Tensor | None
    ):
        threads = torch.get_num_threads()
        if delay is None:
            parts, share = [_by_input(weight), None, None], None
        else:
            k = delay.detach().floor().clamp(max=length - shift - events.nb_steps - 1)
            share = delay.detach() - k
            parts = [_by_input(weight * (1 - share)), _by_input(weight * share), _by_input(k).int()]
            parts[2] = parts[2] * parts[2].shape[1] + torch.arange(parts[2].shape[1], dtype=torch.int32)
        times = [x.contiguous() for x in (events.steps.int(), events.units.int(), events.offsets)]
        sizes = (len(events), events.nb_steps, length, shift, threads)
        pointers = [None if x is None else x.data_ptr() for x in (*parts, *times)]
        desc = _Synapses(events.nb_units, parts[0].shape[1], *pointers[:3], *sizes, *pointers[3:])
        currents = empty(length, len(events), parts[0].shape[1])
        library().synapses_forward(ctypes.byref(desc), currents.data_ptr())
        ctx.desc, ctx.alive = desc, (parts, times)
        ctx.save_for_backward(weight, share)
        return currents[..., : len(weight)]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        desc, (weight, share) = ctx.desc, ctx.saved_tensors
        gradient = F.pad(gradient, (0, desc.nb_out - len(weight))).contiguous()
        sums = [torch.zeros(desc.threads, desc.nb_in, desc.nb_out) for _ in range(1 if share is None else 2)]
        g_spikes = empty(desc.T, desc.B, desc.nb_in) if ctx.needs_input_grad[3] else None
        buffers = (*sums, *[None] * (2 - len(sums)), g_spikes)
        pointers = [None if x is None else x.data_ptr() for x in buffers]
        library().synapses_backward(ctypes.byref(desc), gradient.data_ptr(), *pointers)
        g0, *g1 = (x.sum(0).T[: len(weight)] for x in sums)
        if share is None:
            return None, None, None, None, g0, None
        return None, None, None, g_spikes, torch.lerp(g0, *g1, share), weight * (g1[0] - g0)


def currents(connection: Dense, below: Tensor | EventBatch, dt: float, shift: int) -> Tensor:
    """Currents of all steps that spikes of ``below`` reach, ``shift`` steps later: (length, B, nb_units).

    Args:
        connection: `Dense`, or `DelayedDense`; float32.
        below: spikes (T, B, *in_shape), or their events; gradients flow to spikes through a `DelayedDense` only.
        dt: s.
    """
    events = below if isinstance(below, EventBatch) else EventBatch.from_dense(below.detach())
    spikes, delay, nb_taps = None, None, 1
    if isinstance(connection, DelayedDense):
        delay, nb_taps = connection.delay() / dt, connection.nb_taps(dt)
        spikes = None if isinstance(below, EventBatch) else below.flatten(2)
    length = events.nb_steps + shift + nb_taps - 1
    return _Arrivals.apply(events, length, shift, spikes, connection.weight, delay)
