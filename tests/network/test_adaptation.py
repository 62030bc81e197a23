"""Adaptive LIF neurons: their step, the linear system between spikes, its stability, their gradient."""

import math

import pytest
import torch

from surgrad.errors import UserError
from surgrad.kernels import reference
from surgrad.network.connections import Dense
from surgrad.network.layers import SpikingLayer
from surgrad.network.network import Network
from surgrad.network.parameters import Adaptation, Bounded, TimeConstant
from surgrad.neurons import surrogate
from surgrad.neurons.lif import RESETS, AdaptationValues, AdaptiveLIF, AdaptiveState, LIFState, adaptive_step, lif_step

TAU_MEM, TAU_W = 20e-3, 100e-3


def number(x):
    return torch.tensor(x, dtype=torch.float64)


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def decays(dt):
    return number(math.exp(-dt / TAU_MEM)), number(math.exp(-dt / TAU_W))


def propagator(a, dt):
    """The matrix that takes (u, w) over one step of the kernel without spikes, columns from unit vectors."""
    b, d = decays(dt)
    columns = []
    for u, w in ((0.5, 0.0), (0.0, 0.5)):
        state = AdaptiveState(*(number([[x]]) for x in (0.0, u, w)))
        values = AdaptationValues(d, number(a), number(0.0))
        _, _, end = reference.adaptive(number([[[0.0]]]), number(0.0), b, values, AdaptiveLIF(), state=state)
        columns.append(2 * torch.stack([end.u, end.w]).flatten())
    return torch.stack(columns, 1)


def exact_propagator(a, t):
    return torch.matrix_exp(t * number([[-1 / TAU_MEM, -1 / TAU_MEM], [a / TAU_W, -1 / TAU_W]]))


def radius(matrix):
    return float(torch.linalg.eigvals(matrix).abs().max())


# ---------------------------------------------------------------- the step
@pytest.mark.parametrize("reset", RESETS)
def test_one_step_is_its_equation(reset):
    i, u, w, drive = number([0.3, -0.2]), number([0.4, 1.5]), number([0.2, 0.1]), number([1.0, 0.5])
    s = number([0.0, 1.0])
    a_syn, b, values = number(0.8), number(0.9), AdaptationValues(number(0.95), number(30.0), number(60.0))
    got = adaptive_step(AdaptiveState(i, u, w), drive, s, a_syn, b, values, AdaptiveLIF(reset=reset))
    v = u - s if reset.startswith("subtractive") else u * (1 - s)
    next_w = 0.95 * w + 0.05 * (30 * v + 60 * s)
    expected = lif_step(LIFState(i - next_w, u), drive, s, a_syn, b, AdaptiveLIF(reset=reset))
    torch.testing.assert_close(got.w, next_w)
    torch.testing.assert_close(got.u, expected.u)
    torch.testing.assert_close(got.i, 0.8 * i + drive)


def test_without_synapse_it_is_the_published_recursion():
    """SE-adLIF drives the membrane with I[t] of the same step; here it takes one step into i and one into u."""
    alpha, beta, a, b = 0.85, 0.97, 40.0, 80.0
    current = 6 * randn(200, 2, 5).abs()
    u = w = torch.zeros_like(current[0])
    published = []
    for drive in current:
        u = alpha * u + (1 - alpha) * (drive - w)
        s = (u > 1).double()
        u = u * (1 - s)
        w = beta * w + (1 - beta) * (a * u + b * s)
        published.append(s)
    values = AdaptationValues(*(number(x) for x in (beta, a, b)))
    ours = reference.adaptive(current, number(0.0), number(alpha), values, AdaptiveLIF())[0]
    assert ours.sum() > 100
    assert torch.equal(ours[2:], torch.stack(published)[:-2])


def test_the_euler_scheme_is_the_published_one_and_feels_the_adaptation_of_the_step_before():
    alpha, beta, a, b = 0.85, 0.97, 20.0, 80.0
    current = 6 * randn(200, 2, 5).abs()
    u = w = s = torch.zeros_like(current[0])
    published = []
    for drive in current:
        new = alpha * u + (1 - alpha) * (drive - w)
        w = beta * w + (1 - beta) * (a * u + b * s)
        s = (new > 1).double()
        u = new * (1 - s)
        published.append(s)
    values = AdaptationValues(*(number(x) for x in (beta, a, b)))
    ours = reference.adaptive(current, number(0.0), number(alpha), values, AdaptiveLIF(scheme="euler"))[0]
    assert ours.sum() > 100
    assert torch.equal(ours[2:], torch.stack(published)[:-2])
    assert not torch.equal(ours, reference.adaptive(current, number(0.0), number(alpha), values, AdaptiveLIF())[0])


