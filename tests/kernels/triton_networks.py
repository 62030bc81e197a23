"""Networks, inputs and comparisons of the tests of the Triton kernels; imported before Triton looks for a GPU."""

import os

import pytest
import torch
from torch import nn

GPU = torch.cuda.is_available()
if not GPU:
    # Triton looks when it is imported, so this stands before.
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton", reason="Triton is not installed (it comes with PyTorch's CUDA builds)")
DEVICE = torch.device("cuda" if GPU else "cpu")

from surgrad.kernels.call import Address, Options  # noqa: E402
from surgrad.kernels.gpu import network as cuda  # noqa: E402
from surgrad.kernels.judge import judge  # noqa: E402
from surgrad.kernels.philox import NoiseKey  # noqa: E402
from surgrad.network.connections import Conv, Dense  # noqa: E402
from surgrad.network.layers import Readout, SpikingLayer  # noqa: E402
from surgrad.network.network import Network  # noqa: E402
from surgrad.network.parameters import TimeConstant  # noqa: E402
from surgrad.neurons.lif import LIF  # noqa: E402


def tau(shape, trained, mean=0.02):
    generator = torch.Generator().manual_seed(7)
    return TimeConstant(mean * (1 + 0.3 * torch.rand(shape, generator=generator)), trainable=trained)


def network(*connections, neuron=None, recurrent=(), delay=1, trained=(), classes=3, seed=0):
    """Layers of ``connections``; ``recurrent`` are their loops (or None); ``trained`` the shape of each tau, or ()."""
    neuron = neuron or LIF()
    recurrent = recurrent or [None] * len(connections)
    layers = []
    for connection, loop in zip(connections, recurrent, strict=True):
        shape = connection.out_shape if trained == "units" else ()
        layers.append(SpikingLayer(connection, neuron, tau(shape, bool(trained)), tau((), bool(trained), 0.01), loop))
    readout = None
    if classes:
        tau_readout = tau((), bool(trained), 0.05)
        readout = Readout(Dense(connections[-1].out_shape, classes), tau_readout, 0.01, unit_gain=neuron.unit_gain)
    net = Network(layers, readout, 0.002, delay)
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, Dense | Conv):
            scale = 6.0 / module.fan_in**0.5 if module not in recurrent else 1.0 / module.fan_in**0.5
            nn.init.normal_(module.weight, 0.2 * scale, scale, generator=generator)
    return net.to(DEVICE)


def spikes_for(net, nb_steps, nb_samples, density=0.3, seed=1):
    shape = (nb_steps, nb_samples, *net.layers[0].feedforward.in_shape)
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density).float().to(DEVICE)


def ids_of(x):
    return torch.arange(x.shape[1], device=x.device) * 3 + 5


def loss_of(output):
    loss = sum((k * counts**2).mean() for k, counts in enumerate(output.counts, 1))
    if output.readout is not None:
        loss = loss + (output.readout[..., 0] ** 2 + output.readout.sum(-1)).mean()
    return loss


def results(kernel, net, x, **kw):
    """Output and gradients of a run."""
    net.zero_grad()
    ids = ids_of(x) if isinstance(x, torch.Tensor) else x.ids
    if "chunk_bytes" in kw:
        address = Address(NoiseKey(11, 3), ids)
        chunk_bytes = kw.pop("chunk_bytes")
        output = cuda.run(net.spec(), x, Options(address, record=True, **kw), chunk_bytes)
    else:
        output = net(x, seed=11, draw=3, ids=ids, record=True, kernel=kernel, **kw)
    loss_of(output).backward()
    return output, {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def assert_close(a, b, name="", tolerance=1e-4):
    assert (a is None) == (b is None), name
    if a is not None:
        assert torch.isfinite(b).all(), name
        assert (a - b).norm() <= tolerance * a.norm() + 1e-9, f"{name}: {((a - b).norm() / a.norm()).item()}"


def check(net, x, **kw):
    """Spikes equal, outputs and gradients to rounding; where a spike differs, all are judged as by `strict`."""
    expected, expected_gradients = results("reference", net, x, **kw)
    got, got_gradients = results("cuda", net, x, **kw)
    assert sum(spikes.sum() for spikes in got.spikes) > 0
    if not all(torch.equal(a, b) for a, b in zip(expected.spikes, got.spikes, strict=True)):
        assert_right(net, x, got, **kw)
        return got, got_gradients
    for a, b in zip(expected.counts, got.counts, strict=True):
        assert torch.equal(a, b)
    if net.readout is not None:
        assert_close(expected.readout, got.readout, "readout", 1e-5)
    for name, gradient in expected_gradients.items():
        assert_close(gradient, got_gradients[name], name)
    return got, got_gradients


def strict(net, x, **kw):
    """Every spike, and all gradients, are right given the spikes before, in float64."""
    got, _ = results("cuda", net, x, **kw)
    assert sum(spikes.sum() for spikes in got.spikes) > 0
    assert_right(net, x, got, **kw)


def assert_right(net, x, got, **kw):
    """``got`` and the gradients that ``net`` holds are right given the recorded spikes."""
    verdict = judge(net, x, Options(Address(NoiseKey(11, 3), ids_of(x)), **kw), got, loss_of)
    assert verdict.right(1e-4), verdict
