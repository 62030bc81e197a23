"""Delays of neurons: axonal and dendritic ones, loops with delays and with dropout, against explicit sums."""

import math

import numpy as np
import pytest
import torch
from network.stopped_runs import Stopped
from torch.nn import functional as F

from surgrad.datasets.sources.randman import Randman
from surgrad.errors import UserError
from surgrad.kernels import dispatch
from surgrad.kernels.cpu.delays import spread
from surgrad.network.connections import Conv, DelayedDense, Dense, GaussianDelays, begin_epoch, learned_delays
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.models import HiddenParts, dense_snn
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays, ConvDendriticDelays, DendriticDelays
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF, AdaptiveLIF
from surgrad.neurons.surrogate import TrueGradient
from surgrad.runs.folder import open_run
from surgrad.runs.record import load_runs
from surgrad.training.fit import Fit, Plan
from surgrad.training.loop import BatchGrid, Objective
from surgrad.training.losses import MaxOverTimeCrossEntropy

DT, LONGEST = 1e-3, 8
KINDS = {"axonal": AxonalDelays, "dendritic": DendriticDelays}


def rand(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def connection(kind="axonal", nb_in=4, nb_out=3, width=0.0, **options):
    """A float64 connection with delays of up to 8 steps; the width is in steps."""
    torch.manual_seed(5)
    return KINDS[kind](nb_in, nb_out, LONGEST * DT, width=width * DT, seed=3, **options).double()


def arrivals(steps, width):
    """Shares of a spike with a delay of so many steps."""
    heights = [max(0.0, 1 + width - abs(n - steps)) for n in range(LONGEST + math.ceil(width) + 1)]
    return [h / math.fsum(heights) for h in heights]


# ---------------------------------------------------------------- feed-forward
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [0.0, 2.5])
def test_currents_are_the_sum_over_the_arrivals_of_every_spike(kind, width):
    synapses, s = connection(kind, width=width), (rand(12, 2, 4) < 0.3).double()
    steps = (synapses.delay() / DT).detach().expand(3, 4)
    assert synapses.delay().numel() == {"axonal": 4, "dendritic": 3}[kind]
    expected = torch.zeros(12 + 1 + LONGEST + math.ceil(width), 2, 3, dtype=torch.float64)
    for t, b, j in s.nonzero().tolist():
        for i in range(3):
            for n, share in enumerate(arrivals(float(steps[i, j]), width)):
                expected[t + 1 + n, b, i] += float(synapses.weight.detach()[i, j]) * share
    torch.testing.assert_close(synapses(s, DT, shift=1).detach(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_a_delay_for_every_synapse_and_in_evaluation_without_the_width(kind):
    synapses, s = connection(kind, width=3.0), rand(12, 2, 4)
    every = DelayedDense(4, 3, LONGEST * DT).double()
    with torch.no_grad():
        every.delay.logit.copy_(synapses.delay.logit.expand(3, 4))
        every.weight.copy_(synapses.weight)
    torch.testing.assert_close(synapses.eval()(s, DT), every(s, DT))
    synapses.rounded, every.rounded = True, True
    torch.testing.assert_close(synapses(s, DT), every.eval()(s, DT))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [0.0, 2.5])
def test_gradcheck_in_spikes_weights_and_delays(kind, width):
    synapses = connection(kind, 3, 2, width=width)

    def function(s, weight, logit):
        return torch.func.functional_call(synapses, {"weight": weight, "delay.logit": logit}, (s, DT))

    inputs = (rand(5, 2, 3), synapses.weight.detach(), synapses.delay.logit.detach())
    assert torch.autograd.gradcheck(function, [x.clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize(("nb_steps", "nb_taps", "nb_units"), [(6, 4, 3), (3, 7, 16), (40, 9, 21)])
def test_a_sum_over_time_of_each_unit_alone(nb_steps, nb_taps, nb_units):
    x, shares = rand(nb_steps, 2, nb_units), rand(nb_taps, nb_units, seed=1)
    cotangent = rand(nb_steps + nb_taps - 1, 2, nb_units, seed=2)
    exact = [y.clone().requires_grad_() for y in (x, shares)]
    expected = torch.zeros_like(cotangent)
    for n in range(nb_taps):
        expected = expected + F.pad(exact[1][n] * exact[0], (0, 0, 0, 0, n, nb_taps - 1 - n))
    wanted = [expected, *torch.autograd.grad(expected, exact, cotangent)]
    for dtype in (torch.float64, torch.float32):
        leaves = [y.detach().to(dtype).requires_grad_() for y in exact]
        found = spread(*leaves)
        got = [found, *torch.autograd.grad(found, leaves, cotangent.to(dtype))]
        for mine, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(mine.double(), other, rtol=1e-5, atol=1e-5)


def test_the_width_shrinks_and_delays_stay_in_their_range():
    synapses = connection(width=10.0, min_delay=3e-3)
    loop = connection(nb_out=4, width=10.0)
    network = Network([SpikingLayer(Dense(5, 4), LIF(), 20e-3, 10e-3, loop)], None, DT)
    widths = []
    for epoch in (1, 2, 4):
        begin_epoch(network, epoch)
        widths.append(network.layers[0].recurrent.width)
    np.testing.assert_allclose(widths, [10e-3, 9.5e-3, 10e-3 * 0.95**3])
    assert list(learned_delays(network)) == ["layers.0.recurrent"]
    with torch.no_grad():
        synapses.delay.logit.sub_(100)
    assert float(synapses.delay().detach().min()) == pytest.approx(3e-3)


# ---------------------------------------------------------------- loops
def looped(loop, neuron=None, dropout=0.0):
    """Two layers, the first of them with this loop."""
    torch.manual_seed(2)
    layers = [
        SpikingLayer(Dense(12, 10), neuron or LIF(), 20e-3, 10e-3, loop, recurrent_dropout=dropout),
        SpikingLayer(Dense(10, 6), LIF(), 20e-3, 10e-3),
    ]
    return Network(layers, Readout(Dense(6, 3), 30e-3, 10e-3), DT)


def train(nb_steps=40, batch=5, p=0.2):
    return (rand(nb_steps, batch, 12, seed=7) < p).double()


def synaptic(kind, *more):
    torch.manual_seed(5)
    return kind(10, 10, LONGEST * DT, *more, seed=3).double()


LOOPS = {
    "axonal": lambda: connection("axonal", 10, 10),
    "wide": lambda: connection("axonal", 10, 10, width=3.0),
    "dendritic": lambda: connection("dendritic", 10, 10),
    "wide dendritic": lambda: connection("dendritic", 10, 10, width=3.0),
    "synaptic": lambda: synaptic(DelayedDense),
    "Gaussian": lambda: synaptic(GaussianDelays, 2e-3, 1e-3, 3),
}


@pytest.mark.parametrize("name", LOOPS)
def test_recurrent_delays_are_those_of_a_slow_loop(name):
    """I[t] = W x[t-1] + sum_n (R . share_n) s[t-1-n], one step, sample and arrival after the other."""
    network, x = looped(LOOPS[name]()).double(), train(30)
    first = network.layers[0]
    kernel = [first.recurrent.weight * share for share in first.recurrent.shares(DT)]
    a, b = (float(decay) for decay in first.decays(DT))
    expected = torch.zeros(30, 5, 10, dtype=torch.float64)
    for sample in range(5):
        i = u = torch.zeros(10, dtype=torch.float64)
        for t in range(30):
            s = (u > 1).double()
            expected[t, sample] = s
            drive = first.feedforward.weight @ x[t - 1, sample] if t else torch.zeros(10, dtype=torch.float64)
            for n, share in enumerate(kernel):
                if t - 1 - n >= 0:
                    drive = drive + share @ expected[t - 1 - n, sample]
            u = (b * u + (1 - b) * i) * (1 - s)
            i = a * i + drive
    found = network(x, record=True).recorded[0]
    assert found.sum() > 100
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("name", LOOPS)
def test_parts_are_one_whole_also_where_they_are_shorter_than_the_delays(name, dropout):
    x = train().float()
    for kernel in ("reference", "auto"):
        network = looped(LOOPS[name](), AdaptiveLIF(), dropout).float()
        whole = network(x, kernel=kernel, record=True, seed=3)
        parts, state = [], None
        for chunk in x.split([17, 3, 2, 18]):
            out = network(chunk, kernel=kernel, record=True, return_state=True, state=state, seed=3)
            parts.append(out.recorded[0])
            state = out.state
        assert torch.equal(torch.cat(parts), whole.recorded[0])


@pytest.mark.parametrize("neuron", [LIF(), AdaptiveLIF(), LIF(escape_noise=Sigmoid(5.0), reset="subtractive")])
@pytest.mark.parametrize("name", [*LOOPS, "dense"])
@pytest.mark.parametrize("memory", ["full", "recompute"])
def test_compiled_loops_equal_the_specification(name, neuron, memory):
    found = {}
    for kernel, dtype in (("reference", torch.float64), ("cpu", torch.float32)):
        loop = Dense(10, 10) if name == "dense" else LOOPS[name]()
        network = looped(loop, neuron, dropout=0.3).to(dtype)
        out = network(train(70).to(dtype), kernel=kernel, record=True, seed=3, memory=memory)
        (out.y.square().sum() + out.counts[0].sum()).backward()
        gradients = {n: p.grad.double() for n, p in network.named_parameters() if p.grad is not None}
        found[kernel] = out.recorded[0].double(), gradients
    (spikes, expected), (others, got) = found.values()
    assert torch.equal(spikes, others)
    assert expected.keys() == got.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(got[key], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=key)


def test_a_finite_difference_in_the_delays_of_a_loop():
    """Without a surrogate, what the spikes of a first volley bring back below threshold is smooth in the delays."""
    loop = connection("axonal", 3, 3)
    layer = SpikingLayer(Dense(3, 3), LIF(TrueGradient()), 20e-3, 10e-3, loop)
    network = Network([layer], Readout(Dense(3, 2), 20e-3, 10e-3), DT).double()
    with torch.no_grad():
        layer.feedforward.weight.copy_(5 * torch.eye(3))
        loop.weight.mul_(0.05)
    x = torch.zeros(25, 2, 3, dtype=torch.float64)
    x[0] = 1

    def energy(logit):
        out = torch.func.functional_call(
            network, {"layers.0.recurrent.delay.logit": logit}, (x,), {"return_state": True, "kernel": "reference"}
        )
        return out.state.layers[0].u.square().sum()

    start = loop.delay.logit.detach().clone().requires_grad_()
    counts = network(x, kernel="reference").counts[0].detach()
    assert torch.equal(counts, torch.ones_like(counts))
    (gradient,) = torch.autograd.grad(energy(start), start)
    assert gradient.abs().min() > 0
    for j in range(3):
        step = torch.zeros_like(start)
        step[0, j] = 1e-6
        slope = float((energy(start + step) - energy(start - step)).detach()) / 2e-6
        assert float(gradient[0, j]) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("name", [*LOOPS, "dense"])
def test_spikes_are_equal_in_any_split_of_a_batch(name):
    network, x = looped(Dense(10, 10) if name == "dense" else LOOPS[name](), dropout=0.5).float(), train().float()
    whole = network(x, seed=3, draw=2, record=True).recorded[0]
    split = ([3, 0], [1, 4, 2])
    parts = [network(x[:, k], seed=3, draw=2, ids=torch.tensor(k), record=True).recorded[0] for k in split]
    assert torch.equal(torch.cat(parts, 1)[:, [1, 2, 4, 0, 3]], whole)


def test_dropout_in_the_loop_is_of_the_sample():
    network, x = looped(Dense(10, 10), dropout=0.5).float(), train().float()
    whole = network(x, seed=3, draw=2, record=True).recorded[0]
    assert not torch.equal(network(x, seed=3, draw=3, record=True).recorded[0], whole)
    layer = network.layers[0]
    without = looped(Dense(10, 10)).float().eval()
    without.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(x, record=True).recorded[0], without(x, record=True).recorded[0])
    assert layer.recurrent_dropout == 0.5


@pytest.mark.parametrize("batch", [1, 4, 37])
@pytest.mark.parametrize("name", ["synaptic", "Gaussian", "rounded"])
def test_compiled_delays_of_synapses_in_batches_of_any_size_and_at_evaluation(name, batch):
    x, found = train(70, batch), {}
    for kernel, dtype in (("reference", torch.float64), ("cpu", torch.float32)):
        network = looped(LOOPS["Gaussian" if name == "rounded" else name]()).to(dtype).train(name != "rounded")
        out = network(x.to(dtype), kernel=kernel, record=True)
        (out.y.square().sum() + out.counts[0].sum()).backward()
        found[kernel] = out.recorded[0].double(), [p.grad.double() for p in network.layers[0].recurrent.parameters()]
    (spikes, expected), (others, got) = found.values()
    assert torch.equal(spikes, others)
    assert len(expected) == 2
    for gradient, other in zip(expected, got, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


class Halves(DelayedDense):
    """Half of the weight at once and half after the longest delay."""

    def shares(self, dt):
        share = torch.full_like(self.weight, 0.5)
        return iter([share, *[torch.zeros_like(share)] * (self.nb_taps(dt) - 2), share])


def test_shares_of_ones_own_are_compiled_in_a_loop_and_wrong_ones_refused(monkeypatch):
    network, x = looped(Halves(10, 10, LONGEST * DT)).float(), train().float()
    found = [network(x, kernel=kernel, record=True).recorded[0] for kernel in ("reference", "cpu")]
    assert torch.equal(*found)
    monkeypatch.setattr(Halves, "shares", lambda self, dt: iter([torch.ones_like(self.weight)] * 2))
    with pytest.raises(UserError, match=r"kernel of .* \(10, 10, 2\)"):
        network(x, kernel="cpu")


def test_loops_with_delays_are_compiled_but_those_of_convolutions():
    for make in LOOPS.values():
        assert dispatch.choose("auto", looped(make()).float().spec()).why.startswith("compiled layers")
    loop = ConvDendriticDelays((2, 10), 2, 3, 1, 1, max_delay=8e-3)
    network = Network([SpikingLayer(Conv((1, 12), 2, 3), LIF(), 20e-3, 10e-3, loop)], None, DT).float()
    said = "(recurrent delays of a convolution, 40 times as slow as those of dense connections)"
    assert f"{said} is unknown" in dispatch.choose("auto", network.spec()).why
    with pytest.raises(UserError, match=r"does not know .*recurrent delays of a convolution"):
        dispatch.choose("cpu", network.spec())


def test_a_stopped_run_goes_on_with_the_widths_and_the_dropout_of_its_epoch(tmp_path):
    train, valid, _ = Randman(nb_classes=3, nb_units=12, nb_steps=30, duration=0.03, nb_samples=12, alpha=2.0).splits()

    def fit(folder, loss):
        def delays(shape, nb_units):
            return AxonalDelays(shape, nb_units, 6e-3, width=3e-3, shrink=0.5)

        torch.manual_seed(1)
        parts = HiddenParts(delays, recurrent=delays, recurrent_dropout=0.3, dropout=0.2)
        constants = {"dt": DT, "tau_mem": 20e-3, "tau_syn": 10e-3, "tau_readout": 0.1}
        network = dense_snn((12, 10, 8, 3), neuron=LIF(), hidden=parts, **constants)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        with open_run(folder, {}) as run:
            fit = Fit(network, optimizer, train, valid, BatchGrid(16, DT, 30), Objective(loss), run, Plan(3))
            fit.before_epoch = lambda number: begin_epoch(network, number)
            fit()
        (record,) = load_runs(folder)
        return network.state_dict(), record.metrics["train_loss"]

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", Stopped(6))
    (weights, losses), (others, theirs) = (fit(tmp_path / name, MaxOverTimeCrossEntropy()) for name in "ab")
    assert all(torch.equal(weights[name], others[name]) for name in others)
    np.testing.assert_array_equal(losses, theirs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AxonalDelays(3, 4, 8e-3, width=-1e-3), "width=-0.001 s, shrink=0.95: allowed are"),
        (lambda: DendriticDelays(3, 4, 8e-3, shrink=1.5), "shrink=1.5: allowed are"),
        (lambda: SpikingLayer(Dense(3, 4), LIF(), 0.02, 0.01, Dense(4, 4), recurrent_dropout=1.0), "dropout=1.0"),
        (
            lambda: looped(connection("axonal", 10, 10)).float()(train(8).float()),
            "max_delay=0.008 s does not fit into the window of 8 steps",
        ),
    ],
)
def test_what_cannot_be_is_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