def test_spikes_raise_the_adaptation_current_and_spread_out():
    b, d = decays(1e-3)
    current = torch.full((1500, 1, 1), 3.0, dtype=torch.float64)
    values = AdaptationValues(d, number(0.0), number(40.0))
    spikes = reference.adaptive(current, number(0.0), b, values, AdaptiveLIF())[0].flatten()
    intervals = spikes.nonzero().flatten().diff()
    assert intervals[0] < intervals[2] < intervals[-1]
    # in the steady state spikes and currents balance: the mean of w is b times the rate per step
    rate = 1 / float(intervals[-3:].double().mean())
    mean_drive = 3.0 - 40.0 * rate
    assert mean_drive == pytest.approx(1.3, abs=0.2)  # just above rheobase


# ---------------------------------------------------------------- between spikes
@pytest.mark.parametrize("a", [0.0, 5.0, 60.0])
def test_converges_to_the_continuous_system_at_first_order(a):
    t, errors = 24e-3, []
    for dt in (4e-4, 2e-4, 1e-4):
        error = torch.matrix_power(propagator(a, dt), round(t / dt)) - exact_propagator(a, t)
        errors.append(float(error.norm()))
    for coarse, fine in ((0, 1), (1, 2)):
        assert 1.8 < errors[coarse] / errors[fine] < 2.2


def test_step_response_settles_where_the_continuous_one_does():
    """A constant current I leads to u = I / (1 + a), w = a u."""
    dt, a = 1e-3, 8.0
    b, d = decays(dt)
    current = torch.full((3000, 1, 1), 2.0, dtype=torch.float64)
    values = AdaptationValues(d, number(a), number(0.0))
    _, _, end = reference.adaptive(current, number(0.0), b, values, AdaptiveLIF())
    assert float(end.u) == pytest.approx(2.0 / (1 + a), rel=1e-9)
    assert float(end.w) == pytest.approx(2.0 * a / (1 + a), rel=1e-9)


@pytest.mark.parametrize("a", [5.0, 60.0, 500.0])
@pytest.mark.parametrize("dt", [2e-3, 5e-4])
def test_oscillations_decay_at_the_rate_of_the_continuous_system(a, dt):
    matrix = propagator(a, dt)
    b, d = decays(dt)
    assert float(torch.linalg.det(matrix)) == pytest.approx(float(b * d), rel=1e-12)
    assert torch.linalg.eigvals(matrix).imag.abs().min() > 0
    assert radius(matrix) == pytest.approx(math.exp(-dt * (1 / TAU_MEM + 1 / TAU_W) / 2), rel=1e-12)
    assert radius(matrix) == pytest.approx(radius(exact_propagator(a, dt)), rel=1e-9)


@pytest.mark.parametrize("dt", [4e-3, 1e-3])
def test_stable_up_to_the_stated_bound_and_the_plain_form_far_below(dt):
    b, d = (float(x) for x in decays(dt))
    bound = (1 + b) * (1 + d) / ((1 - b) * (1 - d))
    plain_bound = (1 - b * d) / ((1 - b) * (1 - d))
    for a in (-0.99, 0.5 * plain_bound, 2 * plain_bound, 0.999 * bound):
        assert radius(propagator(a, dt)) < 1
    for a in (-1.01, 1.001 * bound):
        assert radius(propagator(a, dt)) > 1

    def plain(a):
        return number([[b, -(1 - b)], [(1 - d) * a, d]])

    assert radius(plain(0.99 * plain_bound)) < 1 < radius(plain(1.01 * plain_bound))
    factor = 4 / (dt * (1 / TAU_MEM + 1 / TAU_W))  # by which the plain form gives up earlier
    assert bound / plain_bound == pytest.approx(factor, rel=0.02)


