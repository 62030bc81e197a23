"""The C interface of the compiled SuperSpike rule (`superspike.cpp`)."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.kernels.checks import require_shape
from surgrad.kernels.cpu.build import compiled

_float, _int, _pointer = ctypes.c_float, ctypes.c_int64, ctypes.c_void_p


class Layer(ctypes.Structure):
    _fields_ = (
        [("nb_pre", _int), ("nb_post", _int)]
        + [(name, _pointer) for name in ("weight", "i", "u", "q", "p", "r", "l", "g", "v")]
        + [(name, _float) for name in ("a", "b", "beta", "rate")]
    )


class Rule(ctypes.Structure):
    _fields_ = (
        [("hidden", Layer), ("output", Layer)]
        + [(name, _pointer) for name in ("feedback", "error_r", "error")]
        + [(name, _float) for name in ("error_a", "error_b", "gamma", "epsilon")]
        + [(name, _int) for name in ("subtractive", "learning", "period", "step", "threads")]
        + [("loss", ctypes.c_double)]
    )


@cache
def library() -> Any:
    lib = compiled("superspike")
    lib.superspike_size.restype = _int
    lib.superspike_run.argtypes, lib.superspike_run.restype = [_pointer, _int, *[_pointer] * 4], None
    return lib


def binary_rows(name: str, x: Tensor) -> Tensor:
    """Spikes (T, N) as bytes. Raises: UserError unless they are 0 or 1, on the CPU."""
    if x.device.type != "cpu":
        raise UserError(f"{name} is on {x.device}; this rule runs on the CPU: take .cpu()")
    if not bool(((x == 0) | (x == 1)).all()):
        raise UserError(f"{name} must hold spikes, 0 or 1")
    return x.to(torch.uint8).contiguous()


def require_buffer(name: str, x: Tensor, shape: Sequence[int]) -> None:
    """Raises: UserError unless compiled code can work in ``x``: float32, contiguous, on the CPU, of this shape."""
    require_shape(name, x, shape, "its shape when it was made")
    if x.dtype != torch.float32 or x.device.type != "cpu" or not x.is_contiguous():
        kind = "contiguous" if x.is_contiguous() else "not contiguous"
        raise UserError(f"{name} is {x.dtype} on {x.device}, {kind}; it must be contiguous float32 on the CPU")
