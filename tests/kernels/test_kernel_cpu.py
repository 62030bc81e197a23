"""The compiled CPU kernel computes what the reference kernel computes: same spikes, gradients to rounding."""

import ctypes
import logging
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.spiking_parts import NOISES, SURROGATES
from torch import nn

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.kernels import dispatch, finite, reference
from surgrad.kernels.cpu import build, descriptors
from surgrad.kernels.philox import NoiseKey
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.neurons import escape_noise
from surgrad.neurons.lif import LIF, RESETS

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C++ compiler on this machine")


def random_network(generator, neuron, kind, delay, trained, recurrent):
    """Two spiking layers and a readout: dense, or convolutional in one or two dimensions."""

    def tau(shape):
        values = 0.02 * (1 + 0.3 * torch.rand(shape, generator=generator))
        return TimeConstant(values, trainable=True) if trained else 0.02

    def pick(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    if kind == "dense":
        first = Dense(pick(3, 40), pick(2, 40))
        second = Dense(first.out_shape, pick(1, 24))
        loops = [Dense(c.out_shape, c.out_shape[0]) for c in (first, second)]
    else:
        axes = 1 if kind == "conv1d" else 2
        kernel, stride = tuple(pick(1, 5) for _ in range(axes)), tuple(pick(1, 4) for _ in range(axes))
        shape = (pick(1, 4), *(pick(9, 16) for _ in range(axes)))
        first = Conv(shape, pick(1, 20), kernel, stride, pick(0, 2))
        second = Conv(first.out_shape, pick(1, 20), 2, pick(1, 3), 1)
        loops = [Conv(c.out_shape, c.out_shape[0], 3, 1, 1) for c in (first, second)]
    layers = [
        SpikingLayer(c, neuron, tau(c.out_shape), tau(c.out_shape), loop if recurrent else None)
        for c, loop in zip((first, second), loops, strict=True)
    ]
    tau_readout = TimeConstant(0.05, trainable=trained)
    readout = Readout(Dense(second.out_shape, 3), tau_readout, 0.01, unit_gain=neuron.unit_gain)
    network = Network(layers, readout, dt=2e-3, delay=delay)
    for module in network.modules():
        if isinstance(module, Dense | Conv):
            nn.init.normal_(module.weight, 0.1, 2.5 / module.fan_in**0.5, generator=generator)
    return network


def both(network, x, seed=5, **kw):
    """Outputs and parameter gradients of a random linear loss through either kernel."""
    generator = torch.Generator().manual_seed(0)
    cotangents, results = None, []
    for kernel in ("reference", "cpu"):
        network.zero_grad()
        ids = torch.arange(7, 7 + x.shape[1])
        out = network(x, seed=seed, draw=2, ids=ids, record=True, kernel=kernel, **kw)
        parts = [out.readout, *out.counts]
        cotangents = cotangents or [torch.randn(p.shape, generator=generator) for p in parts]
        sum((p * c).sum() for p, c in zip(parts, cotangents, strict=True)).backward()
        results.append((out, {n: p.grad for n, p in network.named_parameters() if p.grad is not None}))
    return results


def assert_close(a, b, tolerance):
    assert (a - b).abs().max() <= tolerance * a.abs().max().clamp_min(1e-6)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["dense", "conv1d", "conv2d"]),
    reset=st.sampled_from(sorted(RESETS)),
    h=st.sampled_from(SURROGATES),
    noise=st.sampled_from(NOISES),
    diff_reset=st.booleans(),
    unit_gain=st.booleans(),
    delay=st.sampled_from([0, 1]),
    trained=st.booleans(),
    recurrent=st.booleans(),
    density=st.sampled_from([0.02, 0.1, 0.5]),
    seed=st.integers(0, 1000),
)
def test_equals_the_reference(kind, reset, h, noise, diff_reset, unit_gain, delay, trained, recurrent, density, seed):
    generator = torch.Generator().manual_seed(seed)
    neuron = LIF(h, noise, reset, diff_reset, unit_gain)
    network = random_network(generator, neuron, kind, delay, trained, recurrent)
    if not unit_gain:  # keep the unscaled drive in the same range
        for layer in network.layers:
            layer.feedforward.weight.data *= 0.1
            if layer.recurrent is not None:
                layer.recurrent.weight.data *= 0.1
    x = (torch.rand(41, 5, *network.layers[0].feedforward.in_shape, generator=generator) < density).float()
    (expected, expected_grad), (got, got_grad) = both(network, x)
    flips = [int((a != b).sum()) for a, b in zip(expected.spikes, got.spikes, strict=True)]
    assert sum(flips) == 0
    assert_close(expected.readout, got.readout, 1e-4)
    assert expected_grad.keys() == got_grad.keys()
    # float32 rounding is amplified by gradients that explode through the reset: measure both against float64 there
    tolerance = 1e-4
    if diff_reset:
        tolerance = max(tolerance, 10 * rounding_of_the_reference(network, x, expected, expected_grad))
    for name, gradient in expected_grad.items():
        assert_close(gradient, got_grad[name], tolerance)


