"""The one-neuron study: derivative of the expected output against the surrogate gradient, with and without reset."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network import single_neuron as sn
from surgrad.experiments.sigmoid_network.quadrature import Array
from surgrad.training.resume import Keep, compute_now


def as_probability(noise: object) -> sn.EscapeProbability:
    """The callable p(x) of an escape noise: its method ``probability``, or the object itself.

    Raises:
        UserError: for an object that is neither.
    """
    probability = getattr(noise, "probability", noise)
    if not callable(probability):
        raise UserError(f"{noise!r} is no escape noise: give a callable x -> probability of a spike")
    return probability


@dataclass(frozen=True)
class PerceptronCurve:
    """One escape noise over V common weights: expected output and its derivative along the weight, summed over inputs.

    Attributes: weight, value, exact, sg (V,); sampled weights (S,) with mean and 95 % half-width (S,) of output and
    derivative from drawn spikes.
    """

    weight: Array
    value: Array
    exact: Array
    sg: Array
    sampled: Array
    drawn: tuple[Array, Array]
    drawn_derivative: tuple[Array, Array]


def perceptron_study(
    noises: Mapping[str, sn.EscapeProbability],
    *,
    nb_inputs: int,
    rate: float,
    weights: Array,
    sampled: Array,
    nb_samples: int,
    seed: int = 0,
    keep: Keep = compute_now,
) -> dict[str, PerceptronCurve]:
    """Perceptrons whose inputs, each 1 with probability ``rate``, share one weight, for each escape noise.

    Raises:
        UserError: for too many inputs to enumerate.
    """
    patterns, probability = sn.binary_inputs(torch.full((nb_inputs,), rate, dtype=torch.float64))
    rates = torch.full((nb_inputs,), rate, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)

    def curve(p: sn.EscapeProbability) -> PerceptronCurve:
        value, exact, sg = [], [], []
        for w in weights:
            vector = torch.full((nb_inputs,), float(w), dtype=torch.float64)
            expected, gradient = sn.perceptron_exact(vector, patterns, probability, p)
            value.append(expected.item())
            exact.append(gradient.sum().item())
            sg.append(sn.perceptron_surrogate_gradient(vector, patterns, probability, p).sum().item())
        rows = []
        for w in sampled:
            vector = torch.full((nb_inputs,), float(w), dtype=torch.float64)
            spikes, gradients = sn.perceptron_draws(vector, rates, p, nb_samples, generator)
            rows.append([float(v) for v in (*sn.interval(spikes), *sn.interval(gradients.sum(1)))])
        drawn = np.array(rows).T
        return PerceptronCurve(
            np.asarray(weights),
            np.array(value),
            np.array(exact),
            np.array(sg),
            np.asarray(sampled),
            (drawn[0], drawn[1]),
            (drawn[2], drawn[3]),
        )

    return {name: keep(name, partial(curve, p), generator) for name, p in noises.items()}


class SurrogateGradients(NamedTuple):
    """SG (T,) of the deterministic neuron: without reset, with detached reset, and also passed through the reset."""

    free: Array
    reset: Array
    through: Array


@dataclass(frozen=True)
class LIFCurves:
    """A driven LIF neuron over T steps, derivatives along a common gain of all weights.

    Attributes:
        time: (T,) s.
        inputs: (T, n) spikes.
        free: exact expectation, derivative and its two parts, without reset.
        reset: the same with reset.
        sg: SG of the deterministic neuron.
        drawn: mean and 95 % half-width (T,) of drawn spikes of the stochastic neuron with reset.
        drawn_sg: the same of its SG.
        drawn_through: the same of its SG through the reset.
        membrane: (T,) of the deterministic neuron without reset.
        membrane_reset: (T,) of the deterministic neuron with reset.
    """

    time: Array
    inputs: Array
    free: sn.Derivatives
    reset: sn.Derivatives
    sg: SurrogateGradients
    drawn: sn.Estimate
    drawn_sg: sn.Estimate
    drawn_through: sn.Estimate
    membrane: Array
    membrane_reset: Array

    def errors(self) -> dict[str, float]:
        """Relative distance |SG - exact| / |exact| over all steps for each kind of SG."""

        def distance(sg: Array | Tensor, exact: Tensor) -> float:
            return float(torch.as_tensor(sg - exact).norm() / exact.norm())

        return {
            "deterministic, no reset": distance(torch.as_tensor(self.sg.free), self.free.exact),
            "deterministic, detached reset": distance(torch.as_tensor(self.sg.reset), self.reset.exact),
            "deterministic, through the reset": distance(torch.as_tensor(self.sg.through), self.reset.exact),
            "stochastic, detached reset": distance(self.reset.direct, self.reset.exact),
            "stochastic, through the reset": distance(self.drawn_through.mean, self.reset.exact),
        }


def lif_study(lif: sn.DrivenLIF, w: Tensor, *, nb_samples: int, seed: int = 0, keep: Keep = compute_now) -> LIFCurves:
    """Expected spikes of a LIF neuron with escape noise against every SG, step by step.

    Args:
        lif: the neuron, with reset.
        w: (n,) weights.
        nb_samples: spike trains drawn for the estimates.
        seed: of the draws.
        keep: keeps the pieces of the study.

    Raises:
        UserError: for a reset other than multiplicative.
    """
    free = replace(lif, reset=False)
    through = replace(lif, neuron=replace(lif.neuron, diff_reset=True))
    generator = torch.Generator().manual_seed(seed)
    drawn, drawn_sg = keep("drawn", lambda: sn.monte_carlo(lif, w, nb_samples, generator), generator)
    _, drawn_through = keep("drawn through", lambda: sn.monte_carlo(through, w, nb_samples, generator), generator)

    def membrane(neuron: sn.DrivenLIF) -> Array:
        return neuron.membrane(w, lambda t, u: (u > 1).to(u.dtype), 1)[0][:, 0].numpy()

    return LIFCurves(
        time=np.arange(len(lif.inputs), dtype=np.float64) * lif.dt,
        inputs=lif.inputs.numpy(),
        free=keep("free", lambda: sn.gain_derivatives(free, w)),
        reset=keep("reset", lambda: sn.gain_derivatives(lif, w)),
        sg=SurrogateGradients(
            *(sn.deterministic_surrogate_gradient(neuron, w)[1].numpy() for neuron in (free, lif, through))
        ),
        drawn=drawn,
        drawn_sg=drawn_sg,
        drawn_through=drawn_through,
        membrane=membrane(free),
        membrane_reset=membrane(lif),
    )
