"""Sigmoid networks: the SG field, its loop integrals and its curl, against published numbers and Stokes' theorem."""

import numpy as np
import pytest
import torch

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.quadrature import periodic_rule
from surgrad.experiments.sigmoid_network.sigmoid import (
    Circle,
    Plane,
    SigmoidNet,
    crossings,
    curl,
    curl_in_disc,
    loop_integral,
    random_plane,
    work,
)

X = torch.ones(1, dtype=torch.float64)
BETAS_SG = (1.0, 5.0, 20.0)
CIRCLE = Circle(random_plane(5))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_five_weight_net_is_its_equations():
    w, v1, v2, u1, u2 = weights = torch.tensor([0.7, -0.4, 1.2, 0.3, -0.9], dtype=torch.float64)

    def s(z):
        return torch.sigmoid(3.0 * z)

    g = s(w * 1.0)
    y = s(u1 * s(v1 * g) + u2 * s(v2 * g))
    assert SigmoidNet(3.0).output(weights, X).item() == pytest.approx(y.item(), abs=1e-15)


def jacobian_of(net, weights, x, beta_sg):
    """J_ij = d SG_i / d W_j, (P, n, n) for weights (P, n): symmetric where the SG is the gradient of some function."""
    return torch.func.vmap(torch.func.jacrev(lambda w: net.surrogate_gradient(w, x, beta_sg)))(weights)


