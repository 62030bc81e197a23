"""Delays seen through a Gaussian: explicit sums, limits, gradients, kernels, and the width over epochs."""

import math

import numpy as np
import pytest
import torch
from network.stopped_runs import Stopped

from surgrad.datasets.sources.randman import Randman
from surgrad.errors import UserError
from surgrad.experiments.dense.figures import delay_distributions
from surgrad.network.connections import DelayedDense, GaussianDelays, begin_epoch, learned_delays
from surgrad.network.models import HiddenParts, dense_snn
from surgrad.neurons.lif import LIF, AdaptiveLIF
from surgrad.runs.folder import open_run
from surgrad.runs.record import load_runs
from surgrad.training.fit import Fit, Plan
from surgrad.training.loop import BatchGrid, Objective
from surgrad.training.losses import MaxOverTimeCrossEntropy

DT, LONGEST = 1e-3, 8
CONSTANTS = {"dt": DT, "tau_mem": 20e-3, "tau_syn": 10e-3, "tau_readout": 0.1}


def rand(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian(steps, sigma=1.5):
    """A float64 connection with these delays (nb_units, fan_in) and this width, in steps; weights are random."""
    connection = GaussianDelays(steps.shape[1], steps.shape[0], LONGEST * DT, sigma * DT, sigma * DT, 0).double()
    return with_values(connection, steps)


def with_values(connection, steps):
    with torch.no_grad():
        connection.delay.logit.copy_((steps / LONGEST).logit())
        connection.weight.copy_(rand(*steps.shape, seed=9) - 0.5)
    return connection


def interpolated(steps):
    return with_values(DelayedDense(steps.shape[1], steps.shape[0], LONGEST * DT).double(), steps)


def test_currents_are_the_sum_over_a_normalised_gaussian():
    steps, s, sigma = LONGEST * rand(3, 4, seed=2), (rand(12, 2, 4) < 0.3).double(), 1.7
    connection = gaussian(steps, sigma)
    expected = torch.zeros(12 + 1 + LONGEST, 2, 3, dtype=torch.float64)
    for t, b, j in s.nonzero().tolist():
        for i in range(3):
            shares = [math.exp(-((n - float(steps[i, j])) ** 2) / (2 * sigma**2)) for n in range(LONGEST + 1)]
            for n, share in enumerate(shares):
                expected[t + 1 + n, b, i] += float(connection.weight.detach()[i, j]) * share / math.fsum(shares)
    torch.testing.assert_close(connection(s, DT, shift=1).detach(), expected)


@pytest.mark.parametrize("sigma", [1e-1, 1e-2])
def test_a_narrow_gaussian_is_the_interpolated_delay_of_whole_steps_and_else_the_rounded_one(sigma):
    s = (rand(12, 2, 4) < 0.3).double()
    whole = torch.tensor([[1.0, 2, 3, 7], [5, 4, 1, 6]], dtype=torch.float64)
    torch.testing.assert_close(gaussian(whole, sigma)(s, DT), interpolated(whole)(s, DT))
    steps = whole + torch.tensor([0.4, -0.4, 0.2, 0.3], dtype=torch.float64)
    torch.testing.assert_close(gaussian(steps, sigma)(s, DT), interpolated(whole)(s, DT), atol=1e-4, rtol=0)


def test_the_limit_is_approached_with_the_width():
    steps, s = 0.5 + 7 * rand(3, 4, seed=3), rand(12, 2, 4)
    limit = interpolated(steps.round())(s, DT)
    errors = [float((gaussian(steps, sigma)(s, DT) - limit).detach().abs().max()) for sigma in (2.0, 1.0, 0.5, 0.2)]
    assert errors == sorted(errors, reverse=True)


def test_gradcheck_in_spikes_weights_and_delays():
    connection = gaussian(LONGEST * (0.1 + 0.8 * rand(2, 3, seed=5)), 0.8)

    def function(s, weight, logit):
        return torch.func.functional_call(connection, {"weight": weight, "delay.logit": logit}, (s, DT))

    inputs = (rand(5, 2, 3), connection.weight.detach(), connection.delay.logit.detach())
    assert torch.autograd.gradcheck(function, [x.clone().requires_grad_() for x in inputs])


def test_evaluation_takes_whole_steps():
    steps, s = 0.5 + 7 * rand(3, 4, seed=3), rand(12, 2, 4)
    expected = interpolated(steps.round())(s, DT)
    torch.testing.assert_close(gaussian(steps).eval()(s, DT), expected)
    plain = with_values(DelayedDense(4, 3, LONGEST * DT, rounded=True).double(), steps)
    torch.testing.assert_close(plain(s, DT), interpolated(steps)(s, DT))
    torch.testing.assert_close(plain.eval()(s, DT), expected)


def stack(neuron=None):
    """Three connections with delays, that of the readout too."""
    torch.manual_seed(1)

    def connection(shape, nb_units):
        return GaussianDelays(shape, nb_units, 6e-3, 3e-3, 0.4e-3, 2)

    parts = HiddenParts(connection, readout=connection)
    return dense_snn((12, 10, 8, 3), neuron=neuron or LIF(), hidden=parts, recurrent=False, **CONSTANTS)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("neuron", [LIF(), AdaptiveLIF()], ids=["lif", "adaptive"])
def test_kernels_agree(neuron, training):
    x, found = (rand(30, 5, 12) < 0.2).float(), {}
    for kernel in ("reference", "auto"):
        network = stack(neuron).train(training)
        out = network(x, kernel=kernel, record=True)
        out.y.square().sum().backward()
        found[kernel] = out, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    (a, of_reference), (b, of_auto) = found.values()
    assert all(torch.equal(s, z) for s, z in zip(a.recorded, b.recorded, strict=True))
    torch.testing.assert_close(a.y, b.y, rtol=1e-4, atol=1e-5)
    for name, gradient in of_reference.items():
        scale = float(gradient.abs().max()) or 1.0
        torch.testing.assert_close(of_auto[name] / scale, gradient / scale, rtol=1e-3, atol=2e-4, msg=name)


def test_two_halves_are_one_whole():
    x, network = (rand(30, 5, 12) < 0.2).float(), stack()
    whole = network(x)
    first = network(x[:13], return_state=True)
    second = network(x[13:], state=first.state)
    torch.testing.assert_close(torch.cat([first.y, second.y]), whole.y, rtol=1e-4, atol=1e-6)


def test_the_width_falls_by_a_factor_per_epoch():
    network = stack()
    connection = network.layers[0].feedforward
    widths = []
    for epoch in range(1, 6):
        begin_epoch(network, epoch)
        widths.append(connection.sigma)
    np.testing.assert_allclose(widths, [3e-3, math.sqrt(3e-3 * 0.4e-3), 0.4e-3, 0.4e-3, 0.4e-3])


def test_a_stopped_run_goes_on_with_the_width_of_its_epoch(tmp_path):
    train, valid, _ = Randman(nb_classes=3, nb_units=12, nb_steps=30, duration=0.03, nb_samples=12, alpha=2.0).splits()

    def fit(folder, loss):
        network = stack()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        with open_run(folder, {}) as run:
            fit = Fit(network, optimizer, train, valid, BatchGrid(16, DT, 30), Objective(loss), run, Plan(3))
            fit.before_epoch = lambda number: begin_epoch(network, number)
            fit()
        (record,) = load_runs(folder)
        return network.state_dict(), record.metrics["train_loss"]

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", Stopped(6))
    (weights, losses), (others, theirs) = (fit(tmp_path / name, MaxOverTimeCrossEntropy()) for name in "ab")
    assert all(torch.equal(weights[name], others[name]) for name in others)
    np.testing.assert_array_equal(losses, theirs)


def test_delays_are_drawn_before_and_after():
    network = stack()
    delays = learned_delays(network)
    assert list(delays) == ["layers.0.feedforward", "layers.1.feedforward", "readout.feedforward"]
    figure = delay_distributions(delays, {name: d / 2 for name, d in delays.items()})
    assert [ax.get_title() for ax in figure.axes] == list(delays)


@pytest.mark.parametrize("options", [{"sigma": 1e-3}, {"sigma_end": 0.0}, {"anneal_epochs": -1}])
def test_wrong_widths_are_named(options):
    with pytest.raises(UserError, match="0 < sigma_end <= sigma"):
        GaussianDelays(3, 2, 8e-3, **{"sigma": 4e-3, "sigma_end": 2e-3, "anneal_epochs": 3} | options)
