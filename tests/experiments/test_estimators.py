"""Gradient estimators on Bernoulli stacks against exact enumeration."""

from functools import partial

import pytest
import torch

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network import estimators as es
from surgrad.experiments.sigmoid_network.enumeration import (
    cosine,
    exact_gradient,
    expected_backpropagation,
    expected_finite_difference,
    expected_value,
    quality,
    states,
)

READOUT = torch.tensor([1.0, -0.7], dtype=torch.float64)
FACTORS = {
    "sg": es.sigmoid_factor,
    "smoothed_right": es.right_factor,
    "smoothed_left": es.left_factor,
    "straight_through": es.identity_factor,
}
UNBIASED = [name for name, method in es.ESTIMATORS.items() if method.unbiased]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def total(s):
    return s.sum(-1)


def nonlinear(s):
    return (s @ READOUT - 0.3) ** 2


def stack(sizes=(3, 3, 4, 2), beta=2.0, seed=1):
    x = torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64)[: sizes[0]]
    return es.random_stack(sizes, beta=beta, gain=1.5, generator=generator(seed)), x


@pytest.mark.parametrize(
    ("v", "exact", "sg"), [(0.6, 0.04485, 0.13281), (1.2, 2.20188, 1.57558), (2.0, 2.49977, 0.00227)]
)
def test_two_neuron_chain(v, exact, sg):
    net, x = es.chain(v)
    assert exact_gradient(net, x, total)[1].item() == pytest.approx(exact, abs=1e-5)
    assert expected_backpropagation(net, x, total, es.sigmoid_factor)[1].item() == pytest.approx(sg, abs=1e-5)


def test_enumeration_equals_the_sum_over_all_joint_patterns():
    net, x = stack((2, 2, 3, 2))
    value = 0.0
    for joint in states(7):
        before, probability = x, 1.0
        for layer, s in enumerate(joint.split([2, 3, 2])):
            p = torch.sigmoid(net.beta * (net.weights[layer] @ before + net.biases[layer]))
            probability *= torch.where(s > 0, p, 1 - p).prod().item()
            before = s
        value += probability * nonlinear(before).item()
    assert expected_value(net, x, nonlinear).item() == pytest.approx(value, abs=1e-14)


def test_exact_gradient_is_the_finite_difference_of_the_expectation():
    net, x = stack()
    exact, theta, h = exact_gradient(net, x, nonlinear), net.parameters(), 1e-6
    for k in (0, 4, len(theta) - 1):
        step = torch.zeros_like(theta)
        step[k] = h
        up, down = (expected_value(net.with_parameters(theta + sign * step), x, nonlinear) for sign in (1, -1))
        assert exact[k].item() == pytest.approx(((up - down) / (2 * h)).item(), abs=1e-8)


@pytest.mark.parametrize("name", FACTORS)
def test_every_backpropagating_estimator_is_exact_for_one_layer_but_straight_through(name):
    net, x = stack((3, 2))
    bias = expected_backpropagation(net, x, total, FACTORS[name]) - exact_gradient(net, x, total)
    assert (bias.abs().max() > 0.1) == (name == "straight_through")
    assert name == "straight_through" or bias.abs().max() < 1e-14


def test_surrogate_gradient_is_the_mean_of_right_and_left_smoothing():
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    p = torch.sigmoid(3.0 * z)
    for s in (torch.zeros_like(z), torch.ones_like(z)):
        # Arya et al. 2022: (1 - p) right + p left = dp/dz for either outcome
        mixed = (1 - p) * es.right_factor(z, s, 3.0) + p * es.left_factor(z, s, 3.0)
        torch.testing.assert_close(mixed, es.sigmoid_factor(z, s, 3.0))


@pytest.mark.parametrize("name", FACTORS)
def test_monte_carlo_agrees_with_the_exact_expectation_of_biased_estimators(name):
    net, x = stack()
    drawn = es.ESTIMATORS[name].estimate(net, x, nonlinear, 20_000, generator(5))
    expected = expected_backpropagation(net, x, nonlinear, FACTORS[name])
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - expected).abs() <= 4.5 * error + 1e-12).all()


