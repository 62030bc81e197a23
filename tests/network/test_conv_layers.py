"""Parts of convolutional layers: against their definition, and on the compiled kernels as on the reference."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from network.conv_networks import (
    DT,
    SHAPES,
    STACK,
    B,
    T,
    assert_same,
    gradients,
    halves_are_one_whole,
    needs_compiler,
    network_of,
    spikes,
)

from surgrad.errors import UserError
from surgrad.network.connections import Conv, GaussianDelays
from surgrad.network.initializers import FluctuationDrivenCentered
from surgrad.network.layers import SpikingLayer
from surgrad.network.models import HiddenParts
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays, ConvAxonalDelays, ConvDendriticDelays
from surgrad.network.pooling import POOLS, AveragePool, MaxPool
from surgrad.network.probing import free_membrane
from surgrad.network.time_constants import gamma, homogeneous
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF


def drawn(trainable=True):
    generator = torch.Generator().manual_seed(4)
    return HiddenParts(time_constants=lambda tau, n: gamma(tau, n, generator, trainable=trainable))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("of", ["channel", "neuron"])
def test_equal_time_constants_are_one_for_the_layer(shape, of):
    equal = HiddenParts(time_constants=lambda tau, n: homogeneous(tau, n, torch.Generator()))
    x = spikes(shape)
    assert_same(gradients(network_of(shape), x), gradients(network_of(shape, parts=equal, time_constants_of=of), x))


@needs_compiler
@pytest.mark.parametrize("neuron", [LIF(), LIF(escape_noise=Sigmoid(5.0))], ids=["lif", "noise"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("of", ["channel", "neuron"])
def test_kernels_agree_with_a_time_constant_of_each(shape, of, neuron):
    found = {}
    for kernel in ("reference", "auto"):
        network = network_of(shape, parts=drawn(), neuron=neuron, time_constants_of=of)
        assert "compiled, all layers in one call" in network.summary()
        found[kernel] = gradients(network, spikes(shape), kernel)
    assert_same(found["reference"], found["auto"])
    assert found["auto"][1]["layers.0.tau_mem.log_tau"].any()


def test_the_gradient_of_a_channel_is_the_sum_of_those_of_its_neurons():
    shape, of_channel = (2, 7, 6), network_of((2, 7, 6), parts=drawn(), time_constants_of="channel").double()
    of_neuron = network_of(shape, parts=drawn(), time_constants_of="neuron").double()
    with torch.no_grad():
        for layer, other in zip(of_channel.layers, of_neuron.layers, strict=True):
            for name in ("tau_mem", "tau_syn"):
                value = getattr(layer, name).log_tau
                assert value.shape == (layer.unit_shape[0], 1, 1)
                getattr(other, name).log_tau.copy_(value.expand(layer.unit_shape))
    x = spikes(shape).double()
    (out, by_channel), (out2, by_neuron) = gradients(of_channel, x), gradients(of_neuron, x)
    torch.testing.assert_close(out.y, out2.y)
    for k, layer in enumerate(of_channel.layers):
        for name in ("tau_mem", "tau_syn"):
            key = f"layers.{k}.{name}.log_tau"
            assert by_neuron[key].shape == layer.unit_shape
            torch.testing.assert_close(by_channel[key], by_neuron[key].sum((1, 2), keepdim=True))


def test_each_channel_gets_its_own_value_and_synapses_their_own():
    network = network_of(parts=drawn(trainable=False))
    taus = [tau.tau for layer in network.layers for tau in (layer.tau_mem, layer.tau_syn)]
    assert [tau.shape for tau in taus] == [(3, 1), (3, 1), (4, 1), (4, 1)]
    assert len(torch.cat([tau.flatten() for tau in taus]).unique()) == 14
    alone = network_of(parts=drawn()._replace(synaptic=HiddenParts().time_constants))
    assert [layer.tau_syn.tau.dim() for layer in alone.layers] == [0, 0]


DELAYS = {"axonal": ConvAxonalDelays, "dendritic": ConvDendriticDelays}
MAX = 9e-3  # s, 4.5 steps


def of_whole_steps(connection, steps):
    with torch.no_grad():
        share = (torch.tensor(steps, dtype=torch.float64) * DT - connection.delay.low) / (
            connection.delay.high - connection.delay.low
        )
        connection.delay.logit.copy_(share.logit().view_as(connection.delay.logit))
    return connection


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_delays_of_whole_steps_are_shifts_of_channels(shape, shift):
    torch.manual_seed(0)
    x, options = spikes(shape).double(), {"max_delay": MAX}
    axonal = of_whole_steps(ConvAxonalDelays(shape, 4, 3, 2, 1, **options).double(), [1.0, 3.0][: shape[0]])
    dendritic = of_whole_steps(ConvDendriticDelays(shape, 4, 3, 2, 1, **options).double(), [4.0, 1.0, 2.0, 3.0])
    late = torch.zeros(T + shift + 5, B, *shape, dtype=torch.float64)
    for channel, steps in enumerate([1, 3][: shape[0]]):
        late[steps + shift : steps + shift + T, :, channel] = x[:, :, channel]
    torch.testing.assert_close(axonal(x, DT, shift), Conv.forward(axonal, late))
    current = Conv.forward(dendritic, x)
    late = torch.zeros(T + shift + 5, *current.shape[1:], dtype=torch.float64)
    for channel, steps in enumerate([4, 1, 2, 3]):
        late[steps + shift : steps + shift + T, :, channel] = current[:, :, channel]
    torch.testing.assert_close(dendritic(x, DT, shift), late)


@pytest.mark.parametrize("width", [0.0, 3e-3])
@pytest.mark.parametrize("kind", DELAYS)
def test_gradients_of_delays_are_those_of_finite_differences(kind, width):
    torch.manual_seed(1)
    connection = DELAYS[kind]((2, 5), 3, 3, 2, 1, max_delay=MAX, width=width, seed=2).double()
    x = torch.rand(4, 2, 2, 5, dtype=torch.float64).requires_grad_()

    def run(x, weight, logit):
        return torch.func.functional_call(connection, {"weight": weight, "delay.logit": logit}, (x, DT))

    assert torch.autograd.gradcheck(run, (x, connection.weight, connection.delay.logit))


def test_over_a_single_place_a_convolution_is_all_to_all():
    conv, dense = ConvAxonalDelays((3, 1), 4, 1, max_delay=MAX), AxonalDelays((3, 1), 4, MAX)
    dense.load_state_dict({name: x.view_as(dense.state_dict()[name]) for name, x in conv.state_dict().items()})
    x = spikes((3, 1))
    torch.testing.assert_close(conv(x, DT, 1)[..., 0], dense(x, DT, 1))


def delayed(kind, readout=None, **options):
    parts = HiddenParts(convolution=partial(DELAYS[kind], max_delay=MAX, **options))
    return parts if readout is None else parts._replace(readout=readout)


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", DELAYS)
def test_kernels_agree_on_delays(kind, shape):
    gaussian = partial(GaussianDelays, max_delay=MAX, sigma=4e-3, sigma_end=1e-3, anneal_epochs=2)
    network = network_of(shape, parts=delayed(kind, gaussian, width=4e-3), neuron=LIF(escape_noise=Sigmoid(5.0)))
    x = spikes(shape)
    found = [gradients(network, x, kernel) for kernel in ("reference", "auto")]
    assert_same(*found)
    assert all(found[1][1][f"{name}.feedforward.delay.logit"].any() for name in ("layers.0", "layers.1", "readout"))


@pytest.mark.parametrize("kernel", ["reference", "auto"])
@pytest.mark.parametrize("kind", DELAYS)
def test_two_halves_are_one_whole(kind, kernel):
    halves_are_one_whole(network_of(parts=delayed(kind)), kernel)


WINDOWS = {"one axis": ((3, 11), 2), "two axes": ((2, 7, 6), (2, 3)), "one unit": ((2, 5), 1)}


@pytest.mark.parametrize(("shape", "size"), WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("kind", POOLS)
def test_pooled_spikes_are_those_of_torch(shape, size, kind):
    x, torchs = spikes(shape), getattr(torch.nn.functional, f"{kind[:3].replace('ave', 'avg')}_pool{len(shape) - 1}d")
    pooled = POOLS[kind](shape, size)(x)
    assert torch.equal(pooled, torchs(x.flatten(0, 1), size).view(pooled.shape))


@pytest.mark.parametrize(("shape", "size"), WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("kind", POOLS)
def test_the_gradient_of_pooled_spikes_is_what_one_more_spike_changes(shape, size, kind):
    """Both are linear in every single spike, so that a finite difference of one is their derivative."""
    pool, x = POOLS[kind](shape, size), spikes(shape, nb_steps=1, share=0.3)[0, 0].double()
    weights = torch.rand(pool.out_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with_one, without = (x.expand(x.numel(), *shape).clone() for _ in range(2))
    at = torch.eye(x.numel(), dtype=torch.bool).view(with_one.shape)
    with_one[at], without[at] = 1, 0
    difference = ((pool(with_one) - pool(without)) * weights).flatten(1).sum(1).view(shape)
    (gradient,) = torch.autograd.grad((pool(x.requires_grad_()) * weights).sum(), x)
    torch.testing.assert_close(gradient, difference)
    assert gradient.count_nonzero() > 1


def pooled(kind="max", shape=(1, 14), sizes=(2, 2), **options):
    return network_of(shape, stack=replace(STACK, pool_size=sizes, pool_kind=kind), **options)


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("parts", ["plain", "dropout", "delays"])
def test_kernels_agree_on_pooled_spikes(kind, shape, parts):
    made = {"plain": None, "dropout": HiddenParts(dropout=0.3), "delays": delayed("axonal")}[parts]
    network = pooled(kind, shape, parts=made, neuron=LIF(escape_noise=Sigmoid(5.0)))
    assert "layers[1]" in network.summary()
    assert_same(*(gradients(network, spikes(shape), kernel) for kernel in ("reference", "auto")))


@pytest.mark.parametrize("kind", POOLS)
def test_a_pooled_network_is_that_of_its_layers_by_hand(kind):
    network, x = pooled(kind), spikes()
    out = network(x, record=True)
    assert [layer.in_shape for layer in network.stack] == [(1, 14), (3, 14), (4, 7)]
    first = network.layers[0](x)
    assert torch.equal(first, out.recorded[0])
    below = network.layers[1].pool(first)
    layer = network.layers[1]
    alone = SpikingLayer(layer.feedforward, layer.neuron, 20e-3, 10e-3, layer.recurrent, dt=DT)
    assert torch.equal(alone(below), out.recorded[1])


def test_pools_of_one_unit_are_none():
    assert all(layer.pool is None for layer in pooled(sizes=(1, 1)).stack)
    assert_same(gradients(pooled(sizes=(1, 1)), spikes()), gradients(network_of(), spikes()))


@pytest.mark.parametrize("kernel", ["reference", "auto"])
@pytest.mark.parametrize("kind", POOLS)
def test_pooled_halves_are_one_whole(kind, kernel):
    halves_are_one_whole(pooled(kind), kernel)


@pytest.mark.parametrize("kind", POOLS)
def test_initial_weights_keep_the_deviation_of_the_membrane_behind_a_pool(kind):
    """Above independent neurons of a known rate, free membranes have the deviation asked for."""
    rate, sigma, pool = 5.0, 0.7, POOLS[kind]((16, 40), 4)
    layer = SpikingLayer(Conv(pool.out_shape, 32, 10), LIF(), 20e-3, 10e-3).behind(pool)
    network = Network([layer], None, DT)
    FluctuationDrivenCentered(sigma, nu=rate)(network, torch.Generator().manual_seed(2))
    x = (torch.rand(1000, 8, 16, 40, generator=torch.Generator().manual_seed(3)) < rate * DT).float()
    with torch.no_grad():
        u = free_membrane(layer, layer.feedforward(pool(x)), DT)[100:]
    assert float((u - u.mean(0)).square().mean().sqrt()) == pytest.approx(sigma, rel=0.08)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: MaxPool((2, 5), 6), r"pool_size=6 does not fit units \(2, 5\)"),
        (lambda: MaxPool((2, 5), (2, 2)), "does not fit units"),
        (lambda: AveragePool((2, 5, 5), 0), "does not fit units"),
        (lambda: pooled(sizes=(2,)), "pool_size=.* has 1 entries, nb_hidden_layers=2 needs one for each layer"),
        (lambda: pooled("least"), "pool_kind=least is unknown; allowed: max, average"),
        (lambda: pooled(sizes=(15, 1)), "hidden layer 1: pool_size=15 does not fit units"),
        (lambda: SpikingLayer(Conv((2, 5), 3, 3), LIF(), 1.0, 1.0).behind(MaxPool((2, 8), 2)), "takes .2, 5."),
    ],
)
def test_pools_that_do_not_fit_are_refused(made, said):
    with pytest.raises(UserError, match=said):
        made()
