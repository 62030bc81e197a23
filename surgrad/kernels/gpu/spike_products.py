"""Products of spikes that are read as bytes, with float32 weights as three terms of bf16: about float32's accuracy.

A spike is exact in bf16, as a byte is. A float32 number is the sum of three numbers of bf16, 8 bits each,

    x = high + middle + low,        high = bf16(x), middle = bf16(x - high), low = bf16(x - high - middle),

so three products on tensor cores, summed in float32, are one with the number itself: three passes at sixteen times the
rate of float32, and spikes are never widened in memory. Tensor cores may cut sums off in the place of rounding them:
after some blocks (ROUNDS) they are added to a sum that is rounded.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Programs that a weight gradient is split into, at least: two for each multiprocessor of an H200.
PROGRAMS = 264


@triton.jit
def _add_terms(total, spikes, x, BF16: tl.constexpr, LEFT: tl.constexpr):
    """total + spikes @ x, or x @ spikes with LEFT, x float32 in three terms, the smallest first."""
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    if BF16:
        s = spikes.to(tl.bfloat16)
    else:  # Triton's interpreter multiplies no bf16
        s, low, middle, high = spikes.to(tl.float32), low.to(tl.float32), middle.to(tl.float32), high.to(tl.float32)
    if LEFT:
        total = tl.dot(low, s, total, input_precision="ieee")
        total = tl.dot(middle, s, total, input_precision="ieee")
        total = tl.dot(high, s, total, input_precision="ieee")
    else:
        total = tl.dot(s, low, total, input_precision="ieee")
        total = tl.dot(s, middle, total, input_precision="ieee")
        total = tl.dot(s, high, total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["nb_rows"])
def spike_product(spikes, weight, out, nb_rows, FAN_IN: tl.constexpr, UNITS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                  BLOCK_IN: tl.constexpr, BLOCK_UNITS: tl.constexpr, ROUNDS: tl.constexpr,
                  BF16: tl.constexpr):  # fmt: skip
    """out = spikes weight^T: (rows, fan_in) uint8, (units, fan_in), (rows, units)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    unit = tl.program_id(1) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)[None, :]
    total = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), tl.float32)
    for start in range(0, FAN_IN, BLOCK_IN * ROUNDS):
        part = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), tl.float32)
        for k in range(0, ROUNDS):
            at = start + k * BLOCK_IN
            across, down = at + tl.arange(0, BLOCK_IN)[None, :], at + tl.arange(0, BLOCK_IN)[:, None]
            s = tl.load(spikes + row * FAN_IN + across, mask=(row < nb_rows) & (across < FAN_IN), other=0)
            w = tl.load(weight + unit * FAN_IN + down, mask=(unit < UNITS) & (down < FAN_IN), other=0.0)
            part = _add_terms(part, s, w, BF16, False)
        total += part
    tl.store(out + row * UNITS + unit, total, mask=(row < nb_rows) & (unit < UNITS))


@triton.jit(do_not_specialize=["nb_rows", "share"])
def spike_weight_gradient(spikes, drive, parts, nb_rows, share, FAN_IN: tl.constexpr, UNITS: tl.constexpr,
                          BLOCK_ROWS: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_UNITS: tl.constexpr,
                          ROUNDS: tl.constexpr, BF16: tl.constexpr):  # fmt: skip
    """parts[p] = drive^T spikes over the p-th ``share`` of the rows: (rows, units), (rows, fan_in) uint8."""
    unit = tl.program_id(0) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)[:, None]
    source = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)[None, :]
    first = tl.program_id(2).to(tl.int64) * share
    end = tl.minimum(first + share, nb_rows)
    total = tl.zeros((BLOCK_UNITS, BLOCK_IN), tl.float32)
    for start in range(first, end, BLOCK_ROWS * ROUNDS):
        part = tl.zeros((BLOCK_UNITS, BLOCK_IN), tl.float32)
        for k in range(0, ROUNDS):
            at = start + k * BLOCK_ROWS
            across, down = at + tl.arange(0, BLOCK_ROWS)[None, :], at + tl.arange(0, BLOCK_ROWS)[:, None]
            g = tl.load(drive + across * UNITS + unit, mask=(across < end) & (unit < UNITS), other=0.0)
            s = tl.load(spikes + down * FAN_IN + source, mask=(down < end) & (source < FAN_IN), other=0)
            part = _add_terms(part, s, g, BF16, True)
        total += part
    place = tl.program_id(2).to(tl.int64) * (UNITS * FAN_IN) + unit * FAN_IN + source
    tl.store(parts + place, total, mask=(unit < UNITS) & (source < FAN_IN))