@pytest.mark.parametrize("sizes", [(1, 1, 2, 1), (3, 4, 2, 1), (2, 1), (1, 2, 3, 2, 1)])
def test_sg_at_the_forward_slope_is_the_gradient(sizes):
    net = SigmoidNet(2.0, sizes)
    weights = torch.randn(6, net.nb_weights, generator=generator(), dtype=torch.float64).requires_grad_()
    x = torch.randn(sizes[0], generator=generator(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(net.output(weights, x).sum(), weights)
    torch.testing.assert_close(net.surrogate_gradient(weights, x, 2.0), gradient, rtol=1e-12, atol=1e-15)
    jacobian = jacobian_of(net, weights.detach(), x, 2.0)
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=0, atol=1e-13)


def test_published_loop_integrals_and_peak_to_peak():
    loop = loop_integral(SigmoidNet(1e4), CIRCLE, X, BETAS_SG)
    np.testing.assert_allclose(loop.value, [-0.04248, 0.36911, 1.81760], atol=1e-5)
    np.testing.assert_allclose(loop.peak_to_peak, [0.4037, 0.9241, 1.9034], atol=1e-4)
    assert loop.error.max() < 1e-10


@pytest.mark.parametrize("beta", [*BETAS_SG, 1e4])
def test_loop_integral_of_the_true_gradient_vanishes(beta):
    loop = loop_integral(SigmoidNet(beta), CIRCLE, X, (beta,))
    assert abs(loop.value[0]) < 1e-12
    output = SigmoidNet(beta).output(CIRCLE.weights(loop.position), X).numpy()
    start = SigmoidNet(beta).output(CIRCLE.weights(np.zeros(1)), X).numpy()
    np.testing.assert_allclose(loop.running[:, 0], output - start, atol=1e-9)


def test_published_1500_point_value_is_a_discretisation_error():
    integrand = work(SigmoidNet(1e4), CIRCLE, X, (20.0,))
    assert periodic_rule(integrand, 2 * np.pi, 1500)[0] == pytest.approx(1.494, abs=1e-3)
    assert periodic_rule(integrand, 2 * np.pi, 1_500_000)[0] == pytest.approx(1.8176, abs=1e-3)


def test_reversing_the_loop_reverses_its_integral():
    net = SigmoidNet(50.0)
    there = loop_integral(net, Circle(random_plane(5, rows=(1, 0))), X, BETAS_SG).value
    back = loop_integral(net, Circle(random_plane(5, rows=(0, 1))), X, BETAS_SG).value
    np.testing.assert_allclose(there, -back, atol=1e-10)


def test_curl_is_the_antisymmetric_part_of_the_jacobian():
    net, plane = SigmoidNet(4.0, (2, 3, 1)), random_plane(9, seed=3)
    weights = torch.randn(7, 9, generator=generator(), dtype=torch.float64)
    x = torch.tensor([1.0, -0.5], dtype=torch.float64)
    j = jacobian_of(net, weights, x, 1.5).numpy()
    expected = np.einsum("i,pij,j->p", plane.second, j, plane.first) - np.einsum(
        "i,pij,j->p", plane.first, j, plane.second
    )
    np.testing.assert_allclose(curl(net, weights, x, 1.5, plane).numpy(), expected, atol=1e-14)
    assert np.abs(expected).max() > 1e-3
    assert curl(net, weights, x, 4.0, plane).abs().max() < 1e-13


@pytest.mark.parametrize("center", [None, np.array([0.3, -0.2, 0.5, 0.1, 0.4])])
def test_stokes_the_curl_within_the_loop_is_the_loop_integral(center):
    net, circle = SigmoidNet(3.0), Circle(random_plane(5), 1.2, center)
    inside, error = curl_in_disc(net, circle, X, (1.0, 5.0), nb_radii=16, tolerance=1e-9)
    around = loop_integral(net, circle, X, (1.0, 5.0)).value
    np.testing.assert_allclose(inside, around, atol=1e-7)
    assert error.max() < 1e-5
    assert np.abs(around).min() > 1e-4


def test_crossings_are_where_a_unit_changes_sign():
    net = SigmoidNet(1e4)
    angles = crossings(net, CIRCLE, X)
    w = CIRCLE.weights(angles)[:, :3].abs().numpy()  # signs of w, v1 and v2 decide g, h1 and h2
    assert (w < 1e-12).any(0).all()
    assert np.all(np.diff(angles) > 0)


def test_any_depth_and_width():
    net = SigmoidNet(1e4, (2, 3, 3, 1))
    circle = Circle(random_plane(net.nb_weights, seed=1), 1.0)
    x = torch.tensor([1.0, -0.5], dtype=torch.float64)
    loop = loop_integral(net, circle, x, (5.0, 1e4), tolerance=1e-8)
    assert abs(loop.value[1]) < 1e-7
    assert abs(loop.value[0]) > 1e-3


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0, 0.0], [2.0, 0.0], "parallel"),
        ([1.0, 0.0], [1.0, 1.0], "not orthogonal"),
        ([0.0, 0.0], [1.0, 1.0], "length zero"),
        ([1.0, 0.0], [1.0, 1.0, 0.0], "shape"),
    ],
)
def test_bad_directions(first, second, message):
    with pytest.raises(UserError, match=message):
        Plane(np.array(first), np.array(second))


def test_bad_networks_and_loops():
    with pytest.raises(UserError, match="beta=0"):
        SigmoidNet(0.0)
    with pytest.raises(UserError, match=r"beta_sg=-1"):
        SigmoidNet(1.0).surrogate_gradient(torch.ones(5, dtype=torch.float64), X, -1.0)
    with pytest.raises(UserError, match="has 5 weights, not 4"):
        SigmoidNet(1.0).output(torch.ones(4, dtype=torch.float64), X)
    with pytest.raises(UserError, match="takes 1 inputs, not 2"):
        SigmoidNet(1.0).output(torch.ones(5, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    with pytest.raises(UserError, match="sizes"):
        SigmoidNet(1.0, (1, 2))
    with pytest.raises(UserError, match="radius=-1"):
        Circle(random_plane(5), -1.0)
    with pytest.raises(UserError, match="rows"):
        random_plane(5, rows=(0, 5))
    with pytest.raises(UserError, match="4 dimensions, the network has 5"):
        loop_integral(SigmoidNet(1.0), Circle(random_plane(4)), X, (1.0,))
