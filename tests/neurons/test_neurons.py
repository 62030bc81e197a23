"""One step of a neuron against its equations, and the closed-form solutions of the LIF neuron."""

import math

import pytest
import torch

from surgrad.errors import UserError
from surgrad.kernels import reference
from surgrad.kernels.philox import NoiseKey
from surgrad.neurons.escape_noise import Exponential, Sigmoid, Step
from surgrad.neurons.lif import LIF, RESETS, LIFState, lif_step, readout_step, spike

A, B = 0.8, 0.9


def decays(dt, tau_syn, tau_mem):
    return (torch.tensor(math.exp(-dt / tau), dtype=torch.float64) for tau in (tau_syn, tau_mem))


@pytest.mark.parametrize("unit_gain", [True, False])
@pytest.mark.parametrize(
    ("reset", "expected"),
    [
        ("multiplicative", lambda u, i, s, c: (B * u + c * i) * (1 - s)),
        ("multiplicative_leak", lambda u, i, s, c: B * u * (1 - s) + c * i),
        ("subtractive", lambda u, i, s, c: B * u + c * i - s),
        ("subtractive_leak", lambda u, i, s, c: B * (u - s) + c * i),
    ],
)
def test_one_step_is_its_equation(reset, expected, unit_gain):
    assert reset in RESETS
    u, i, drive = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 1.4], [0.5, -0.2], [1.0, 0.7]))
    s = torch.tensor([0.0, 1.0], dtype=torch.float64)
    a, b = torch.tensor(A, dtype=torch.float64), torch.tensor(B, dtype=torch.float64)
    state = lif_step(LIFState(i, u), drive, s, a, b, LIF(reset=reset, unit_gain=unit_gain))
    c = 1 - B if unit_gain else 1.0
    torch.testing.assert_close(state.i, A * i + drive)
    torch.testing.assert_close(state.u, expected(u, i, s, c))
    free = readout_step(LIFState(i, u), drive, a, b, unit_gain)
    torch.testing.assert_close(free.u, B * u + c * i)
    torch.testing.assert_close(free.i, state.i)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("noise", [Step(), Sigmoid(5.0), Exponential(2 / 3, 0.3)], ids=str)
