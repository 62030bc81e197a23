"""The Triton kernels of adaptive neurons compute what the reference computes: same spikes, gradients to rounding."""

import pytest
import torch
from kernels.spiking_parts import NOISES, SURROGATES
from kernels.triton_networks import DEVICE, assert_close, ids_of, loss_of
from torch import nn

from surgrad.errors import UserError
from surgrad.kernels import dispatch
from surgrad.kernels.call import Address, Options
from surgrad.kernels.judge import judge
from surgrad.kernels.philox import NoiseKey
from surgrad.network.connections import Conv, DelayedDense, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.lif import RESETS, AdaptiveLIF

DT = 2e-3


def network(first, *, loop=None, second=None, delay=1, **neuron):
    """One or two adaptive layers and a readout; weights from seed 0."""
    neuron = AdaptiveLIF(seed=3, **neuron)
    layers = [SpikingLayer(first, neuron, 20e-3, 10e-3, loop)]
    if second is not None:
        layers.append(SpikingLayer(second, neuron, 20e-3, 10e-3))
    readout = Readout(Dense(layers[-1].unit_shape, 3), 40e-3, 10e-3)
    net = Network(layers, readout, DT, delay)
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, Dense | Conv):
            nn.init.normal_(module.weight, 1.0 / module.fan_in**0.5, 6.0 / module.fan_in**0.5, generator=generator)
    return net.to(DEVICE)


def spikes_for(net, nb_steps=14, nb_samples=3, density=0.4):
    shape = (nb_steps, nb_samples, *net.layers[0].feedforward.in_shape)
    return (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < density).float().to(DEVICE)


def results(net, x, kernel, **options):
    net.zero_grad()
    output = net(x, seed=11, draw=3, ids=ids_of(x), record=True, kernel=kernel, **options)
    loss_of(output).backward()
    return output, {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def check(net, x, **options):
    (expected, wanted), (got, gradients) = (results(net, x, kernel, **options) for kernel in ("reference", "cuda"))
    for a, b in zip(expected.spikes, got.spikes, strict=True):
        assert torch.equal(a, b)
        assert 0 < a.sum() < a.numel()
    assert_close(expected.y.detach(), got.y.detach(), "readout", 1e-5)
    assert wanted.keys() == gradients.keys()
    for name, gradient in wanted.items():
        assert_close(gradient, gradients[name], name)
    return wanted


@pytest.mark.parametrize(("reset", "diff_reset"), [(r, k % 2 == 0) for k, r in enumerate(RESETS)])
def test_resets(reset, diff_reset):
    net = network(
        Dense(8, 6), loop=Dense(6, 6), reset=reset, diff_reset=diff_reset, unit_gain=reset[0] == "m", a=(0, 3)
    )
    gradients = check(net, spikes_for(net))
    for name in ("a", "b", "tau_w"):
        assert gradients[f"layers.0.adaptation.{name}.logit"].abs().sum() > 0


@pytest.mark.parametrize("noise", NOISES[1:], ids=lambda noise: type(noise).__name__)
def test_escape_noise_in_two_convolutional_layers(noise):
    first = Conv((1, 9), 4, 3, 2)
    net = network(first, loop=Conv((4, 4), 4, 3, 1, 1), second=Conv((4, 4), 3, 2), escape_noise=noise)
    check(net, spikes_for(net, 10, 2))


@pytest.mark.parametrize("h", SURROGATES[2:8:2], ids=lambda h: type(h).__name__)
def test_surrogates_without_recurrence(h):
    net = network(Dense(8, 6), second=Dense(6, 5), surrogate=h, delay=0)
    check(net, spikes_for(net))


@pytest.mark.parametrize("reset", ["multiplicative_leak", "subtractive"])
def test_the_euler_scheme(reset):
    net = network(Dense(8, 6), loop=Dense(6, 6), scheme="euler", a=(0.0, 0.9), reset=reset, diff_reset=True)
    check(net, spikes_for(net))


def test_learned_delays_before_them():
    net = network(DelayedDense(8, 6, 9e-3), loop=Dense(6, 6))
    assert "layers.0.feedforward.delay.logit" in check(net, spikes_for(net))


def test_truncated_backpropagation():
    net = network(Dense(8, 6), loop=Dense(6, 6))
    check(net, spikes_for(net), truncate=5)


def test_two_halves_are_one_whole():
    """State carried by hand, gradients included: i, u, w and the spikes in flight."""
    net = network(Dense(8, 6), loop=Dense(6, 6))
    x = spikes_for(net)
    whole, wanted = results(net, x, "cuda")
    net.zero_grad()
    options = {"seed": 11, "draw": 3, "ids": ids_of(x), "return_state": True, "record": True, "kernel": "cuda"}
    first = net(x[:6], **options)
    second = net(x[6:], state=first.state, **options)
    joined = whole._replace(
        readout=torch.cat([first.y, second.y]),
        counts=[a + b for a, b in zip(first.counts, second.counts, strict=True)],
    )
    loss_of(joined).backward()
    assert torch.equal(whole.spikes[0], torch.cat([first.spikes[0], second.spikes[0]]))
    for name, gradient in wanted.items():
        assert_close(gradient, net.get_parameter(name).grad, name)


@pytest.mark.usefixtures("programs")
def test_they_are_right_given_their_own_spikes():
    """What large networks on a GPU are judged by."""
    net = network(Dense(8, 30), loop=Dense(30, 30))
    x = spikes_for(net)
    output, _ = results(net, x, "cuda")
    verdict = judge(net, x, Options(Address(NoiseKey(11, 3), ids_of(x))), output, loss_of)
    assert verdict.right(1e-4), verdict


def test_what_does_not_fit_one_launch_is_left_to_the_reference():
    net = network(Dense(8, 300), loop=Dense(300, 300))
    with pytest.raises(UserError, match=r"300 adaptive neurons with recurrence\); use kernel=auto"):
        dispatch.choose("cuda", net.spec())
    assert dispatch.choose("cuda", network(Dense(8, 6)).spec()).name == "cuda"
