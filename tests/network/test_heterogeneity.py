"""Distributions of time constants have the moments they promise, training keeps their bounds, fits find them again."""

import numpy as np
import pytest
import torch
from scipy import stats

from surgrad.config.build import build
from surgrad.errors import UserError
from surgrad.experiments.dense.heterogeneity import EXPERIMENT, FITS, Gamma, LogNormal, at_bounds, log_likelihood
from surgrad.network import time_constants as heterogeneity
from surgrad.network.models import HiddenParts, dense_snn
from surgrad.network.time_constants import BOUNDS
from surgrad.neurons.lif import LIF
from surgrad.training.optimizers import build_optimizer, keep_within_bounds, parameter_groups

WIDE = (1e-6, 10.0)
MAKERS = {name: getattr(heterogeneity, name) for name in ("homogeneous", "gamma", "normal", "uniform")}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "relative_deviation"),
    [("homogeneous", 0), ("gamma", 3**-0.5), ("normal", 3**-0.5), ("uniform", 3**-0.5)],
)
def test_mean_and_deviation_are_those_of_the_distribution(name, relative_deviation):
    """All three distributions are equally wide by default; the normal one loses its negative part to the bounds."""
    n = 40_000
    tau = MAKERS[name](20e-3, n, generator(), bounds=WIDE).tau.double()
    error = 5 * relative_deviation / n**0.5 + 1e-6 + (0.01 if name == "normal" else 0)
    assert float(tau.mean()) / 20e-3 == pytest.approx(1, abs=error)
    assert float(tau.std()) / 20e-3 == pytest.approx(relative_deviation, abs=3 * error)


def test_shape_deviation_and_width_scale_the_spread():
    narrow = [
        heterogeneity.gamma(20e-3, 10_000, generator(), shape=100.0),
        heterogeneity.normal(20e-3, 10_000, generator(), deviation=0.1),
        heterogeneity.uniform(20e-3, 10_000, generator(), width=0.1 * 12**0.5),
    ]
    assert [float(constant.tau.std()) for constant in narrow] == pytest.approx([2e-3] * 3, rel=0.05)


@pytest.mark.parametrize("name", MAKERS)
def test_a_seed_gives_the_same_values_and_all_lie_within_the_bounds(name):
    first, again, other = (MAKERS[name](20e-3, 500, generator(seed)).tau for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name == "homogeneous")
    assert float(first.min()) >= BOUNDS[0] * (1 - 1e-6)
    assert float(first.max()) <= BOUNDS[1] * (1 + 1e-6)


def trainable_network(bounds=(15e-3, 25e-3)):
    """A layer of ten neurons whose time constants are trained within ``bounds``."""

    def constants(tau, nb_units):
        return heterogeneity.homogeneous(20e-3, nb_units, generator(), trainable=True, bounds=bounds)

    taus = {"tau_mem": 20e-3, "tau_syn": 20e-3, "tau_readout": 0.1}
    network = dense_snn([6, 10, 3], neuron=LIF(), dt=2e-3, **taus, hidden=HiddenParts(time_constants=constants))
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() == 2:
                weight.normal_(std=2.0, generator=generator())
    return network


def stepped(network, lr, lr_tau, nb_steps=3):
    groups = parameter_groups(network, {"lr_tau": lr_tau})
    optimizer = build_optimizer("adam", groups, lr)
    keep_within_bounds(optimizer, network)
    x = (torch.rand(30, 8, 6, generator=generator(1)) < 0.2).float()
    for _ in range(nb_steps):
        optimizer.zero_grad()
        network(x, kernel="reference").readout.square().sum().backward()
        optimizer.step()


def test_training_moves_neurons_apart_and_stops_at_the_bounds():
    network = trainable_network()
    stepped(network, lr=1e-3, lr_tau=0.1, nb_steps=1)
    tau = network.layers[0].tau_mem.tau
    assert len(tau.unique()) > 1
    stepped(network, lr=1e-3, lr_tau=0.5)
    tau = torch.cat([network.layers[0].tau_mem.tau, network.layers[0].tau_syn.tau]).detach()
    assert float(tau.min()) >= 15e-3 * (1 - 1e-6)
    assert float(tau.max()) <= 25e-3 * (1 + 1e-6)
    assert at_bounds(tau.numpy(), (15e-3, 25e-3)) > 0.5


def test_time_constants_take_their_own_learning_rate():
    network = trainable_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stepped(network, lr=1e-12, lr_tau=0.01, nb_steps=1)
    moved = {name: float((value - before[name]).abs().max()) for name, value in network.state_dict().items()}
    taus = {"layers.0.tau_mem.log_tau", "layers.0.tau_syn.log_tau"}
    assert {name for name, by in moved.items() if by > 1e-6} == taus
    assert moved["layers.0.tau_mem.log_tau"] == pytest.approx(0.01, rel=1e-3)  # the first step of Adam: a relative one


