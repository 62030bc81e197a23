"""The C interface of the compiled SuperSpike rule (`superspike.cpp`)."""

import ctypes
from functools import cache
from typing import Any

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
