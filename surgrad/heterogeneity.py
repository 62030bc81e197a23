"""Time constants that differ between neurons, their trained distributions, and what was measured in the brain.

Perez-Nieves, Leung, Dragotti & Goodman, Neural heterogeneity promotes robust learning, Nat Commun 12:5791 (2021): four
conditions, time constants that start equal (HomInit) or drawn from a distribution (HetInit), fixed (StdTr) or trained,
one per neuron (HetTr).

The functions that make time constants are nodes of a configuration, called as f(tau, nb_units, generator) for the
membranes and for the synapses of every hidden layer. All values are moved into ``bounds`` before and while training.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import digamma, gammaln
from torch import Generator, Tensor, nn

from surgrad.errors import UserError
from surgrad.layers import TimeConstant

Bounds = Sequence[float]

#: Published limits: decays of 0.736 and 0.995 per 0.5 ms step, here rounded to what steps of 2 ms still resolve (s).
BOUNDS = (2e-3, 100e-3)


def homogeneous(
    tau: float, nb_units: int, generator: Generator, *, trainable: bool = False, bounds: Bounds = BOUNDS
) -> TimeConstant:
    """The same value for every neuron; trained, each goes its own way.

    Args: tau in s; number of neurons; generator (unused); whether it is trained; bounds (low, high) in s.
    Raises: UserError for a tau outside the bounds.
    """
    return _time_constant(tau, torch.full((nb_units,), tau, dtype=torch.float64), trainable, bounds)


def gamma(
    tau: float,
    nb_units: int,
    generator: Generator,
    *,
    shape: float = 3.0,
    trainable: bool = False,
    bounds: Bounds = BOUNDS,
) -> TimeConstant:
    """Gamma(shape, tau / shape) of mean tau, standard deviation tau / sqrt(shape); published: shape 3.

    Args: as in `homogeneous`, and the shape. Raises: UserError for a shape that is not positive.
    """
    _require_positive(shape=shape)
    # NumPy draws: torch has no public sampler of the Gamma distribution that takes a generator
    values = np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).gamma(
        shape, tau / shape, nb_units
    )
    return _time_constant(tau, torch.from_numpy(values), trainable, bounds)


def normal(
    tau: float,
    nb_units: int,
    generator: Generator,
    *,
    deviation: float = 1 / math.sqrt(3),
    trainable: bool = False,
    bounds: Bounds = BOUNDS,
) -> TimeConstant:
    """N(tau, (deviation tau)^2), by default as wide as the published Gamma distribution.

    Args: as in `homogeneous`, and the standard deviation in units of tau. Raises: UserError if it is not positive.
    """
    _require_positive(deviation=deviation)
    z = torch.randn(nb_units, generator=generator, dtype=torch.float64)
    return _time_constant(tau, tau * (1 + deviation * z), trainable, bounds)


def uniform(
    tau: float,
    nb_units: int,
    generator: Generator,
    *,
    width: float = 2.0,
    trainable: bool = False,
    bounds: Bounds = BOUNDS,
) -> TimeConstant:
    """U(tau (1 - width / 2), tau (1 + width / 2)), by default U(0, 2 tau).

    Args: as in `homogeneous`, and the width in units of tau, at most 2. Raises: UserError for another width.
    """
    if not 0 < width <= 2:
        raise UserError(f"width={width} of a uniform distribution of time constants: allowed are 0 < width <= 2")
    z = torch.rand(nb_units, generator=generator, dtype=torch.float64)
    return _time_constant(tau, tau * (1 + width * (z - 0.5)), trainable, bounds)


def _time_constant(tau: float, values: Tensor, trainable: bool, bounds: Bounds) -> TimeConstant:
    if len(bounds) != 2:
        raise UserError(f"time_constants.bounds={list(bounds)}: two values are needed, low and high, in s")
    # a normal distribution reaches below 0, where clip_ cannot start from
    constant = TimeConstant(values.clamp(min=1e-9), trainable, tuple(bounds))
    low, high = constant.bounds
    if not low <= tau <= high:
        raise UserError(
            f"a time constant of {tau:g} s lies outside its bounds of {low:g} to {high:g} s; move it, or change "
            "time_constants.bounds"
        )
    constant.clip_()
    return constant


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise UserError(f"{name}={value} of a distribution of time constants must be positive")


def trained(network: nn.Module) -> list[TimeConstant]:
    """The time constants of a network that are trained."""
    constants = [module for module in network.modules() if isinstance(module, TimeConstant)]
    return [constant for constant in constants if constant.log_tau.requires_grad]


def parameter_groups(network: nn.Module, lr_tau: float | None) -> list[dict[str, Any]]:
    """Parameters for an optimiser: weights, and, where there are any, trained time constants with their own lr.

    Args: network; learning rate of log(tau), None for that of the weights.
    """
    log_taus = [constant.log_tau for constant in trained(network)]
    others = [weight for weight in network.parameters() if all(weight is not log_tau for log_tau in log_taus)]
    own = {} if lr_tau is None else {"lr": lr_tau}
    return [{"params": others}, *([{"params": log_taus, **own}] if log_taus else [])]


def keep_within_bounds(optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
    """From now on, every step of the optimiser ends with the time constants of the network within their bounds."""
    constants = trained(network)

    def clip(*_: Any) -> None:
        for constant in constants:
            constant.clip_()

    if constants:
        optimizer.register_step_post_hook(clip)


# ---------------------------------------------------------------- fits
@dataclass(frozen=True)
class Gamma:
    """p(tau) = tau^(k-1) exp(-tau / s) / (Gamma(k) s^k). Args: shape k; scale s in s."""

    shape: float
    scale: float

    @property
    def mean(self) -> float:
        """Seconds."""
        return self.shape * self.scale

    def log_density(self, tau: np.ndarray) -> np.ndarray:
        """log p in 1/s, of time constants in s."""
        x = np.asarray(tau) / self.scale
        return (self.shape - 1) * np.log(x) - x - gammaln(self.shape) - math.log(self.scale)

    @classmethod
    def fit(cls, tau: np.ndarray) -> "Gamma":
        """The parameters of highest likelihood: log k - psi(k) = log(mean tau) - mean(log tau), s = mean tau / k.

        Args: time constants in s. Raises: UserError for fewer than two different positive values.
        """
        tau = _require_spread(tau)
        excess = math.log(tau.mean()) - np.log(tau).mean()
        # log k - psi(k) falls from infinity to 0 and lies between 1/(2k) and 1/k
        shape = brentq(lambda k: math.log(k) - digamma(k) - excess, 0.4 / excess, 1.1 / excess)
        return cls(float(shape), float(tau.mean() / shape))


@dataclass(frozen=True)
class LogNormal:
    """log tau ~ N(log median, sigma^2). Args: sigma; median in s."""

    sigma: float
    median: float

    @property
    def mean(self) -> float:
        """Seconds."""
        return self.median * math.exp(self.sigma**2 / 2)

    def log_density(self, tau: np.ndarray) -> np.ndarray:
        """log p in 1/s, of time constants in s."""
        z = np.log(np.asarray(tau) / self.median) / self.sigma
        return -(z**2) / 2 - np.log(np.asarray(tau)) - math.log(self.sigma * math.sqrt(2 * math.pi))

    @classmethod
    def fit(cls, tau: np.ndarray) -> "LogNormal":
        """The parameters of highest likelihood. Args and errors as in `Gamma.fit`."""
        log_tau = np.log(_require_spread(tau))
        return cls(float(log_tau.std()), math.exp(log_tau.mean()))


Fit = Gamma | LogNormal
FITS: dict[str, Callable[[np.ndarray], Fit]] = {"Gamma": Gamma.fit, "log-normal": LogNormal.fit}

#: Fits to the membrane time constants of 2333 cells of the Allen Cell Types Database (mean 19.2 ms).
EXPERIMENT: dict[str, Fit] = {"Gamma": Gamma(3.49, 5.51e-3), "log-normal": LogNormal(0.559, 16.6e-3)}


def _require_spread(tau: np.ndarray) -> np.ndarray:
    tau = np.asarray(tau, dtype=np.float64).ravel()
    if len(tau) < 2 or not (tau > 0).all() or np.ptp(tau) == 0:
        raise UserError("a distribution needs two or more different positive time constants to be fitted to")
    return tau


def log_likelihood(fit: Fit, tau: np.ndarray) -> float:
    """Mean log density of time constants in s under a distribution, per neuron and with tau in ms (nats)."""
    return float(fit.log_density(tau).mean() - math.log(1e3))


def at_bounds(tau: np.ndarray, bounds: Bounds) -> float:
    """Share of time constants that lie on one of their bounds."""
    return float(np.isclose(np.asarray(tau)[..., None], bounds, rtol=1e-4).any(-1).mean())
