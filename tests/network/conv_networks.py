"""Small convolutional networks, and what the tests of their parts compare."""

import pytest
import torch

from surgrad.kernels.cpu import build
from surgrad.network.initializers import Distribution
from surgrad.network.models import ConvStack, conv_snn
from surgrad.network.network import evaluating
from surgrad.neurons.lif import LIF

DT, T, B = 2e-3, 30, 4
SHAPES = {"one axis": (1, 14), "two axes": (2, 7, 6)}
needs_compiler = pytest.mark.skipif(build.library() is None, reason="no C++ compiler on this machine")


STACK = ConvStack(2, [3, 4], [3, 3], [1, 1], [1, 1], rec=True, rec_kernel_size=3, rec_padding=1)


def network_of(shape=(1, 14), *, parts=None, neuron=None, std=4.0, stack=STACK, **options):
    """Two recurrent layers of 3 and 4 channels under a readout of 3 classes."""
    constants = {"dt": DT, "tau_mem": 20e-3, "tau_syn": 10e-3, "tau_readout": 50e-3}
    neuron = neuron or LIF(diff_reset=True)
    network = conv_snn(stack, in_shape=shape, nb_classes=3, neuron=neuron, hidden=parts, **constants, **options)
    Distribution(std=std)(network, torch.Generator().manual_seed(1))
    return network


def spikes(shape=(1, 14), nb_steps=T, share=0.2, seed=0):
    return (torch.rand(nb_steps, B, *shape, generator=torch.Generator().manual_seed(seed)) < share).float()


def gradients(network, x, kernel="auto", **options):
    """Output, and the gradients by name of a loss of readout and counts."""
    network.zero_grad()
    out = network(x, seed=3, record=True, kernel=kernel, **options)
    generator = torch.Generator().manual_seed(2)
    sum((p * torch.randn(p.shape, generator=generator).to(p)).sum() for p in (out.y, *out.counts)).backward()
    return out, {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def assert_same(a, b, tolerance=2e-4):
    (out, found), (out2, found2) = a, b
    assert all(torch.equal(s, z) for s, z in zip(out.recorded, out2.recorded, strict=True))
    assert all(s.any() for s in out.recorded)
    torch.testing.assert_close(out.y, out2.y, rtol=1e-4, atol=1e-5)
    assert found.keys() == found2.keys()
    for name, gradient in found.items():
        scale = float(gradient.abs().max()) or 1.0
        torch.testing.assert_close(found2[name] / scale, gradient / scale, rtol=tolerance, atol=tolerance, msg=name)


def halves_are_one_whole(network, kernel):
    x = spikes()
    with torch.no_grad(), evaluating(network):
        whole = network(x, record=True, kernel=kernel)
        first = network(x[:7], record=True, return_state=True, kernel=kernel)
        second = network(x[7:], record=True, state=first.state, kernel=kernel)
    for a, b, c in zip(first.recorded, second.recorded, whole.recorded, strict=True):
        assert torch.equal(torch.cat([a, b]), c)
    torch.testing.assert_close(torch.cat([first.y, second.y]), whole.y)
