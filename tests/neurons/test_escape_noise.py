"""Escape noise: E[spike] is the escape probability, and the random threshold is its inverse."""

import pytest
import torch

from surgrad.kernels import reference
from surgrad.kernels.philox import NoiseKey, uniform
from surgrad.neurons import surrogate
from surgrad.neurons.escape_noise import Exponential, Sigmoid, Step
from surgrad.neurons.lif import LIF, spike

NOISES = [Sigmoid(1.0), Sigmoid(10.0), Sigmoid(100.0), Exponential(2 / 3, 0.133), Exponential(0.05, 1.0)]
SMALLEST, LARGEST = 0.5 * 2.0**-23, 1 - 0.5 * 2.0**-23  # of the numbers that Philox gives


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_threshold_is_the_inverse_of_the_probability(noise):
    r = torch.linspace(1e-6, 1 - 1e-6, 2001, dtype=torch.float64)
    torch.testing.assert_close(noise.probability(noise.threshold(r)), r, rtol=1e-9, atol=0)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_random_threshold_and_comparison_with_the_probability_agree(noise):
    """x > threshold(r) if and only if r < p(x): the two forms of one draw."""
    generator = torch.Generator().manual_seed(0)
    r = torch.rand(20_000, dtype=torch.float64, generator=generator)
    x = 2 * torch.randn(20_000, dtype=torch.float64, generator=generator)
    assert torch.equal(x > noise.threshold(r), r < noise.probability(x))


@pytest.mark.parametrize("noise", NOISES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_and_thresholds_are_finite_and_keep_their_dtype(noise, dtype):
    x = torch.linspace(-1e3, 1e3, 2001, dtype=dtype)
    p = noise.probability(x)
    threshold = noise.threshold(torch.tensor([SMALLEST, 0.5, LARGEST], dtype=dtype))
    assert p.dtype == threshold.dtype == dtype
    assert ((p >= 0) & (p <= 1)).all()
    assert (p.diff() >= 0).all()
    assert threshold.isfinite().all()
    assert (threshold.diff() > 0).all()


@pytest.mark.parametrize(
    ("noise", "derivative"),
    [(Sigmoid(7.0), surrogate.SigmoidPrime(7.0)), (Exponential(0.4, 0.2), surrogate.Exponential(0.4, 0.2))],
)
def test_surrogate_of_the_same_name_is_the_slope_of_the_probability(noise, derivative):
    """dE[s]/du, the one case in which a surrogate derivative is exact (Gygax & Zenke 2025)."""
    x = torch.linspace(-1, 0.15, 200, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(noise.probability(x).sum(), x)
    torch.testing.assert_close(derivative(x.detach(), x.detach()), slope)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_expected_spike_is_the_probability(noise):
    """Within 4.5 standard deviations of a binomial, for membranes from far below to far above threshold."""
    nb_draws, neuron = 20_000, LIF(escape_noise=noise)
    u = torch.linspace(0.2, 1.6, 29)
    r = uniform(NoiseKey(seed=3), 0, torch.arange(nb_draws), (len(u),))
    count = spike(u.expand(nb_draws, -1), neuron, r).double().sum(0)
    p = noise.probability(u.double() - 1)
    assert ((count - nb_draws * p).abs() <= 4.5 * (nb_draws * p * (1 - p)).sqrt() + 1e-9).all()


def test_step_is_the_heaviside_function_that_is_zero_at_zero():
    x = torch.tensor([-1.0, 0.0, 1e-30, 1.0])
    assert Step().probability(x).tolist() == [0, 0, 1, 1]
    assert spike(1 + torch.tensor([0.0, 1e-6]), LIF()).tolist() == [0, 1]


def test_steep_escape_noise_becomes_deterministic():
    current = torch.rand(80, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = torch.tensor([0.8, 0.9], dtype=torch.float64)
    deterministic = reference.lif(current, a, b, LIF())[0]
    noise = {"noise": NoiseKey(1), "ids": torch.arange(4)}
    steep = reference.lif(current, a, b, LIF(escape_noise=Sigmoid(1e9)), **noise)[0]
    gentle = reference.lif(current, a, b, LIF(escape_noise=Sigmoid(5.0)), **noise)[0]
    assert deterministic.sum() > 10
    assert torch.equal(steep, deterministic)
    assert not torch.equal(gentle, deterministic)


def test_one_neuron_reaches_the_derivative_of_its_expectation():
    """Mean surrogate gradient of sigmoidal noise = finite difference of E[s], over all neurons of a population."""
    noise, n = Sigmoid(10.0), 40_000
    membrane = torch.full((1, n), 0.95, dtype=torch.float64, requires_grad=True)
    r = uniform(NoiseKey(4), 0, torch.arange(1), (n,), torch.float64)
    neuron = LIF(surrogate.SigmoidPrime(10.0), noise)
    spike(membrane, neuron, r).mean().backward()
    step = 1e-6
    u = torch.tensor(0.95, dtype=torch.float64)
    exact = (noise.probability(u - 1 + step) - noise.probability(u - 1 - step)) / (2 * step)
    assert float(membrane.grad.sum()) == pytest.approx(float(exact), rel=1e-8)
