"""Pooled spikes: what the neighbours of a channel send together to the layer above, by the average or the maximum."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgrad.errors import UserError


class Pool(nn.Module):
    """Windows of neighbouring units, side by side; what remains at the end of an axis is left out.

    Args:
        in_shape: (channels, length) or (channels, height, width).
        size: units of a window, one integer, or one per spatial axis.

    Attributes:
        nb_pooled: units of a window, over all axes.

    Raises:
        UserError: for a window that is larger than its input.
    """

    def __init__(self, in_shape: Sequence[int], size: int | Sequence[int]):
        super().__init__()
        channels, *lengths = in_shape
        self.in_shape = tuple(in_shape)
        self.size = (size,) * len(lengths) if isinstance(size, int) else tuple(size)
        if len(self.size) != len(lengths) or not all(
            1 <= k <= length for k, length in zip(self.size, lengths, strict=True)
        ):
            raise UserError(f"pool_size={size} does not fit units {self.in_shape}: allowed are 1 to their lengths")
        self.out_shape = (channels, *(length // k for length, k in zip(lengths, self.size, strict=True)))
        self.nb_pooled = int(torch.Size(self.size).numel())

    @property
    def gains(self) -> tuple[float, float]:
        """Mean and power of what a window sends, in those of the spikes of one of its neurons.

        The mean and the variance of a membrane are proportional to them, for independent neurons and few spikes.
        """
        raise NotImplementedError

    def forward(self, s: Tensor) -> Tensor:
        """Spikes (..., *in_shape), 0 or 1 -> (..., *out_shape)."""
        lead, axes = s.shape[: s.dim() - len(self.in_shape)], len(self.size)
        images = s.reshape(-1, self.in_shape[0], *(1,) * (2 - axes), *self.in_shape[1:])
        return self._pooled(images, (*(1,) * (2 - axes), *self.size)).reshape(*lead, *self.out_shape)

    def _pooled(self, images: Tensor, size: tuple[int, ...]) -> Tensor:
        """(N, channels, height, width) -> (N, channels, windows, windows)."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.in_shape} -> {self.out_shape}, size={self.size}"


class AveragePool(Pool):
    """The share of a window's neurons that spike; the layer above gets numbers from 0 to 1."""

    @property
    def gains(self) -> tuple[float, float]:
        """Of n neurons: the mean of one, the power of n spikes of 1 / n each."""
        return 1.0, 1 / self.nb_pooled

    def _pooled(self, images: Tensor, size: tuple[int, ...]) -> Tensor:
        return F.avg_pool2d(images, size)


class MaxPool(Pool):
    """A spike where any neuron of a window spikes: OR(s_1, …, s_n) = 1 - (1 - s_1) … (1 - s_n).

    Its gradient by s_i is that of this product, what the spike of neuron i changes: 1 where all others are silent, else
    0. For independent neurons that spike at random it is the derivative of the expectation. The maximum, which is the
    same number, would give the gradient of a silent window to its first neuron alone.
    """

    @property
    def gains(self) -> tuple[float, float]:
        """Of n neurons: those of n, as long as their spikes do not meet in a step."""
        return float(self.nb_pooled), float(self.nb_pooled)

    def _pooled(self, images: Tensor, size: tuple[int, ...]) -> Tensor:
        found: Tensor = _Or.apply(images, size)
        return found


class _Or(torch.autograd.Function):
    """Whether any spike of a window is there, of spikes 0 or 1."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, size: tuple[int, ...]) -> Tensor:
        count = F.avg_pool2d(images, size, divisor_override=1)
        ctx.save_for_backward(_spread(count, size, images.shape) == images)  # all others are silent
        ctx.size = size
        return (count > 0).to(images.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (alone,) = ctx.saved_tensors
        return _spread(gradient, ctx.size, alone.shape) * alone, None


def _spread(x: Tensor, size: tuple[int, ...], shape: torch.Size) -> Tensor:
    """The value of every window at each of its units; 0 outside the windows."""
    x = x.repeat_interleave(size[1], 3) if size[1] > 1 else x
    x = x.repeat_interleave(size[0], 2) if size[0] > 1 else x
    missing = shape[3] - x.shape[3], shape[2] - x.shape[2]
    return F.pad(x, (0, missing[0], 0, missing[1])) if any(missing) else x


POOLS: dict[str, type[Pool]] = {"max": MaxPool, "average": AveragePool}
