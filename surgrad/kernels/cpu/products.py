"""I = x W^T and its gradients for float32 on the CPU, in memory that is used again (`products.cpp`).

PyTorch's own products run at 80 % of the peak of AMD's Zen 4 and at 40 % of Zen 5's. With AVX2 (Zen 4 held to it) the
gradient of W, a sum over rows, is no faster here and is left to PyTorch, as are small products, other types and makers.
"""

import ctypes
import functools
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgrad.errors import UserError, known
from surgrad.kernels import precision
from surgrad.kernels.cpu.build import compiled
from surgrad.kernels.cpu.instruction_set import chosen, executable
from surgrad.kernels.cpu.memory import empty

logger = logging.getLogger(__name__)

SMALLEST = 2**22  # multiply-adds; below, the call costs more than it gains
LANES = 16


@functools.cache
def _vectors() -> str:
    """The instruction set of the compiled products, avx2 or avx512, where they are faster than PyTorch's; else ""."""
    try:
        cpu = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    built = executable()[-1] if chosen() == "native" else chosen()
    return built if "AuthenticAMD" in cpu and built in ("avx2", "avx512") else ""


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = compiled("products")
    except UserError as error:
        logger.info("PyTorch's matrix products are used: %s", error)
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.surgrad_product.restype = None
    library.surgrad_product.argtypes = [*[integer] * 3, *(pointer, integer, integer) * 2, pointer, integer]
    return library


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.numel() * weight.shape[0] >= SMALLEST
        and weight.shape[0] % LANES == 0
        and weight.shape[1] % LANES == 0
        and _vectors() != ""
        and _library() is not None
    )


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b for matrices (M, K) and (K, N), each contiguous or the transpose of a contiguous one; N a multiple of 16."""
    out = empty(a.shape[0], b.shape[1])
    sizes = (a.shape[0], b.shape[1], a.shape[1])
    operands = (a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride(), out.data_ptr())
    known("the compiled product", _library()).surgrad_product(*sizes, *operands, torch.get_num_threads())
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.T)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            return gradient @ weight, gradient.T @ x
        gradient = gradient.contiguous()
        g_x = product(gradient, weight) if ctx.needs_input_grad[0] else None
        sum_over_rows = product if _vectors() == "avx512" else torch.mm
        g_weight = sum_over_rows(gradient.T, x) if ctx.needs_input_grad[1] else None
        return g_x, g_weight


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T for x (..., in) and W (out, in), in float32."""
    if not _suits(x, weight):
        return precision.linear(x, weight)
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    return _Linear.apply(rows, weight.contiguous()).view(*x.shape[:-1], -1)
