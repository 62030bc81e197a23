"""The membrane of a LIF neuron under Poisson input, and how often it fires: what initialisation is computed from.

A presynaptic neuron j of rate nu_j with weight w_j moves the free membrane (no spikes, no reset) by w_j k(t) per spike;
eps_bar and eps_hat are the integrals of k and of k^2 (`surgrad.network.initializers.kernel_moments`).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import erfcx, zeta
from torch import Tensor

#: Random walks overshoot a barrier that they are compared with at steps only by this many deviations of one step.
OVERSHOOT = float(-zeta(0.5) / math.sqrt(2 * math.pi))  # 0.5826


class Membrane(NamedTuple):
    """Mean and standard deviation over time of each neuron's free membrane, in units of threshold."""

    mean: Tensor
    std: Tensor


def poisson_membrane(weights: Tensor, rates: Tensor, eps_bar: Tensor, eps_hat: Tensor, dt: float = 0.0) -> Membrane:
    """Mean and deviation under independent inputs (Campbell's theorem; Rossbroich et al. 2022, sec. 2):

        mu_i = eps_bar sum_j w_ij nu_j,      sigma_i^2 = eps_hat sum_j w_ij^2 nu_j (1 - nu_j dt).

    On a grid a neuron emits 0 or 1 spikes per step, so the variance of its count is less than Poisson's by 1 - nu dt.

    Args:
        weights: (units, in).
        rates: (in,) Hz.
        eps_bar: first moment of the membrane's response, s.
        eps_hat: second moment, s.
        dt: time step, s; 0 for Poisson inputs.
    """
    weights, rates = weights.double(), rates.double()
    variance = eps_hat.flatten() * (weights.square() @ (rates * (1 - rates * dt)))
    return Membrane(eps_bar.flatten() * (weights @ rates), variance.sqrt())


def crossing_rate(mean: Tensor, std: Tensor, tau_mem: float, tau_syn: float) -> Tensor:
    """Upward crossings of the threshold by the free membrane, in Hz (Rice 1944).

        nu = exp(-(1 - mu)^2 / (2 sigma^2)) / (2 pi sqrt(tau_mem tau_syn))

    It is the firing rate where spikes are rare; a reset during one excursion above threshold lets a neuron fire again.

    Args:
        mean: of the free membrane, in units of threshold.
        std: its deviation.
        tau_mem: s.
        tau_syn: s.
    """
    return torch.exp(-((1 - mean) ** 2) / (2 * std**2)) / (2 * math.pi * math.sqrt(tau_mem * tau_syn))


def white_noise_rate(mean: float, std: float, tau_mem: float, threshold: float = 1.0, refractory: float = 0.0) -> float:
    """Firing rate in Hz of a LIF neuron with instantaneous synapses in continuous time (Siegert 1951).

        1 / nu = t_ref + tau_mem sqrt(pi) int_a^b exp(x^2) (1 + erf x) dx,
        a = -mu / (sqrt(2) sigma),      b = (threshold - mu) / (sqrt(2) sigma)

    Args:
        mean: of the free membrane, in units of threshold.
        std: its deviation.
        tau_mem: s.
        threshold: firing threshold, 1 unless it stands for a coarse grid (`effective_threshold`).
        refractory: dead time after a spike, s.
    """
    low, high = -mean / (math.sqrt(2) * std), (threshold - mean) / (math.sqrt(2) * std)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = (high - low) / 2 * nodes + (high + low) / 2
    integral = (high - low) / 2 * float(weights @ erfcx(-x))
    return 1 / (refractory + tau_mem * math.sqrt(math.pi) * integral)


def effective_threshold(std: float, tau_mem: float, dt: float) -> float:
    """1 + 0.5826 sigma_dt: with this threshold a neuron in continuous time fires as one on a grid of dt does with 1.

    sigma_dt = sigma_U sqrt(1 - b^2) is the deviation of one step's noise. Crossings between two steps are missed, which
    for random walks is the same as a barrier further away (Siegmund 1979).

    Args:
        std: deviation of the free membrane.
        tau_mem: s.
        dt: time step, s.
    """
    return 1 + OVERSHOOT * std * math.sqrt(-math.expm1(-2 * dt / tau_mem))


def compensating_gain(std: float, tau_mem: float, dt: float) -> float:
    """1 / (1 - 0.5826 sigma_dt): with weights so scaled a neuron on a grid fires as it would in continuous time.

    Raises:
        ValueError: where the steps are so coarse that no factor does.
    """
    missed = effective_threshold(std, tau_mem, dt) - 1
    if missed >= 1:
        raise ValueError(f"steps of dt={dt} s are too coarse for fluctuations of {std}: no weights make up for them")
    return 1 / (1 - missed)
