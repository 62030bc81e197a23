"""Initialisers: moments of the response, moments of the weights, and the membrane that they lead to."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from surgrad.errors import UserError
from surgrad.kernels import reference
from surgrad.network.connections import Conv, Dense
from surgrad.network.initializers import (
    ByConnection,
    Distribution,
    FluctuationDriven,
    FluctuationDrivenCentered,
    Kaiming,
    kernel_moments,
)
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.neurons.lif import LIF

MOMENTS = json.loads((Path(__file__).parents[1] / "reference" / "lif_kernel_moments.json").read_text())
DT, TAU_MEM, TAU_SYN, NU = 2e-3, 20e-3, 10e-3, 15.8


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("case", MOMENTS, ids=lambda c: f"{c['mode']}-{c['tau_syn']}")
def test_moments_of_the_published_code(case):
    eps_bar, eps_hat = kernel_moments(case["tau_mem"], case["tau_syn"], case["dt"], case["mode"])
    assert float(eps_bar) == pytest.approx(case["eps_bar"], rel=1e-9)
    assert float(eps_hat) == pytest.approx(case["eps_hat"], rel=1e-9)


def test_numerical_moments_converge_to_the_analytical_ones_at_first_order():
    exact = kernel_moments(TAU_MEM, TAU_SYN, 1e-3, "analytical")
    errors = []
    for dt in (1e-3, 5e-4, 2.5e-4):
        errors.append([abs(float(n / e - 1)) for n, e in zip(kernel_moments(TAU_MEM, TAU_SYN, dt), exact, strict=True)])
    for coarse, fine in pairwise(errors):
        for c, f in zip(coarse, fine, strict=True):
            assert 1.8 < c / f < 2.2


def poisson(nb_steps, nb_trains, *shape, seed=0, dt=DT):
    return torch.poisson(torch.full((nb_steps, nb_trains, *shape), NU * dt), generator=seeded(seed))


def free_membrane(layer, current, dt=DT):
    """u[t] of the layer without spikes and reset, after the initial transient."""
    gain = layer.neuron.unit_gain
    u, _ = reference.readout(current, layer.tau_syn.decay(dt), layer.tau_mem.decay(dt), unit_gain=gain)
    return u[100:].detach()


def fluctuation(u):
    """Standard deviation over time, root mean square over neurons."""
    return float(u.var(0).mean().sqrt())


def dense_layer(neuron=None, tau_mem=TAU_MEM):
    return SpikingLayer(Dense(80, 250), neuron or LIF(), tau_mem, TAU_SYN, recurrent=Dense(250, 250))


@pytest.mark.parametrize("neuron", [LIF(), LIF(unit_gain=False)], ids=["unit_gain", "unscaled"])
@pytest.mark.parametrize("sigma_u", [1.0, 1.3])
def test_poisson_inputs_reach_the_target_and_alpha_shares_the_variance(neuron, sigma_u):
    layer = dense_layer(neuron)
    FluctuationDrivenCentered(sigma_u, NU, alpha=0.7, time_step=DT)(layer, seeded())
    feedforward = layer.feedforward(poisson(2500, 1, 80, seed=1))
    recurrent = layer.recurrent(poisson(2500, 1, 250, seed=2))
    assert fluctuation(free_membrane(layer, feedforward + recurrent)) == pytest.approx(sigma_u, rel=0.05)
    share = fluctuation(free_membrane(layer, feedforward)) ** 2 / sigma_u**2
    assert share == pytest.approx(0.7, rel=0.1)


@pytest.mark.parametrize(
    "connection", [Conv((4, 60), 32, 7, stride=2), Conv((3, 14, 12), 32, (5, 3), stride=(2, 1))], ids=["1d", "2d"]
)
def test_convolutions_reach_the_target(connection):
    layer = SpikingLayer(connection, LIF(), TAU_MEM, TAU_SYN)
    FluctuationDrivenCentered(1.0, NU, time_step=DT)(layer, seeded())
    with torch.no_grad():
        current = layer.feedforward(poisson(2000, 1, *connection.in_shape))
    assert fluctuation(free_membrane(layer, current)) == pytest.approx(1.0, rel=0.05)


def test_general_rule_reaches_mean_and_fluctuation():
    layer = SpikingLayer(Dense(200, 300), LIF(), TAU_MEM, TAU_SYN)
    FluctuationDriven(mu_u=0.5, xi=2.0, nu=NU, time_step=DT)(layer, seeded())
    u = free_membrane(layer, layer.feedforward(poisson(2500, 1, 200)))
    assert float(u.mean()) == pytest.approx(0.5, rel=0.05)
    assert fluctuation(u) == pytest.approx(0.25, rel=0.05)


def test_analytical_moments_miss_the_target_at_coarse_steps():
    layer = SpikingLayer(Dense(200, 300), LIF(), TAU_MEM, TAU_SYN)
    FluctuationDrivenCentered(1.0, NU, time_step=DT, epsilon_mode="analytical")(layer, seeded())
    u = free_membrane(layer, layer.feedforward(poisson(2500, 1, 200)))
    expected = (kernel_moments(TAU_MEM, TAU_SYN, DT)[1] / kernel_moments(TAU_MEM, TAU_SYN, DT, "analytical")[1]) ** 0.5
    assert fluctuation(u) == pytest.approx(float(expected), rel=0.05)


def test_each_neuron_is_scaled_by_its_own_time_constant():
    tau = torch.cat([torch.full((125,), 5e-3), torch.full((125,), 50e-3)])
    layer = dense_layer(tau_mem=TimeConstant(tau))
    FluctuationDrivenCentered(1.0, NU, alpha=1.0, time_step=DT)(layer, seeded())
    u = free_membrane(layer, layer.feedforward(poisson(4000, 1, 80)))
    assert fluctuation(u[..., :125]) == pytest.approx(1.0, rel=0.06)
    assert fluctuation(u[..., 125:]) == pytest.approx(1.0, rel=0.06)
    assert float(layer.recurrent.weight.detach().abs().max()) == 0


def make_network(dtype=torch.float32):
    layers = [
        SpikingLayer(Conv((1, 200), 8, 11, 3), LIF(), TAU_MEM, TAU_SYN, recurrent=Conv((8, 64), 8, 5, padding=2)),
        SpikingLayer(Conv((8, 64), 16, 7, 3), LIF(), TAU_MEM, TAU_SYN),
    ]
    return Network(layers, Readout(Dense((16, 20), 30), 0.2, TAU_SYN), DT).to(dtype)


def test_network_takes_its_own_step_and_a_unit_readout():
    network = make_network()
    FluctuationDrivenCentered(1.0, NU, alpha=0.9)(network, seeded())
    _, eps_hat = kernel_moments(TAU_MEM, TAU_SYN, DT)
    ff, rec = network.layers[0].feedforward, network.layers[0].recurrent
    for connection, share in ((ff, 0.9), (rec, 0.1), (network.layers[1].feedforward, 1.0)):
        target = (share / (connection.fan_in * NU * float(eps_hat))) ** 0.5
        nb = connection.weight.numel()
        assert float(connection.weight.detach().std()) == pytest.approx(target, rel=4 / (2 * nb) ** 0.5)
    readout = network.readout.feedforward
    assert float(readout.weight.detach().std()) == pytest.approx(readout.fan_in**-0.5, rel=0.05)


@pytest.mark.parametrize("initializer", [FluctuationDrivenCentered(1.0, NU), Kaiming(), Distribution("uniform")])
def test_same_seed_same_weights_in_both_precisions(initializer):
    single, double, other = make_network(), make_network(torch.float64), make_network()
    for network, seed in ((single, 3), (double, 3), (other, 4)):
        initializer(network, seeded(seed))
    for a, b, c in zip(single.parameters(), double.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-6, atol=0)
        if a.dim() > 1:
            assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("initializer", "mean", "std"),
    [
        (Kaiming(), 0, 400**-0.5),
        (Kaiming(gain=2**0.5, distribution="uniform"), 0, (2 / 400) ** 0.5),
        (Distribution("normal", 1.5, 0.78, "none"), 1.5, 0.78),
        (Distribution("uniform", 0.0, 2.0, "1/k"), 0, 2 / 400),
    ],
)
def test_moments_of_the_weights(initializer, mean, std):
    connection = Dense(400, 500)
    initializer(connection, seeded())
    w = connection.weight.detach()
    assert float(w.mean()) == pytest.approx(mean, abs=4 * std / w.numel() ** 0.5)
    assert float(w.std()) == pytest.approx(std, rel=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FluctuationDrivenCentered(-1.0, NU), "sigma_u=-1.0 must be positive"),
        (lambda: FluctuationDrivenCentered(1.0, 0.0), "nu=0.0 Hz must be positive"),
        (lambda: FluctuationDrivenCentered(1.0, NU, alpha=1.5), "alpha=1.5"),
        (lambda: FluctuationDrivenCentered(1.0, NU, epsilon_mode="exact"), "allowed: numerical, analytical"),
        (lambda: FluctuationDriven(1.2, 1.0, NU), "below the threshold"),
        (lambda: Distribution("cauchy"), "allowed: normal, uniform"),
        (lambda: Distribution(scaling="sqrt"), r"allowed: 1/sqrt\(k\), 1/k, none"),
        (lambda: FluctuationDriven(0.9, 3.0, NU)(make_network(), seeded()), "lower mu_u or xi"),
        (lambda: FluctuationDrivenCentered(1.0, NU)(dense_layer(), seeded()), "time_step=None needs a network"),
    ],
)
def test_impossible_targets_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_each_kind_of_connection_has_an_initializer_of_its_own():
    network = make_network()
    ByConnection(Distribution(std=3.0), Distribution(std=0.03), Distribution(mean=1.0, std=0.0))(network, seeded())
    below, above = network.layers
    for connection, std in ((below.feedforward, 3), (above.feedforward, 3), (below.recurrent, 0.03)):
        error = 4 / (2 * connection.weight.numel()) ** 0.5
        assert float(connection.weight.detach().std()) == pytest.approx(std / connection.fan_in**0.5, rel=error)
    readout = network.readout.feedforward.weight.detach()
    torch.testing.assert_close(readout, torch.full_like(readout, 320**-0.5))
