"""Weights for the spikes that arrive: the deviation asked for at every depth, where one rate for all misses it."""

import pytest
import torch

from surgrad.errors import UserError
from surgrad.kernels import reference
from surgrad.network.connections import Dense
from surgrad.network.initializers import FluctuationDrivenCentered, kernel_moments
from surgrad.network.layers import SpikingLayer
from surgrad.network.models import dense_snn
from surgrad.network.probing import bernoulli_spikes, free_membrane, over_time, root_mean_square, run_layer
from surgrad.network.rate_propagation import RatePropagated
from surgrad.neurons.lif import LIF

DT, TAU_MEM, TAU_SYN, NU = 2e-3, 20e-3, 10e-3, 15.0


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stack(recurrent=False, nb_layers=4):
    return dense_snn(
        [100] * (nb_layers + 1) + [3],
        neuron=LIF(),
        dt=DT,
        tau_mem=TAU_MEM,
        tau_syn=TAU_SYN,
        tau_readout=0.1,
        recurrent=recurrent,
    )


def deviations_and_rates(network, seed=7):
    """Of every layer, on spikes that the initialiser has not seen."""
    below, found = bernoulli_spikes(NU, (600, 12, 100), DT, seeded(seed)), []
    with torch.no_grad():
        for k, layer in enumerate(network.layers):
            trace = run_layer(layer, below, DT, network.delay, k)
            _, deviation = over_time(free_membrane(layer, trace.total_current, DT), 100)
            found.append((root_mean_square(deviation), float(trace.spikes.mean()) / DT))
            below = trace.spikes
    return zip(*found, strict=True)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("sigma_u", [0.5, 1.0])
def test_every_layer_has_the_deviation_asked_for(sigma_u, recurrent):
    network = stack(recurrent)
    RatePropagated(sigma_u, NU)(network, seeded())
    deviations, rates = deviations_and_rates(network)
    assert deviations == pytest.approx([sigma_u] * 4, rel=0.1)
    assert min(rates) > 1
    assert float(network.readout.feedforward.weight.detach().std()) == pytest.approx(0.1, rel=0.2)


def test_with_one_rate_for_all_layers_activity_dies_out_or_grows():
    weak, strong = stack(), stack()
    FluctuationDrivenCentered(0.5, NU)(weak, seeded())
    FluctuationDrivenCentered(2.0, NU)(strong, seeded())
    deviations, rates = deviations_and_rates(weak)
    assert deviations[0] == pytest.approx(0.5, rel=0.05)
    assert rates[0] > 1
    assert rates[-1] == 0
    deviations, rates = deviations_and_rates(strong)
    assert deviations[-1] > 1.5 * deviations[0]
    assert rates[-1] > 1.5 * rates[0]


def test_without_corrections_weights_follow_from_the_rate_below():
    """sigma_w^2 = sigma_U^2 / (n nu_l eps_hat), with nu_l the rate that reaches layer l."""
    network, sigma_u = stack(), 0.8
    RatePropagated(sigma_u, NU, nb_corrections=0, nb_steps=600, nb_samples=12)(network, seeded())
    _, rates = deviations_and_rates(network)
    _, eps_hat = kernel_moments(TAU_MEM, TAU_SYN, DT)
    for layer, rate in zip(network.layers, (NU, *rates), strict=False):
        expected = sigma_u**2 / (100 * rate * float(eps_hat))
        assert float(layer.feedforward.weight.detach().var()) == pytest.approx(expected, rel=0.15)


def test_a_run_of_one_layer_is_that_of_the_whole_network():
    network = stack(recurrent=True, nb_layers=2)
    RatePropagated(1.0, NU)(network, seeded())
    x = bernoulli_spikes(NU, (50, 3, 100), DT, seeded(1))
    with torch.no_grad():
        out = network(x, record=True)
        first = run_layer(network.layers[0], x, DT, network.delay, 0)
        second = run_layer(network.layers[1], first.spikes, DT, network.delay, 1)
    assert torch.equal(out.spikes[0], first.spikes)
    assert torch.equal(out.spikes[1], second.spikes)
    assert float(second.spikes.sum()) > 0


def test_the_free_membrane_is_that_of_a_layer_below_threshold():
    layer = SpikingLayer(Dense(20, 5), LIF(), TAU_MEM, TAU_SYN, Dense(5, 5))
    torch.nn.init.normal_(layer.feedforward.weight, std=0.05, generator=seeded())
    trace = run_layer(layer, bernoulli_spikes(50.0, (100, 2, 20), DT, seeded()), DT)
    assert float(trace.spikes.sum()) == 0
    u = free_membrane(layer, trace.total_current, DT)
    torch.testing.assert_close(u[:-1], trace.membrane[1:], rtol=1e-4, atol=1e-6)
    slow, _ = reference.readout(trace.total_current, layer.tau_syn.decay(DT), layer.tau_mem.decay(DT))
    torch.testing.assert_close(u, slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RatePropagated(0.1, NU)(stack(), seeded()), "no spike reaches layer 1; raise sigma_u"),
        (lambda: RatePropagated(0.0, NU), "sigma_u=0.0 must be positive"),
        (lambda: RatePropagated(1.0, 0.0), "nu=0.0 Hz must be positive"),
        (lambda: RatePropagated(1.0, NU, nb_steps=0), "nb_steps=0"),
    ],
)
def test_what_cannot_be_reached_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