def test_without_trained_time_constants_there_is_one_group_of_all_parameters():
    network = dense_snn([6, 10, 3], neuron=LIF(), dt=2e-3, tau_mem=20e-3, tau_syn=20e-3, tau_readout=0.1)
    (group,) = parameter_groups(network, {"lr_tau": 0.1})
    assert len(group["params"]) == len(list(network.parameters()))
    assert "lr" not in group


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("homogeneous", {"tau": 0.2}, "0.2 s lies outside its bounds of 0.002 to 0.1 s"),
        ("gamma", {"tau": 1e-3}, "0.001 s lies outside"),
        ("normal", {"tau": -1.0}, "-1 s lies outside"),
        ("gamma", {"shape": 0.0}, "shape=0.0"),
        ("normal", {"deviation": float("inf")}, "deviation=inf"),
        ("uniform", {"width": 2.5}, "0 < width <= 2"),
        ("uniform", {"bounds": [0.1, 0.01]}, "0 < low < high"),
        ("uniform", {"bounds": [0.01]}, "two values"),
    ],
)
def test_time_constants_out_of_range_are_refused(name, options, says):
    options = {"tau": 20e-3, "nb_units": 4, "generator": generator()} | options
    with pytest.raises(UserError, match=says):
        MAKERS[name](**options)


def test_a_node_of_a_configuration_makes_them():
    node = {"_target_": "surgrad.heterogeneity.gamma", "_partial_": True, "shape": 3, "trainable": True}
    constant = build(node, at="time_constants")(10e-3, 128, generator())
    assert constant.log_tau.shape == (128,)
    assert constant.log_tau.requires_grad


@pytest.mark.parametrize("truth", EXPERIMENT.values(), ids=EXPERIMENT)
def test_fits_find_the_distribution_again_and_agree_with_scipy(truth):
    rng = np.random.default_rng(0)
    if isinstance(truth, Gamma):
        tau = rng.gamma(truth.shape, truth.scale, 2333)
        fit, oracle = Gamma.fit(tau), stats.gamma.fit(tau, floc=0)
        assert (fit.shape, fit.scale) == pytest.approx((truth.shape, truth.scale), rel=0.1)
        assert (fit.shape, fit.scale) == pytest.approx((oracle[0], oracle[2]), rel=1e-4)
    else:
        tau = rng.lognormal(np.log(truth.median), truth.sigma, 2333)
        fit, oracle = LogNormal.fit(tau), stats.lognorm.fit(tau, floc=0)
        assert (fit.sigma, fit.median) == pytest.approx((truth.sigma, truth.median), rel=0.1)
        assert (fit.sigma, fit.median) == pytest.approx((oracle[0], oracle[2]), rel=1e-4)


@pytest.mark.parametrize("truth", EXPERIMENT.values(), ids=EXPERIMENT)
def test_densities_integrate_to_one_with_the_mean_they_name(truth):
    tau = np.linspace(1e-6, 0.5, 500_000)
    density = np.exp(truth.log_density(tau))
    assert np.trapezoid(density, tau) == pytest.approx(1, abs=1e-4)
    assert np.trapezoid(density * tau, tau) == pytest.approx(truth.mean, rel=1e-3)


def test_the_published_fits_have_the_mean_of_the_cells():
    assert EXPERIMENT["Gamma"].mean == pytest.approx(19.2e-3, abs=0.05e-3)
    assert EXPERIMENT["log-normal"].mean == pytest.approx(19.2e-3, abs=0.3e-3)


@pytest.mark.parametrize("name", FITS)
def test_the_fit_has_the_highest_likelihood_of_its_neighbours(name):
    tau = np.random.default_rng(3).weibull(1.5, 200) * 20e-3
    best = FITS[name](tau)
    for key, value in vars(best).items():
        for factor in (0.97, 1.03):
            neighbour = type(best)(**(vars(best) | {key: value * factor}))
            assert log_likelihood(neighbour, tau) < log_likelihood(best, tau)


def test_likelihoods_are_per_neuron_with_time_constants_in_ms():
    tau = np.full(4, 5e-3)
    fit = LogNormal(0.5, 5e-3)
    expected = stats.lognorm.logpdf(5.0, 0.5, scale=5.0)
    assert log_likelihood(fit, tau) == pytest.approx(expected)


@pytest.mark.parametrize("tau", [[], [5e-3], [5e-3, 5e-3], [5e-3, 0.0]])
def test_fits_refuse_what_has_no_spread(tau):
    for fit in FITS.values():
        with pytest.raises(UserError, match="two or more different positive"):
            fit(np.array(tau))
