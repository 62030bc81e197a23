"""Every instruction set that this machine can execute computes the same spikes, and gradients to rounding."""

import pytest
import test_gradients
import test_kernel_cpu
import test_kernel_layerwise
import torch
from torch.nn import functional as F

from surgrad import escape_noise
from surgrad.kernels import dispatch
from surgrad.kernels.cpu import adaptive, build, delays, instruction_set, products
from surgrad.kernels.philox import NoiseKey
from surgrad.neurons.lif import LIF

pytestmark = pytest.mark.skipif(build._compiler() is None, reason="no C++ compiler: install g++ or clang++")

CACHED = (build.library, build.compiled, adaptive.library, delays.library, products._library, products._vectors)


@pytest.fixture(params=instruction_set.executable())
def isa(request, monkeypatch):
    monkeypatch.setenv("SURGRAD_ISA", request.param)
    for function in CACHED:
        function.cache_clear()
    yield request.param
    for function in CACHED:
        function.cache_clear()


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def close(got, expected, tolerance=1e-4):
    return (got - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-6)


def lif_network(kind, noise):
    network = test_kernel_cpu.small_network(noise, kind)
    x = test_kernel_cpu.spikes_for(network)

    def outputs(kernel):
        network.zero_grad()
        out = network(x, seed=5, draw=2, record=True, kernel=kernel)
        (out.readout.square().sum() + out.counts[0].sum()).backward()
        return [s.detach() for s in out.spikes], [
            out.readout.detach(),
            *(p.grad.clone() for p in network.parameters() if p.grad is not None),
        ]

    return outputs


CASES = {
    (kind, type(noise).__name__): lif_network(kind, noise)
    for kind in ("dense", "conv1d")
    for noise in (escape_noise.Step(), escape_noise.Sigmoid(7.0))
}
READOUTS = {}  # of the first instruction set that ran


@pytest.mark.parametrize("name", CASES)
def test_networks(name, isa, threads):
    specified, numbers = CASES[name]("reference")
    spikes, got = CASES[name]("cpu")
    assert all(torch.equal(a, b) for a, b in zip(spikes, specified, strict=True))
    assert all(close(a, b) for a, b in zip(got, numbers, strict=True))
    assert torch.equal(READOUTS.setdefault(name, got[0]), got[0])  # bit for bit


def test_a_driven_layer(isa, threads):
    g = torch.Generator().manual_seed(0)
    current = 4 * torch.randn(70, 6, 4096 + 16, generator=g)
    decays, neuron = (torch.tensor(0.8), torch.tensor(0.9)), LIF(escape_noise=escape_noise.Sigmoid(7.0))
    results = []
    for kernel in ("reference", "cpu"):
        x = current.clone().requires_grad_()
        s, _, end = dispatch.lif(x, *decays, neuron, noise=NoiseKey(1, 2, 3), ids=torch.arange(6), kernel=kernel)
        (gradient,) = torch.autograd.grad(s.square().sum(), x)
        results.append((s.detach(), gradient, end.u.detach()))
    (s, gradient, u), (s2, gradient2, u2) = results
    assert torch.equal(s, s2)
    assert torch.equal(u, u2)  # the membrane, bit for bit: every operation is rounded as PyTorch rounds it
    assert close(gradient2, gradient)


def test_adaptive_neurons_with_learned_delays(isa, threads):
    network = test_kernel_layerwise.random_network()
    x = test_kernel_layerwise.spikes_for(network)
    expected, got = (test_kernel_layerwise.run(network, x, kernel) for kernel in ("reference", "cpu"))
    test_kernel_layerwise.assert_same(expected, got)


@pytest.mark.parametrize("kind", test_gradients.LOOPS)
def test_recurrent_delays(isa, threads, kind):
    network = test_gradients.build_network(kind)
    network.layers[0].recurrent_dropout = 0.3
    x = (torch.rand(40, 9, 8, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    expected, got = (test_kernel_layerwise.run(network, x, kernel) for kernel in ("reference", "cpu"))
    test_kernel_layerwise.assert_same(expected, got, 1e-3)


def test_products(isa, threads):
    g = torch.Generator().manual_seed(0)
    for rows, depth, columns in ((37, 53, 48), (301, 1040, 336), (13, 16, 16)):
        a, b = torch.randn(rows, depth, generator=g), torch.randn(columns, depth, generator=g)
        assert close(products.product(a, b.T), F.linear(a, b), 1e-5)
        assert close(products.product(a.T.contiguous().T, b.T), F.linear(a, b), 1e-5)
