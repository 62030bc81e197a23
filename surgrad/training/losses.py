"""Losses: cross entropies on a readout (T, B, C), and distances between spike trains.

Each loss is a small frozen dataclass, usable from a config by ``_target_``; a cross entropy predicts from the same
class scores that it trains.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from surgrad.errors import UserError


@dataclass(frozen=True)
class ReadoutCrossEntropy:
    """L = -mean_b log softmax(z_b)[label_b], where ``scores`` reduces the readout over time to z (B, C).

    Args:
        first_step: steps at the beginning that are no part of it, of the readout as it settles (Baronig et al. 2024);
            of a readout that ends before, the last step counts.
        label_smoothing: e; the label has the probability 1 - e + e / C, every other class e / C (Szegedy et al. 2016).

    Raises:
        UserError: for a negative first_step, or a label_smoothing outside 0 to below 1.
    """

    first_step: int = field(default=0, kw_only=True)
    label_smoothing: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.first_step < 0 or not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"first_step={self.first_step}, label_smoothing={self.label_smoothing}: allowed are 0 or more steps, "
                "and 0 to below 1"
            )

    def scores(self, readout: Tensor) -> Tensor:
        """Class scores z of the steps that count: (T, B, C) -> (B, C)."""
        raise NotImplementedError

    def _scores(self, readout: Tensor) -> Tensor:
        """z of a whole readout."""
        return self.scores(readout[min(self.first_step, len(readout) - 1) :] if self.first_step else readout)

    def __call__(self, readout: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the batch, a scalar.

        Args:
            readout: (T, B, C).
            labels: (B,) int64 in 0..C-1.

        Raises:
            ValueError: if shapes or labels do not fit.
        """
        _check_labels(readout, labels)
        return F.cross_entropy(self._scores(readout), labels, label_smoothing=self.label_smoothing)

    def predictions(self, readout: Tensor) -> Tensor:
        """argmax_c z: (T, B, C) -> (B,) int64."""
        return self._scores(readout).argmax(-1)

    def accuracy(self, readout: Tensor, labels: Tensor) -> Tensor:
        """Share of the batch that is predicted right, a scalar."""
        _check_labels(readout, labels)
        return (self.predictions(readout) == labels).to(readout.dtype).mean()


def _check_labels(readout: Tensor, labels: Tensor) -> None:
    if readout.dim() != 3 or 0 in readout.shape:
        raise ValueError(f"readout of shape {tuple(readout.shape)} must be (T, B, classes), none of them 0")
    if labels.shape != readout.shape[1:2] or labels.is_floating_point():
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} must be integers of shape "
            f"({readout.shape[1]},), one for each sample of the readout {tuple(readout.shape)} = (T, B, classes)"
        )
    # only on the host: reading the extremes back from an accelerator would wait for everything queued before
    if labels.device.type == "cpu" and not (int(labels.min()) >= 0 and int(labels.max()) < readout.shape[2]):
        raise ValueError(
            f"labels reach from {int(labels.min())} to {int(labels.max())}; allowed with {readout.shape[2]} readout "
            f"units: 0 to {readout.shape[2] - 1}"
        )


@dataclass(frozen=True)
class MaxOverTimeCrossEntropy(ReadoutCrossEntropy):
    """z = max_t y[t] (Cramer et al. 2020; Gygax & Zenke 2025)."""

    def scores(self, readout: Tensor) -> Tensor:
        return readout.amax(0)


@dataclass(frozen=True)
class SumOverTimeCrossEntropy(ReadoutCrossEntropy):
    """z = sum_t y[t]."""

    def scores(self, readout: Tensor) -> Tensor:
        return readout.sum(0)


@dataclass(frozen=True)
class IntegratedCrossEntropy(ReadoutCrossEntropy):
    """z = gain mean_t exp(-t / tau) y[t]: early times weigh more (loss shaping, Nowotny et al. 2025).

    Args:
        tau: in steps, inf for equal weights.
        gain: factor of the mean over time.

    Raises:
        UserError: unless tau is positive.
    """

    tau: float = math.inf
    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tau > 0:
            raise UserError(f"tau={self.tau} steps must be positive")

    def scores(self, readout: Tensor) -> Tensor:
        steps = torch.arange(len(readout), dtype=readout.dtype, device=readout.device)
        weight = self.gain / len(readout) * torch.exp(-steps / self.tau)
        return torch.einsum("t,tbc->bc", weight, readout)


@dataclass(frozen=True)
class LastStepCrossEntropy(ReadoutCrossEntropy):
    """z = y[T-1]."""

    def scores(self, readout: Tensor) -> Tensor:
        return readout[-1]


