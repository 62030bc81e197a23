"""Residual connections: spikes of a layer that also reach one further above, past the layers between them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.network.connections import Conv


class Residual(nn.Module):
    """A current that a layer gets of the spikes of a layer further below: I[t] = … + V s_l[t - d].

    V is the identity where both layers have the same units (He et al. 2016, here a spike is a current of 1), else a
    convolution with kernels of one unit, of the units that lie below the centres of the upper layer's fields.

    Args:
        source: l, number of the layer below, 0 for the lowest.
        in_shape: units of that layer, (channels, *spatial).
        out_shape: units of the layer above, (channels, *spatial).
        stride: units of layer l between neighbours of the layer above, for each spatial axis.
        offset: unit of layer l below the first of the layer above, for each spatial axis.

    Raises:
        UserError: for units of the layer above that lie beyond those of layer l.
    """

    def __init__(
        self,
        source: int,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        stride: Sequence[int],
        offset: Sequence[int],
    ):
        super().__init__()
        self.source, self.in_shape, self.out_shape = source, tuple(in_shape), tuple(out_shape)
        self.stride, self.offset = tuple(stride), tuple(offset)
        ends = [first + (n - 1) * s for first, n, s in zip(self.offset, self.out_shape[1:], self.stride, strict=True)]
        if min(self.offset) < 0 or any(end >= n for end, n in zip(ends, self.in_shape[1:], strict=True)):
            raise UserError(
                f"a residual connection from layer {source}: units {self.out_shape} reach beyond its {self.in_shape}; "
                "less padding keeps them within"
            )
        same = self.in_shape == self.out_shape
        self.conv = None if same else Conv((self.in_shape[0], *self.out_shape[1:]), self.out_shape[0], 1)

    def below(self, s: Tensor) -> Tensor:
        """Spikes (..., *in_shape) of the units that lie below those above: a view."""
        first = s.dim() - len(self.stride)
        for axis, (offset, nb, stride) in enumerate(zip(self.offset, self.out_shape[1:], self.stride, strict=True)):
            at = first + axis
            s = s.narrow(at, offset, (nb - 1) * stride + 1)[(*(slice(None),) * at, slice(None, None, stride))]
        return s

    def forward(self, s: Tensor) -> Tensor:
        """Spikes (..., *in_shape) -> currents (..., *out_shape)."""
        if self.conv is None:
            return s.to(torch.get_default_dtype()) if not s.is_floating_point() else s
        current: Tensor = self.conv(self.below(s))
        return current

    def extra_repr(self) -> str:
        return f"layer {self.source}, {self.in_shape} -> {self.out_shape}, stride={self.stride}, offset={self.offset}"