def test_a_long_run_at_large_coupling_stays_bounded_while_the_plain_form_explodes():
    dt = 2e-3
    b, d = (float(x) for x in decays(dt))
    a = 2 * (1 - b * d) / ((1 - b) * (1 - d))
    values = AdaptationValues(number(d), number(a), number(0.0))
    state = AdaptiveState(*(number([[x]]) for x in (0.0, 0.9, 0.0)))
    quiet = torch.zeros(2000, 1, 1, dtype=torch.float64)
    _, membranes, _ = reference.adaptive(quiet, number(0.0), number(b), values, AdaptiveLIF(), state=state)
    assert float(membranes.abs().max()) <= 1
    assert float(membranes[-100:].abs().max()) < 1e-9
    u, w = 0.9, 0.0
    for _ in range(2000):
        u, w = b * u - (1 - b) * w, d * w + (1 - d) * a * u
    assert abs(u) > 1e9


# ---------------------------------------------------------------- gradients
def linearized(current, a_syn, b, d, coupling, jump, recurrent, neuron, base):
    """The scan with each spike replaced by s0 + h(u0 - 1) (u - u0), s0 and u0 those of ``base``."""
    i = u = w = s = torch.zeros_like(current[0])
    spikes0, membranes0 = base
    spikes = []
    for t in range(len(current)):
        incoming = current[t] + s @ recurrent.T
        s = spikes0[t] + neuron.surrogate(membranes0[t] - 1, spikes0[t]) * (u - membranes0[t])
        spikes.append(s)
        r = s if neuron.diff_reset else spikes0[t]
        v = u - r if neuron.reset.startswith("subtractive") else u * (1 - r)
        w = d * w + (1 - d) * (coupling * v + jump * s)
        c = 1 - b if neuron.unit_gain else torch.ones_like(b)
        u = {
            "multiplicative": (b * u + c * (i - w)) * (1 - r),
            "multiplicative_leak": b * u * (1 - r) + c * (i - w),
            "subtractive": b * u + c * (i - w) - r,
            "subtractive_leak": b * (u - r) + c * (i - w),
        }[neuron.reset]
        i = a_syn * i + incoming
    return torch.stack(spikes)


@pytest.mark.parametrize("diff_reset", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_adjoint_is_the_gradient_of_the_linearized_network(reset, diff_reset):
    """With respect to currents, decays, both couplings and recurrent weights."""
    neuron = AdaptiveLIF(surrogate.SuperSpike(3.0), reset=reset, diff_reset=diff_reset)
    parameters = [3 * randn(12, 2, 3).abs(), *(number([x] * 3) for x in (0.8, 0.9, 0.95, 10.0, 20.0))]
    parameters.append(randn(3, 3, seed=1))
    cotangent = randn(12, 2, 3, seed=2)
    leaves = [p.clone().requires_grad_() for p in parameters]
    current, a_syn, b, d, coupling, jump, recurrent = leaves
    values = AdaptationValues(d, coupling, jump)
    found = reference.adaptive(current, a_syn, b, values, neuron, recurrence=lambda s: s @ recurrent.T)
    ours = torch.autograd.grad((found[0] * cotangent).sum(), leaves)
    base = tuple(x.detach() for x in found[:2])
    assert base[0].sum() > 5
    smooth = [p.clone().requires_grad_() for p in parameters]
    loss = (linearized(*smooth, neuron, base) * cotangent).sum()
    for mine, theirs in zip(ours, torch.autograd.grad(loss, smooth), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)
    step = 1e-6  # and that gradient is a finite difference, shown along one random direction
    direction = [randn(*p.shape, seed=k) for k, p in enumerate(parameters)]
    above, below = (
        (
            linearized(*(p + sign * step * v for p, v in zip(parameters, direction, strict=True)), neuron, base)
            * cotangent
        )
        for sign in (1, -1)
    )
    slope = sum(float((g * v).sum()) for g, v in zip(ours, direction, strict=True))
    assert float((above.sum() - below.sum()) / (2 * step)) == pytest.approx(slope, rel=1e-5)


def test_gradcheck_below_threshold():
    neuron = AdaptiveLIF(surrogate.TrueGradient())

    def function(current, a, b, d, coupling, jump):
        spikes, membranes, end = reference.adaptive(current, a, b, AdaptationValues(d, coupling, jump), neuron)
        assert spikes.sum() == 0
        return membranes, end.w

    inputs = [0.2 * randn(8, 2, 3).abs(), *(number([x] * 3) for x in (0.8, 0.9, 0.95, 10.0, 20.0))]
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in inputs])


