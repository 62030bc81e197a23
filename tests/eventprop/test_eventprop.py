"""EventProp: spike times that solve the equations, gradients that finite differences confirm."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from surgrad.errors import UserError
from surgrad.eventprop.layers import (
    EventLayer,
    EventLIF,
    EventReadout,
    Spikes,
    check_window,
    first_spikes,
    spikes_from_times,
)
from surgrad.eventprop.network import FirstSpike

DURATION = 60e-3
NEURONS = {
    "ratio 4": EventLIF(20e-3, 5e-3),  # by iteration
    "ratio 2": EventLIF(10e-3, 5e-3),  # closed forms: quadratic,
    "equal": EventLIF(10e-3, 10e-3),  # Lambert's W
    "nearly equal": EventLIF(10e-3, 10e-3 * (1 + 1e-9)),
    "slow synapse": EventLIF(5e-3, 20e-3),
}


def psp_peak(neuron):
    """Largest voltage that one input of weight 1 causes."""
    spikes = spikes_from_times([[0.0]], 1.0, torch.float64)
    readout = EventReadout(1, 1, neuron, torch.float64)
    readout.weight.data.fill_(1.0)
    return float(readout.maximum(spikes, 1.0).detach())


def network(neuron, recurrent, seed=0):
    """Input and two layers in float64, 5-20-8, weights such that every layer fires."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    times = torch.rand(6, 5, generator=generator, dtype=torch.float64) * 30e-3
    scale = 0.1575 / psp_peak(neuron)
    layers = [EventLayer(5, 20, neuron, recurrent, torch.float64), EventLayer(20, 8, neuron, dtype=torch.float64)]
    for layer, (mean, deviation) in zip(layers, ((2.0, 1.0), (0.6, 0.4)), strict=True):
        layer.weight.data = (normal(*layer.weight.shape) * deviation + mean) * scale
        if layer.recurrent is not None:
            layer.recurrent.data = normal(*layer.recurrent.shape) * 0.3 * scale
    readout = EventReadout(8, 3, neuron, torch.float64)
    readout.weight.data = normal(8, 3)
    return spikes_from_times(times, DURATION, torch.float64), layers, readout


HEAD = FirstSpike(8, tau0=2e-3)
LABELS = torch.arange(6) % 3


def first_spike_loss(spikes):
    return HEAD.loss(HEAD.scores(spikes, DURATION), LABELS, DURATION)


LOSSES = {
    "first spike": lambda spikes, readout: first_spike_loss(spikes),
    "maximum": lambda spikes, readout: 1e2 * readout.maximum(spikes, DURATION).tanh().pow(3).sum(),
    "integral": lambda spikes, readout: 1e3 * readout.integral(spikes, DURATION, 20e-3).pow(3).sum(),
    "voltage": lambda spikes, readout: readout.voltage(spikes, torch.linspace(0, DURATION, 50)).square().sum(),
    "all times": lambda spikes, readout: 1e3 * (spikes.times * torch.arange(len(spikes.times)).sin()).sum(),
}


def finite_difference(value, x, index, h):
    """Fourth-order central difference of value() by one element of x; None if spikes come or go."""
    flat, results = x.data.view(-1), []
    before = float(flat[index])
    for k in (-2, -1, 1, 2):
        flat[index] = before + k * h
        results.append(value())
    flat[index] = before
    v, counts = zip(*results, strict=True)
    return (8 * (v[2] - v[1]) - (v[3] - v[0])) / (12 * h) if len(set(counts)) == 1 else None


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("neuron", "recurrent"), [*((name, False) for name in NEURONS), ("ratio 4", True), ("equal", True)]
)
def test_gradient_is_that_of_finite_differences(neuron, loss, recurrent):
    given, layers, readout = network(NEURONS[neuron], recurrent)
    times = given.times.clone().requires_grad_()

    def value():
        spikes, counts = given._replace(times=times), []
        for layer in layers:
            spikes = layer(spikes, DURATION)
            counts += spikes.counts(layer.nb_units).flatten().tolist()
        return LOSSES[loss](spikes, readout), tuple(counts)

    total, counts = value()
    assert sum(counts) > 100
    total.backward()
    errors = []
    for x, h in ((layers[0].weight, 1e-6), (layers[1].weight, 1e-6), (times, 1e-8)):
        # directions with a gradient: differences of a loss that hardly changes are rounding
        index = x.grad.flatten().abs().topk(4).indices.tolist()
        if recurrent and x is layers[0].weight:
            r = layers[0].recurrent
            index_r = r.grad.flatten().abs().topk(3).indices.tolist()
            errors += compare(value, r, index_r, h)
        errors += compare(value, x, index, h)
    assert len(errors) > 8
    assert max(errors) < 1e-6


@torch.no_grad()
def compare(value, x, index, h):
    """Relative errors of x.grad against finite differences: the smallest over steps, which trade rounding for order."""
    errors = []
    for k in index:
        differences = [finite_difference(value, x, k, h * factor) for factor in (0.1, 1, 10)]
        exact = float(x.grad.flatten()[k])
        found = [abs(float(d) - exact) / abs(exact) for d in differences if d is not None]
        errors += [min(found)] if found else []
    return errors