def rounding_of_the_reference(network, x, expected, expected_grad):
    """Relative error of float32 reference gradients against float64 ones, or 0 where float64 draws other spikes."""
    network.double()
    network.zero_grad()
    ids = torch.arange(7, 7 + x.shape[1])
    out = network(x.double(), seed=5, draw=2, ids=ids, record=True, kernel="reference")
    generator = torch.Generator().manual_seed(0)
    parts = [out.readout, *out.counts]
    sum((p * torch.randn(p.shape, generator=generator)).sum() for p in parts).backward()
    errors = [
        ((p.grad - expected_grad[n]).abs().max() / p.grad.abs().max().clamp_min(1e-6)).item()
        for n, p in network.named_parameters()
        if p.grad is not None
    ]
    same = all(torch.equal(a, b.float()) for a, b in zip(expected.spikes, out.spikes, strict=True))
    return max(errors) if same else 0.0


def small_network(noise=NOISES[1], kind="dense"):
    return random_network(torch.Generator().manual_seed(3), LIF(escape_noise=noise), kind, 1, False, True)


def spikes_for(network, samples=6, steps=50):
    shape = network.layers[0].feedforward.in_shape
    return (torch.rand(steps, samples, *shape, generator=torch.Generator().manual_seed(4)) < 0.2).float()


@pytest.mark.parametrize("kind", ["dense", "conv1d"])
def test_stochastic_spikes_do_not_depend_on_the_batch_split_or_the_threads(kind):
    network = small_network(kind=kind)
    x = spikes_for(network)
    whole = network(x, seed=9, record=True, kernel="cpu")
    for k in range(x.shape[1]):
        one = network(x[:, k : k + 1], seed=9, ids=torch.tensor([k]), record=True, kernel="cpu")
        assert all(torch.equal(a[:, k : k + 1], b) for a, b in zip(whole.spikes, one.spikes, strict=True))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = network(x, seed=9, record=True, kernel="cpu")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again.readout, whole.readout)
    other = network(x, seed=10, record=True, kernel="cpu")
    assert not torch.equal(other.spikes[0], whole.spikes[0])


