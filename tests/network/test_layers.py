"""Connections against explicit sums, time constants, and what they refuse."""

import math

import pytest
import torch

from surgrad.errors import UserError
from surgrad.kernels import reference
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant, decays
from surgrad.neurons.lif import LIF


def filled(connection, seed=0):
    connection = connection.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        connection.weight.copy_(torch.randn(connection.weight.shape, dtype=torch.float64, generator=generator))
    return connection


def rand(*shape, seed=1):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_dense_is_a_matrix_product_over_flattened_units():
    connection = filled(Dense((2, 5), 3))
    s = rand(4, 6, 2, 5)
    expected = torch.einsum("tbi,oi->tbo", s.flatten(2), connection.weight)
    torch.testing.assert_close(connection(s), expected)
    assert connection.fan_in == 10
    assert connection.out_shape == (3,)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 0), (5, 2, 2), (1, 3, 1)])
def test_one_dimensional_convolution_is_its_sum(kernel, stride, padding):
    connection = filled(Conv((2, 11), 3, kernel, stride, padding))
    s = rand(4, 2, 11)
    padded = torch.nn.functional.pad(s, (padding, padding))
    out = connection(s)
    assert out.shape == (4, *connection.out_shape)
    for x in range(connection.out_shape[1]):
        window = padded[:, :, x * stride : x * stride + kernel]
        torch.testing.assert_close(out[:, :, x], torch.einsum("bck,ock->bo", window, connection.weight))
    assert connection.fan_in == 2 * kernel


def test_two_dimensional_convolution_has_a_size_per_axis():
    connection = filled(Conv((2, 9, 7), 3, (3, 5), (2, 1), (1, 0)))
    s = rand(4, 6, 2, 9, 7)
    out = connection(s)
    assert out.shape == (4, 6, 3, 5, 3)
    padded = torch.nn.functional.pad(s, (0, 0, 1, 1))
    for y in range(5):
        for x in range(3):
            window = padded[..., 2 * y : 2 * y + 3, x : x + 5]
            torch.testing.assert_close(out[..., y, x], torch.einsum("tbcyx,ocyx->tbo", window, connection.weight))
    assert connection.fan_in == 2 * 3 * 5


@pytest.mark.parametrize("connection", [Dense(6, 4), Conv((2, 8), 3, 3), Conv((2, 6, 5), 3, 3)], ids=["0d", "1d", "2d"])
def test_gradient_of_a_connection(connection):
    connection = filled(connection)
    assert torch.autograd.gradcheck(lambda s: connection(s), rand(2, *connection.in_shape).requires_grad_())


def test_spikes_of_any_type_enter_in_the_dtype_of_the_weights():
    connection = filled(Dense(5, 3))
    s = rand(4, 5) < 0.5
    torch.testing.assert_close(connection(s), connection(s.double()))
    torch.testing.assert_close(connection(s.to(torch.uint8)), connection(s.double()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv((1, 10), 4, 11), "kernel_size=11 is larger than its input of length 10"),
        (lambda: Conv((1, 10, 3), 4, 5), "kernel_size=5 is larger than its input of length 3"),
        (lambda: Conv((1, 10), 4, 3, stride=0), "stride=0"),
        (lambda: Conv((10,), 4, 3), "must be \\(channels, length\\)"),
        (lambda: TimeConstant(0.0), "must be positive"),
        (lambda: TimeConstant(float("nan")), "must be positive and finite"),
        (lambda: TimeConstant(torch.tensor([0.01, -0.25])), "-0.25 s is not allowed"),
        (lambda: TimeConstant(0.01, bounds=(0.1, 0.05)), "0 < low < high"),
        (lambda: SpikingLayer(Dense(4, 5), LIF(), 0.02, 0.01, Dense(5, 6)), "a recurrent connection maps"),
        (lambda: SpikingLayer(Conv((1, 20), 4, 3), LIF(), 0.02, 0.01, Conv((4, 18), 4, 3)), "rec_padding"),
    ],
)
def test_impossible_layers_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


