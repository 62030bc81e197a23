"""Time constants that differ between neurons, their trained distributions, and what was measured in the brain.

Perez-Nieves, Leung, Dragotti & Goodman, Neural heterogeneity promotes robust learning, Nat Commun 12:5791 (2021): four
conditions, time constants that start equal (HomInit) or drawn from a distribution (HetInit), fixed (StdTr) or trained,
one per neuron (HetTr).

The functions that make time constants are nodes of a configuration, called as f(tau, nb_units, generator) for the
membranes and for the synapses of every hidden layer. All values are moved into ``bounds`` before and while training.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from surgrad.errors import UserError
from surgrad.network.parameters import TimeConstant

Bounds = Sequence[float]

#: Published limits: decays of 0.736 and 0.995 per 0.5 ms step, here rounded to what steps of 2 ms still resolve (s).
BOUNDS = (2e-3, 100e-3)


def homogeneous(
    tau: float, nb_units: int, generator: Generator, *, trainable: bool = False, bounds: Bounds = BOUNDS
) -> TimeConstant:
    """The same value for every neuron; trained, each goes its own way.

    Args:
        tau: in s.
        nb_units: number of neurons.
        generator: (unused).
        trainable: whether it is trained.
        bounds: (low, high) in s.

    Raises:
        UserError: for a tau outside the bounds.
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

    Args:
        tau: mean, s.
        nb_units: number of neurons.
        generator: draws them.
        shape: of the Gamma distribution.
        trainable: whether they are trained.
        bounds: (low, high), s.

    Raises:
        UserError: for a shape that is not positive, or a tau outside the bounds.
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

    Args:
        tau: mean, s.
        nb_units: number of neurons.
        generator: draws them.
        deviation: standard deviation in units of tau.
        trainable: whether they are trained.
        bounds: (low, high), s.

    Raises:
        UserError: for a deviation that is not positive, or a tau outside the bounds.
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

    Args:
        tau: mean, s.
        nb_units: number of neurons.
        generator: draws them.
        width: in units of tau, at most 2.
        trainable: whether they are trained.
        bounds: (low, high), s.

    Raises:
        UserError: for another width, or a tau outside the bounds.
    """
    if not 0 < width <= 2:
        raise UserError(f"width={width} of a uniform distribution of time constants: allowed are 0 < width <= 2")
    z = torch.rand(nb_units, generator=generator, dtype=torch.float64)
    return _time_constant(tau, tau * (1 + width * (z - 0.5)), trainable, bounds)


def _time_constant(tau: float, values: Tensor, trainable: bool, bounds: Bounds) -> TimeConstant:
    if len(bounds) != 2:
        raise UserError(f"time_constants.bounds={list(bounds)}: two values are needed, low and high, in s")
    # a normal distribution reaches below 0, where clip_ cannot start from
    low, high = bounds
    constant = TimeConstant(values.clamp(min=1e-9), trainable, (low, high))
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
