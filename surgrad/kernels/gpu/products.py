"""Products of many time steps at once, by cuBLAS and cuDNN: currents, and gradients of inputs and weights.

Spikes are 0 or 1, exact in any format. ``precision`` says what becomes of weights and gradients inside a product:
"float32" keeps them, "bf16" rounds them to 8 bits and still sums in float32. State never passes through here.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from surgrad.kernels.contract import ConnectionSpec

INPUT, WEIGHT = 0, 1  # place of each gradient in what PyTorch's convolution_backward returns


def _rounded(x: Tensor, precision: str) -> Tensor:
    return x.to(torch.bfloat16) if precision == "bf16" else x.to(torch.float32)


def _matmul(x: Tensor, y: Tensor, precision: str) -> Tensor:
    """x @ y with operands in ``precision`` and sums and result in float32."""
    x, y = _rounded(x, precision), _rounded(y, precision)
    if precision == "bf16" and x.is_cuda:
        return torch.mm(x, y, out_dtype=torch.float32)
    return torch.mm(x.float(), y.float())


def current(connection: ConnectionSpec, weight: Tensor, s: Tensor, precision: str) -> Tensor:
    """I = W s for ``s`` (T, B, *in_shape) of any dtype: (T, B, *out_shape) float32."""
    if connection.kind == "conv":
        return _convolved(connection, weight, s, precision)
    return _matmul(s.reshape(-1, weight.shape[1]), weight.t(), precision).view(*s.shape[:2], -1)


def input_gradient(connection: ConnectionSpec, weight: Tensor, g: Tensor, precision: str) -> Tensor:
    """dL/ds = W^T dL/dI for ``g`` (T, B, *out_shape): (T, B, *in_shape) float32."""
    if connection.kind == "conv":
        # Only the shape of the input matters here: one number stands for all of it.
        in_shape = connection.known_in_shape
        shape = (g.shape[0] * g.shape[1], *in_shape)
        images = weight.new_empty(1).expand(shape)
        gradient = _convolution_backward(connection, weight, images, g, precision, INPUT)
        return gradient.contiguous().view(*g.shape[:2], *in_shape)
    product = _matmul(g.reshape(-1, weight.shape[0]), weight, precision)
    return product.view(*g.shape[:2], *connection.known_in_shape)


def weight_gradient(connection: ConnectionSpec, weight: Tensor, s: Tensor, g: Tensor, precision: str) -> Tensor:
    """dL/dW = sum over time and samples of dL/dI s^T, in the shape of ``weight``, float32."""
    if connection.kind == "conv":
        images = s.reshape(-1, *connection.known_in_shape).float()
        return _convolution_backward(connection, weight, images, g, precision, WEIGHT)
    return _matmul(g.reshape(-1, weight.shape[0]).t(), s.reshape(-1, weight.shape[1]), precision)


@contextlib.contextmanager
def _convolution_precision(precision: str) -> Iterator[None]:
    """cuDNN's default is tf32; here float32 means float32, and tf32 is used where bf16 operands fit into it exactly."""
    settings = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # set on the module when it is loaded
    before = settings.fp32_precision
    settings.fp32_precision = "tf32" if precision == "bf16" else "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before


def _convolved(connection: ConnectionSpec, weight: Tensor, s: Tensor, precision: str) -> Tensor:
    convolve = F.conv1d if len(connection.kernel_size) == 1 else F.conv2d
    weight = _rounded(weight, precision).float()
    with _convolution_precision(precision):
        images = s.reshape(-1, *connection.known_in_shape).float()
        # cuDNN may answer with channels last, which a scan must not see.
        out = convolve(images, weight, stride=connection.stride, padding=connection.padding).contiguous()
        return out.view(*s.shape[:2], *connection.out_shape)


def _convolution_backward(
    connection: ConnectionSpec, weight: Tensor, s: Tensor, g: Tensor, precision: str, wanted: int
) -> Tensor:
    """One gradient of a convolution: by its `INPUT` or by its `WEIGHT`."""
    nb_axes = len(connection.kernel_size)
    weight, g = (_rounded(value, precision).float() for value in (weight, g))
    with _convolution_precision(precision):
        return torch.ops.aten.convolution_backward(
            g.reshape(-1, *connection.out_shape), s, weight, None, connection.stride, connection.padding,
            [1] * nb_axes, False, [0] * nb_axes, 1, [wanted == INPUT, wanted == WEIGHT, False],
        )[wanted]  # fmt: skip


def taps(connection: ConnectionSpec, weight: Tensor) -> Tensor:
    """Weights of a recurrent connection as (kernel positions, channels out, channels in), contiguous."""
    if connection.kind == "conv":
        return weight.flatten(2).permute(2, 0, 1).contiguous()
    return weight[None].contiguous()
