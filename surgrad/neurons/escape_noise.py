"""Escape noise: how a membrane potential becomes spikes, with x = u - 1 the distance to threshold.

A neuron spikes at step t with probability p(x). Drawing r ~ U(0, 1) and comparing r < p(x) is the same as comparing
x with a random threshold, ``x > threshold(r)`` with ``threshold`` the inverse of p. The library uses the second
form: the threshold depends on the random number alone, so every backend draws the same spikes, and the
deterministic neuron is the one whose threshold is always 0.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from surgrad.neurons.surrogate import _require_positive


class EscapeNoise(Protocol):
    """The probability of a spike and its inverse; ``stochastic`` says whether random numbers are drawn."""

    stochastic: ClassVar[bool]

    def probability(self, x: Tensor) -> Tensor: ...

    def threshold(self, r: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Step:
    """p(x) = H(x) with H(0) = 0: the deterministic neuron."""

    stochastic: ClassVar[bool] = False

    def probability(self, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    def threshold(self, r: Tensor) -> Tensor:
        return torch.zeros_like(r)


@dataclass(frozen=True)
class Sigmoid:
    """p(x) = 1 / (1 + exp(-beta x)) (Gygax & Zenke 2025, eq. for escape noise)."""

    stochastic: ClassVar[bool] = True
    beta: float = 10.0

    def __post_init__(self) -> None:
        _require_positive(self, beta=self.beta)

    def probability(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.beta * x)

    def threshold(self, r: Tensor) -> Tensor:
        return torch.log(r / (1 - r)) / self.beta


@dataclass(frozen=True)
class Exponential:
    """p(x) = min(1, p0 exp(x / delta_u)) (Gerstner & Kistler 2002; Gardner et al. 2015)."""

    stochastic: ClassVar[bool] = True
    p0: float = 2 / 3
    delta_u: float = 0.133

    def __post_init__(self) -> None:
        _require_positive(self, p0=self.p0, delta_u=self.delta_u)

    def probability(self, x: Tensor) -> Tensor:
        return (self.p0 * torch.exp((x / self.delta_u).clamp(max=80.0))).clamp(max=1.0)

    def threshold(self, r: Tensor) -> Tensor:
        return self.delta_u * torch.log(r / self.p0)
