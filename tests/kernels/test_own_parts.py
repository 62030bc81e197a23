"""Parts that compiled kernels do not know keep working, on the fastest kernel that knows the rest; INFO says which."""

import logging
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from surgrad.errors import UserError
from surgrad.kernels import dispatch, reference
from surgrad.kernels.cpu import build, layerwise
from surgrad.kernels.cpu import network as cpu
from surgrad.network.connections import Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF
from surgrad.neurons.surrogate import SuperSpike

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C++ compiler on this machine")


class Biased(Dense):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.bias = nn.Parameter(torch.full((shape[-1],), 0.3))

    def forward(self, s):
        return super().forward(s) + self.bias


class Doubled(nn.Module):
    def forward(self, s):
        return torch.cat([s, s], -1)


class OwnNeuron(LIF):
    pass


class OwnSurrogate(SuperSpike):
    def __call__(self, x, s):
        return torch.exp(-x.abs())


@dataclass(frozen=True)
class OwnNoise:
    stochastic: ClassVar[bool] = True

    def probability(self, x):
        return (x / 2 + 0.5).clamp(0, 1)

    def threshold(self, r):
        return 2 * r - 1


def hooked(connection, register):
    getattr(connection, register)(lambda module, *values: None)
    return connection


def network(feedforward=None, neuron=None, recurrent=None, readout=None, unit_shape=None):
    torch.manual_seed(0)
    first = SpikingLayer(feedforward or Dense(8, 6), neuron or LIF(), 20e-3, 10e-3, recurrent, unit_shape)
    second = SpikingLayer(Dense(first.unit_shape, 5), LIF(), 20e-3, 10e-3, Dense(5, 5))
    return Network([first, second], Readout(readout or Dense(5, 3), 20e-3, 10e-3), 2e-3)


PARTS = {  # (what names it, the network)
    "forward of a subclass": ("layers[0].feedforward (Biased defines forward)", lambda: network(Biased(8, 6))),
    "recurrent subclass": ("layers[0].recurrent (Biased defines forward)", lambda: network(recurrent=Biased(6, 6))),
    "torch.nn.Linear": ("layers[0].feedforward (Linear is not a", lambda: network(nn.Linear(8, 6))),
    "any module": ("layers[0].feedforward (Doubled is not a", lambda: network(Doubled(), unit_shape=(16,))),
    "readout": ("readout.feedforward (Linear is not a", lambda: network(readout=nn.Linear(5, 3))),
    "forward hook": ("has hooks", lambda: network(hooked(Dense(8, 6), "register_forward_hook"))),
    "forward pre-hook": ("has hooks", lambda: network(hooked(Dense(8, 6), "register_forward_pre_hook"))),
    "backward hook": ("has hooks", lambda: network(hooked(Dense(8, 6), "register_full_backward_hook"))),
    "neuron": ("layers[0] (OwnNeuron neurons)", lambda: network(neuron=OwnNeuron())),
    "surrogate": ("layers[0] (OwnSurrogate(beta=10.0)", lambda: network(neuron=LIF(OwnSurrogate()))),
    "escape noise": ("OwnNoise()", lambda: network(neuron=LIF(escape_noise=OwnNoise()))),
}


@pytest.mark.parametrize("part", PARTS)
def test_auto_takes_the_fastest_kernel_that_knows_every_part_and_says_which(part, caplog):
    named, make = PARTS[part]
    net, generator = make(), torch.Generator().manual_seed(1)
    x = (torch.rand(20, 3, 8, generator=generator) < 0.3).float()
    dispatch._say.cache_clear()
    found = []
    with caplog.at_level(logging.INFO, logger="surgrad"):
        for kernel in ("reference", "auto", "auto"):
            net.zero_grad()
            out = net(x, kernel=kernel, record=True)
            out.readout.square().sum().backward()
            found.append(
                (out.spikes, [out.readout.detach(), *(p.grad for p in net.parameters() if p.grad is not None)])
            )
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert named in lines[0]
    assert "times as long" in lines[0]
    assert dispatch.choose("auto", net.spec()).run is layerwise.run
    (spikes, values), (got_spikes, got_values) = found[:2]
    assert all(torch.equal(a, b) for a, b in zip(spikes, got_spikes, strict=True))
    for a, b in zip(values, got_values, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    with pytest.raises(UserError) as refused:
        net(x, kernel="cpu")
    assert named in str(refused.value)


def test_layers_that_are_known_stay_compiled(monkeypatch):
    net = network(neuron=LIF(OwnSurrogate()))
    scanned = []
    for module in (cpu, reference):
        scan = module.scan
        name = module.__name__.rsplit(".", 1)[-1]
        monkeypatch.setattr(module, "scan", lambda layer, *rest, s=scan, n=name: scanned.append(n) or s(layer, *rest))
    net(torch.zeros(5, 1, 8))
    assert scanned == ["reference", "network"]


def test_hooks_and_added_terms_take_part():
    seen = []
    net = network(Biased(8, 6))
    net.layers[1].feedforward.register_forward_hook(lambda module, given, out: seen.append(out.shape))
    out = net(torch.zeros(30, 2, 8), record=True)
    assert seen == [(30, 2, 5)]
    assert net(torch.zeros(30, 2, 8), kernel="reference", record=True).spikes[0].equal(out.spikes[0])
    with torch.no_grad():
        net.layers[0].feedforward.bias.fill_(1.0)
    assert net(torch.zeros(60, 2, 8)).counts[0].sum() > 0


def test_a_connection_of_another_shape_is_named():
    net = network(Doubled(), unit_shape=(12,))
    for kernel in ("reference", "auto"):
        with pytest.raises(UserError, match=r"layers\[0\]\.feedforward gives currents of shape"):
            net(torch.zeros(5, 1, 8), kernel=kernel)
    with pytest.raises(UserError, match="unit_shape is needed"):
        SpikingLayer(Doubled(), LIF(), 20e-3, 10e-3)


def test_a_parametrised_weight_is_known():
    net = network(neuron=LIF(escape_noise=Sigmoid(5.0)))
    nn.utils.parametrizations.weight_norm(net.layers[0].feedforward)
    assert dispatch.choose("auto", net.spec()).run is cpu.run
    net(torch.ones(5, 1, 8)).readout.sum().backward()