def _block(size: int, largest: int) -> int:
    return min(largest, max(16, triton.next_power_of_2(size)))


def _on_gpu(x: Tensor) -> bool:
    return x.device.type == "cuda"


def readable(spikes: Tensor, precision: str) -> bool:
    """Whether spikes are read by these kernels: bytes, in float32, on a GPU with products of bf16 (8.0)."""
    if spikes.dtype != torch.uint8 or precision != "float32" or spikes.device.type == "meta":
        return False
    return not _on_gpu(spikes) or torch.cuda.get_device_capability(spikes.device) >= (8, 0)


def product(spikes: Tensor, weight: Tensor) -> Tensor:
    """spikes weight^T, (rows, units) float32.

    Args:
        spikes: (rows, fan_in) uint8.
        weight: (units, fan_in) float32.
    """
    (rows, fan_in), units = spikes.shape, len(weight)
    out = torch.empty(rows, units, device=spikes.device)
    shape = product_constants(fan_in, units)
    grid = (triton.cdiv(rows, shape["BLOCK_ROWS"]), triton.cdiv(units, shape["BLOCK_UNITS"]))
    spike_product[grid](spikes.contiguous(), weight.contiguous(), out, rows, **shape, BF16=_on_gpu(spikes))
    return out


def weight_gradient(spikes: Tensor, drive: Tensor) -> Tensor:
    """drive^T spikes, (units, fan_in) float32; sums have one order.

    Args:
        spikes: (rows, fan_in) uint8.
        drive: (rows, units) float32.
    """
    (rows, fan_in), units = spikes.shape, drive.shape[1]
    shape = gradient_constants(fan_in, units)
    tiles = triton.cdiv(units, shape["BLOCK_UNITS"]), triton.cdiv(fan_in, shape["BLOCK_IN"])
    share = _share(rows, shape["BLOCK_ROWS"] * shape["ROUNDS"], triton.cdiv(PROGRAMS, tiles[0] * tiles[1]))
    parts = torch.empty(triton.cdiv(rows, share), units, fan_in, device=spikes.device)
    spike_weight_gradient[(*tiles, len(parts))](
        spikes.contiguous(), drive.contiguous(), parts, rows, share, **shape, BF16=_on_gpu(spikes)
    )
    return parts.sum(0)


def _share(rows: int, longest: int, shares: int) -> int:
    """Rows of each of at most so many shares, a multiple of ``longest``."""
    return max(1, triton.cdiv(triton.cdiv(rows, shares), longest)) * longest


def product_constants(fan_in: int, units: int) -> dict[str, int]:
    """Sizes and blocks of `spike_product`."""
    blocks = {"BLOCK_ROWS": 128, "BLOCK_IN": _block(fan_in, 32), "BLOCK_UNITS": _block(units, 64)}
    return {"FAN_IN": fan_in, "UNITS": units, "ROUNDS": min(4, triton.cdiv(fan_in, 32)), "num_warps": 8, **blocks}


def gradient_constants(fan_in: int, units: int) -> dict[str, int]:
    """Sizes and blocks of `spike_weight_gradient`."""
    blocks = {"BLOCK_ROWS": 32, "BLOCK_IN": _block(fan_in, 64), "BLOCK_UNITS": _block(units, 64)}
    return {"FAN_IN": fan_in, "UNITS": units, "ROUNDS": 16, "num_warps": 4, **blocks}