def test_reset_if_and_only_if_spike(reset, noise):
    """One draw serves both: the next membrane is the reset one exactly where a spike was emitted."""
    neuron = LIF(escape_noise=noise, reset=reset)
    a, b = torch.tensor(A, dtype=torch.float64), torch.tensor(B, dtype=torch.float64)
    current = torch.rand(60, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spikes, u, end = reference.lif(current, a, b, neuron, noise=NoiseKey(1), ids=torch.arange(5))
    i = torch.zeros_like(current[0])
    nb_spikes = 0
    for t in range(60):
        after = u[t + 1] if t < 59 else end.u
        silent = RESETS[reset](u[t], i, torch.zeros_like(i), b, 1 - b)
        reset_u = RESETS[reset](u[t], i, torch.ones_like(i), b, 1 - b)
        torch.testing.assert_close(after, torch.where(spikes[t] > 0, reset_u, silent), rtol=0, atol=0)
        nb_spikes += int((spikes[t] * (silent != reset_u)).sum())
        i = A * i + current[t]
    assert nb_spikes > 20


def test_unknown_reset_names_the_allowed():
    with pytest.raises(UserError, match="reset='hard' is unknown; allowed: multiplicative, multiplicative_leak, sub"):
        LIF(reset="hard")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spikes_and_states_keep_their_dtype(dtype):
    current = torch.ones(20, 2, 3, dtype=dtype)
    a, b = torch.tensor(A, dtype=dtype), torch.tensor(B, dtype=dtype)
    spikes, u, end = reference.lif(current, a, b, LIF(escape_noise=Sigmoid()), noise=NoiseKey(), ids=torch.arange(2))
    assert {spikes.dtype, u.dtype, end.i.dtype, end.u.dtype} == {dtype}
    assert set(spikes.unique().tolist()) == {0.0, 1.0}


# ---------------------------------------------------------------- closed forms
def held_at(level, nb_steps, a):
    """Input current that brings the synaptic current to ``level`` at once and holds it there, (T, 1, 1)."""
    drive = torch.full((nb_steps, 1, 1), float((1 - a) * level), dtype=torch.float64)
    drive[0] = level
    return drive


@pytest.mark.parametrize("level", [1.05, 1.5, 4.0, 12.0])
@pytest.mark.parametrize("dt", [1e-3, 1e-4])
def test_f_i_curve(level, dt):
    """Constant current I: u rises as I (1 - exp(-t/tau)), so 1/f = tau ln(I / (I - 1)), in whole steps, and a reset."""
    tau = 20e-3
    a, b = decays(dt, 5e-3, tau)
    spikes = reference.lif(held_at(level, int(0.3 / dt), a), a, b, LIF())[0][:, 0, 0]
    intervals = spikes.nonzero()[:, 0].diff()
    exact = tau * math.log(level / (level - 1))
    # u exceeds 1 at the first step beyond the exact time; one more step performs the reset
    assert set(intervals.tolist()) == {math.floor(exact / dt) + 1 + 1}
    assert abs(float(intervals[0]) * dt - exact) <= 2 * dt


def test_no_spike_at_or_below_rheobase():
    a, b = decays(1e-3, 5e-3, 20e-3)
    assert reference.lif(held_at(1.0, 3000, a), a, b, LIF())[0].sum() == 0


@pytest.mark.parametrize("weight", [4.5, 6.0, 20.0])
def test_first_spike_time_of_one_input_spike(weight):
    """tau_mem = 2 tau_syn: u(t) = w (y - y^2) with y = exp(-t/tau_mem) reaches 1 at y = (1 + sqrt(1 - 4/w)) / 2."""
    tau_mem, tau_syn = 20e-3, 10e-3
    exact = -tau_mem * math.log((1 + math.sqrt(1 - 4 / weight)) / 2)
    errors = []
    for dt in (1e-3, 1e-4, 1e-5):
        a, b = decays(dt, tau_syn, tau_mem)
        current = torch.zeros(int(2 * exact / dt) + 10, 1, 1, dtype=torch.float64)
        current[0] = weight
        first = int(reference.lif(current, a, b, LIF())[0].argmax())
        errors.append(abs(first * dt - exact))
        # a spike of step 0 arrives in i[1] and u[2]; the rest is the width of a step and the held current
        assert errors[-1] <= 3 * dt
    assert errors[2] < errors[0] / 20


def test_membrane_converges_at_first_order_in_dt():
    tau_mem, tau_syn, weight, t = 20e-3, 10e-3, 3.0, 15e-3
    y = math.exp(-t / tau_mem)
    errors = []
    for dt in (5e-4, 2.5e-4, 1.25e-4):
        a, b = decays(dt, tau_syn, tau_mem)
        current = torch.zeros(round(t / dt) + 1, 1, 1, dtype=torch.float64)
        current[0] = weight
        u = reference.lif(current, a, b, LIF())[2].u
        errors.append(abs(float(u) - weight * (y - y * y)))
    assert 1.8 < errors[0] / errors[1] < 2.2
    assert 1.9 < errors[1] / errors[2] < 2.1


@pytest.mark.parametrize("dt", [2e-3, 1e-3, 1e-4])
def test_free_decay_is_exact_for_every_dt(dt):
    """Without input, i and u follow their exponentials exactly, unlike in the forward Euler method."""
    tau_syn, tau_mem, duration = 5e-3, 20e-3, 40e-3
    a, b = decays(dt, tau_syn, tau_mem)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    current = torch.zeros(round(duration / dt), 1, 1, dtype=torch.float64)
    _, _, end = reference.lif(current, a, b, LIF(), state=LIFState(zero, zero + 0.7))
    assert float(end.u) == pytest.approx(0.7 * math.exp(-duration / tau_mem), rel=1e-12)
    _, _, end = reference.lif(current, a, b, LIF(), state=LIFState(zero + 0.3, zero))
    assert float(end.i) == pytest.approx(0.3 * math.exp(-duration / tau_syn), rel=1e-12)


def test_spike_of_a_membrane_at_threshold_needs_strictly_more():
    assert float(spike(torch.tensor(1.0), LIF())) == 0
