"""Networks with delays by the Triton kernels are those of the reference: same spikes, gradients to rounding."""

import pytest
import torch
from kernels.spiking_parts import NOISES
from kernels.triton_networks import DEVICE, assert_close, check, ids_of, loss_of, results, spikes_for
from torch import nn

from surgrad.errors import UserError
from surgrad.kernels import dispatch
from surgrad.network.connections import Conv, DelayedDense, Dense, GaussianDelays
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays, DendriticDelays
from surgrad.neurons.lif import LIF, RESETS, AdaptiveLIF

DT, MAX_DELAY = 2e-3, 9e-3


def gaussian(n_in, n_out):
    return GaussianDelays(n_in, n_out, MAX_DELAY, 3e-3, 1e-3, 10)


def delayed(n_in, n_out):
    return DelayedDense(n_in, n_out, MAX_DELAY)


def axonal(n_in, n_out, **options):
    return AxonalDelays(n_in, n_out, MAX_DELAY, **options)


def dendritic(n_in, n_out):
    return DendriticDelays(n_in, n_out, MAX_DELAY)


def network(first=Dense, second=None, readout=Dense, loop=None, neuron=None, delay=1, dropout=0.0):
    """One or two layers and a readout, 8 inputs, 6 and 5 neurons, 3 classes; weights from seed 0."""
    neuron = neuron or LIF()
    layers = [SpikingLayer(first(8, 6), neuron, 20e-3, 10e-3, loop, recurrent_dropout=dropout)]
    if second is not None:
        layers.append(SpikingLayer(second(6, 5), neuron, 20e-3, 10e-3))
    net = Network(layers, Readout(readout(layers[-1].unit_shape, 3), 40e-3, 10e-3), DT, delay)
    generator = torch.Generator().manual_seed(0)
    for part in net.modules():
        if isinstance(part, Dense | Conv):
            nn.init.normal_(part.weight, 3.0 / part.fan_in**0.5, 6.0 / part.fan_in**0.5, generator=generator)
    return net.to(DEVICE)


def agrees(net, nb_steps=20, **options):
    """That spikes are those of the reference, and that every delay has a gradient."""
    _, gradients = check(net, spikes_for(net, nb_steps, 3, 0.4), **options)
    of_delays = {name: g for name, g in gradients.items() if name.endswith("delay.logit")}
    assert of_delays
    assert all(g is not None and g.abs().sum() > 0 for g in of_delays.values())


NEURONS = {"lif": LIF(), "adaptive": AdaptiveLIF(seed=3)}
KINDS = {"synapses": delayed, "gaussian": gaussian, "axons": axonal, "dendrites": dendritic}


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_feed_forward_delays_into_layers_and_readout(kind, neuron):
    agrees(network(kind, kind, kind, neuron=neuron))


@pytest.mark.parametrize("kind", [delayed, gaussian])
def test_without_a_step_between_layers(kind):
    agrees(network(kind, Dense, kind, neuron=LIF(escape_noise=NOISES[1]), delay=0))


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("adapts", [False, True], ids=["lif", "adaptive"])
def test_recurrent_delays_of_axons_in_one_launch(reset, adapts):
    neuron = (AdaptiveLIF if adapts else LIF)(reset=reset, diff_reset=True, escape_noise=NOISES[adapts])
    agrees(network(delayed, loop=axonal(6, 6), neuron=neuron))


def test_recurrent_delays_as_wide_triangles():
    agrees(network(loop=axonal(6, 6, width=5e-3)), nb_steps=9)  # which may reach beyond the end


@pytest.mark.parametrize("adapts", [False, True], ids=["lif", "adaptive"])
@pytest.mark.parametrize("loop", [Dense(6, 6), axonal(6, 6)], ids=["at once", "later"])
@pytest.mark.usefixtures("programs")
def test_dropout_in_a_recurrence(loop, adapts):
    net = network(loop=loop, neuron=NEURONS["adaptive" if adapts else "lif"], dropout=0.4)
    check(net, spikes_for(net, 14, 3, 0.4))


def test_dropout_in_a_recurrent_convolution():
    first = Conv((2, 9), 4, 3, 2)
    loop = Conv(first.out_shape, 4, 3, 1, 1)
    net = network(lambda *sizes: first, loop=loop, dropout=0.4)
    check(net, spikes_for(net, 9, 2, 0.4))


def test_truncated_gradients():
    agrees(network(delayed, loop=axonal(6, 6)), truncate=5)


@pytest.mark.parametrize("cut", [2, 9])
@pytest.mark.parametrize("adapts", [False, True], ids=["lif", "adaptive"])
def test_two_halves_are_one_whole(cut, adapts):
    """Spikes on their way at the cut are part of the state, gradients included."""
    net = network(delayed, loop=axonal(6, 6), neuron=NEURONS["adaptive" if adapts else "lif"], dropout=0.3)
    x = spikes_for(net, 14, 3, 0.4)
    whole, wanted = results("cuda", net, x)
    net.zero_grad()
    options = {"seed": 11, "draw": 3, "ids": ids_of(x), "return_state": True, "record": True, "kernel": "cuda"}
    first = net(x[:cut], **options)
    second = net(x[cut:], state=first.state, **options)
    counts = [a + b for a, b in zip(first.counts, second.counts, strict=True)]
    loss_of(whole._replace(readout=torch.cat([first.y, second.y]), counts=counts)).backward()
    assert torch.equal(whole.spikes[0], torch.cat([first.spikes[0], second.spikes[0]]))
    for name, gradient in wanted.items():
        assert_close(gradient, net.get_parameter(name).grad, name)


@pytest.mark.parametrize("loop", [delayed(6, 6), dendritic(6, 6)])
def test_recurrent_delays_of_synapses_and_dendrites_are_left_to_the_reference(loop):
    net = network(loop=loop)
    with pytest.raises(UserError, match=r"recurrent delays that are not axonal\); use kernel=auto"):
        dispatch.choose("cuda", net.spec())


def test_a_connection_that_defines_forward_is_not_known():
    class Own(GaussianDelays):
        def forward(self, s, dt, shift=0):
            return super().forward(s, dt, shift)

    own = Own(8, 6, MAX_DELAY, 3e-3, 1e-3, 10)
    with pytest.raises(UserError, match="Own defines forward"):
        dispatch.choose("cuda", network(lambda *sizes: own).spec())
