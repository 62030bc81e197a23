"""Counter-based random numbers: Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).

A number is a pure function of its address, so a stochastic network draws the same spikes on every backend, in any
batch split, and when a segment is computed again. The address is the key (seed, draw) and the counter (neuron // 4,
step, sample, layer); the four words of one block serve four neighbouring neurons.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85


@dataclass(frozen=True)
class NoiseKey:
    """Where a population's random numbers come from: ``seed`` of the run, ``draw`` (epoch or repetition), ``layer``."""

    seed: int = 0
    draw: int | Tensor = 0  # a 0-d tensor on its device, where the host does not know the number
    layer: int = 0


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int | Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox on int64 tensors that hold 32-bit words; returns four tensors of 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key[0] & _MASK, key[1] & _MASK
    for _ in range(10):
        high0, low0 = _multiply(_M0, c0)
        high1, low1 = _multiply(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of constant * word, through 16-bit halves so that int64 never overflows."""
    low = constant * (word & 0xFFFF)
    high = constant * (word >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def uniform(
    key: NoiseKey, step: int, ids: Tensor, unit_shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers in (0, 1) for one layer and step, odd multiples of 2^-24, so neither 0 nor 1 occurs.

    Neurons are numbered with the channel running fastest: unit (channel, x) of a convolutional layer is number
    x * channels + channel.

    Args:
        key: seed, draw and layer.
        step: time step.
        ids: (B,) int64, global sample indices.
        unit_shape: shape of the layer, (N,) or (channels, *spatial).

    Returns:
        (B, *unit_shape) in ``dtype``; the same values on every device.
    """
    channels, *spatial = unit_shape
    nb_neurons = math.prod(unit_shape)
    blocks = torch.arange((nb_neurons + 3) // 4, device=ids.device)
    c0 = blocks.expand(len(ids), -1)
    c2 = (ids & _MASK)[:, None].expand_as(c0)
    words = philox4x32((c0, torch.full_like(c0, step), c2, torch.full_like(c0, key.layer)), (key.seed, key.draw))
    bits = torch.stack(words, -1).flatten(1)[:, :nb_neurons]
    return (((bits >> 9).to(dtype) + 0.5) * 2.0**-23).view(-1, *spatial, channels).movedim(-1, 1)
