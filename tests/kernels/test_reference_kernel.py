"""The specification: its adjoint against finite differences, its state, its independence of the batch."""

from dataclasses import dataclass

import pytest
import torch

from surgrad.kernels import reference
from surgrad.kernels.philox import NoiseKey
from surgrad.neurons import surrogate
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF, RESETS, LIFState

A, B = (torch.tensor(v, dtype=torch.float64) for v in (0.8, 0.9))


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drive(nb_steps=25, batch=2, units=3, seed=0):
    return 1.2 * randn(nb_steps, batch, units, seed=seed).abs()


# ---------------------------------------------------------------- gradients
def linearized(current, a, b, neuron, recurrent, base):
    """The scan with each spike replaced by s0 + h(u0 - 1) (u - u0), s0 and u0 those of ``base``: smooth, so that its
    finite differences are well defined, with the derivative that the surrogate stands for."""
    spikes0, membranes0 = base
    i = u = torch.zeros_like(current[0])
    s = torch.zeros_like(u)
    spikes, membranes = [], []
    for t in range(len(current)):
        incoming = current[t] + s @ recurrent.T
        h = neuron.surrogate(membranes0[t] - 1, spikes0[t])
        s = spikes0[t] + h * (u - membranes0[t])
        spikes.append(s)
        membranes.append(u)
        r = s if neuron.diff_reset else spikes0[t]
        c = 1 - b if neuron.unit_gain else 1.0
        u = {
            "multiplicative": (b * u + c * i) * (1 - r),
            "multiplicative_leak": b * u * (1 - r) + c * i,
            "subtractive": b * u + c * i - r,
            "subtractive_leak": b * (u - r) + c * i,
        }[neuron.reset]
        i = a * i + incoming
    return torch.stack(spikes), torch.stack(membranes)


def numerical_gradient(function, x, step=1e-6):
    gradient = torch.zeros_like(x)
    flat, out = x.flatten(), gradient.flatten()
    for k in range(len(flat)):
        delta = torch.zeros_like(flat)
        delta[k] = step
        out[k] = (function((flat + delta).view_as(x)) - function((flat - delta).view_as(x))) / (2 * step)
    return out.view_as(x)


@pytest.mark.parametrize("unit_gain", [True, False])
@pytest.mark.parametrize("diff_reset", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_adjoint_is_the_gradient_of_the_linearized_network(reset, diff_reset, unit_gain):
    """With respect to input currents, recurrent weights and both decays."""
    neuron = LIF(surrogate.SuperSpike(3.0), reset=reset, diff_reset=diff_reset, unit_gain=unit_gain)
    scale = 1.0 if unit_gain else 0.1
    parameters = [scale * drive(12), scale * randn(3, 3, seed=1), A.expand(3).clone(), B.expand(3).clone()]
    cotangents = randn(12, 2, 3, seed=2), randn(12, 2, 3, seed=3)

    def objective(scan, current, recurrent, a, b):
        spikes, membranes = scan(current, recurrent, a, b)
        return (spikes * cotangents[0]).sum() + (membranes * cotangents[1]).sum()

    leaves = [p.clone().requires_grad_() for p in parameters]
    base = None

    def scan(current, recurrent, a, b):
        nonlocal base
        base = reference.lif(current, a, b, neuron, recurrence=lambda s: s @ recurrent.T)[:2]
        return base

    ours = torch.autograd.grad(objective(scan, *leaves), leaves)
    base = tuple(x.detach() for x in base)
    assert base[0].sum() > 5

    def smooth(current, recurrent, a, b):
        return linearized(current, a, b, neuron, recurrent, base)

    for k, gradient in enumerate(ours):

        def function(value, k=k):
            return objective(smooth, *parameters[:k], value, *parameters[k + 1 :])

        torch.testing.assert_close(gradient, numerical_gradient(function, parameters[k]), rtol=1e-6, atol=1e-7)


def test_gradcheck_below_threshold():
    """Without spikes and with the true gradient the scan is linear in the current and smooth in the decays."""
    neuron = LIF(surrogate.TrueGradient())

    def function(current, a, b):
        spikes, membranes, end = reference.lif(current, a, b, neuron)
        assert spikes.sum() == 0
        return membranes, end.i, end.u

    inputs = [(0.05 * drive(8)).requires_grad_(), A.clone().requires_grad_(), B.expand(3).clone().requires_grad_()]
    assert torch.autograd.gradcheck(function, inputs)


def test_gradcheck_readout():
    state = LIFState(randn(2, 3), randn(2, 3, seed=1))

    def function(current, a, b, i, u):
        y, end = reference.readout(current, a, b, state=LIFState(i, u))
        return y, end.i, end.u

    inputs = [drive(8), A.expand(3).clone(), B.clone(), *state]
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in inputs])


