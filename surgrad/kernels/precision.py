"""What float32 means in a product, and that a product repeats itself, whatever the process allows.

By default PyTorch lets cuDNN's convolutions round to tf32, with 10 bits in the place of 23;
`torch.set_float32_matmul_precision` lets matrix products do so, on processors with bf16 too. A weight so rounded moves
membranes by up to 1e-3 of the current, and spikes with them. So the library's products take their operands as they
are, unless ``precision`` asks for less, and take those of cuDNN's algorithms whose sums have one order, so that a run
repeats itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PRECISIONS = ("float32", "tf32", "bf16")
#: Settings of matrix products and of convolutions, objects with a ``fp32_precision``: on a CPU and on a GPU.
_BACKENDS: Any = torch.backends  # whose modules are set when they are loaded
_ON_CPU = (_BACKENDS.mkldnn.matmul, _BACKENDS.mkldnn.conv)
_ON_GPU = (_BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv)
_EXACT = ("ieee", "none")
#: What `linear` and `convolution` compute in.
_ASKED: ContextVar[str] = ContextVar("precision", default="float32")


@contextmanager
def asked(precision: str) -> Iterator[None]:
    """`linear` and `convolution` within are in ``precision``, one of `PRECISIONS`, and so are their gradients."""
    token = _ASKED.set(precision)
    try:
        yield
    finally:
        _ASKED.reset(token)


def rounded(x: Tensor, precision: str) -> Tensor:
    """An operand of a product that rounds to ``precision``: for bf16 as here; a product in tf32 does it by itself."""
    x = x.to(torch.bfloat16) if precision == "bf16" else x
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def matmul(x: Tensor, y: Tensor, precision: str) -> Tensor:
    """x @ y of matrices with operands in ``precision``, and sums and result in float32."""
    if precision == "bf16" and x.is_cuda:
        return torch.mm(x.to(torch.bfloat16), y.to(torch.bfloat16), out_dtype=torch.float32)
    return torch.mm(rounded(x, precision), rounded(y, precision))


@contextmanager
def products(precision: str, device: torch.device) -> Iterator[None]:
    """Products within are in ``precision``, one of `PRECISIONS`, and repeat themselves; afterwards all is as before.

    "bf16" takes operands of 8 bits, which fit into tf32 exactly. Autocast is off within: a backward pass may be called
    under it.
    """
    on_cpu = device.type == "cpu"
    casts = device.type != "meta" and torch.is_autocast_enabled(device.type)
    switches = _ON_CPU if on_cpu else _ON_GPU
    before = [switch.fp32_precision for switch in switches]
    cudnn = torch.backends.cudnn
    chosen = cudnn.deterministic, cudnn.benchmark
    try:
        for switch in switches:
            switch.fp32_precision = "ieee" if precision == "float32" or on_cpu else "tf32"
        if not on_cpu:
            cudnn.deterministic, cudnn.benchmark = True, False
        with torch.autocast(device.type, enabled=False) if casts else nullcontext():
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
        if not on_cpu:
            cudnn.deterministic, cudnn.benchmark = chosen


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T in float32, or what is `asked`, and its gradients: `torch.nn.functional.linear` without bias."""
    precision = _ASKED.get()
    exact = x.device.type == "cpu" and precision == "float32" and _ON_CPU[0].fp32_precision in _EXACT
    if x.dtype != torch.float32 or exact:
        return F.linear(x, weight)
    return _Linear.apply(x, weight, precision)


def convolution(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """The convolution of images (N, channels, *spatial) over one or two axes, as `linear` in precision and gradients.

    A weight of fewer channels convolves the images in groups of as many.
    """
    precision = _ASKED.get()
    exact = x.device.type == "cpu" and precision == "float32" and _ON_CPU[1].fp32_precision in _EXACT
    if x.dtype != torch.float32 or exact:
        return _convolve(x, weight, stride, padding)
    return _Convolution.apply(x, weight, stride, padding, precision)


def _convolve(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    groups = x.shape[1] // weight.shape[1]
    return (F.conv1d if len(stride) == 1 else F.conv2d)(x, weight, stride=stride, padding=padding, groups=groups)


def convolution_gradients(
    g: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by input and weight, those that are wanted; in the precision that is set.

    Args:
        g: dL/d(out).
        x: the images; where only their gradient is wanted, anything of their shape.
        weight: (filters, channels, *kernel_size).
        stride: of each axis.
        padding: of each axis.
        wanted: which gradients are.
    """
    ones, zeros, groups = [1] * len(stride), [0] * len(stride), x.shape[1] // weight.shape[1]
    return torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, ones, False, zeros, groups, [*wanted, False]
    )[:2]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, precision: str) -> Tensor:
        with products(precision, x.device):
            if precision == "float32":
                return F.linear(x, weight)
            return matmul(x.flatten(0, -2), weight.t(), precision).view(*x.shape[:-1], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.precision = inputs[2]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        by_x, by_weight = ctx.needs_input_grad[:2]
        rows, precision = g.flatten(0, -2), ctx.precision
        with products(precision, g.device):
            g_weight = matmul(rows.t(), x.flatten(0, -2), precision) if by_weight else None
            return matmul(rows, weight, precision).view(x.shape) if by_x else None, g_weight, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], precision: str) -> Tensor:
        with products(precision, x.device):
            x, weight = rounded(x, precision), rounded(weight, precision)
            return _convolve(x, weight, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.shape = inputs[2:]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (x, weight), (stride, padding, precision) = ctx.saved_tensors, ctx.shape
        with products(precision, g.device):
            g, x, weight = (rounded(operand, precision) for operand in (g, x, weight))
            by_x, by_weight = convolution_gradients(g, x, weight, stride, padding, ctx.needs_input_grad[:2])
        return by_x, by_weight, None, None, None
