"""Products of many time steps at once: currents, and gradients of inputs and weights.

Those of byte spikes in float32 are kernels of this package, the others are by cuBLAS and cuDNN.

Spikes are 0 or 1, exact in any format. ``precision`` says what becomes of weights and gradients inside a product:
"float32" keeps them, "tf32" and "bf16" round them to 10 and 8 bits and still sum in float32; what the process allows
is set around a whole pass (`surgrad.kernels.precision.products`). State never passes through here.
"""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from surgrad.errors import known
from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.gpu import spike_convolutions, spike_products
from surgrad.kernels.precision import convolution_gradients, matmul, rounded

# The most images that all of cuDNN's algorithms take at once; a step of a sample is an image.
MOST_IMAGES = 65535


def operand_type(connection: ConnectionSpec, spikes: Tensor, precision: str) -> torch.dtype:
    """What a product takes spikes in: bytes where they can be read, else what cuBLAS and cuDNN take."""
    if spike_products.readable(spikes, precision):
        return spikes.dtype
    return torch.bfloat16 if precision == "bf16" and connection.kind != "conv" else torch.float32


def current(connection: ConnectionSpec, weight: Tensor, s: Tensor, precision: str) -> Tensor:
    """I = W s for ``s`` (T, B, *in_shape) of any dtype: (T, B, *out_shape) float32."""
    if connection.kind == "conv":
        return _convolved(connection, weight, s, precision)
    rows = s.reshape(-1, weight.shape[1])
    if spike_products.readable(rows, precision):
        return spike_products.product(rows, weight).view(*s.shape[:2], -1)
    return matmul(rows, weight.t(), precision).view(*s.shape[:2], -1)


def input_gradient(connection: ConnectionSpec, weight: Tensor, g: Tensor, precision: str) -> Tensor:
    """dL/ds = W^T dL/dI for ``g`` (T, B, *out_shape): (T, B, *in_shape) float32."""
    if connection.kind == "conv":
        # Only the shape of the input matters here: one number stands for all of it.
        in_shape, one = connection.known_in_shape, weight.new_empty(1)

        def gradient(g: Tensor) -> Tensor:
            return _gradient(connection, weight, one.expand(len(g), *in_shape), g, precision, of_input=True)

        return _in_parts(gradient, g.flatten(0, 1)).contiguous().view(*g.shape[:2], *in_shape)
    product = matmul(g.reshape(-1, weight.shape[0]), weight, precision)
    return product.view(*g.shape[:2], *connection.known_in_shape)


def weight_gradient(connection: ConnectionSpec, weight: Tensor, s: Tensor, g: Tensor, precision: str) -> Tensor:
    """dL/dW = sum over time and samples of dL/dI s^T, in the shape of ``weight``, float32."""
    if connection.kind == "conv":
        images = s.reshape(-1, *connection.known_in_shape)
        if spike_products.readable(images, precision):
            return spike_convolutions.weight_gradient(connection, images, g.reshape(-1, *connection.out_shape))
        parts = zip(images.float().split(MOST_IMAGES), g.flatten(0, 1).split(MOST_IMAGES), strict=True)
        return reduce(torch.add, (_gradient(connection, weight, *part, precision, of_input=False) for part in parts))
    rows, g = s.reshape(-1, weight.shape[1]), g.reshape(-1, weight.shape[0])
    if spike_products.readable(rows, precision):
        return spike_products.weight_gradient(rows, g)
    return matmul(g.t(), rows, precision)


def _convolved(connection: ConnectionSpec, weight: Tensor, s: Tensor, precision: str) -> Tensor:
    images = s.reshape(-1, *connection.known_in_shape)
    if spike_products.readable(images, precision):
        return spike_convolutions.product(connection, weight, images).view(*s.shape[:2], *connection.out_shape)
    convolve = F.conv1d if len(connection.kernel_size) == 1 else F.conv2d
    weight = rounded(weight, precision)

    def product(images: Tensor) -> Tensor:
        return convolve(images.float(), weight, stride=connection.stride, padding=connection.padding)

    # cuDNN may answer with channels last, which a scan must not see.
    return _in_parts(product, images).contiguous().view(*s.shape[:2], *connection.out_shape)


def _in_parts(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """``function`` of images, of as many at a time as cuDNN takes."""
    parts = [function(part) for part in images.split(MOST_IMAGES)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _gradient(
    connection: ConnectionSpec, weight: Tensor, s: Tensor, g: Tensor, precision: str, of_input: bool
) -> Tensor:
    """The gradient of a convolution by its input, or by its weight."""
    weight, g = rounded(weight, precision), rounded(g, precision)
    g, wanted = g.reshape(-1, *connection.out_shape), (of_input, not of_input)
    by_input, by_weight = convolution_gradients(g, s, weight, connection.stride, connection.padding, wanted)
    return known("the gradient", by_input if of_input else by_weight)


def taps(connection: ConnectionSpec, weight: Tensor, transposed: bool = False) -> Tensor:
    """Weights of a recurrent connection as (kernel positions, channels out, channels in), contiguous.

    ``transposed``, for the adjoint: (kernel positions, channels in, channels out).
    """
    laid_out = weight.flatten(2).permute(2, 0, 1) if connection.kind == "conv" else weight[None]
    return (laid_out.transpose(1, 2) if transposed else laid_out).contiguous()
