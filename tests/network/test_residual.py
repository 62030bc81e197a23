"""Residual connections: against their definition, on every kernel, in parts, aligned with what lies between."""

import math
from dataclasses import replace

import pytest
import torch
from network.conv_networks import (
    DT,
    SHAPES,
    assert_same,
    gradients,
    halves_are_one_whole,
    needs_compiler,
    network_of,
    spikes,
)

from surgrad.errors import UserError
from surgrad.kernels import dispatch
from surgrad.kernels.reference import delayed
from surgrad.network.connections import Conv
from surgrad.network.initializers import FluctuationDrivenCentered
from surgrad.network.layers import SpikingLayer
from surgrad.network.models import ConvStack, HiddenParts
from surgrad.network.normalization import TemporalBatchNorm
from surgrad.network.probing import free_membrane
from surgrad.network.residual import Residual
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF

DEEP = ConvStack(3, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 1, 1], True, 3, 1, 1, residual=[[0, 2]])
STRIDED = replace(DEEP, nb_filters=[3, 4, 5], kernel_size=[3, 3, 2], stride=[1, 2, 1], padding=[1, 1, 0])
STACKS = {
    "identity": DEEP,
    "strided": STRIDED,
    "pooled": replace(STRIDED, stride=[1, 1, 1], pool_size=[2, 1, 1], pool_kind="average"),
    "two": replace(DEEP, residual=[[0, 1], [0, 2]]),
}


def residual(name, shape=(1, 14), **options):
    torch.manual_seed(5)
    return network_of(shape, stack=STACKS[name], **options)


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", STACKS)
def test_kernels_agree_on_residual_connections(name, shape):
    norm = HiddenParts(normalization=TemporalBatchNorm, dropout=0.2)
    for parts, noise in ((None, Sigmoid(5.0)), (norm, Sigmoid(5.0))):
        network = residual(name, shape, parts=parts, neuron=LIF(escape_noise=noise))
        assert "Residual of layers[0]" in network.summary()
        assert_same(*(gradients(network, spikes(shape), kernel) for kernel in ("reference", "auto")))


@pytest.mark.parametrize("kernel", ["reference", "auto"])
@pytest.mark.parametrize("name", STACKS)
def test_residual_halves_are_one_whole(name, kernel):
    halves_are_one_whole(residual(name), kernel)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_residual_weights_of_zero_are_a_network_without(shape):
    network, plain = residual("strided", shape), network_of(shape, stack=replace(STRIDED, residual=[]))
    network.layers[2].residual.conv.weight.data.zero_()
    plain.load_state_dict({name: x for name, x in network.state_dict().items() if "residual" not in name})
    (out, found), expected = gradients(network, spikes(shape)), gradients(plain, spikes(shape))
    assert found.pop("layers.2.residual.conv.weight").any()
    assert_same(expected, (out, found))


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("name", STACKS)
def test_spikes_of_two_layers_add_up_to_the_current(name, delay):
    """The upper layer alone, driven by what reaches it from both."""
    network = residual(name).double()
    network.delay = delay
    x = spikes().double()
    out, layer = network(x, record=True), network.layers[2]
    below = out.recorded[1] if layer.pool is None else layer.pool(out.recorded[1])
    ends = layer.feedforward(delayed(below, delay)), layer.residual(delayed(out.recorded[0], delay))
    options = {"recurrence": layer.recurrent, "kernel": "reference"}
    taus = (layer.tau_syn.decay(DT), layer.tau_mem.decay(DT))
    alone, _, _ = dispatch.lif(ends[0] + ends[1], *taus, layer.neuron, **options)
    assert torch.equal(alone, out.recorded[2])
    assert out.recorded[2].any()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ["strided", "pooled"])
def test_a_residual_connection_takes_what_lies_below_the_centre_of_each_field(name, shape):
    """A unit of layer 0 drives that above through all layers if it does so past them."""
    network = residual(name, shape).double()
    for layer in network.layers:
        for connection in layer.connections:
            connection.weight.data.fill_(1.0)
    first, second, third = network.layers
    at = torch.eye(math.prod(first.unit_shape), dtype=torch.float64).view(-1, *first.unit_shape)
    pool = second.pool or (lambda s: s)
    through = third.feedforward(second.feedforward(pool(at)))
    past = third.residual(at)
    assert bool((through[past > 0] > 0).all())
    units = past.flatten(1).sum(1).count_nonzero() // first.unit_shape[0]
    assert units == math.prod(third.unit_shape[1:])  # each place above has its own below


def test_initial_weights_share_the_deviation_of_the_membrane_with_a_residual_connection():
    rate, sigma, generator = 8.0, 0.7, torch.Generator().manual_seed(3)
    layer = SpikingLayer(Conv((4, 40), 32, 10), LIF(), 20e-3, 10e-3)
    past = Residual(0, (16, 40), layer.unit_shape, (1,), (4,))
    layer.beside(past)
    FluctuationDrivenCentered(sigma, nu=rate, time_step=DT)(layer, torch.Generator().manual_seed(2))
    below, further = ((torch.rand(1000, 8, n, 40, generator=generator) < rate * DT).float() for n in (4, 16))
    with torch.no_grad():
        u = free_membrane(layer, layer.feedforward(below) + past(further), DT)[100:]
    assert float((u - u.mean(0)).square().mean().sqrt()) == pytest.approx(sigma, rel=0.08)


def alone():
    return SpikingLayer(Conv((1, 14), 3, 3), LIF(), 1.0, 1.0)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: replace(DEEP, residual=[[0, 3]]), r"residual=\[\[0, 3\]\]: pairs of a layer and one above it"),
        (
            lambda: replace(DEEP, residual=[[1, 1]]),
            "pairs of a layer and one above it are wanted, of the layers 0 to 2",
        ),
        (lambda: replace(DEEP, residual=[[0, 1, 2]]), "pairs of a layer and one above it"),
        (lambda: replace(DEEP, residual=[[0, 2], [1, 2]]), "one for each layer above is known"),
        (
            lambda: network_of(stack=replace(DEEP, padding=[1, 1, 2])),
            "layer 2: .* less padding keeps them within",
        ),
        (lambda: residual("identity").layers[2](spikes((3, 14))), "layer 2 has a residual connection, .*call the net"),
        (
            lambda: SpikingLayer(Conv((1, 14), 3, 3), LIF(), 1.0, 1.0).beside(Residual(0, (3, 9), (3, 9), (1,), (0,))),
            "to .3, 9., but the layer has units",
        ),
    ],
)
def test_residual_connections_that_cannot_be_are_refused(made, said):
    with pytest.raises(UserError, match=said):
        made()
