"""Calls into the compiled scan of EventProp on a time grid (`eventprop_grid.cpp`) as differentiable functions."""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from surgrad.kernels.cpu.build import compiled
from surgrad.kernels.cpu.descriptors import address
from surgrad.kernels.cpu.eventprop import SUFFIX

_pointer, _int, _double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_SCAN = [*[_double] * 4, *[_int] * 4, *[_pointer] * 3]
_SIGNATURES = {
    "spiking": ([*_SCAN, _pointer, _int], _pointer),
    "free": ([_pointer], None),
    "bytes": ([_pointer], _int),
    "spiking_backward": ([*_SCAN, *[_pointer] * 5, _int], None),
    "leaking": ([*_SCAN, _pointer, _int], None),
    "leaking_backward": ([*_SCAN, *[_pointer] * 3, _int], None),
}


@cache
def _function(name: str, dtype: torch.dtype) -> Any:
    function = getattr(compiled("eventprop_grid"), f"grid_{name}_{SUFFIX[dtype]}")
    function.argtypes, function.restype = _SIGNATURES[name]
    return function


def _scan(grid: Any, s_in: Tensor, weight: Tensor, recurrent: Tensor | None = None) -> tuple[Any, ...]:
    """What every call begins with: the constants of a `surgrad.eventprop.grid.Grid`, sizes, contiguous tensors."""
    constants = (grid.a, grid.b, grid.tau_mem, grid.tau_syn)
    return *constants, *s_in.shape, weight.shape[1], *map(address, (s_in, weight, recurrent))


class KeptSpikes:
    """Owner of the spikes, and of the currents that drove them, that the compiled code keeps for its backward pass."""

    def __init__(self, handle: int, dtype: torch.dtype):
        self.handle, self.dtype = handle, dtype

    @property
    def nb_bytes(self) -> int:
        """Memory of the spikes."""
        return _function("bytes", self.dtype)(self.handle)

    def __del__(self) -> None:
        _function("free", self.dtype)(self.handle)


class Spiking(torch.autograd.Function):
    """Input spikes (T, B, N_in), W (N_in, N), R (N, N) or None -> spikes (T, B, N); gradients are by spike times."""

    @staticmethod
    def forward(ctx: Any, s_in: Tensor, weight: Tensor, recurrent: Tensor | None, grid: Any) -> Tensor:
        out = s_in.new_empty(*s_in.shape[:2], weight.shape[1])
        scan, dtype = _scan(grid, s_in, weight, recurrent), weight.dtype
        ctx.spikes = KeptSpikes(_function("spiking", dtype)(*scan, address(out), torch.get_num_threads()), dtype)
        ctx.save_for_backward(s_in, weight, recurrent)
        ctx.grid = grid
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()  # held here while the compiled code reads it
        s_in, weight, recurrent = ctx.saved_tensors
        d_weight, d_in = torch.zeros_like(weight), torch.zeros_like(s_in) if ctx.needs_input_grad[0] else None
        d_recurrent = None if recurrent is None else torch.zeros_like(recurrent)
        gradients = map(address, (grad, d_weight, d_recurrent, d_in))
        scan = _scan(ctx.grid, s_in, weight, recurrent)
        _function("spiking_backward", weight.dtype)(*scan, ctx.spikes.handle, *gradients, torch.get_num_threads())
        return d_in, d_weight, d_recurrent, None


class Leaking(torch.autograd.Function):
    """Input spikes (T, B, N_in), W (N_in, N) -> voltages at the beginning of every step, (T, B, N)."""

    @staticmethod
    def forward(ctx: Any, s_in: Tensor, weight: Tensor, grid: Any) -> Tensor:
        out = s_in.new_empty(*s_in.shape[:2], weight.shape[1])
        _function("leaking", weight.dtype)(*_scan(grid, s_in, weight), address(out), torch.get_num_threads())
        ctx.save_for_backward(s_in, weight)
        ctx.grid = grid
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()
        s_in, weight = ctx.saved_tensors
        d_weight, d_in = torch.zeros_like(weight), torch.zeros_like(s_in) if ctx.needs_input_grad[0] else None
        gradients = map(address, (grad, d_weight, d_in))
        _function("leaking_backward", weight.dtype)(*_scan(ctx.grid, s_in, weight), *gradients, torch.get_num_threads())
        return d_in, d_weight, None