@pytest.mark.parametrize("neuron", NEURONS)
def test_spike_times_solve_the_differential_equation(neuron):
    neuron = NEURONS[neuron]
    weight = 1.5 / psp_peak(neuron)
    given = spikes_from_times([[0.0, 7e-3]], DURATION, torch.float64)
    layer = EventLayer(2, 1, neuron, dtype=torch.float64)
    layer.weight.data = torch.tensor([[weight], [0.8 * weight]], dtype=torch.float64)
    found = layer(given, DURATION).times.detach().numpy()

    def motion(t, y):
        return [(y[1] - y[0]) / neuron.tau_mem, -y[1] / neuron.tau_syn]

    def threshold(t, y):
        return y[0] - 1

    threshold.terminal, threshold.direction = True, 1
    expected, t, state = [], 0.0, [0.0, weight]
    for arrival, jump in ((7e-3, 0.8 * weight), (DURATION, 0.0)):
        while t < arrival:
            run = solve_ivp(motion, (t, arrival), state, events=threshold, rtol=1e-12, atol=1e-14, max_step=1e-3)
            t, state = run.t[-1], list(run.y[:, -1])
            if run.status == 1:
                expected.append(t)
                state[0] = 0.0
        state[1] += jump
    assert len(expected) >= 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_closed_forms_agree_with_the_iteration():
    """A relative change of 1e-9 of a time constant leaves the closed form, and moves no spike by more than that."""
    for neuron in (EventLIF(10e-3, 5e-3), EventLIF(10e-3, 10e-3)):
        given, layers, _ = network(neuron, recurrent=False)
        times = layers[0](given, DURATION).times
        layers[0].neuron = EventLIF(neuron.tau_mem * (1 + 1e-9), neuron.tau_syn)
        torch.testing.assert_close(layers[0](given, DURATION).times, times, rtol=0, atol=1e-9)


def test_grazing_input_makes_no_spike_below_and_one_above_threshold():
    for neuron in NEURONS.values():
        weight = 1 / psp_peak(neuron)
        layer = EventLayer(1, 2, neuron, dtype=torch.float64)
        layer.weight.data = weight * torch.tensor([[1 - 1e-9, 1 + 1e-9]], dtype=torch.float64)
        spikes = layer(spikes_from_times([[1e-3]], DURATION, torch.float64), DURATION)
        assert spikes.units.tolist() == [1]


def test_batches_threads_and_float32_give_the_same_spikes():
    given, layers, _ = network(NEURONS["ratio 4"], recurrent=True)
    whole = layers[0](given, DURATION)
    for b in range(given.nb_samples):
        alone = layers[0](given.subset(torch.tensor([b])), DURATION)
        assert torch.equal(alone.times, whole.subset(torch.tensor([b])).times)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threaded = layers[0](given, DURATION)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(threaded.times, whole.times)
    assert torch.equal(threaded.offsets, whole.offsets)
    single = layers[0].float()(given._replace(times=given.times.float()), DURATION)
    assert torch.equal(single.units, whole.units)
    torch.testing.assert_close(single.times.double(), whole.times, rtol=0, atol=1e-7)


def test_first_spikes_of_silent_units_are_infinite():
    spikes = Spikes(torch.tensor([5e-3, 6e-3]), torch.tensor([1, 1], dtype=torch.int32), torch.tensor([0, 2, 2]))
    assert first_spikes(spikes, 2).tolist() == [[math.inf, pytest.approx(5e-3)], [math.inf, math.inf]]


def test_readout_maximum_is_the_largest_of_a_fine_grid():
    given, layers, readout = network(NEURONS["ratio 4"], recurrent=False)
    spikes = layers[1](layers[0](given, DURATION), DURATION)
    grid = torch.linspace(0, DURATION, 20001, dtype=torch.float64)
    fine = readout.voltage(spikes, grid)
    above = (
        readout.maximum(spikes, DURATION) - fine.amax(1)
    ).detach()  # a maximum at a kink is missed by up to slope x step
    assert -1e-12 < float(above.min()) <= float(above.max()) < 2e-4
    mean = torch.trapezoid(fine, grid, dim=1) / DURATION
    torch.testing.assert_close(readout.integral(spikes, DURATION), mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("times", "message"),
    [([[math.nan, 0.0]], "NaN"), ([[-1e-3, 0.0]], "outside the window"), ([[0.0, 0.1]], "outside the window")],
)
def test_bad_times_are_refused(times, message):
    with pytest.raises(UserError, match=message):
        spikes_from_times(times, DURATION)


def test_bad_spikes_time_constants_and_weights_are_refused():
    units, offsets = torch.zeros(2, dtype=torch.int32), torch.tensor([0, 2])
    with pytest.raises(UserError, match="must not decrease"):
        check_window(Spikes(torch.tensor([0.02, 0.01]), units, offsets), DURATION)
    with pytest.raises(UserError, match="but there are 0"):
        check_window(Spikes(torch.tensor([0.01, 0.02]), units, offsets), DURATION, 0)
    for tau in (0.0, -1e-3, math.nan, math.inf):
        with pytest.raises(UserError, match="tau_syn"):
            EventLIF(10e-3, tau)
    layer = EventLayer(1, 2, recurrent=True)
    layer.weight.data.fill_(100.0)
    layer.recurrent.data.fill_(100.0)
    with pytest.raises(UserError, match="without limit"):
        layer(spikes_from_times([[0.0]], DURATION), DURATION)


def test_a_silent_network_passes_no_gradient_and_no_error():
    layer = EventLayer(3, 4)
    spikes = layer(spikes_from_times(torch.full((2, 3), math.inf), DURATION), DURATION)
    head = FirstSpike(4)
    head.loss(head.scores(spikes, DURATION), torch.tensor([0, 1]), DURATION).backward()
    assert not layer.weight.grad.any()
