"""Input currents from spike events on the CPU: `DelayedDense` and `Dense` without their sums over silent inputs.

Every event is added to the currents of all neurons at the steps at which it arrives (`delays.cpp`); in the backward
pass it collects the gradients from there. The specification is `DelayedDense.forward`. Delays of neurons alone are a
sum over time for every unit, `spread`.
"""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from surgrad.errors import UserError
from surgrad.kernels import precision
from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.cpu.build import compiled
from surgrad.kernels.cpu.descriptors import fields
from surgrad.kernels.cpu.layout import LANES
from surgrad.kernels.cpu.memory import empty
from surgrad.kernels.events import Events

_int, _pointer = ctypes.c_int64, ctypes.c_void_p


class SynapsesDesc(ctypes.Structure):
    _fields_ = (
        fields(_int, "nb_in", "nb_out")
        + fields(_pointer, "w", "place")
        + fields(_int, "B", "T", "length", "stride", "shift", "threads")
        + fields(_pointer, "steps", "units", "offsets", "counts")
    )


class SpreadDesc(ctypes.Structure):
    _fields_ = fields(_int, "T", "B", "N", "taps", "steps", "lead", "threads") + fields(
        _pointer, "x", "shares", "y", "sums"
    )


@cache
def library() -> ctypes.CDLL:
    """The compiled sums. Raises: UserError if they cannot be compiled."""
    lib = compiled("delays")
    lib.synapses_forward.argtypes, lib.synapses_forward.restype = [_pointer] * 2, None
    lib.synapses_backward.argtypes, lib.synapses_backward.restype = [_pointer] * 4, None
    for function in (lib.spread_forward, lib.spread_correlate):
        function.argtypes, function.restype = [_pointer], None
    lib.synapses_size.restype = lib.spread_size.restype = _int
    return lib


