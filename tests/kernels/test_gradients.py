"""Every gradient that is asked for, on every kernel: float32 kernels against the reference in float64."""

import copy
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton looks when it is imported

from surgrad.kernels.cpu import build
from surgrad.kernels.gpu import network as cuda
from surgrad.network.connections import Conv, DelayedDense, Dense, GaussianDelays
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays, DendriticDelays
from surgrad.network.parameters import TimeConstant
from surgrad.neurons.lif import LIF, AdaptiveLIF, spike
from surgrad.neurons.surrogate import SuperSpike

DT, T, B = 2e-3, 12, 2
SOFT = SuperSpike(2.0)


def tau(seconds, *shape):
    return TimeConstant(torch.full(shape, seconds), trainable=True)


def build_network(kind):
    delay = 0 if kind == "no delay" else 1
    if kind == "conv":
        first, second, loop = Conv((1, 9), 3, 3, 2), Dense((3, 4), 5), Conv((3, 4), 3, 3, 1, 1)
    elif kind == "delays":
        first, second, loop = DelayedDense(8, 6, 9e-3), DelayedDense(6, 5, 5e-3, seed=1), Dense(6, 6)
    elif kind == "neuron delays":
        first, second = AxonalDelays(8, 6, 9e-3), DendriticDelays(6, 5, 5e-3)
        loop = AxonalDelays(6, 6, 7e-3, width=3e-3)
    elif kind == "dendritic loop":
        first, second, loop = Dense(8, 6), Dense(6, 5), DendriticDelays(6, 6, 7e-3, width=3e-3)
    elif kind == "synaptic loop":
        first, second, loop = Dense(8, 6), Dense(6, 5), DelayedDense(6, 6, 7e-3)
    elif kind == "Gaussian loop":
        first, second, loop = Dense(8, 6), Dense(6, 5), GaussianDelays(6, 6, 7e-3, 2e-3, 1e-3, 3)
    else:
        first, second, loop = Dense(8, 6), Dense(6, 5), Dense(6, 6)
    adaptive = {"adaptive": AdaptiveLIF(SOFT, diff_reset=True)}
    adaptive["euler"] = AdaptiveLIF(SOFT, diff_reset=True, a=(0.0, 20.0), scheme="euler")
    neuron = adaptive.get(kind, LIF(SOFT, diff_reset=True))
    layers = [
        SpikingLayer(first, neuron, tau(20e-3, *first.out_shape), tau(10e-3), loop),
        SpikingLayer(second, neuron, tau(20e-3), tau(10e-3), None),
    ]
    return Network(layers, Readout(Dense(5, 3), tau(30e-3), tau(10e-3)), DT, delay)


def tensors_of(state):
    """All tensors of a state, in order."""
    found = [x for layer in (*state.layers, *([state.readout] if state.readout else [])) for x in layer]
    return [*found, state.last_input, *(x for x in state.pending if x is not None)]


def rebuilt(state, convert):
    layers = tuple(type(layer)(*map(convert, layer)) for layer in state.layers)
    pending = tuple(None if x is None else convert(x) for x in state.pending)
    readout = type(state.readout)(*map(convert, state.readout))
    return state._replace(layers=layers, readout=readout, last_input=convert(state.last_input), pending=pending)


def gradients(network, x, state, kernel, dtype, **options):
    """Spikes, and the gradients of a random linear function of everything returned, by everything given."""
    network = copy.deepcopy(network).to(dtype)

    def leaf(value):
        return value.detach().to(dtype).clone().requires_grad_()

    x, state = leaf(x), rebuilt(state, leaf)
    out = network(x, state=state, record=True, return_state=True, kernel=kernel, **options)
    returned = [out.readout, *out.counts, *out.spikes, *tensors_of(out.state)]
    generator = torch.Generator().manual_seed(0)
    sum((y * torch.randn(y.shape, generator=generator).to(dtype)).sum() for y in returned).backward()
    named = {"x": x, **{f"state[{k}]": y for k, y in enumerate(tensors_of(state))}, **dict(network.named_parameters())}
    return out.spikes, {name: y.grad for name, y in named.items()}


