"""Layers called as modules: in a Sequential, by themselves with explicit state, with hooks, with their own forward."""

import pytest
import torch
from torch import nn

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.kernels import dispatch
from surgrad.network.connections import Conv, DelayedDense, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF, AdaptiveLIF

DT = 2e-3
NOISE = LIF(escape_noise=Sigmoid(5.0))
TAUS = (20e-3, 10e-3)


def network(kind="dense", dropout=0.0):
    torch.manual_seed(0)
    if kind == "conv":
        layers = [SpikingLayer(Conv((1, 12), 3, 4, 2), LIF(), *TAUS, Conv((3, 5), 3, 3, 1, 1))]
    else:
        neuron = {"noise": NOISE, "adaptive": AdaptiveLIF()}.get(kind, LIF())
        below = DelayedDense(12, 8, 8e-3) if kind == "delays" else Dense(12, 8)
        layers = [
            SpikingLayer(below, neuron, *TAUS, Dense(8, 8)),
            SpikingLayer(Dense(8, 6), neuron, *TAUS, dropout=dropout),
        ]
    return Network(layers, Readout(Dense(layers[-1].unit_shape, 3), 0.1, 10e-3, dropout=dropout), DT)


def spikes(kind="dense", nb_steps=40):
    x = (torch.rand(nb_steps, 4, 12, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    return x[:, :, None] if kind == "conv" else x


KINDS = ["dense", "conv", "noise", "adaptive", "delays"]


@pytest.mark.parametrize("kind", ["dense", "conv", "adaptive", "delays"])
def test_a_sequential_of_layers_is_the_network(kind):
    net, x = network(kind), spikes(kind).requires_grad_()
    whole = net(x)
    whole.readout.square().sum().backward()
    expected = [x.grad.clone(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]
    x.grad = None
    net.zero_grad()
    parts = nn.Sequential(*net.layers, net.readout)
    y = parts(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, whole.readout)
    found = [x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()) + 1e-9)


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_layers_of_their_own_stand_beside_modules_of_pytorch(kernel):
    torch.manual_seed(0)
    first = SpikingLayer(Conv((1, 6, 6), 4, 3), LIF(), *TAUS, dt=DT)
    net = nn.Sequential(first, nn.Flatten(2), SpikingLayer(nn.Linear(64, 5), LIF(), *TAUS, dt=DT))
    x = (torch.rand(30, 2, 1, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    assert first(x, kernel=kernel).shape == (30, 2, 4, 4, 4)
    out = net(x)
    assert out.shape == (30, 2, 5)
    assert set(out.unique().tolist()) <= {0.0, 1.0}
    out.sum().backward()
    assert first.feedforward.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_in_and_comes_out(kind):
    net, x = network(kind), spikes(kind)
    for layer in (net.layers[0], *([net.readout] if kind == "conv" else [])):
        given = x if layer is net.layers[0] else torch.zeros(40, 4, 3, 5).bernoulli_(0.3)
        whole = layer(given, seed=3)
        first, state = layer(given[:17], seed=3, return_state=True)
        second = layer(given[17:], state, seed=3)
        assert torch.equal(torch.cat([first, second]), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_fire_within_a_network_and_change_nothing_by_themselves(kind):
    net, x = network(kind), spikes(kind)
    fused = net(x, record=True, return_state=True, seed=3, draw=1)
    seen = []
    for layer in net.stack:
        layer.register_forward_hook(lambda module, given, out: seen.append((module.index, type(out))))
    out = net(x[:17], record=True, return_state=True, seed=3, draw=1)
    rest = net(x[17:], record=True, return_state=True, seed=3, draw=1, state=out.state)
    assert [index for index, _ in seen] == [*range(len(net.stack))] * 2
    for k, layer in enumerate(fused.spikes):
        assert torch.equal(torch.cat([out.spikes[k], rest.spikes[k]]), layer)
        assert torch.equal(out.counts[k] + rest.counts[k], fused.counts[k])
    torch.testing.assert_close(torch.cat([out.readout, rest.readout]), fused.readout)
    for a, b in zip(rest.state.layers, fused.state.layers, strict=True):
        torch.testing.assert_close(a, b)
    assert rest.state.step == fused.state.step
    torch.testing.assert_close(net(EventBatch.from_dense(x), seed=3, draw=1).readout, fused.readout)


def test_what_is_dropped_is_the_same_when_layers_are_called():
    net, x = network(dropout=0.4), spikes()
    fused = net(x, seed=3, draw=2)
    net.layers[1].register_forward_pre_hook(lambda module, given: None)
    torch.testing.assert_close(net(x, seed=3, draw=2).readout, fused.readout)


def test_what_a_hook_returns_takes_the_place_of_the_spikes():
    net, x = network(), spikes()
    net.layers[0].register_forward_hook(lambda module, given, out: torch.zeros_like(out))
    assert not net(x).counts[0].any()


class Silent(SpikingLayer):
    """A layer that emits nothing in the first ten steps."""

    def forward(self, x, state=None, **options):
        spikes = super().forward(x, state, **options)
        return torch.cat([torch.zeros_like(spikes[:10]), spikes[10:]])


def test_a_forward_of_ones_own_takes_part():
    torch.manual_seed(0)
    net = Network([Silent(Dense(12, 8), LIF(), *TAUS)], Readout(Dense(8, 3), *TAUS), DT)
    out = net(spikes(), record=True)
    assert not out.spikes[0][:10].any()
    assert out.counts[0].sum() > 0


def test_the_network_is_one_call_where_nothing_asks_for_more(monkeypatch):
    calls = []
    run = dispatch.run
    monkeypatch.setattr(dispatch, "run", lambda *given, **options: calls.append(1) or run(*given, **options))
    net = network()
    net(spikes())
    assert len(calls) == 1
    net.readout.register_forward_hook(lambda module, given, out: None)
    net(spikes())
    assert len(calls) == 1 + 3


def test_what_a_call_lacks_is_named():
    layer = SpikingLayer(Dense(12, 8), LIF(), *TAUS)
    with pytest.raises(UserError, match=r"SpikingLayer that is called by itself needs a time step: give it dt="):
        layer(spikes())
    with pytest.raises(UserError, match=r"this SpikingLayer draws random numbers: call it with seed="):
        SpikingLayer(Dense(12, 8), NOISE, *TAUS, dt=DT)(spikes())
    with pytest.raises(UserError, match=r"this Readout draws random numbers"):
        Readout(Dense(12, 8), *TAUS, dropout=0.5, dt=DT)(spikes())
    with pytest.raises(UserError, match=r"x has shape \(40, 4, 12\)"):
        SpikingLayer(Dense(11, 8), LIF(), *TAUS, dt=DT)(spikes())
