"""Normalised input currents: statistics while training, a fixed affine map afterwards, which folds into weights."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgrad.errors import UserError


class Bias(nn.Module):
    """A constant current: I[t] + c, one c for each unit, or for each channel of a convolutional layer.

    Args:
        unit_shape: (N,) or (channels, *spatial).
    """

    def __init__(self, unit_shape: Sequence[int]):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(unit_shape[0]))

    def forward(self, current: Tensor) -> Tensor:
        """(T, B, *units) -> (T, B, *units)."""
        return current + by_channel(self.shift, current)

    def extra_repr(self) -> str:
        return f"{len(self.shift)}"


class TemporalBatchNorm(nn.Module):
    """Batch normalisation of a population's feed-forward current, with statistics over time and samples.

        I[t] <- gain (I[t] - m) / sqrt(v + eps) + shift

    While training, m and v are mean and variance of the current of a unit (of a channel, in a convolutional layer) over
    all steps and samples of the batch; their running averages take their place in evaluation. There it is an affine
    map, which `folded` puts into the weights. In every call of truncated backpropagation or of a sequence in parts, the
    statistics are those of the part.

    Args:
        unit_shape: (N,) or (channels, *spatial).
        gain: starting gain: the deviation of the current.
        momentum: weight of a new batch in the running averages.
        eps: keeps the quotient finite.

    Raises:
        UserError: for a gain or eps that is not positive, or a momentum outside 0 to 1.

    Source: Ioffe & Szegedy 2015, Algorithm 1; over time as in Hammouamri, Khalfaoui-Hassani & Masquelier 2023.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, unit_shape: Sequence[int], gain: float = 1.0, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        if not gain > 0 or not eps > 0 or not 0 < momentum <= 1:
            raise UserError(f"gain={gain}, eps={eps}, momentum={momentum}: must be positive, momentum at most 1")
        nb = unit_shape[0]
        self.gain, self.shift = nn.Parameter(torch.full((nb,), float(gain))), nn.Parameter(torch.zeros(nb))
        self.register_buffer("mean", torch.zeros(nb))
        self.register_buffer("variance", torch.ones(nb))
        self.momentum, self.eps = momentum, eps

    def forward(self, current: Tensor) -> Tensor:
        """(T, B, *units) -> (T, B, *units); while training, the running averages move."""
        if not self.training:
            factor, shift = self.affine()
            return current * by_channel(factor, current) + by_channel(shift, current)
        rows = current.flatten(0, 1)
        if rows.numel() <= len(self.gain):
            raise UserError("batch normalisation needs more than one step or sample to train on")
        moving = (self.mean, self.variance)
        return F.batch_norm(rows, *moving, self.gain, self.shift, True, self.momentum, self.eps).view_as(current)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and shift, one per unit or channel, that it is in evaluation."""
        factor = self.gain * (self.variance + self.eps).rsqrt()
        return factor, self.shift - factor * self.mean

    def extra_repr(self) -> str:
        return f"{len(self.gain)}, momentum={self.momentum:g}"


def by_channel(values: Tensor, current: Tensor) -> Tensor:
    """One value for each unit, or channel, as it is added to or multiplied with currents (T, B, *units)."""
    return values.view(-1, *(1,) * (current.dim() - 3))


@torch.no_grad()
def folded(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode, without normalisation: factors are in the weights, shifts are constant currents.

    Args:
        network: a `surgrad.network.network.Network`.

    Raises:
        UserError: for a normalised connection without a weight of its own.
    """
    copied = copy.deepcopy(network).eval()
    for population in copied.modules():
        part = getattr(population, "normalization", None)
        if not isinstance(part, TemporalBatchNorm):
            continue
        connection = population.feedforward
        weight = getattr(connection, "weight", None)
        if not isinstance(weight, nn.Parameter):
            raise UserError(f"{type(connection).__name__} has no weight of its own to fold a normalisation into")
        factor, shift = part.affine()
        weight.mul_(factor.view(-1, *(1,) * (weight.dim() - 1)))
        population.normalization = Bias((len(shift),)).to(shift)
        population.normalization.shift.copy_(shift)
    return copied
