"""Surrogates that are 0 for most membranes: only what reaches the others is computed, and the gradient is the same."""

import pytest
import torch

from surgrad.kernels.cpu import build
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.lif import LIF
from surgrad.neurons.surrogate import Esser, MultilayerSpiker, TrueGradient

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C++ compiler on this machine")


def network(surrogate, kind, delay):
    """Recurrent layers of 40 and 24 neurons, or of convolutions with as many channels, and a readout."""
    torch.manual_seed(2)
    neuron = LIF(surrogate=surrogate)
    if kind == "dense":
        layers = [(Dense(30, 40), Dense(40, 40)), (Dense(40, 24), Dense(24, 24))]
    else:
        layers = [
            (Conv((1, 30), 20, 5, 3), Conv((20, 9), 20, 3, 1, 1)),
            (Conv((20, 9), 24, 3, 2), Conv((24, 4), 24, 3, 1, 1)),
        ]
    for _, loop in layers:
        loop.weight.data *= 0.3  # activity does not sustain itself
    stack = [SpikingLayer(forward, neuron, 20e-3, 10e-3, loop) for forward, loop in layers]
    return Network(stack, Readout(Dense(layers[-1][0].out_shape, 5), 50e-3, 10e-3), 2e-3, delay)


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize(
    ("surrogate", "few"), [(Esser(20.0), True), (Esser(1.0), False), (MultilayerSpiker(), True), (TrueGradient(), True)]
)
def test_the_gradient_is_that_of_the_reference_whether_few_or_many_surrogates_count(surrogate, few, kind, delay):
    """37 steps and 5 samples: blocks of time and groups of samples that are not whole."""
    net = network(surrogate, kind, delay)
    x = (torch.rand(37, 5, *net.layers[0].feedforward.in_shape) < 0.1).float()
    gradients = {}
    for kernel in ("cpu", "reference"):
        net.zero_grad()
        out = net(x, kernel=kernel)
        loss = out.readout.square().mean() * 10 + sum(counts.square().mean() for counts in out.counts) / 100
        loss.backward()
        gradients[kernel] = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    assert gradients["cpu"].keys() == gradients["reference"].keys()
    for name, expected in gradients["reference"].items():
        torch.testing.assert_close(gradients["cpu"][name], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    with torch.no_grad():
        end = net(x, kernel="reference", return_state=True).state
        share = [surrogate(layer.u - 1, layer.s).count_nonzero() / layer.u.numel() for layer in end.layers]
    assert all(bool(part < 1 / 6) is few for part in share)
