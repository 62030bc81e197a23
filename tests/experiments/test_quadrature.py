"""Adaptive Gauss-Kronrod: exactness, jumps, running integral, error estimate."""

import numpy as np
import pytest
from scipy.special import expit

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.quadrature import NODES, WEIGHTS, integrate, periodic_rule, trapezoid_running


def test_kronrod_rule_is_exact_to_degree_22_and_no_further():
    for degree in range(24):
        exact = 2 / (degree + 1) if degree % 2 == 0 else 0.0
        assert WEIGHTS @ NODES**degree == pytest.approx(exact, abs=1e-14)
    assert abs(WEIGHTS @ NODES**24 - 2 / 25) > 1e-10


def test_integrals_running_integrals_and_errors_of_smooth_and_jumping_functions():
    def f(x):
        return np.stack([np.sin(x), np.sign(x - np.pi / 3), expit(1e5 * (x - 2))], 1)

    result = integrate(f, np.linspace(0, 6, 7), tolerance=1e-10)
    exact = np.array([1 - np.cos(6), 6 - 2 * np.pi / 3, 4.0])
    assert np.all(np.abs(result.value - exact) <= np.maximum(result.error, 1e-13))
    assert result.error.max() < 1e-10
    np.testing.assert_allclose(result.running[:, 0], 1 - np.cos(result.position), atol=1e-11)
    np.testing.assert_allclose(result.running[:, 1], np.abs(result.position - np.pi / 3) - np.pi / 3, atol=1e-9)
    assert result.peak_to_peak[0] == pytest.approx(2.0, abs=1e-4)


def test_unreached_tolerance_is_an_error_and_not_a_number():
    with pytest.raises(UserError, match="did not reach"):
        integrate(lambda x: np.sin(1e6 * x), np.array([0.0, 1.0]), tolerance=1e-12, max_evaluations=1000)


@pytest.mark.parametrize("edges", [[0.0], [1.0, 0.0], [0.0, 0.0], [0.0, np.nan]])
def test_edges_must_increase(edges):
    with pytest.raises(UserError, match="increasing"):
        integrate(np.sin, np.array(edges))


def test_tolerance_and_point_count_must_be_positive():
    with pytest.raises(UserError, match="tolerance=0"):
        integrate(np.sin, np.array([0.0, 1.0]), tolerance=0)
    with pytest.raises(UserError, match="nb_points=0"):
        periodic_rule(np.sin, 1.0, 0)


def test_periodic_rule_is_spectral_on_smooth_and_first_order_on_jumping_functions():
    smooth = periodic_rule(lambda t: np.exp(np.cos(t)), 2 * np.pi, 24)
    assert smooth[0] == pytest.approx(2 * np.pi * np.i0(1.0), abs=1e-13)

    def error(n):
        return abs(periodic_rule(lambda t: (t > 1.0).astype(float), 2 * np.pi, n)[0] - (2 * np.pi - 1))

    assert np.mean([error(n) for n in range(2000, 2050)]) < np.mean([error(n) for n in range(200, 250)]) / 5


def test_trapezoid_running_starts_at_zero_and_is_exact_for_lines():
    x = np.linspace(0, 2, 11)
    np.testing.assert_allclose(trapezoid_running(x[:, None] * [1.0, 2.0], x), x[:, None] ** 2 * [0.5, 1.0], atol=1e-14)