@pytest.mark.parametrize("kind", ["dense", "conv1d", "conv2d"])
def test_two_halves_are_one_whole(kind):
    network = small_network(kind=kind)
    x = spikes_for(network)
    whole = network(x, record=True, return_state=True, kernel="cpu")
    first = network(x[:17], record=True, return_state=True, kernel="cpu")
    second = network(x[17:], record=True, return_state=True, state=first.state, kernel="cpu")
    assert torch.equal(torch.cat([first.readout, second.readout]), whole.readout)
    for a, b, c in zip(first.spikes, second.spikes, whole.spikes, strict=True):
        assert torch.equal(torch.cat([a, b]), c)
    for a, b in zip(second.state.layers, whole.state.layers, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_events_and_dense_spikes_are_the_same_input():
    network = small_network()
    x = spikes_for(network)
    assert torch.equal(network(EventBatch.from_dense(x)).readout, network(x).readout)


def test_analogue_input_drives_the_first_layer_as_a_current():
    network = small_network(noise=escape_noise.Step())
    x = torch.randn(40, 3, *network.layers[0].feedforward.in_shape, generator=torch.Generator().manual_seed(1))
    (expected, expected_grad), (got, got_grad) = both(network, x)
    assert torch.equal(expected.spikes[1], got.spikes[1])
    for name in expected_grad:
        assert_close(expected_grad[name], got_grad[name], 1e-4)


@pytest.mark.parametrize("length", [8, 20])
def test_truncated_gradients_equal_the_reference(length):
    network = small_network(noise=escape_noise.Step())
    x = spikes_for(network)
    (expected, expected_grad), (got, got_grad) = both(network, x, truncate=length)
    (_, whole_grad), _ = both(network, x)
    assert torch.equal(expected.spikes[1], got.spikes[1])
    for name in expected_grad:
        assert_close(expected_grad[name], got_grad[name], 1e-4)
    name = "layers.0.recurrent.weight"
    assert (whole_grad[name] - got_grad[name]).abs().max() > 1e-3 * whole_grad[name].abs().max()


@pytest.mark.parametrize("kind", ["dense", "conv1d"])
def test_recomputed_membranes_give_identical_gradients(kind, monkeypatch):
    monkeypatch.setattr(descriptors, "BLOCK", 4)  # shorter than the root of the number of steps
    network = small_network(kind=kind)
    x = spikes_for(network, steps=40)
    (_, reference_full), (_, cpu_full) = both(network, x, memory="full")
    (_, reference_less), (_, cpu_less) = both(network, x, memory="recompute")
    for name in cpu_full:
        assert_close(cpu_full[name], cpu_less[name], 1e-5)  # blocks of other lengths sum in another order
        assert_close(reference_full[name], reference_less[name], 1e-6)
        assert_close(reference_full[name], cpu_less[name], 1e-4)


@pytest.mark.parametrize("value", [0.0, 3e38, -3e38, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "view",
    [lambda x: x, lambda x: x[:, :7], lambda x: x.t(), lambda x: x[2, 5], lambda x: x.double()],
    ids=["contiguous", "rows", "transposed", "number", "float64"],
)
def test_what_is_not_finite_is_found_in_any_layout(value, view):
    x = torch.full((4, 9), 1e38)  # whose sum is not finite
    x[2, 5] = value
    x[:, 8] = 0.0
    assert finite.all_finite([view(x)]) is math.isfinite(value)
    assert finite.all_finite([view(x)[..., :0]] if view(x).dim() else [])
    x[2, 5], x[1, 8] = 0.0, value  # beyond the rows that are looked at
    assert finite.all_finite([x[:, :8]])


@pytest.mark.parametrize("noise", NOISES)
def test_single_layer_driven_by_a_current(noise):
    generator = torch.Generator().manual_seed(2)
    neuron = LIF(escape_noise=noise, diff_reset=True)
    a, b = torch.tensor(0.8), 0.9 + 0.05 * torch.rand(6, 10, generator=generator)
    current = (torch.randn(45, 4, 6, 10, generator=generator) * 2 + 1).requires_grad_()
    cotangent = torch.randn(45, 4, 6, 10, generator=generator)
    outputs = []
    for kernel in ("reference", "cpu"):
        options = {"noise": NoiseKey(1, 2, 3), "ids": torch.arange(4), "return_membrane": True, "kernel": kernel}
        s, u, end = dispatch.lif(current, a, b, neuron, **options)
        (gradient,) = torch.autograd.grad((s * cotangent).sum(), current)
        outputs.append((s, u, end.u, gradient))
    (s, u, end, gradient), (s2, u2, end2, gradient2) = outputs
    assert torch.equal(s, s2)
    for p, q in ((u, u2), (end, end2), (gradient, gradient2)):
        assert_close(p, q, 1e-4)


def test_leaky_integrator():
    current = torch.randn(60, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    a, b = torch.tensor(0.7, requires_grad=True), torch.tensor(0.95, requires_grad=True)
    results = []
    for kernel in ("reference", "cpu"):
        y, end = dispatch.readout(current, a, b, u0=-0.2, kernel=kernel)
        results.append([y, end.u, *torch.autograd.grad((y**2).sum(), (current, a, b))])
    for p, q in zip(*results, strict=True):
        assert_close(p, q, 1e-5)


def test_descriptors_have_the_size_the_compiler_gave_them():
    assert ctypes.sizeof(descriptors.LayerDesc) == build.library().surgrad_layer_size()
    assert ctypes.sizeof(descriptors.NetworkDesc) == build.library().surgrad_network_size()


def test_a_kernel_that_cannot_run_says_why():
    network = small_network().double()
    with pytest.raises(UserError, match="float32"):
        network(spikes_for(network), kernel="cpu")
    with pytest.raises(UserError, match="allowed: auto"):
        network(spikes_for(network), kernel="fpga")
    assert network(spikes_for(network)).readout.dtype == torch.float64


def test_without_a_compiler_the_reference_runs_and_says_what_to_install(monkeypatch, caplog):
    monkeypatch.setattr(build, "_load", lambda source: None)
    build.library.cache_clear()
    try:
        network = small_network()
        assert dispatch.choose("auto", network.spec()).run is reference.run
        assert dispatch.choose("auto", network.spec()).run is reference.run
        assert [r.levelname for r in caplog.records if r.levelno >= logging.WARNING] == ["WARNING"]
        assert "install g++" in caplog.text
    finally:
        build.library.cache_clear()


def test_half_precision_products_are_for_the_gpu():
    network = small_network()
    with pytest.raises(UserError, match="precision='bf16' is for kernel='cuda'"):
        network(spikes_for(network), precision="bf16")