def test_recomputed_segments_have_the_same_gradients():
    current, gradients = 3 * randn(50, 2, 3).abs(), []
    for memory in ("full", "recompute"):
        leaf = current.clone().requires_grad_()
        values = AdaptationValues(*(number(x) for x in (0.95, 10.0, 20.0)))
        spikes, _, _ = reference.adaptive(leaf, number(0.8), number(0.9), values, AdaptiveLIF(), memory=memory)
        gradients.append(torch.autograd.grad((spikes * randn(50, 2, 3, seed=3)).sum(), leaf)[0])
    torch.testing.assert_close(*gradients)


# ---------------------------------------------------------------- parameters
def test_parameters_start_anywhere_in_their_ranges_and_never_leave_them():
    neuron = AdaptiveLIF(a=(10.0, 30.0), b=(-5.0, 5.0), tau_w=(50e-3, 150e-3), seed=4)
    adaptation = Adaptation(neuron, (2000,))
    values = {"a": adaptation.a(), "b": adaptation.b(), "tau_w": adaptation.tau_w()}
    values = {name: x.detach() for name, x in values.items()}
    for name, x in values.items():
        low, high = getattr(neuron, name)
        assert low < float(x.min()) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < float(x.max()) < high
        assert float(x.mean()) == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    assert abs(float(torch.corrcoef(torch.stack([values["a"], values["b"]]))[0, 1])) < 0.1
    again, other = Adaptation(neuron, (2000,)), Adaptation(AdaptiveLIF(seed=5), (2000,))
    assert torch.equal(again.a.logit, adaptation.a.logit)
    assert not torch.equal(other.a.logit, adaptation.a.logit)
    with torch.no_grad():
        adaptation.a.logit.add_(100)
        adaptation.tau_w.logit.sub_(100)
    assert float(adaptation.a().detach().max()) <= 30
    assert float(adaptation.values(1e-3).decay.detach().min()) >= math.exp(-1e-3 / 50e-3) - 1e-6


def test_equal_ends_of_a_range_fix_a_value_and_untrained_ones_are_no_parameters_to_learn():
    layer = SpikingLayer(Dense(3, 4), AdaptiveLIF(a=(7.0, 7.0), trainable=False), TAU_MEM, 10e-3)
    assert torch.equal(layer.adaptation.a(), torch.full((4,), 7.0))
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == ["feedforward.weight"]
    bounded = Bounded(0.0, 1.0, torch.tensor([0.25]))
    torch.testing.assert_close(bounded(), torch.tensor([0.25]))


def test_every_parameter_of_a_network_is_reached_by_the_gradient():
    layer = SpikingLayer(
        Dense(6, 5), AdaptiveLIF(), TimeConstant(TAU_MEM, True), TimeConstant(10e-3, True), Dense(5, 5)
    )
    network = Network([layer], None, 2e-3).double()
    with torch.no_grad():
        layer.feedforward.weight.copy_(6 * randn(5, 6).abs())
    network((randn(60, 4, 6, seed=1) > 0.5).double()).counts[0].sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in network.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaptiveLIF(a=(-1.0, 2.0)), r"a=\(-1.0, 2.0\) .* range \(low, high\) above -1"),
        (lambda: AdaptiveLIF(b=(3.0, 2.0)), r"b=\(3.0, 2.0\) .* range"),
        (lambda: AdaptiveLIF(tau_w=(0.0, 0.1)), r"tau_w=\(0.0, 0.1\) .* above 0"),
        (lambda: AdaptiveLIF(a=(1.0, 2.0, 3.0)), "a=.* range"),
        (lambda: AdaptiveLIF(reset="hard"), "reset='hard' is unknown"),
        (
            lambda: Network([SpikingLayer(Dense(2, 3), AdaptiveLIF(a=(0.0, 5000.0)), TAU_MEM, 10e-3)], None, 4e-3),
            "a=5000 makes the adaptation unstable at tau_w=0.06 s and dt=0.004 s: keep it below",
        ),
        (
            lambda: Network([SpikingLayer(Dense(2, 3), AdaptiveLIF(scheme="euler"), TAU_MEM, 10e-3)], None, 4e-3),
            "a=60 makes the adaptation unstable .* below 20.* or scheme='symplectic'",
        ),
        (lambda: AdaptiveLIF(scheme="exact"), "scheme='exact' is unknown; allowed: symplectic, euler"),
    ],
)
def test_what_cannot_be_is_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
