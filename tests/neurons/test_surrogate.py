"""Each surrogate is the derivative of its primitive, finite everywhere, and keeps its dtype."""

import math

import pytest
import torch

from surgrad.errors import UserError
from surgrad.neurons.surrogate import (
    ArcTan,
    AsymptoticSuperSpike,
    Esser,
    Exponential,
    MultilayerSpiker,
    ScaledSigmoidPrime,
    SigmoidPrime,
    Slayer,
    SuperSpike,
    TrueGradient,
)

BETAS = [0.5, 10.0, 100.0]


def esser_primitive(x, beta):
    inside = x.clamp(-1 / beta, 1 / beta)
    return inside - beta * inside * inside.abs() / 2


PRIMITIVES = {
    SuperSpike: lambda x, beta: x / (1 + beta * x.abs()),
    AsymptoticSuperSpike: lambda x, beta: beta * x / (1 + beta * x.abs()),
    SigmoidPrime: lambda x, beta: 1 / (1 + torch.exp(-beta * x)),
    ScaledSigmoidPrime: lambda x, beta: 1 / (1 + torch.exp(-beta * x)) / beta,
    Esser: esser_primitive,
    ArcTan: lambda x, alpha: torch.atan(math.pi / 2 * alpha * x) / math.pi,
    Slayer: lambda x, alpha: 0.4 / 2 * x.sign() * (1 - torch.exp(-alpha * x.abs())),
}


def grid(width, kinks=(0.0,), nb=400):
    """Points in (-width, width), none closer to a kink than a finite difference reaches."""
    x = torch.linspace(-width, width, nb, dtype=torch.float64)
    return x[torch.stack([(x - k).abs() > 1e-4 * width for k in kinks]).all(0)]


def finite_difference(primitive, x, step):
    return (primitive(x + step) - primitive(x - step)) / (2 * step)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("surrogate", PRIMITIVES)
def test_surrogate_is_the_derivative_of_its_primitive(surrogate, beta):
    x = grid(3 / beta, kinks=(0.0, 1 / beta, -1 / beta))
    expected = finite_difference(lambda x: PRIMITIVES[surrogate](x, beta), x, 1e-6 / beta)
    torch.testing.assert_close(surrogate(beta)(x, (x > 0).double()), expected, rtol=1e-6, atol=1e-7 * beta)


@pytest.mark.parametrize(("p0", "delta_u"), [(2 / 3, 0.133), (0.01, 1.0), (1.0, 0.013)])
def test_exponential_is_the_derivative_of_the_saturating_probability(p0, delta_u):
    x = grid(5 * delta_u, kinks=(-delta_u * math.log(p0),))
    expected = finite_difference(lambda x: (p0 * torch.exp(x / delta_u)).clamp(max=1), x, 1e-6 * delta_u)
    torch.testing.assert_close(Exponential(p0, delta_u)(x, x > 0), expected, rtol=1e-6, atol=1e-7 / delta_u)


ALL = [cls(beta) for cls in PRIMITIVES for beta in (0.1, 10.0, 1e3)]
ALL += [Exponential(2 / 3, 0.133), Exponential(2 / 3, 1e-3), MultilayerSpiker(), TrueGradient()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("surrogate", ALL, ids=str)
def test_finite_non_negative_and_of_the_same_dtype(surrogate, dtype):
    x = torch.linspace(-1e3, 1e3, 4001, dtype=dtype)
    x = torch.cat([x, torch.logspace(-30, 3, 200, dtype=dtype), -torch.logspace(-30, 3, 200, dtype=dtype)])
    h = surrogate(x, (x > 0).to(dtype))
    assert h.dtype == dtype
    assert h.shape == x.shape
    assert h.isfinite().all()
    assert (h >= 0).all()


@pytest.mark.parametrize(
    ("surrogate", "peak"),
    [
        (SuperSpike(7.0), 1),
        (AsymptoticSuperSpike(7.0), 7),
        (SigmoidPrime(8.0), 2),
        (ScaledSigmoidPrime(8.0), 0.25),
        (Esser(3.0), 1),
        (ArcTan(6.0), 3),
        (Slayer(5.0, 0.8), 2),
    ],
)
def test_peak_at_threshold_and_symmetry(surrogate, peak):
    x = torch.linspace(0, 4, 100, dtype=torch.float64)
    h = surrogate(x, x)
    assert float(h[0]) == pytest.approx(peak)
    assert (h.diff() <= 0).all()
    torch.testing.assert_close(surrogate(-x, x), h)


def test_multilayer_spiker_is_the_spike():
    s = torch.tensor([0.0, 1.0, 1.0])
    assert torch.equal(MultilayerSpiker()(torch.tensor([-1.0, 2.0, -3.0]), s), s)


@pytest.mark.parametrize("make", [lambda v: SuperSpike(v), lambda v: Esser(v), lambda v: Exponential(0.5, v)])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_slopes_must_be_positive(make, value):
    with pytest.raises(UserError, match="must be positive"):
        make(value)


@pytest.mark.parametrize("h", [SigmoidPrime(8.0), ScaledSigmoidPrime(8.0)], ids=["full", "scaled"])
def test_the_tails_of_the_sigmoid_are_even_and_exact_to_rounding(h):
    """1 - sigma(x) would lose all digits where sigma(x) rounds to 1."""
    x = torch.linspace(0.1, 9.0, 50)
    none = torch.zeros(())
    exact = h(x.double(), none)
    for side in (x, -x):
        assert ((h(side, none) - exact) / exact).abs().max() < 1e-4