@dataclass(frozen=True)
class SumOfSoftmaxCrossEntropy(ReadoutCrossEntropy):
    """z = sum_t softmax(y[t]): every step votes with its class probabilities (Rossbroich et al. 2022, stork).

    The sums are scores that enter a second softmax, as in the published code; so the loss is bounded below by
    log(1 + (C-1) exp(-T)) and the readout of a few steps cannot outweigh all others.
    """

    def scores(self, readout: Tensor) -> Tensor:
        return readout.softmax(-1).sum(0)


LOSSES: dict[str, type[ReadoutCrossEntropy]] = {
    "mot_ce": MaxOverTimeCrossEntropy,
    "sum_ce": SumOverTimeCrossEntropy,
    "mean_ce": IntegratedCrossEntropy,
    "last_ce": LastStepCrossEntropy,
    "sum_of_softmax_ce": SumOfSoftmaxCrossEntropy,
}


def build_loss(loss_type: str, **options: float) -> ReadoutCrossEntropy:
    """The loss that a config calls ``loss_type``; ``options`` are those of its class. Raises: UserError if unknown."""
    if loss_type not in LOSSES:
        raise UserError(f"loss_type={loss_type!r} is unknown; allowed: {', '.join(LOSSES)}")
    return LOSSES[loss_type](**options)  # type: ignore[arg-type]  # first_step is an int


def double_exponential_kernel(
    nb_steps: int, dt: float, tau_mem: float, tau_syn: float, eps0: float = 0.2, dtype: torch.dtype = torch.float32
) -> Tensor:
    """eps(t) = eps0 (exp(-t/tau_mem) - exp(-t/tau_syn)), sampled at linspace(0, T dt, T) (Gygax & Zenke 2025).

    Args:
        nb_steps: T.
        dt: time step, s.
        tau_mem: membrane time constant, s.
        tau_syn: synaptic time constant, s.
        eps0: scale.
        dtype: of the result.

    Returns:
        (T,). Its samples are T dt / (T-1) apart, the grid of the published code, whose figures are compared.
    """
    t = torch.linspace(0, nb_steps * dt, nb_steps, dtype=torch.float64)
    return (eps0 * (torch.exp(-t / tau_mem) - torch.exp(-t / tau_syn))).to(dtype)


def causal_convolution(kernel: Tensor, x: Tensor) -> Tensor:
    """(eps * x)[t] = sum_{k <= t} eps[t-k] x[k], as one product with a lower-triangular Toeplitz matrix.

    Args:
        kernel: (T,).
        x: (T, ...), time first.

    Returns:
        (T, ...).
    """
    lag = torch.arange(len(kernel), device=kernel.device)
    lag = lag[:, None] - lag[None, :]
    toeplitz = torch.where(lag >= 0, kernel[lag.clamp(min=0)], 0.0)
    return torch.tensordot(toeplitz, x.to(kernel.dtype), dims=1)


def _difference(spikes: Tensor, target: Tensor) -> Tensor:
    """z - s in a floating dtype; a target (T, units) serves every sample of spikes (T, B, units)."""
    if target.dim() == spikes.dim() - 1 == 2:
        target = target[:, None].expand_as(spikes)
    if spikes.dim() not in (2, 3) or spikes.shape != target.shape:
        raise ValueError(
            f"spikes {tuple(spikes.shape)} and target {tuple(target.shape)} must both be (T, units) or (T, B, units)"
        )
    dtype = spikes.dtype if spikes.is_floating_point() else torch.float32
    return target.to(dtype) - spikes.to(dtype)


@dataclass(frozen=True)
class VanRossum:
    """D = 1/2 mean_units sum_t ((eps * z)[t] - (eps * s)[t])^2 (van Rossum 2001; Gygax & Zenke 2025).

    Args:
        dt: time step, s.
        tau_mem: membrane time constant of the kernel eps (`double_exponential_kernel`), s.
        tau_syn: its synaptic time constant, s.
        eps0: its scale.
    """

    dt: float = 1e-3
    tau_mem: float = 10e-3
    tau_syn: float = 5e-3
    eps0: float = 0.2

    def __call__(self, spikes: Tensor, target: Tensor) -> Tensor:
        """Scalar for trains (T, units), or (B,) for trains (T, B, units). Raises: ValueError for other shapes."""
        difference = _difference(spikes, target)
        kernel = double_exponential_kernel(
            len(spikes), self.dt, self.tau_mem, self.tau_syn, self.eps0, difference.dtype
        )
        return causal_convolution(kernel.to(difference.device), difference).square().sum(0).mean(-1) / 2


@dataclass(frozen=True)
class SpikeTrainL2:
    """D = 1/2 mean_units sum_t (z[t] - s[t])^2: half the number of wrong bins per unit."""

    def __call__(self, spikes: Tensor, target: Tensor) -> Tensor:
        """Scalar for trains (T, units), or (B,) for trains (T, B, units). Raises: ValueError for other shapes."""
        return _difference(spikes, target).square().sum(0).mean(-1) / 2
