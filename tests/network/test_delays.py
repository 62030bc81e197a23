"""Learned delays: currents against explicit sums, their derivative, and what is refused."""

import pytest
import torch

from surgrad.errors import UserError
from surgrad.kernels import reference
from surgrad.network.connections import DelayedDense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.lif import LIF

DT = 1e-3


def rand(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_delays(steps, max_steps=8, weight=None):
    """A float64 connection with the given delays (nb_units, fan_in) in steps; weights 1 by default."""
    steps = torch.as_tensor(steps, dtype=torch.float64)
    connection = DelayedDense(steps.shape[1], steps.shape[0], max_steps * DT).double()
    with torch.no_grad():
        connection.delay.logit.copy_((steps / max_steps).logit())
        connection.weight.copy_(torch.ones_like(steps) if weight is None else weight)
    return connection


def test_currents_are_the_sum_over_interpolated_arrivals():
    generator = torch.Generator().manual_seed(1)
    steps, weight = 8 * rand(3, 4, seed=2), torch.randn(3, 4, dtype=torch.float64, generator=generator)
    s = (rand(20, 2, 4) < 0.3).double()
    current = with_delays(steps, weight=weight)(s, DT, shift=1)
    expected = torch.zeros(20 + 1 + 8, 2, 3, dtype=torch.float64)
    for t, b, j in s.nonzero().tolist():
        for i in range(3):
            k, f = divmod(float(steps[i, j]), 1)
            expected[t + 1 + int(k), b, i] += (1 - f) * weight[i, j]
            expected[t + 1 + int(k) + 1, b, i] += f * weight[i, j]
    torch.testing.assert_close(current, expected)


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_whole_steps_shift(steps):
    s = rand(30, 2, 1)
    current = with_delays([[float(steps)]])(s, DT).detach()
    torch.testing.assert_close(current[steps : steps + 30, :, 0], s[..., 0])
    assert float(current[:steps].abs().max()) < 1e-12


def test_no_weight_is_lost_and_the_mean_arrival_is_the_delay():
    s = torch.zeros(10, 1, 1, dtype=torch.float64)
    s[2] = 1
    for delay in (0.01, 2.4, 5.5, 7.99):
        current = with_delays([[delay]])(s, DT).detach().flatten()
        assert float(current.sum()) == pytest.approx(1)
        assert float((torch.arange(len(current)) * current).sum()) == pytest.approx(2 + delay)


def test_delays_start_anywhere_below_the_longest_and_stay_there():
    connection = DelayedDense((10, 20), 30, 50e-3, seed=3)
    delay = connection.delay().detach()
    assert delay.shape == connection.weight.shape == (30, 200)
    assert 0 < float(delay.min()) < 1e-3
    assert 49e-3 < float(delay.max()) < 50e-3
    assert float(delay.mean()) == pytest.approx(25e-3, rel=0.02)
    assert not torch.equal(delay, DelayedDense((10, 20), 30, 50e-3, seed=4).delay())
    assert connection.nb_taps(2e-3) == 26
    with torch.no_grad():
        connection.delay.logit.add_(100)
    assert float(connection.delay().detach().max()) <= 50e-3 * (1 + 1e-6)
    assert not DelayedDense(2, 3, 1e-3, trainable=False).delay.logit.requires_grad


def test_gradcheck_in_spikes_weights_and_delays():
    connection = with_delays(0.2 + 6.6 * rand(2, 3, seed=5))
    fractions = connection.delay().detach() / DT % 1
    assert bool(((fractions > 1e-3) & (fractions < 1 - 1e-3)).all())  # kinks lie at whole steps

    def function(s, weight, logit):
        parameters = {"weight": weight, "delay.logit": logit}
        return torch.func.functional_call(connection, parameters, (s, DT))

    inputs = (rand(5, 2, 3), connection.weight.detach(), connection.delay.logit.detach())
    assert torch.autograd.gradcheck(function, [x.clone().requires_grad_() for x in inputs])


def test_delays_of_a_teacher_are_found_from_its_readout():
    """Through leaky integrators the loss is smooth over the whole range of a delay."""

    def network(steps):
        readout = Readout(with_delays(steps, 20), 10e-3, 5e-3)
        return Network([], readout, DT, delay=0).double()

    x = (rand(120, 8, 3, seed=7) < 0.05).double()
    teacher, pupil = network([[4.2, 10.7, 16.1]]), network([[8.0, 7.5, 12.0]])
    target = teacher(x).readout.detach()
    optimizer = torch.optim.Adam([pupil.readout.feedforward.delay.logit], lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        (pupil(x).readout - target).square().mean().backward()
        optimizer.step()
    found = pupil.readout.feedforward.delay().detach() / DT
    torch.testing.assert_close(found, torch.tensor([[4.2, 10.7, 16.1]], dtype=torch.float64), atol=0.1, rtol=0)


def test_a_delay_makes_spikes_coincide():
    """Two inputs 12 steps apart reach threshold only where the delays undo their distance."""
    x = torch.zeros(40, 1, 2, dtype=torch.float64)
    x[5, 0, 0] = x[17, 0, 1] = 1
    spikes = {}
    for delay in (0.5, 12.5):
        connection = with_delays([[delay, 0.5]], 20, weight=torch.tensor([[2.6, 2.6]], dtype=torch.float64))
        layer = SpikingLayer(connection, LIF(), 5e-3, 2e-3)
        spikes[delay] = Network([layer], None, DT).double()(x).counts[0].sum().item()
    assert spikes == {0.5: 0.0, 12.5: 1.0}


def test_what_is_on_its_way_arrives_in_the_next_call():
    connection, s = with_delays(8 * rand(2, 3, seed=5)).spec("synapses", DT), rand(12, 2, 3)
    whole, _ = reference.drive(connection, s, 1)
    first, pending = reference.drive(connection, s[:5], 1)
    second, _ = reference.drive(connection, s[5:], 1, pending=pending)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    # also where the calls are shorter than the delays
    parts, pending = [], None
    for chunk in s.split(2):
        part, pending = reference.drive(connection, chunk, 1, pending=pending)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_delay_longer_than_the_window_is_named():
    network = Network([SpikingLayer(DelayedDense(3, 4, 50e-3), LIF(), 20e-3, 10e-3)], None, 2e-3)
    with pytest.raises(
        UserError, match=r"max_delay=0.05 s does not fit into the window of 25 steps of 0.002 s; shorten"
    ):
        network(torch.zeros(25, 2, 3))
    assert network(torch.zeros(26, 2, 3)).counts[0].shape == (2, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DelayedDense(3, 4, 0.0), "max_delay=0.0 s must be positive"),
        (lambda: DelayedDense(3, 4, float("nan")), "max_delay=nan"),
        (lambda: DelayedDense(3, 4, 0.01, min_delay=0.01), "min_delay=0.01 s must be from 0 to below max_delay=0.01 s"),
    ],
)
def test_impossible_delays_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