def test_readout_is_the_convolution_with_its_impulse_response():
    current = drive(30)
    impulse = torch.zeros(30, 1, 1, dtype=torch.float64)
    impulse[0] = 1
    kernel = reference.readout(impulse, A, B)[0][:, 0, 0]
    y = reference.readout(current, A, B, u0=-1e-3)[0]
    free = -1e-3 * B ** torch.arange(1, 31, dtype=torch.float64)
    expected = torch.stack([sum(kernel[t - k] * current[k] for k in range(t + 1)) + free[t] for t in range(30)])
    torch.testing.assert_close(y, expected)


@dataclass(frozen=True)
class Scaled:
    """A surrogate multiplied by a number."""

    factor: float

    def __call__(self, x, s):
        return self.factor * surrogate.SuperSpike(5.0)(x, s)


def test_gradient_of_one_spike_is_linear_in_the_surrogate():
    current = drive().requires_grad_()
    gradients = []
    for factor in (1.0, 2.0, 3.0):
        spikes, _, _ = reference.lif(current, A, B, LIF(Scaled(factor)))
        gradients.append(torch.autograd.grad(spikes.sum(), current)[0])
    torch.testing.assert_close(gradients[1], 2 * gradients[0])
    torch.testing.assert_close(gradients[2], 3 * gradients[0])


def test_reset_is_detached_unless_asked_for():
    current = drive().requires_grad_()
    gradients = {}
    for diff_reset in (False, True):
        _, membranes, _ = reference.lif(current, A, B, LIF(diff_reset=diff_reset))
        gradients[diff_reset] = torch.autograd.grad(membranes.sum(), current)[0]
    assert not torch.allclose(gradients[False], gradients[True])
    # a detached reset lets membranes depend on the surrogate in no way at all
    _, membranes, _ = reference.lif(current, A, B, LIF(surrogate.TrueGradient()))
    assert torch.equal(torch.autograd.grad(membranes.sum(), current)[0], gradients[False])


# ---------------------------------------------------------------- state, batch, noise
NEURONS = [LIF(), LIF(escape_noise=Sigmoid(5.0), reset="subtractive")]


@pytest.mark.parametrize("neuron", NEURONS, ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("cut", [1, 10, 24])
def test_two_halves_are_the_whole(neuron, cut):
    current, weight = drive(), 0.5 * randn(3, 3)
    options = {"recurrence": lambda s: s @ weight, "noise": NoiseKey(3), "ids": torch.arange(2)}
    spikes, membranes, end = reference.lif(current, A, B, neuron, **options)
    s1, u1, middle = reference.lif(current[:cut], A, B, neuron, **options)
    s2, u2, end2 = reference.lif(current[cut:], A, B, neuron, state=middle, previous=s1[-1], first_step=cut, **options)
    assert torch.equal(torch.cat([s1, s2]), spikes)
    assert torch.equal(torch.cat([u1, u2]), membranes)
    assert torch.equal(end2.i, end.i)
    assert torch.equal(end2.u, end.u)


@pytest.mark.parametrize("neuron", NEURONS, ids=["deterministic", "stochastic"])
def test_samples_do_not_depend_on_their_batch(neuron):
    current, ids = drive(batch=6), torch.tensor([3, 1, 4, 15, 9, 2])
    whole = reference.lif(current, A, B, neuron, noise=NoiseKey(2), ids=ids)[0]
    for chosen in ([0], [5, 2], [1, 3, 4]):
        part = reference.lif(current[:, chosen], A, B, neuron, noise=NoiseKey(2), ids=ids[chosen])[0]
        assert torch.equal(part, whole[:, chosen])


def test_draws_differ_between_repetitions_and_repeat_with_their_address():
    current = torch.ones(50, 4, 5, dtype=torch.float64)
    neuron, ids = LIF(escape_noise=Sigmoid(3.0)), torch.arange(4)

    def spikes(key):
        return reference.lif(current, A, B, neuron, noise=key, ids=ids)[0]

    assert torch.equal(spikes(NoiseKey(1, 0)), spikes(NoiseKey(1, 0)))
    assert not torch.equal(spikes(NoiseKey(1, 0)), spikes(NoiseKey(1, 1)))
    assert not torch.equal(spikes(NoiseKey(1, 0)), spikes(NoiseKey(1, 0, layer=1)))
    assert not torch.equal(spikes(NoiseKey(1))[:, 0], spikes(NoiseKey(1))[:, 1])


def test_delay_shifts_by_one_step_and_carries_over():
    x = drive(5)
    assert torch.equal(reference.delayed(x, 0), x)
    assert torch.equal(reference.delayed(x, 1)[1:], x[:-1])
    assert reference.delayed(x, 1)[0].abs().sum() == 0
    assert torch.equal(reference.delayed(x, 1, x[3])[0], x[3])