# ---------------------------------------------------------------- time constants
@pytest.mark.parametrize("tau", [0.7, 20e-3, 10e-3, 5e-3, 1e-3])
@pytest.mark.parametrize("dt", [2e-3, 1e-3, 1e-4])
def test_decay_is_exact_but_for_the_rounding_of_log_tau_and_of_the_result(tau, dt):
    exact = math.exp(-dt / tau)
    allowed = 2.0**-24 + dt / tau * abs(math.log(tau)) * 2.0**-23
    assert abs(float(TimeConstant(tau).decay(dt)) / exact - 1) <= allowed
    assert float(TimeConstant(tau).tau) == pytest.approx(tau, rel=1e-6)


def test_decay_of_the_published_constants_is_the_nearest_number():
    for tau in (20e-3, 10e-3, 0.7, 0.2):
        assert float(TimeConstant(tau).decay(2e-3)) == float(torch.tensor(math.exp(-2e-3 / tau), dtype=torch.float32))


def test_a_trained_time_constant_has_the_gradient_of_its_decay_and_stays_in_bounds():
    constant = TimeConstant(torch.tensor([5e-3, 20e-3]), trainable=True, bounds=(4e-3, 50e-3)).double()
    assert torch.autograd.gradcheck(lambda log_tau: torch.exp(-1e-3 * torch.exp(-log_tau)), constant.log_tau)
    (ours,) = torch.autograd.grad(constant.decay(1e-3).sum(), constant.log_tau)
    x = 1e-3 / constant.tau.detach()
    torch.testing.assert_close(ours, x * torch.exp(-x))
    with torch.no_grad():
        constant.log_tau.copy_(torch.tensor([1e-4, 1.0]).log())
    constant.clip_()
    torch.testing.assert_close(constant.tau.detach(), torch.tensor([4e-3, 50e-3], dtype=torch.float64))


def test_time_constants_are_positive_whatever_is_learned():
    constant = TimeConstant(10e-3, trainable=True)
    with torch.no_grad():
        constant.log_tau.sub_(50)
    assert float(constant.tau.detach()) > 0
    assert 0 <= float(constant.decay(1e-3).detach()) < 1


def test_fixed_time_constants_are_not_trained():
    layer = SpikingLayer(Dense(4, 5), LIF(), 0.02, TimeConstant(0.01, trainable=True))
    assert not layer.tau_mem.log_tau.requires_grad
    assert layer.tau_syn.log_tau.requires_grad


def test_one_time_constant_per_neuron_is_one_neuron_each():
    """A population with its own tau each equals populations of one neuron."""
    taus = torch.tensor([5e-3, 10e-3, 40e-3])
    current = 3 * rand(60, 2, 3)

    def spikes(tau, drive):
        layer = SpikingLayer(None, LIF(), TimeConstant(tau), 5e-3, unit_shape=drive.shape[2:]).double()
        return reference.lif(drive, layer.tau_syn.decay(1e-3), layer.tau_mem.decay(1e-3), layer.neuron)[0]

    together = spikes(taus, current)
    assert together.sum() > 10
    for k in range(3):
        assert torch.equal(together[..., k], spikes(float(taus[k]), current[..., [k]])[..., 0])


def test_trained_time_constants_of_a_readout_have_the_right_gradient():
    network = Network([], Readout(filled(Dense(4, 3)), TimeConstant(0.03, True), TimeConstant(0.01, True)), 1e-3)
    network = network.double()
    x, step = rand(20, 2, 4), 1e-6
    parameters = (network.readout.tau_mem.log_tau, network.readout.tau_syn.log_tau)

    def loss():
        return network(x, kernel="reference").readout.square().sum()

    loss().backward()
    for p in parameters:
        with torch.no_grad():
            p.add_(step)
            above = loss()
            p.sub_(2 * step)
            below = loss()
            p.add_(step)
        assert float(p.grad) == pytest.approx(float((above - below) / (2 * step)), rel=1e-6)


