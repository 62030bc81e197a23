"""Constrained parameters of layers: positive time constants, bounded numbers, adaptation."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.kernels.philox import NoiseKey, uniform
from surgrad.neurons.lif import DECAYS, AdaptationValues, AdaptiveLIF


class TimeConstant(nn.Module):
    """A positive time constant in seconds: fixed or trainable, one per layer or one per neuron.

    Held as log(tau), the one positive parametrisation of the suite, so that gradient steps are relative changes.

    Args:
        tau: initial value(s) in s; a tensor of shape (*units) gives one per neuron.
        trainable: whether it is a parameter.
        bounds: (low, high) in s; `clip_` moves a trained value back between them.

    Raises:
        UserError: for a tau that is not positive and finite, or bounds out of order.
    """

    def __init__(self, tau: float | Tensor, trainable: bool = False, bounds: tuple[float, float] | None = None):
        super().__init__()
        tau = torch.as_tensor(tau, dtype=torch.float64)
        if not bool(((tau > 0) & tau.isfinite()).all()):
            raise UserError(f"time constant {tau.min().item()} s is not allowed: it must be positive and finite")
        if bounds is not None and not 0 < bounds[0] < bounds[1]:
            raise UserError(f"bounds={bounds} of a time constant must be 0 < low < high, in seconds")
        self.log_tau = nn.Parameter(tau.log().to(torch.get_default_dtype()), requires_grad=trainable)
        self.bounds = bounds

    def decay(self, dt: float, method: str = "exponential") -> Tensor:
        """exp(-dt / tau), in the shape of tau; computed in float64, for one ulp moves spikes near threshold.

        With ``method`` "euler", 1 - dt / tau. Raises: UserError if that is negative.
        """
        decay = _decay(self.log_tau, dt, method)
        if method == "euler" and decay.device.type == "cpu" and bool((decay < 0).any()):
            raise UserError(
                f"decay='euler' with dt={dt:g} s needs time constants of at least dt, but one is "
                f"{float(self.tau.min()):.3g} s; take a smaller time step or decay='exponential'"
            )
        return decay

    def shaped(self, shape: Sequence[int]) -> "TimeConstant":
        """Itself, its values in a shape that broadcasts to the units; one for the layer stays one."""
        if self.log_tau.dim():
            self.log_tau.data = self.log_tau.data.view(tuple(shape))
        return self

    @property
    def tau(self) -> Tensor:
        """Seconds."""
        return self.log_tau.exp()

    def extra_repr(self) -> str:
        tau = self.tau.detach()
        values = (
            f"{float(tau.min()):.3g} s" if tau.numel() == 1 else f"{float(tau.min()):.3g}..{float(tau.max()):.3g} s"
        )
        return f"{values}, one per {'layer' if tau.numel() == 1 else 'neuron'}" + (
            ", trained" if self.log_tau.requires_grad else ""
        )

    @torch.no_grad()
    def clip_(self) -> None:
        if self.bounds is not None:
            self.log_tau.clamp_(math.log(self.bounds[0]), math.log(self.bounds[1]))


def decays(constants: Sequence[tuple[TimeConstant, str]], dt: float) -> list[Tensor]:
    """`TimeConstant.decay` of time constants, each by its method, those alike together in a few operations."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for k, (constant, method) in enumerate(constants):
        log_tau = constant.log_tau
        groups.setdefault((method, log_tau.dtype, log_tau.device), []).append(k)
    found: dict[int, Tensor] = {}
    for (method, *_), members in groups.items():
        logs = [constants[k][0].log_tau for k in members]
        joined = torch.cat([log_tau.view(-1) for log_tau in logs])
        parts = _decay(joined, dt, method).split([log_tau.numel() for log_tau in logs])
        for k, part, log_tau in zip(members, parts, logs, strict=True):
            found[k] = (part if log_tau.requires_grad else part.detach()).view(log_tau.shape)
    return [found[k] for k in range(len(constants))]


def _decay(log_tau: Tensor, dt: float, method: str) -> Tensor:
    return DECAYS[method](dt * torch.exp(-log_tau.double())).to(log_tau.dtype)


class Bounded(nn.Module):
    """Trainable numbers that stay in a range: low + (high - low) sigma(x).

    Args:
        low: lower end of the range.
        high: upper end of the range.
        start: where each begins, as a share of the range, in (0, 1).
        trainable: whether they are parameters.
    """

    def __init__(self, low: float, high: float, start: Tensor, trainable: bool = True):
        super().__init__()
        self.low, self.high = low, high
        self.logit = nn.Parameter(start.double().logit().to(torch.get_default_dtype()), requires_grad=trainable)

    def forward(self) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(self.logit)


class Adaptation(nn.Module):
    """The constants a, b and tau_w (s) of every neuron of an adaptive layer.

    Args:
        neuron: whose ranges they start and stay in.
        unit_shape: shape of the layer's units.
    """

    def __init__(self, neuron: AdaptiveLIF, unit_shape: Sequence[int]):
        super().__init__()
        self.scheme = neuron.scheme

        def bounded(index: int, low: float, high: float) -> Bounded:
            start = uniform(NoiseKey(neuron.seed, index), 0, torch.zeros(1, dtype=torch.int64), unit_shape)[0]
            return Bounded(low, high, start, neuron.trainable)

        self.a, self.b, self.tau_w = (bounded(k, *ends) for k, ends in enumerate((neuron.a, neuron.b, neuron.tau_w)))

    def values(self, dt: float) -> AdaptationValues:
        """What a step of dt seconds needs; the decay exp(-dt / tau_w) is computed in float64."""
        a, b, tau_w = self.a(), self.b(), self.tau_w()
        return AdaptationValues(torch.exp(-dt / tau_w.double()).to(tau_w.dtype), a, b)

    def require_stable(self, dt: float, b: Tensor, gain: Tensor) -> None:
        """Refuses a range of a that leaves the stable region (`AdaptiveLIF`).

        Args:
            dt: time step, s.
            b: decay of the membrane per step.
            gain: factor of the current.

        Raises:
            UserError: naming the largest a that is stable.
        """
        d = math.exp(-dt / self.tau_w.low)
        edge = (1 + b) * (1 + d) if self.scheme == "symplectic" else 1 - b * d
        bound = float((edge / (gain * (1 - d))).min())
        advice = "" if self.scheme == "symplectic" else ", or scheme='symplectic'"
        if self.a.high >= bound:
            raise UserError(
                f"a={self.a.high:g} makes the adaptation unstable at tau_w={self.tau_w.low:g} s and dt={dt:g} s: "
                f"keep it below {bound:.4g}, or take a smaller time step{advice}"
            )