@pytest.mark.parametrize("name", UNBIASED)
def test_intervals_of_unbiased_estimators_cover_the_exact_gradient(name):
    net, x = stack()
    exact = exact_gradient(net, x, nonlinear)
    direction = exact / exact.norm()
    random, repetitions, nb_samples = generator(11), 200, 500
    covered = 0
    for _ in range(repetitions):
        along = es.ESTIMATORS[name].estimate(net, x, nonlinear, nb_samples, random) @ direction
        covered += abs(along.mean() - exact @ direction) <= 1.96 * along.std() / nb_samples**0.5
    # 0.95 of 200 is 190 +- 3.1; 179..198 is where a binomial count lies with probability 0.999
    assert 179 <= covered <= 198


def test_intervals_of_the_surrogate_gradient_do_not_cover_it():
    net, x = stack()
    exact = exact_gradient(net, x, nonlinear)
    along = es.surrogate_gradient(net, x, nonlinear, 20_000, generator(2)) @ exact / exact.norm()
    assert abs(along.mean() - exact.norm()) > 10 * along.std() / len(along) ** 0.5


def test_finite_difference_bias_falls_with_the_square_of_the_step():
    net, x = stack((2, 2, 2))
    exact = exact_gradient(net, x, nonlinear)

    def bias(step):
        return (expected_finite_difference(net, x, nonlinear, step) - exact).norm()

    assert bias(0.2) / bias(0.1) == pytest.approx(4, rel=0.1)
    drawn = es.finite_difference(net, x, nonlinear, 40_000, generator(3), step=0.1)
    found = quality(drawn, exact)
    assert found.bias < 4 * found.bias_error + (bias(0.1) / exact.norm()).item()


def test_coupling_and_baselines_reduce_variance():
    net, x = stack((3, 4, 4, 2))

    def shifted(s):
        return nonlinear(s) + 3.0

    exact = exact_gradient(net, x, shifted)
    std = {
        name: quality(es.ESTIMATORS[name].estimate(net, x, shifted, 4000, generator(4)), exact).std for name in UNBIASED
    }
    assert std["stochastic_ad_both"] < std["stochastic_ad"] < std["stochastic_ad_pruned"]
    assert std["score_loo"] < std["score"] / 2
    assert std["score_running"] < std["score"] / 2


@pytest.mark.parametrize("factor", [es.right_factor, es.left_factor, es.sigmoid_factor])
def test_pruning_keeps_the_mean_for_every_side(factor):
    net, x = stack()
    exact = exact_gradient(net, x, nonlinear)
    drawn = partial(es.stochastic_ad, factor=factor, pruned=True)(net, x, nonlinear, 40_000, generator(6))
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - exact).abs() <= 4.5 * error + 1e-12).all()


def test_same_seed_same_estimate():
    net, x = stack()
    for method in es.ESTIMATORS.values():
        first, second = (method.estimate(net, x, nonlinear, 16, generator(8)) for _ in range(2))
        assert torch.equal(first, second)
        assert first.shape == (16, net.nb_parameters)


def test_baselines():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert es.leave_one_out(values).tolist() == [4.0, 3.5, 1.5]
    assert es.running_mean(values).tolist() == [0.0, 1.0, 1.5]


def test_cosine_of_the_exact_gradient_is_one():
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert cosine(exact.expand(6, 2), exact, 3).tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(UserError, match="averaged 7"):
        cosine(exact.expand(6, 2), exact, 7)


def test_bad_input():
    one = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(UserError, match="beta=0"):
        es.BernoulliStack((one,), beta=0.0)
    with pytest.raises(UserError, match="at least one layer"):
        es.BernoulliStack(())
    with pytest.raises(UserError, match="do not form a stack"):
        es.BernoulliStack((one, torch.ones(2, 3)))
    net, x = stack()
    with pytest.raises(UserError, match="takes 3 inputs"):
        es.surrogate_gradient(net, x[:2], total, 4, generator())
    with pytest.raises(UserError, match="parameters, not 3"):
        net.with_parameters(x)
    with pytest.raises(UserError, match="step=0"):
        es.finite_difference(net, x, total, 4, generator(), step=0)
    wide, x = stack((3, 12, 12, 2))
    with pytest.raises(UserError, match=r"at most 20; average an unbiased estimator"):
        exact_gradient(wide, x, total)
