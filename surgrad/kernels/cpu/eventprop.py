"""Calls into the compiled event-based layers (`eventprop.cpp`) as differentiable functions of times and weights."""

import ctypes
import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.kernels import spike_trains
from surgrad.kernels.cpu.build import compiled
from surgrad.kernels.cpu.descriptors import address
from surgrad.kernels.spike_trains import SpikeTrains

SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
_pointer, _int, _double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_LAYER = [_double, _double, _double, _int, _int, *[_pointer] * 4]
_SIGNATURES = {
    "forward": ([*_LAYER, _pointer, _int, _int], _pointer),
    "size": ([_pointer], _int),
    "overflow": ([_pointer], _int),
    "take": ([_pointer] * 4, None),
    "free": ([_pointer], None),
    "backward": ([*_LAYER, *[_pointer] * 6, _int], None),
    "peaks": ([*_LAYER, *[_pointer] * 4, _int], None),
    "peaks_backward": ([*_LAYER, *[_pointer] * 6, _int], None),
    "voltages": ([*_LAYER, _int, *[_pointer] * 2, _int], None),
    "voltages_backward": ([*_LAYER, _int, *[_pointer] * 4, _int], None),
}


class Constants(NamedTuple):
    """What a call depends on besides tensors: time constants and end of simulation in s, spikes allowed per sample."""

    tau_mem: float
    tau_syn: float
    duration: float
    max_spikes: int = 0

    def checked(self) -> "Constants":
        """Raises: UserError unless all are positive and finite; the end may be 0."""
        for name in ("tau_mem", "tau_syn", "duration"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf or (name != "duration" and not value):
                raise UserError(f"{name}={value!r} s must be a positive finite number")
        return self


@cache
def _function(name: str, dtype: torch.dtype) -> Any:
    function = getattr(compiled("eventprop"), f"eventprop_{name}_{SUFFIX[dtype]}")
    function.argtypes, function.restype = _SIGNATURES[name]
    return function


def _layer(c: Constants, times: Tensor, units: Tensor, offsets: Tensor, weight: Tensor) -> tuple[Any, ...]:
    """What every call begins with; arguments as `surgrad.kernels.spike_trains` gives them, weight (N_in, N)."""
    sizes = (len(offsets) - 1, weight.shape[1])
    return (c.tau_mem, c.tau_syn, c.duration, *sizes, *map(address, (times, units, offsets, weight)))


def _if_needed(ctx: Any, times: Tensor) -> Tensor | None:
    """Memory for the gradient by the times, the first argument of every function; input from data does not need it."""
    return torch.zeros_like(times) if ctx.needs_input_grad[0] else None


class _Spikes:
    """Owner of the spikes that the compiled code keeps for its backward pass."""

    def __init__(self, handle: int, dtype: torch.dtype):
        self.handle, self.dtype = handle, dtype

    def __del__(self) -> None:
        _function("free", self.dtype)(self.handle)


class _Spiking(torch.autograd.Function):
    """times (E,), W (N_in, N), R (N, N) or None -> times (E',), units, offsets of the layer's spikes."""

    @staticmethod
    def forward(
        ctx: Any,
        times: Tensor,
        weight: Tensor,
        recurrent: Tensor | None,
        units: Tensor,
        offsets: Tensor,
        constants: Constants,
    ) -> tuple[Tensor, Tensor, Tensor]:
        layer = _layer(constants, times, units, offsets, weight)
        dtype, threads = weight.dtype, torch.get_num_threads()
        spikes = _Spikes(_function("forward", dtype)(*layer, address(recurrent), constants.max_spikes, threads), dtype)
        sample = _function("overflow", dtype)(spikes.handle)
        if sample >= 0:
            raise UserError(
                f"sample {sample} of the batch makes over {constants.max_spikes} spikes in {constants.duration} s: "
                "the weights drive the layer without limit; make them smaller or raise max_spikes"
            )
        nb = _function("size", dtype)(spikes.handle)
        out = torch.empty(nb, dtype=dtype)
        out_units, out_offsets = torch.empty(nb, dtype=torch.int32), torch.empty_like(offsets)
        _function("take", dtype)(spikes.handle, *map(address, (out, out_units, out_offsets)))
        ctx.save_for_backward(times, weight, recurrent, units, offsets)
        ctx.spikes, ctx.constants = spikes, constants
        ctx.mark_non_differentiable(out_units, out_offsets)
        return out, out_units, out_offsets

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()  # held here while the compiled code reads it
        times, weight, recurrent, units, offsets = ctx.saved_tensors
        layer = _layer(ctx.constants, times, units, offsets, weight)
        d_weight, d_times = torch.zeros_like(weight), _if_needed(ctx, times)
        d_recurrent = None if recurrent is None else torch.zeros_like(recurrent)
        gradients = map(address, (grad, d_weight, d_recurrent, d_times))
        _function("backward", weight.dtype)(
            *layer, address(recurrent), ctx.spikes.handle, *gradients, torch.get_num_threads()
        )
        return d_times, d_weight, d_recurrent, None, None, None


class _Peaks(torch.autograd.Function):
    """times (E,), W (N_in, N) -> the largest voltage of a leaky readout and its time, (B, N) each."""

    @staticmethod
    def forward(
        ctx: Any, times: Tensor, weight: Tensor, units: Tensor, offsets: Tensor, constants: Constants
    ) -> tuple[Tensor, Tensor]:
        layer = _layer(constants, times, units, offsets, weight)
        value = torch.empty(len(offsets) - 1, weight.shape[1], dtype=weight.dtype)
        when, slope = torch.empty_like(value), torch.empty_like(value)
        where = torch.empty(value.shape, dtype=torch.int32)
        addresses = map(address, (value, when, slope, where))
        _function("peaks", weight.dtype)(*layer, *addresses, torch.get_num_threads())
        ctx.save_for_backward(times, weight, units, offsets, when, slope, where)
        ctx.constants = constants
        ctx.mark_non_differentiable(when)
        return value, when

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()
        times, weight, units, offsets, when, slope, where = ctx.saved_tensors
        layer = _layer(ctx.constants, times, units, offsets, weight)
        d_weight, d_times = torch.zeros_like(weight), _if_needed(ctx, times)
        addresses = map(address, (when, slope, where, grad, d_weight, d_times))
        _function("peaks_backward", weight.dtype)(*layer, *addresses, torch.get_num_threads())
        return d_times, d_weight, None, None, None


class _Voltages(torch.autograd.Function):
    """times (E,), W (N_in, N), nondecreasing sampling times (S,) -> voltages of a leaky readout, (B, S, N)."""

    @staticmethod
    def forward(
        ctx: Any, times: Tensor, weight: Tensor, units: Tensor, offsets: Tensor, at: Tensor, constants: Constants
    ) -> Tensor:
        layer = _layer(constants, times, units, offsets, weight)
        out = torch.empty(len(offsets) - 1, len(at), weight.shape[1], dtype=weight.dtype)
        addresses = map(address, (at, out))
        _function("voltages", weight.dtype)(*layer, len(at), *addresses, torch.get_num_threads())
        ctx.save_for_backward(times, weight, units, offsets, at)
        ctx.constants = constants
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()
        times, weight, units, offsets, at = ctx.saved_tensors
        layer = _layer(ctx.constants, times, units, offsets, weight)
        d_weight, d_times = torch.zeros_like(weight), _if_needed(ctx, times)
        addresses = map(address, (at, grad, d_weight, d_times))
        _function("voltages_backward", weight.dtype)(*layer, len(at), *addresses, torch.get_num_threads())
        return d_times, d_weight, None, None, None, None


def spiking_layer(
    times: Tensor, units: Tensor, offsets: Tensor, weight: Tensor, recurrent: Tensor | None, constants: Constants
) -> tuple[Tensor, Tensor, Tensor]:
    """Times, units and offsets of a layer's spikes, differentiable by times (E,), W (N_in, N) and R (N, N).

    Raises:
        UserError: for arguments that do not fit, and for a sample that makes more spikes than allowed.
    """
    constants.checked()
    weight, recurrent = spike_trains.weights(weight, recurrent)
    trains = _trains(times, units, offsets, weight, constants.duration)
    return _Spiking.apply(trains.times, weight, recurrent, trains.units, trains.offsets, constants)


def peaks(times: Tensor, units: Tensor, offsets: Tensor, weight: Tensor, constants: Constants) -> tuple[Tensor, Tensor]:
    """The largest voltage of a leaky readout and its time, (B, N) each. Raises: UserError, as `spiking_layer`."""
    constants.checked()
    weight, _ = spike_trains.weights(weight)
    trains = _trains(times, units, offsets, weight, constants.duration)
    return _Peaks.apply(trains.times, weight, trains.units, trains.offsets, constants)


def voltages(times: Tensor, units: Tensor, offsets: Tensor, weight: Tensor, at: Tensor, constants: Constants) -> Tensor:
    """Voltages of a leaky readout at the times ``at`` (S,), (B, S, N). Raises: UserError, as `spiking_layer`."""
    constants.checked()
    weight, _ = spike_trains.weights(weight)
    at = spike_trains.sampling_times(at, weight)
    trains = _trains(times, units, offsets, weight, math.inf)
    return _Voltages.apply(trains.times, weight, trains.units, trains.offsets, at, constants)


def _trains(times: Tensor, units: Tensor, offsets: Tensor, weight: Tensor, end: float) -> SpikeTrains:
    return spike_trains.spike_trains(times, units, offsets, nb_units=len(weight), end=end, dtype=weight.dtype)
