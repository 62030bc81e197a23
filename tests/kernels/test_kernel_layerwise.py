"""Networks with adaptive neurons and learned delays: compiled layers against the specification."""

import ctypes
import logging

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.kernels import dispatch, reference
from surgrad.kernels.cpu import adaptive, build, delays, layerwise
from surgrad.kernels.cpu import network as cpu
from surgrad.network.connections import Conv, DelayedDense, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.lif import LIF, AdaptiveLIF

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C++ compiler on this machine")

DT = 2e-3


def random_network(seed=0, adapts=True, delayed=(True, True, True), delay=1, sizes=(23, 18, 16), recurrent=True):
    """Two spiking layers and a readout; which connections have delays of up to 6.5 steps."""
    generator = torch.Generator().manual_seed(seed)

    def connect(n_in, n_out, has_delays):
        return DelayedDense(n_in, n_out, 13e-3, seed=seed + n_in) if has_delays else Dense(n_in, n_out)

    neuron = AdaptiveLIF(seed=seed) if adapts else LIF()
    layers = [
        SpikingLayer(connect(n_in, n_out, d), neuron, 20e-3, 10e-3, Dense(n_out, n_out) if recurrent else None)
        for n_in, n_out, d in zip(sizes, sizes[1:], delayed, strict=False)
    ]
    network = Network(layers, Readout(connect(sizes[-1], 3, delayed[-1]), 40e-3, 10e-3), DT, delay)
    for module in network.modules():
        if isinstance(module, Dense):
            nn.init.normal_(module.weight, 0.1, 2.5 / module.fan_in**0.5, generator=generator)
    return network


def spikes_for(network, nb_steps=40, batch=5, density=0.15, seed=1):
    shape = (nb_steps, batch, *network.layers[0].feedforward.in_shape)
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density).float()


def run(network, x, kernel, **options):
    network.zero_grad()
    out = network(x, seed=3, record=True, kernel=kernel, **options)
    parts = [out.readout, *out.counts]
    generator = torch.Generator().manual_seed(0)
    sum((p * torch.randn(p.shape, generator=generator).to(p.dtype)).sum() for p in parts).backward()
    return out, {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def assert_close(a, b, tolerance):
    assert (a - b).abs().max() <= tolerance * a.abs().max().clamp_min(1e-6)


def assert_same(expected, got, tolerance=2e-4):
    (out, gradients), (out2, gradients2) = expected, got
    assert all(torch.equal(a, b) for a, b in zip(out.spikes, out2.spikes, strict=True))
    assert_close(out.readout, out2.readout, tolerance)
    assert gradients.keys() == gradients2.keys()
    for name in gradients:
        assert_close(gradients[name], gradients2[name], tolerance)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    adapts=st.booleans(),
    delayed=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    delay=st.sampled_from([0, 1]),
    sizes=st.tuples(st.integers(2, 40), st.integers(2, 40), st.integers(2, 40)),
    recurrent=st.booleans(),
    density=st.sampled_from([0.02, 0.2]),
    seed=st.integers(0, 1000),
)
def test_equals_the_specification(adapts, delayed, delay, sizes, recurrent, density, seed):
    network = random_network(seed, adapts, delayed, delay, sizes, recurrent)
    x = spikes_for(network, density=density, seed=seed)
    assert_same(run(network, x, "reference"), run(network, x, "cpu"))


@pytest.mark.parametrize("delayed", [(True, True, False), (False, False, False)])
def test_events_and_dense_spikes_are_the_same_input(delayed):
    network = random_network(delayed=delayed)
    x = spikes_for(network)
    assert_same(run(network, x, "cpu"), run(network, EventBatch.from_dense(x), "cpu"), 1e-5)


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
@pytest.mark.parametrize("cut", [3, 21])
def test_two_halves_are_one_whole(kernel, cut):
    """Spikes that are on their way at the cut, and the adaptation currents, are part of the state."""
    network = random_network()
    x = spikes_for(network)
    with torch.no_grad():
        whole = network(x, record=True, kernel=kernel)
        first = network(x[:cut], record=True, return_state=True, kernel=kernel)
        second = network(EventBatch.from_dense(x[cut:]), record=True, state=first.state, kernel=kernel)
    for a, b, c in zip(first.spikes, second.spikes, whole.spikes, strict=True):
        assert torch.equal(torch.cat([a, b]), c)
    torch.testing.assert_close(torch.cat([first.readout, second.readout]), whole.readout)


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_the_last_spikes_of_a_delayed_recurrence_are_in_the_state(kernel):
    network = random_network(sizes=(12, 10, 8), delayed=(False, False, False))
    for layer, units in zip(network.layers, (10, 8), strict=True):
        layer.recurrent = DelayedDense(units, units, 13e-3, seed=units)
    x, told_apart = spikes_for(network), 0
    with torch.no_grad():
        whole = network(x, record=True, kernel=kernel)
        for cut in range(3, 30):
            state = network(x[:cut], return_state=True, kernel=kernel).state
            for layer, spikes in zip(state.layers, whole.spikes, strict=True):
                assert torch.equal(layer.s, spikes[cut - 1])
                told_apart += not torch.equal(spikes[cut - 1], spikes[cut - 2])
    assert told_apart > 10


