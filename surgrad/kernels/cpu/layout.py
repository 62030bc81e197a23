"""Between PyTorch's tensors and the compiled kernel's layout: channels last, padded to vectors, spikes as bits.

Weights and decays go through differentiable operations, so gradients find their way back by themselves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.cpu.build import built_library
from surgrad.kernels.cpu.memory import empty
from surgrad.kernels.events import Events

LANES = 16  # floats of a vector in simd.h


@dataclass(frozen=True)
class Layout:
    """Where unit (channel, *spatial) of a layer lies: place = position * stride + channel."""

    unit_shape: tuple[int, ...]
    stride: int

    @staticmethod
    @cache
    def padded(unit_shape: tuple[int, ...]) -> "Layout":
        return Layout(unit_shape, -(-unit_shape[0] // LANES) * LANES)

    @cached_property
    def channels(self) -> int:
        return self.unit_shape[0]

    @cached_property
    def positions(self) -> int:
        return math.prod(self.unit_shape[1:])

    @cached_property
    def places(self) -> int:
        return self.positions * self.stride

    @cached_property
    def words(self) -> int:
        return -(-self.places // 64)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Height and width; 1 x 1 without, 1 x length with one spatial axis."""
        return two_axes(self.unit_shape[1:], 1)

    def to_places(self, x: Tensor) -> Tensor:
        """(..., *unit_shape) -> (..., places), zeros in the padding; contiguous."""
        if len(self.unit_shape) == 1:
            return (F.pad(x, (0, self.stride - self.channels)) if self.stride > self.channels else x).contiguous()
        x = x.flatten(x.dim() - len(self.unit_shape) + 1)
        return F.pad(x.transpose(-1, -2), (0, self.stride - self.channels)).flatten(-2).contiguous()

    def constant(self, x: Tensor) -> Tensor:
        """(places,) of a constant of the units, or of the layer."""
        if x.dim() or x.requires_grad:
            return self.to_places(x.expand(self.unit_shape))
        return _same_everywhere(self, x.item())

    def from_places(self, x: Tensor) -> Tensor:
        """(..., places) -> (..., *unit_shape), a view."""
        if len(self.unit_shape) == 1:
            return x[..., : self.channels]
        x = x.unflatten(-1, (self.positions, self.stride))[..., : self.channels]
        return x.transpose(-1, -2).reshape(*x.shape[:-2], *self.unit_shape)

    @cached_property
    def place_of_unit(self) -> Tensor:
        """(units,) int32: place of each flat unit."""
        unit = torch.arange(math.prod(self.unit_shape), dtype=torch.int32)
        return unit % self.positions * self.stride + unit // self.positions


@lru_cache(256)
def _same_everywhere(layout: Layout, value: float) -> Tensor:
    return layout.to_places(torch.full(layout.unit_shape, value))


def two_axes(sizes: Sequence[int], missing: int) -> tuple[int, int]:
    """Numbers of up to two spatial axes as (vertical, horizontal); ``missing`` stands for axes that are not there."""
    vertical, horizontal = (*[missing] * (2 - len(sizes)), *sizes)
    return vertical, horizontal


def pack_weight(connection: ConnectionSpec, below: Layout, out: Layout) -> Tensor:
    """Weights as (kernel_h, kernel_w, in_stride, stride): a dense connection is a kernel that covers its input."""
    kernel = two_axes(connection.kernel_size if connection.kind == "conv" else below.unit_shape[1:], 1)
    w = connection.known_weight.reshape(out.channels, below.channels, *kernel).permute(2, 3, 1, 0)
    return F.pad(w, (0, out.stride - out.channels, 0, below.stride - below.channels)).contiguous()


def geometry(connection: ConnectionSpec, below: Layout, out: Layout) -> dict[str, int]:
    """What `ConnectionDesc` in connection.h says of a connection, apart from its weights."""
    height, width = below.grid
    if connection.kind != "conv":
        kernel, step, pad, grid = (height, width), (1, 1), (0, 0), (1, 1)
    else:
        kernel, step = two_axes(connection.kernel_size, 1), two_axes(connection.stride, 1)
        pad, grid = two_axes(connection.padding, 0), out.grid
    return {
        "exists": 1,
        "in_channels": below.channels,
        "in_stride": below.stride,
        "in_height": height,
        "in_width": width,
        "channels": out.channels,
        "stride": out.stride,
        "height": grid[0],
        "width": grid[1],
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "step_h": step[0],
        "step_w": step[1],
        "pad_h": pad[0],
        "pad_w": pad[1],
    }


def adjoint_weight(packed: Tensor, step_w: int) -> Tensor:
    """(kernel_h, kernel_w, stride, in_stride), taps ordered as `Connection::adjoint_slot` expects."""
    taps = range(packed.shape[1])
    order = [kx for residue in range(step_w) for kx in reversed(taps[residue::step_w])]
    return packed.detach()[:, order].transpose(2, 3).contiguous()


def pack(x: Tensor, layout: Layout) -> Tensor | None:
    """Spikes (T, B, *unit_shape) as bits (B, T, words); None if an entry is neither 0 nor 1."""
    bits = empty(x.shape[1], x.shape[0], layout.words, dtype=torch.int64)
    x = x.detach().float().contiguous()
    place = layout.place_of_unit
    nb_units = math.prod(layout.unit_shape)
    sizes = (x.shape[1], x.shape[0], nb_units, layout.words)
    binary = built_library().surgrad_pack_dense(x.data_ptr(), place.data_ptr(), *sizes, bits.data_ptr())
    return bits if binary else None


def pack_events(events: Events, layout: Layout) -> Tensor:
    """Events as bits (B, T, words)."""
    bits = empty(len(events), events.nb_steps, layout.words, dtype=torch.int64)
    place = layout.place_of_unit
    pointers = (x.data_ptr() for x in (events.steps, events.units, events.offsets, place))
    built_library().surgrad_pack_events(*pointers, len(events), events.nb_steps, layout.words, bits.data_ptr())
    return bits


def unpack(bits: Tensor, layout: Layout) -> Tensor:
    """Bits (B, T, words) as float spikes (T, B, *unit_shape)."""
    places = np.unpackbits(bits.numpy().view(np.uint8), axis=-1, count=layout.places, bitorder="little")
    return layout.from_places(torch.from_numpy(places)).transpose(0, 1).float()