# ---------------------------------------------------------------- Euler decay
@pytest.mark.parametrize(("tau", "dt"), [(20e-3, 2e-3), (10e-3, 1e-3)])
def test_euler_decay_is_the_first_order_of_the_exponential(tau, dt):
    constant = TimeConstant(tau)
    assert float(constant.decay(dt, "euler")) == pytest.approx(1 - dt / tau, abs=1e-7)
    assert float(constant.decay(dt)) - float(constant.decay(dt, "euler")) == pytest.approx((dt / tau) ** 2 / 2, rel=0.3)


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
@pytest.mark.parametrize("decay", ["exponential", "euler"])
def test_the_neuron_says_how_its_layer_decays(kernel, decay):
    """u[t+1] = b u[t] + (1 - b) i[t], i[t+1] = a i[t] + I[t], in a spiking layer below threshold and in a readout."""
    dt, tau_mem, tau_syn = 2e-3, 20e-3, 10e-3
    a, b = ((1 - dt / tau if decay == "euler" else math.exp(-dt / tau)) for tau in (tau_syn, tau_mem))
    current, i, u, expected = [0.5, 0.0, 0.25, 0.0, 0.0], 0.0, 0.0, []
    for drive in current:
        i, u = a * i + drive, b * u + (1 - b) * i
        expected.append(u)
    readout = Readout(Dense(1, 1), tau_mem, tau_syn, u0=0.0, decay=decay)
    layer = SpikingLayer(Dense(1, 1), LIF(decay=decay), tau_mem, tau_syn)
    network = Network([layer], readout, dt, delay=0)
    x = torch.tensor(current).view(-1, 1, 1)
    with torch.no_grad():
        layer.feedforward.weight.fill_(1.0)
        readout_only = Network([], readout, dt, delay=0)
        readout.feedforward.weight.fill_(1.0)
        out = network(x, kernel=kernel, return_state=True)
        y = readout_only(x, kernel=kernel).readout
    assert float(out.counts[0].sum()) == 0
    assert float(out.state.layers[0].u) == pytest.approx(expected[-1], rel=1e-6)
    torch.testing.assert_close(y.flatten(), torch.tensor(expected))


def test_euler_decay_refuses_a_step_longer_than_a_time_constant():
    layer = SpikingLayer(Dense(1, 1), LIF(decay="euler"), 20e-3, 1e-3)
    with pytest.raises(UserError, match=r"decay='euler' with dt=0.002 s needs time constants .* but one is 0.001 s"):
        Network([layer], None, 2e-3)(torch.zeros(4, 1, 1))
    with pytest.raises(UserError, match="decay='rk4' is unknown; allowed: exponential, euler"):
        LIF(decay="rk4")


@pytest.mark.parametrize("decay", ["exponential", "euler"])
def test_decays_of_all_layers_together_are_those_of_each(decay):
    """As on a GPU: trained and fixed ones, one per layer and per neuron; values and gradients to the bit."""
    taus = [TimeConstant(torch.tensor([20e-3, 30e-3]), True), TimeConstant(10e-3), TimeConstant(15e-3, True)]
    pairs = [(taus[0], decay), (taus[1], "exponential"), (taus[2], decay), (taus[1], decay)]
    found, gradients = [], []
    for values in (decays(pairs, 2e-3), [tau.decay(2e-3, method) for tau, method in pairs]):
        found.append([v.detach() for v in values])
        gradients.append(torch.autograd.grad(sum(v.square().sum() for v in values), [taus[0].log_tau, taus[2].log_tau]))
        assert [v.requires_grad for v in values] == [True, False, True, False]
    for a, b in zip(found[0] + list(gradients[0]), found[1] + list(gradients[1]), strict=True):
        assert torch.equal(a, b)
