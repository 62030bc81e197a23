"""One stochastic neuron: the SG is the derivative of the expected output, until a reset gives it a history."""

import pytest
import torch

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network import single_neuron as sn
from surgrad.experiments.sigmoid_network.enumeration import states
from surgrad.neurons.escape_noise import Exponential, Sigmoid
from surgrad.neurons.lif import LIF
from surgrad.neurons.surrogate import Exponential as ExponentialSurrogate
from surgrad.neurons.surrogate import SigmoidPrime

ESCAPES = {"sigmoid": Sigmoid(10.0).probability, "exponential": Exponential().probability, "callable": sn.Gaussian(0.2)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def driven(p, nb_steps=10, *, reset=True, neuron=None, seed=1):
    inputs = sn.poisson_inputs(nb_steps, 20, 60.0, 2e-3, generator(seed))
    return sn.DrivenLIF(inputs, p, neuron=neuron or LIF(), reset=reset, dt=2e-3)


def weights(nb=20, seed=2, scale=0.8):
    return torch.rand(nb, generator=generator(seed), dtype=torch.float64) * scale


def by_enumeration(lif, w):
    """E[S[t]] (T,) summed over all 2^T spike histories, differentiable in w (n,); any reset."""
    history = states(len(lif.inputs), w.dtype).T
    u, _ = lif.membrane(w, lambda t, _: history[t], history.shape[1])
    probability = lif.p(u - 1)
    return history @ torch.where(history > 0, probability, 1 - probability).prod(0)


def along(expected, w):
    one = torch.ones((), dtype=w.dtype)
    return torch.func.jvp(lambda gain: expected(gain * w), (one,), (one,))[1]


def test_surrogates_of_the_library_are_the_derivatives_of_its_escape_noises():
    x = torch.linspace(-2, 0.05, 101, dtype=torch.float64)
    s = torch.zeros_like(x)
    torch.testing.assert_close(sn.derivative(ESCAPES["sigmoid"], x), SigmoidPrime(10.0)(x, s))
    torch.testing.assert_close(sn.derivative(ESCAPES["exponential"], x), ExponentialSurrogate()(x, s))


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("nb_inputs", [1, 8])
def test_perceptron_sg_is_the_derivative_of_its_expected_output(escape, nb_inputs):
    p, w, rates = ESCAPES[escape], weights(nb_inputs), torch.full((nb_inputs,), 0.3, dtype=torch.float64)
    patterns, probability = sn.binary_inputs(rates)
    assert probability.sum().item() == pytest.approx(1.0)
    value, exact = sn.perceptron_exact(w, patterns, probability, p)
    sg = sn.perceptron_surrogate_gradient(w, patterns, probability, p)
    torch.testing.assert_close(sg, exact, rtol=1e-12, atol=1e-15)
    drawn, gradient = (sn.interval(draws) for draws in sn.perceptron_draws(w, rates, p, 40_000, generator(3)))
    assert abs(drawn.mean - value) < 2.5 * drawn.half_width
    assert ((gradient.mean - exact).abs() < 2.5 * gradient.half_width + 1e-9).all()


@pytest.mark.parametrize("escape", ESCAPES)
def test_lif_without_reset_sg_is_exact_at_every_step(escape):
    lif, w = driven(ESCAPES[escape], 60, reset=False), weights()
    exact = sn.gain_derivatives(lif, w)
    _, sg = sn.deterministic_surrogate_gradient(lif, w)
    torch.testing.assert_close(sg, exact.exact, rtol=1e-9, atol=1e-12)
    assert exact.history.abs().max() < 1e-12
    assert exact.exact.abs().max() > 0.1


@pytest.mark.parametrize("reset", [True, False])
def test_renewal_is_the_sum_over_all_histories(reset):
    lif, w = driven(ESCAPES["sigmoid"], reset=reset), weights()
    hazard, last_spike = sn.renewal(lif, w)
    expected = by_enumeration(lif, w)
    torch.testing.assert_close((hazard * last_spike).sum(1), expected, rtol=1e-12, atol=1e-15)
    exact = along(lambda v: by_enumeration(lif, v), w)
    torch.testing.assert_close(sn.gain_derivatives(lif, w).exact, exact, rtol=1e-10, atol=1e-13)
    assert expected.max() > 0.1


@pytest.mark.parametrize("reset", ["multiplicative_leak", "subtractive"])
def test_monte_carlo_is_the_enumeration_for_resets_with_memory(reset):
    lif, w = driven(ESCAPES["sigmoid"], 9, neuron=LIF(reset=reset)), weights()
    drawn, _ = sn.monte_carlo(lif, w, 20_000, generator(4))
    exact = by_enumeration(lif, w)
    assert ((drawn.mean - exact).abs() < 2.5 * drawn.half_width + 1e-3).all()
    with pytest.raises(UserError, match="keeps a memory"):
        sn.renewal(lif, w)


def test_with_reset_the_stochastic_sg_is_the_direct_part_and_misses_the_history():
    lif, w = driven(ESCAPES["sigmoid"], 40), weights()
    exact = sn.gain_derivatives(lif, w)
    drawn, sg = sn.monte_carlo(lif, w, 20_000, generator(5))
    assert ((drawn.mean - exact.expected).abs() < 2.5 * drawn.half_width + 1e-3).all()
    assert ((sg.mean - exact.direct).abs() < 2.5 * sg.half_width + 1e-3).all()
    assert exact.history.abs().max() > 0.1
    assert torch.equal(exact.exact, exact.direct + exact.history)


def test_gradient_through_the_reset_is_another_one():
    w = weights()
    detached, through = (
        sn.deterministic_surrogate_gradient(driven(ESCAPES["sigmoid"], 40, neuron=LIF(diff_reset=flag)), w)[1]
        for flag in (False, True)
    )
    spikes = sn.deterministic_surrogate_gradient(driven(ESCAPES["sigmoid"], 40), w)[0]
    assert spikes.sum() > 0
    assert not torch.allclose(detached, through)


def test_bad_input():
    with pytest.raises(UserError, match="too many to enumerate"):
        sn.binary_inputs(torch.full((21,), 0.5))
    with pytest.raises(UserError, match=r"lie in \[0, 1\]"):
        sn.binary_inputs(torch.tensor([1.5]))
    with pytest.raises(UserError, match="spike probability of 2"):
        sn.poisson_inputs(3, 2, 1000.0, 2e-3, generator())
    with pytest.raises(UserError, match="width=0"):
        sn.Gaussian(0.0)
    with pytest.raises(UserError, match="tau_mem=0"):
        sn.DrivenLIF(torch.zeros(3, 1), ESCAPES["sigmoid"], tau_mem=0.0)