def test_truncated_gradients_equal_the_specification():
    network = random_network()
    x = spikes_for(network)
    expected = run(network, x, "reference", truncate=8)
    assert_same(expected, run(network, x, "cpu", truncate=8))
    name = "layers.0.recurrent.weight"
    whole = run(network, x, "reference")[1][name]
    assert (whole - expected[1][name]).abs().max() > 1e-3 * whole.abs().max()


def test_the_threads_do_not_change_the_gradients_beyond_rounding():
    network = random_network()
    x = spikes_for(network, batch=11)
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(run(network, x, "cpu"))
    finally:
        torch.set_num_threads(threads)
    assert_same(*found, 1e-5)


def test_convolutions_of_adaptive_neurons_run_too():
    layer = SpikingLayer(Conv((1, 20), 4, 3), AdaptiveLIF(), 20e-3, 10e-3, Conv((4, 18), 4, 3, 1, 1))
    network = Network([layer], Readout(Dense((4, 18), 3), 40e-3, 10e-3), DT)
    for module in network.modules():
        if isinstance(module, Dense | Conv):
            nn.init.normal_(module.weight, 0.2, 1.0, generator=torch.Generator().manual_seed(4))
    x = spikes_for(network, density=0.3)
    expected = run(network, x, "reference")
    assert expected[0].spikes[0].sum() > 100
    assert_same(expected, run(network, EventBatch.from_dense(x), "cpu"))


# ---------------------------------------------------------------- which kernel runs
def choice(kernel, network):
    return dispatch.choose(kernel, network.spec()).run


def test_the_compiled_layers_run_where_they_can(monkeypatch):
    monkeypatch.setattr(dispatch.cuda, "interpreted", lambda: False)
    network = random_network(adapts=False)
    assert choice("auto", network) is layerwise.run
    assert choice("cpu", network) is layerwise.run
    assert choice("reference", network) is reference.run
    assert choice("auto", random_network(adapts=False, delayed=(False,) * 3)) is cpu.run
    assert choice("auto", random_network().double()) is reference.run
    with pytest.raises(UserError, match=r"cuda.*use kernel=auto"):
        choice("cuda", network)
    with pytest.raises(UserError, match="float32"):
        choice("cpu", random_network().double())


def test_without_a_compiler_the_specification_runs_and_says_so_once(monkeypatch, caplog):
    caches = (build.compiled, adaptive.library, delays.library, build.library, dispatch._not_compiled)
    monkeypatch.setattr(build, "_load", lambda source: None)
    for function in caches:
        function.cache_clear()
    try:
        network = random_network()
        assert choice("auto", network) is reference.run
        assert choice("auto", network) is reference.run
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert "install g++" in caplog.text
        with pytest.raises(UserError, match="could not be built"):
            choice("cpu", network)
    finally:
        for function in caches:
            function.cache_clear()


def test_descriptor_has_the_size_the_compiler_gave_it():
    assert ctypes.sizeof(delays.SynapsesDesc) == delays.library().synapses_size()
    assert ctypes.sizeof(delays.SpreadDesc) == delays.library().spread_size()


def test_what_a_network_does_not_need_is_not_compiled(monkeypatch):
    def fail():
        raise AssertionError("not needed")

    monkeypatch.setattr(adaptive, "library", fail)
    monkeypatch.setattr(delays, "library", fail)
    dispatch._not_compiled.cache_clear()
    assert choice("auto", random_network(adapts=False, delayed=(False,) * 3)) is cpu.run


@pytest.mark.parametrize("delay", [0, 1])
def test_counted_events_of_silent_and_busy_inputs_arrive_where_the_delays_say(delay):
    """Inputs from silent to one with events in every step, counted up to 3: each kind has a loop of its own."""
    generator = torch.Generator().manual_seed(4)
    layer = SpikingLayer(DelayedDense(12, 20, 13e-3, seed=2), LIF(), 20e-3, 10e-3)
    network = Network([layer], Readout(Dense(20, 3), 0.05, 0.01), 2e-3, delay)
    busy = torch.linspace(0, 1, 12).square()
    x = torch.randint(1, 4, (45, 3, 12), generator=generator) * (torch.rand(45, 3, 12, generator=generator) < busy)
    b, t, unit = x.permute(1, 0, 2).nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(b, minlength=3).cumsum(0)])
    counts = x[t, b, unit].int()
    events = EventBatch(
        t.int(), unit.int(), offsets, torch.zeros(3, dtype=torch.int64), torch.arange(3), 45, (12,), counts
    )
    results = []
    for kernel in ("cpu", "reference"):
        network.zero_grad()
        out = network(events, kernel=kernel, record=True)
        out.readout.square().mean().backward()
        results.append((out, [p.grad.clone() for p in network.parameters() if p.grad is not None]))
    (ours, gradients), (expected, others) = results
    assert expected.spikes[0].sum() > 20
    assert torch.equal(ours.spikes[0], expected.spikes[0])
    for mine, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
