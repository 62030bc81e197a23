"""Surrogate derivatives h(x): what stands for dS/du in the backward pass, with x = u - 1 (threshold 1).

Each surrogate is a small frozen dataclass that carries its own parameters, so two layers may differ. Called as
``h(x, s)`` with the distance to threshold ``x`` and the emitted spikes ``s`` of the same shape, it returns the
factor in the dtype of ``x``. All forms are finite for |x| up to 1e3 and any sensible slope.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from surgrad.errors import UserError


class Surrogate(Protocol):
    """Anything called as h(x, s) -> dS/du, elementwise."""

    def __call__(self, x: Tensor, s: Tensor) -> Tensor: ...


def _require_positive(owner: object, **values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{type(owner).__name__}: {name}={value} must be positive")


@dataclass(frozen=True)
class SuperSpike:
    """h(x) = 1 / (beta |x| + 1)^2, the derivative of a fast sigmoid with peak 1 (Zenke & Ganguli 2018)."""

    beta: float = 10.0

    def __post_init__(self) -> None:
        _require_positive(self, beta=self.beta)

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return 1 / (self.beta * x.abs() + 1) ** 2


@dataclass(frozen=True)
class AsymptoticSuperSpike:
    """h(x) = beta / (beta |x| + 1)^2: SuperSpike whose peak grows with beta (Zenke & Vogels 2021)."""

    beta: float = 10.0

    def __post_init__(self) -> None:
        _require_positive(self, beta=self.beta)

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return self.beta / (self.beta * x.abs() + 1) ** 2


def _bump(x: Tensor) -> Tensor:
    """sigma(x) (1 - sigma(x)), to rounding also where sigma(x) rounds to 1."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


@dataclass(frozen=True)
class SigmoidPrime:
    """h(x) = beta sigma(beta x) (1 - sigma(beta x)): exact for one neuron with sigmoidal escape noise."""

    beta: float = 10.0

    def __post_init__(self) -> None:
        _require_positive(self, beta=self.beta)

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return self.beta * _bump(self.beta * x)


@dataclass(frozen=True)
class ScaledSigmoidPrime:
    """h(x) = sigma(beta x) (1 - sigma(beta x)): sigmoid' without its factor beta, peak 1/4 whatever the slope."""

    beta: float = 10.0

    def __post_init__(self) -> None:
        _require_positive(self, beta=self.beta)

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return _bump(self.beta * x)


@dataclass(frozen=True)
class Esser:
    """h(x) = max(0, 1 - beta |x|), the triangle of Esser et al. (2016)."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        _require_positive(self, beta=self.beta)

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return torch.relu(1 - self.beta * x.abs())


@dataclass(frozen=True)
class ArcTan:
    """h(x) = alpha / (2 (1 + (pi alpha x / 2)^2)), peak alpha / 2: derivative of an arctangent (Fang et al. 2021)."""

    alpha: float = 5.0

    def __post_init__(self) -> None:
        _require_positive(self, alpha=self.alpha)

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * x) ** 2)


@dataclass(frozen=True)
class Slayer:
    """h(x) = c alpha / 2 exp(-alpha |x|), peak c alpha / 2 (Shrestha & Orchard 2018; so in Baronig et al. 2024)."""

    alpha: float = 5.0
    c: float = 0.4

    def __post_init__(self) -> None:
        _require_positive(self, alpha=self.alpha, c=self.c)

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return self.c * self.alpha / 2 * torch.exp(-self.alpha * x.abs())


@dataclass(frozen=True)
class Exponential:
    """h(x) = (p0 / delta_u) exp(x / delta_u) while p0 exp(x / delta_u) < 1, else 0: slope of exponential noise.

    Beyond x = -delta_u ln(p0) the escape probability is saturated at 1 and its derivative is zero.
    """

    p0: float = 2 / 3
    delta_u: float = 0.133

    def __post_init__(self) -> None:
        _require_positive(self, p0=self.p0, delta_u=self.delta_u)

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        p = self.p0 * torch.exp((x / self.delta_u).clamp(max=80.0))
        return torch.where(p < 1, p, 0.0) / self.delta_u


@dataclass(frozen=True)
class MultilayerSpiker:
    """h = s, the spike itself: the score of an exponential escape rate, up to 1/delta_u (Gardner et al. 2015)."""

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return s.to(x.dtype)


@dataclass(frozen=True)
class TrueGradient:
    """h = 0: the derivative of the Heaviside step almost everywhere, through which nothing is learned."""

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return torch.zeros_like(x)