LOOPS = ["neuron delays", "dendritic loop", "synaptic loop", "Gaussian loop"]
KINDS = ["dense", "no delay", "conv", "adaptive", "euler", "delays", *LOOPS]
CELLS = [("cpu", kind) for kind in KINDS] + [("cuda", kind) for kind in ("dense", "conv")]


def skip_unless_available(kernel):
    if kernel == "cpu" and build.library() is None:
        pytest.skip("no C++ compiler on this machine")
    if kernel == "cuda" and not (cuda.available() and cuda.interpreted()):
        pytest.skip("Triton's interpreter is not there")


@pytest.mark.parametrize(("kernel", "kind"), CELLS)
@pytest.mark.parametrize("binary", [True, False], ids=["spikes", "analogue"])
def test_gradients_by_everything_of_everything(kernel, kind, binary):
    skip_unless_available(kernel)
    torch.manual_seed(3)
    network = build_network(kind)
    x = (torch.rand(2 * T, B, *network.layers[0].feedforward.in_shape) < 0.4).float()
    x = x if binary else 0.7 * x
    with torch.no_grad():
        state = network(x[:T], return_state=True, kernel="reference").state
    expected_spikes, expected = gradients(network, x[T:], state, "reference", torch.float64)
    spikes, found = gradients(network, x[T:], state, kernel, torch.float32)
    assert all(torch.equal(a.float(), b) and a.sum() > 5 for a, b in zip(expected_spikes, spikes, strict=True))
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        got = found[name]
        if gradient is None:  # nothing depends on it: last spikes where delays are learned or there are none
            assert "state" in name
            assert got is None or not got.any(), name
            continue
        assert gradient.abs().max() > 0, name
        assert got is not None, name
        torch.testing.assert_close(got.double(), gradient, rtol=2e-3, atol=2e-4 * float(gradient.abs().max()), msg=name)


@pytest.mark.parametrize("truncate", [5])
def test_truncated_gradients_by_the_state(truncate):
    skip_unless_available("cpu")
    torch.manual_seed(4)
    network = build_network("dense")
    x = (torch.rand(2 * T, B, 8) < 0.4).float()
    with torch.no_grad():
        state = network(x[:T], return_state=True, kernel="reference").state
    _, expected = gradients(network, x[T:], state, "reference", torch.float64, truncate=truncate)
    _, found = gradients(network, x[T:], state, "cpu", torch.float32, truncate=truncate)
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name].double(), gradient, rtol=2e-3, atol=2e-4 * float(gradient.abs().max()), msg=name
        )


def test_an_encoder_that_ends_in_spikes_is_trained():
    torch.manual_seed(0)
    encoder, network = torch.nn.Linear(5, 8), build_network("dense")
    drive = encoder(torch.randn(T, B, 5)) + 1
    network(spike(drive, LIF(SOFT))).readout.square().sum().backward()
    assert encoder.weight.grad.abs().max() > 0


def test_a_loss_on_one_output_alone_is_enough():
    """Outputs that no loss reads need no gradient: each alone gives what the reference gives."""
    skip_unless_available("cpu")
    torch.manual_seed(5)
    network = build_network("dense")
    x = (torch.rand(T, B, 8) < 0.5).float()
    for pick in (
        lambda out: out.spikes[0].cumsum(0),
        lambda out: out.counts[1],
        lambda out: out.state.layers[0].u,
        lambda out: out.state.layers[0].s,
        lambda out: out.state.readout.i,
    ):
        found = []
        for kernel in ("reference", "cpu"):
            network.zero_grad()
            pick(network(x, record=True, return_state=True, kernel=kernel)).sum().backward()
            found.append([p.grad for p in network.parameters()])
        for a, b in zip(*found, strict=True):
            zero = torch.zeros(()) if a is None else a
            torch.testing.assert_close(
                zero if b is None else zero.expand(b.shape), zero if b is None else b, rtol=2e-3, atol=1e-3
            )
