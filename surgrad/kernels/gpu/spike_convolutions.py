"""Convolutions of spikes that are read as bytes, with float32 weights as three terms of bf16 (`spike_products`).

A convolution over one or two axes is a product whose rows are pairs (image, position of its output) and whose terms are
the taps (channel, row and column of the kernel). What a tap sees from a row is read from where it lies, one byte:
nothing is unfolded or widened in memory, whatever the stride and the padding.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.gpu.spike_products import _add_terms, _block, _on_gpu, _share

# Programs that a weight gradient is split into, at least: eight for each multiprocessor of an H200, since single bytes
# are not read ahead and other programs fill the time until they come.
PROGRAMS = 1056


@triton.jit
def _rows(start, BLOCK_ROWS: tl.constexpr, IMAGE: tl.constexpr, POSITIONS: tl.constexpr, OUT_WIDTH: tl.constexpr,
          WIDTH: tl.constexpr, STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, PAD_Y: tl.constexpr,
          PAD_X: tl.constexpr):  # fmt: skip
    """Of the rows from ``start`` on: the image of the first one, in 64 bits, and, (1, R), images counted from it.

    Then, (1, R), the position in the output, the row and column of the input that the first tap sees, and its index.
    """
    first = start // POSITIONS
    row = (start % POSITIONS).to(tl.int32) + tl.arange(0, BLOCK_ROWS)[None, :]
    image, position = row // POSITIONS, row % POSITIONS
    y, x = position // OUT_WIDTH * STRIDE_Y - PAD_Y, position % OUT_WIDTH * STRIDE_X - PAD_X
    return first, image, position, y, x, image * IMAGE + y * WIDTH + x


@triton.jit
def _seen(spikes, corner, y, x, inside, k, FAN_IN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
          KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, PAD_Y: tl.constexpr,
          PAD_X: tl.constexpr):  # fmt: skip
    """What the taps k (K, 1) see from rows (1, R): (K, R) uint8."""
    KERNEL: tl.constexpr = KERNEL_HEIGHT * KERNEL_WIDTH
    down, right = k % KERNEL // KERNEL_WIDTH, k % KERNEL_WIDTH
    there = inside & (k < FAN_IN)
    if PAD_Y > 0:
        there = there & (y + down >= 0) & (y + down < HEIGHT)
    if PAD_X > 0:
        there = there & (x + right >= 0) & (x + right < WIDTH)
    return tl.load(spikes + corner + (k // KERNEL * (HEIGHT * WIDTH) + down * WIDTH + right), mask=there, other=0)


@triton.jit(do_not_specialize=["nb_rows"])
def spike_convolution(spikes, weight, out, nb_rows, IMAGE: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
                      POSITIONS: tl.constexpr, OUT_WIDTH: tl.constexpr, KERNEL_HEIGHT: tl.constexpr,
                      KERNEL_WIDTH: tl.constexpr, STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, PAD_Y: tl.constexpr,
                      PAD_X: tl.constexpr, FAN_IN: tl.constexpr, UNITS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                      BLOCK_IN: tl.constexpr, BLOCK_UNITS: tl.constexpr, ROUNDS: tl.constexpr,
                      BF16: tl.constexpr):  # fmt: skip
    """(images, channels, height, width) uint8, (units, channels, *kernel) -> (images, units, positions)."""
    start = tl.program_id(0).to(tl.int64) * BLOCK_ROWS
    first, image, position, y, x, corner = _rows(
        start, BLOCK_ROWS, IMAGE, POSITIONS, OUT_WIDTH, WIDTH, STRIDE_Y, STRIDE_X, PAD_Y, PAD_X
    )
    inside = start + tl.arange(0, BLOCK_ROWS)[None, :] < nb_rows
    unit = tl.program_id(1) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)[:, None]
    spikes += first * IMAGE
    total = tl.zeros((BLOCK_UNITS, BLOCK_ROWS), tl.float32)
    for begin in range(0, FAN_IN, BLOCK_IN * ROUNDS):
        part = tl.zeros((BLOCK_UNITS, BLOCK_ROWS), tl.float32)
        for block in range(0, ROUNDS):
            at = begin + block * BLOCK_IN
            across, k = at + tl.arange(0, BLOCK_IN)[None, :], at + tl.arange(0, BLOCK_IN)[:, None]
            s = _seen(spikes, corner, y, x, inside, k, FAN_IN, HEIGHT, WIDTH, KERNEL_HEIGHT, KERNEL_WIDTH, PAD_Y, PAD_X)
            w = tl.load(weight + unit * FAN_IN + across, mask=(unit < UNITS) & (across < FAN_IN), other=0.0)
            part = _add_terms(part, s, w, BF16, True)
        total += part
    place = image * (UNITS * POSITIONS) + unit * POSITIONS + position
    tl.store(out + first * (UNITS * POSITIONS) + place, total, mask=inside & (unit < UNITS))


@triton.jit(do_not_specialize=["nb_rows", "share"])
def spike_kernel_gradient(spikes, drive, parts, nb_rows, share, IMAGE: tl.constexpr, HEIGHT: tl.constexpr,
                          WIDTH: tl.constexpr, POSITIONS: tl.constexpr, OUT_WIDTH: tl.constexpr,
                          KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_Y: tl.constexpr,
                          STRIDE_X: tl.constexpr, PAD_Y: tl.constexpr, PAD_X: tl.constexpr, FAN_IN: tl.constexpr,
                          UNITS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_IN: tl.constexpr,
                          BLOCK_UNITS: tl.constexpr, ROUNDS: tl.constexpr, BF16: tl.constexpr):  # fmt: skip
    """parts[p] = (units, taps), dL/dweight over the p-th ``share`` of the rows; drive (images, units, positions)."""
    unit = tl.program_id(0) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)[:, None]
    source = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    begin = tl.program_id(2).to(tl.int64) * share
    end = tl.minimum(begin + share, nb_rows)
    total = tl.zeros((BLOCK_UNITS, BLOCK_IN), tl.float32)
    for block in range(begin, end, BLOCK_ROWS * ROUNDS):
        part = tl.zeros((BLOCK_UNITS, BLOCK_IN), tl.float32)
        for k in range(0, ROUNDS):
            start = block + k * BLOCK_ROWS
            first, image, position, y, x, corner = _rows(
                start, BLOCK_ROWS, IMAGE, POSITIONS, OUT_WIDTH, WIDTH, STRIDE_Y, STRIDE_X, PAD_Y, PAD_X
            )
            inside = start + tl.arange(0, BLOCK_ROWS)[None, :] < end
            place = image * (UNITS * POSITIONS) + unit * POSITIONS + position
            g = tl.load(drive + first * (UNITS * POSITIONS) + place, mask=inside & (unit < UNITS), other=0.0)
            s = _seen(
                spikes + first * IMAGE, corner, y, x, inside, source[:, None], FAN_IN, HEIGHT, WIDTH, KERNEL_HEIGHT,
                KERNEL_WIDTH, PAD_Y, PAD_X,
            )  # fmt: skip
            part = _add_terms(part, tl.trans(s), g, BF16, True)
        total += part
    place = tl.program_id(2).to(tl.int64) * (UNITS * FAN_IN) + unit * FAN_IN + source[None, :]
    tl.store(parts + place, total, mask=(unit < UNITS) & (source[None, :] < FAN_IN))


def product(connection: ConnectionSpec, weight: Tensor, spikes: Tensor) -> Tensor:
    """The convolution, (images, *out_shape) float32.

    Args:
        connection: of kind "conv".
        weight: (units, channels, *kernel_size) float32.
        spikes: (images, *in_shape) uint8.
    """
    out = torch.empty(len(spikes), *connection.out_shape, device=spikes.device)
    shape = product_constants(connection)
    rows = len(spikes) * shape["POSITIONS"]
    grid = (triton.cdiv(rows, shape["BLOCK_ROWS"]), triton.cdiv(shape["UNITS"], shape["BLOCK_UNITS"]))
    spike_convolution[grid](spikes.contiguous(), weight.contiguous(), out, rows, **shape, BF16=_on_gpu(spikes))
    return out


def weight_gradient(connection: ConnectionSpec, spikes: Tensor, drive: Tensor) -> Tensor:
    """dL/dweight, (units, channels, *kernel_size) float32; sums have one order.

    Args:
        connection: of kind "conv".
        spikes: (images, *in_shape) uint8.
        drive: (images, *out_shape) float32.
    """
    shape = gradient_constants(connection)
    rows, units, fan_in = len(spikes) * shape["POSITIONS"], shape["UNITS"], shape["FAN_IN"]
    tiles = triton.cdiv(units, shape["BLOCK_UNITS"]), triton.cdiv(fan_in, shape["BLOCK_IN"])
    share = _share(rows, shape["BLOCK_ROWS"] * shape["ROUNDS"], triton.cdiv(PROGRAMS, tiles[0] * tiles[1]))
    parts = torch.empty(triton.cdiv(rows, share), units, fan_in, device=spikes.device)
    spike_kernel_gradient[(*tiles, len(parts))](
        spikes.contiguous(), drive.contiguous(), parts, rows, share, **shape, BF16=_on_gpu(spikes)
    )
    return parts.sum(0).view(units, connection.known_in_shape[0], *connection.kernel_size)


def product_constants(connection: ConnectionSpec) -> dict[str, int]:
    """Sizes and blocks of `spike_convolution`."""
    shape = _geometry(connection)
    fan_in, units = shape["FAN_IN"], shape["UNITS"]
    blocks = {"BLOCK_ROWS": 64, "BLOCK_IN": _block(fan_in, 32), "BLOCK_UNITS": _block(units, 64)}
    return {**shape, "ROUNDS": min(4, triton.cdiv(fan_in, 32)), "num_warps": 4, **blocks}


def gradient_constants(connection: ConnectionSpec) -> dict[str, int]:
    """Sizes and blocks of `spike_kernel_gradient`."""
    shape = _geometry(connection)
    blocks = {"BLOCK_ROWS": 32, "BLOCK_IN": _block(shape["FAN_IN"], 64), "BLOCK_UNITS": _block(shape["UNITS"], 64)}
    return {**shape, "ROUNDS": 16, "num_warps": 4, **blocks}


def _geometry(connection: ConnectionSpec) -> dict[str, int]:
    """Sizes of images, output and kernel; of one axis, images are one row high."""
    (channels, *image), (units, *out) = connection.known_in_shape, connection.out_shape
    one_axis = len(image) == 1
    (height, width), (out_height, out_width), kernel, stride, padding = (
        (filler, *sizes) if one_axis else tuple(sizes)
        for sizes, filler in (
            (image, 1),
            (out, 1),
            (connection.kernel_size, 1),
            (connection.stride, 1),
            (connection.padding, 0),
        )
    )
    return {
        "IMAGE": channels * height * width,
        "HEIGHT": height,
        "WIDTH": width,
        "POSITIONS": out_height * out_width,
        "OUT_WIDTH": out_width,
        "KERNEL_HEIGHT": kernel[0],
        "KERNEL_WIDTH": kernel[1],
        "STRIDE_Y": stride[0],
        "STRIDE_X": stride[1],
        "PAD_Y": padding[0],
        "PAD_X": padding[1],
        "FAN_IN": channels * kernel[0] * kernel[1],
        "UNITS": units,
    }