def _by_input(x: Tensor) -> Tensor:
    """(nb_units, fan_in, ...) -> (fan_in, nb_units, ...), zeros up to a multiple of LANES units."""
    padded = x.new_zeros(x.shape[1], -(-x.shape[0] // LANES) * LANES, *x.shape[2:])
    padded[:, : x.shape[0]] = x.transpose(0, 1)
    return padded


class _Arrivals(torch.autograd.Function):
    """Currents (length, B, nb_units); ``delay`` in steps is None without delays, ``spikes`` without their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        events: Events,
        length: int,
        shift: int,
        spikes: Tensor | None,
        weight: Tensor,
        delay: Tensor | None,
    ) -> Tensor:
        stride = length + 5 * LANES  # vectors along time read beyond the end
        if delay is None:
            late, place, w = None, None, _by_input(weight.detach())
        else:
            k = delay.detach().floor().clamp(max=length - shift - events.nb_steps - 1)
            late = delay.detach() - k
            w = _by_input(torch.stack([weight * (1 - late), weight * late], -1).detach())
            place = _by_input(k).int()
            place += stride * torch.arange(place.shape[1], dtype=torch.int32)
        counts = None if events.counts is None else events.counts.float()
        times = [events.steps, events.units, events.offsets, counts]
        desc = SynapsesDesc(
            nb_in=events.nb_units,
            nb_out=w.shape[1],
            w=w.data_ptr(),
            place=None if place is None else place.data_ptr(),
            B=len(events),
            T=events.nb_steps,
            length=length,
            stride=stride,
            shift=shift,
            threads=torch.get_num_threads(),
            steps=events.steps.data_ptr(),
            units=events.units.data_ptr(),
            offsets=events.offsets.data_ptr(),
            counts=None if counts is None else counts.data_ptr(),
        )
        currents = empty(length, len(events), desc.nb_out)
        library().synapses_forward(ctypes.byref(desc), currents.data_ptr())
        ctx.desc, ctx.alive = desc, (w, place, times)
        ctx.save_for_backward(weight, late)
        return currents[..., : len(weight)]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        desc, (weight, late), w = ctx.desc, ctx.saved_tensors, ctx.alive[0]
        gradient = F.pad(gradient, (0, desc.nb_out - len(weight))).contiguous()
        sums = torch.zeros(desc.threads, *w.shape)
        g_spikes = empty(desc.T, desc.B, desc.nb_in) if ctx.needs_input_grad[3] else None
        pointer = None if g_spikes is None else g_spikes.data_ptr()
        library().synapses_backward(ctypes.byref(desc), gradient.data_ptr(), sums.data_ptr(), pointer)
        sums = sums.sum(0).transpose(0, 1)[: len(weight)]
        if late is None:
            return None, None, None, None, sums, None
        first, second = sums.unbind(-1)
        return None, None, None, g_spikes, torch.lerp(first, second, late), weight * (second - first)


def currents(connection: ConnectionSpec, below: Tensor | Events, shift: int) -> Tensor:
    """Currents of all steps that spikes of ``below`` reach, ``shift`` steps later: (length, B, nb_units).

    Args:
        connection: dense or delayed; float32.
        below: spikes (T, B, *in_shape) of 0 and 1, or their events; gradients flow to spikes of a delayed one only.
    """
    events = below.without_repeats() if isinstance(below, Events) else Events.of(below)
    spikes = below.flatten(2) if connection.kind == "delayed" and isinstance(below, Tensor) else None
    length = events.nb_steps + shift + connection.nb_taps - 1
    return _Arrivals.apply(events, length, shift, spikes, connection.weight, connection.delays)


class _Spread(torch.autograd.Function):
    """y (T + taps - 1, B, N) of x (T, B, N) and shares (taps, N); N is a multiple of LANES."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(x, shares)
        return _filtered(x, shares, len(x) + len(shares) - 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, shares = ctx.saved_tensors
        gradient, g_x, g_shares = gradient.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            g_x = _filtered(gradient, shares.flip(0), len(x), lead=len(shares) - 1)
        if ctx.needs_input_grad[1]:
            sums = torch.zeros(torch.get_num_threads(), *shares.shape)
            desc = _describe(x, shares, gradient)
            desc.sums = sums.data_ptr()
            library().spread_correlate(ctypes.byref(desc))
            g_shares = sums.sum(0)
        return g_x, g_shares


def _describe(x: Tensor, shares: Tensor, y: Tensor, lead: int = 0) -> SpreadDesc:
    sizes = (*x.shape, len(shares), len(y), lead, torch.get_num_threads())
    return SpreadDesc(*sizes, *(tensor.data_ptr() for tensor in (x, shares, y)))


def _filtered(x: Tensor, shares: Tensor, steps: int, lead: int = 0) -> Tensor:
    y = empty(steps, *x.shape[1:])
    library().spread_forward(ctypes.byref(_describe(x, shares, y, lead)))
    return y


def spread(x: Tensor, shares: Tensor) -> Tensor:
    """y[t] = sum_n shares[n] x[t - n] for every unit alone.

    Args:
        x: (T, B, N).
        shares: (nb_taps, N).

    Returns:
        (T + nb_taps - 1, B, N).
    """
    nb_taps, nb_units = shares.shape
    if x.device.type == "cpu" and x.dtype == shares.dtype == torch.float32 and compilable():
        missing = -nb_units % LANES
        y: Tensor = _Spread.apply(F.pad(x, (0, missing)).contiguous(), F.pad(shares, (0, missing)).contiguous())
        return y[..., :nb_units]
    kernel = shares.flip(0).T[:, None, :, None]  # one filter over time for each unit; units are the channels
    y = precision.convolution(x.permute(2, 0, 1)[None], kernel, (1, 1), (nb_taps - 1, 0))
    return y[0].permute(1, 2, 0)


@cache
def compilable() -> bool:
    """Whether the compiled sums are there."""
    try:
        library()
    except UserError:
        return False
    return True
