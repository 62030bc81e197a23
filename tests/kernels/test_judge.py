"""The judge of spikes and gradients: it accepts what follows from the history of spikes, and nothing else."""

import pytest
import torch
from kernels.spiking_parts import NOISES
from kernels.triton_networks import ids_of, loss_of, network, spikes_for, strict

from surgrad.kernels.call import Address, Options
from surgrad.kernels.gpu import neurons as triton_neurons
from surgrad.kernels.judge import judge
from surgrad.kernels.philox import NoiseKey
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF, AdaptiveLIF


def judged(net, kernel, change=lambda output, net: None, nb_steps=12, **options):
    x = spikes_for(net, nb_steps, 3, 0.6)
    net.zero_grad()
    output = net(x, seed=11, draw=3, ids=ids_of(x), record=True, kernel=kernel, **options)
    loss_of(output).backward()
    change(output, net)
    return judge(net, x, Options(Address(NoiseKey(11, 3), ids_of(x)), **options), output, loss_of)


def convolutional(noise=NOISES[1]):
    neuron = LIF(escape_noise=noise, diff_reset=True)
    return network(Conv((1, 9), 4, 3, 2), neuron=neuron, recurrent=[Conv((4, 4), 4, 3, 1, 1)], trained="units")


@pytest.mark.parametrize("kernel", ["reference", "cuda"])
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_what_the_kernels_do_is_right(kernel, noise):
    verdict = judged(convolutional(noise), kernel)
    assert verdict.right(1e-4), verdict
    assert verdict.decided == 12 * 3 * 16


def test_truncated_gradients_are_right():
    assert judged(network(Dense(8, 6), recurrent=[Dense(6, 6)]), "cuda", truncate=4).right(1e-4)


def test_adaptive_neurons_are_judged_alike():
    layer = SpikingLayer(Dense(8, 6), AdaptiveLIF(seed=1), 20e-3, 10e-3, Dense(6, 6))
    net = Network([layer], Readout(Dense(6, 3), 40e-3, 10e-3), 2e-3)
    verdict = judged(net, "reference", nb_steps=20)
    assert verdict.right(1e-4), verdict


@pytest.mark.parametrize("noise", NOISES[:2], ids=["deterministic", "stochastic"])
def test_a_flipped_spike_is_wrong(noise):
    def flip(output, net):
        with torch.no_grad():
            output.spikes[0][4, 1, 0, 2] = 1 - output.spikes[0][4, 1, 0, 2]

    verdict = judged(convolutional(noise), "cuda", flip)
    assert verdict.wrong >= 1
    assert verdict.farthest > 1e-4
    assert not verdict.right(1.0)


@pytest.mark.parametrize(
    "name", ["layers.0.feedforward.weight", "layers.0.recurrent.weight", "layers.0.tau_mem.log_tau"]
)
def test_a_gradient_that_is_off_is_named(name):
    def scale(output, net):
        net.get_parameter(name).grad.mul_(1.001)

    verdict = judged(convolutional(), "cuda", scale)
    assert not verdict.wrong
    assert not verdict.right(1e-4)
    assert max(verdict.gradients, key=verdict.gradients.get) == name
    assert verdict.gradients[name] == pytest.approx(1e-3, rel=0.2)


def test_a_gradient_that_is_missing_is_wrong():
    def drop(output, net):
        net.layers[0].recurrent.weight.grad = None

    assert not judged(convolutional(), "reference", drop).right(1e6)


def test_not_a_number_is_wrong():
    def spoil(output, net):
        output.readout.detach()[0] = float("nan")

    assert not judged(convolutional(), "reference", spoil).right(1e6)


def test_the_tests_of_large_networks_judge_like_this(monkeypatch):
    """Rehearsed at a small shape; a kernel without escape noise fails."""
    net = network(Dense(8, 30), neuron=LIF(escape_noise=NOISES[1]), recurrent=[Dense(30, 30)])
    x = spikes_for(net, 12, 3, 0.6)
    strict(net, x)
    monkeypatch.setitem(triton_neurons.NOISES, Sigmoid, (triton_neurons.step_threshold, ()))
    with pytest.raises(AssertionError, match="wrong"):
        strict(net, x)
