"""Networks of every kind of layer: composition, delay, state, batches, gradients."""

import pytest
import torch

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.network.connections import Conv, Dense
from surgrad.network.initializers import FluctuationDrivenCentered
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF
from surgrad.neurons.surrogate import Esser, SigmoidPrime, SuperSpike, TrueGradient

T, B, DT = 40, 4, 2e-3
IN_SHAPES = {
    "dense": (24,),
    "dense_recurrent": (24,),
    "conv1d": (1, 24),
    "conv1d_recurrent": (1, 24),
    "conv2d": (2, 6, 5),
}


def make_network(kind, neuron=None, delay=1, dtype=torch.float64, seed=0):
    neuron = neuron or LIF()
    in_shape = IN_SHAPES[kind]
    first, second = {
        "dense": lambda: (Dense(24, 20), Dense(20, 16)),
        "conv1d": lambda: (Conv(in_shape, 4, 5, 2), Conv((4, 10), 6, 3)),
        "conv2d": lambda: (Conv(in_shape, 4, 3, 1, 1), Conv((4, 6, 5), 3, (3, 2))),
    }[kind.removesuffix("_recurrent")]()
    recurrents = [None, None]
    if kind == "dense_recurrent":
        recurrents = [Dense(20, 20), Dense(16, 16)]
    if kind == "conv1d_recurrent":
        recurrents = [Conv((4, 10), 4, 5, padding=2), Conv((6, 8), 6, 3, padding=1)]
    layers = [SpikingLayer(c, neuron, 20e-3, 10e-3, r) for c, r in zip((first, second), recurrents, strict=True)]
    network = Network(layers, Readout(Dense(second.out_shape, 3), 0.1, 10e-3), DT, delay).to(dtype)
    FluctuationDrivenCentered(1.5, 30.0)(network, torch.Generator().manual_seed(seed))
    return network


def spikes_in(kind, nb_steps=T, batch=B, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(nb_steps, batch, *IN_SHAPES[kind], generator=generator) < 0.1).double()


def run(network, x, **kw):
    return network(x, kernel="reference", **kw)


KINDS = list(IN_SHAPES)
STOCHASTIC = LIF(SigmoidPrime(10.0), Sigmoid(10.0))


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_spikes_and_counts_are_sums_of_spikes(kind):
    out = run(make_network(kind), spikes_in(kind), record=True)
    assert out.readout.shape == (T, B, 3)
    for counts, spikes in zip(out.counts, out.spikes, strict=True):
        assert torch.equal(counts, spikes.sum(0))
        assert counts.sum() > 5


@pytest.mark.parametrize("kind", KINDS)
def test_loss_reaches_every_weight(kind):
    network = make_network(kind)
    out = run(network, spikes_in(kind))
    (out.readout.square().sum() + sum(c.sum() for c in out.counts)).backward()
    for name, p in network.named_parameters():
        if p.requires_grad:
            assert p.grad.isfinite().all(), name
            assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("neuron", [LIF(), STOCHASTIC], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("kind", KINDS)
def test_changing_the_surrogate_changes_the_gradient_and_nothing_else(kind, neuron):
    results = []
    for surrogate in (SuperSpike(10.0), SuperSpike(2.0), SigmoidPrime(10.0), Esser(0.5), TrueGradient()):
        network = make_network(kind, LIF(surrogate, neuron.escape_noise))
        out = run(network, spikes_in(kind), record=True)
        out.readout.sum().backward()
        results.append((out, {n: p.grad for n, p in network.named_parameters() if p.requires_grad}))
    reference, gradients = results[0]
    for out, other in results[1:]:
        assert torch.equal(out.readout, reference.readout)
        for n, g in gradients.items():
            if n.startswith("layers"):
                assert not torch.allclose(g, other[n], rtol=1e-3), n
            else:
                assert torch.equal(g, other[n])
    silent = results[-1][1]
    assert all(float(g.abs().max()) == 0 for n, g in silent.items() if n.startswith("layers"))


@pytest.mark.parametrize("kind", KINDS)
def test_two_layers_may_have_different_surrogates(kind):
    def gradients(first, second):
        network = make_network(kind)
        for layer, surrogate in zip(network.layers, (first, second), strict=True):
            layer.neuron = LIF(surrogate)
        run(network, spikes_in(kind)).readout.sum().backward()
        return [layer.feedforward.weight.grad for layer in network.layers]

    narrow, wide = SuperSpike(20.0), SuperSpike(2.0)
    base, lower, upper = gradients(narrow, narrow), gradients(wide, narrow), gradients(narrow, wide)
    assert not torch.allclose(base[0], lower[0], rtol=1e-3)
    assert torch.equal(base[1], lower[1])
    assert not torch.allclose(base[1], upper[1], rtol=1e-3)


@pytest.mark.parametrize("neuron", [LIF(), STOCHASTIC], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_two_halves_are_the_whole(kind, delay, neuron):
    network, x = make_network(kind, neuron, delay), spikes_in(kind)
    whole = run(network, x, seed=3, record=True, return_state=True)
    for cut in (1, 17):
        first = run(network, x[:cut], seed=3, record=True, return_state=True)
        second = run(network, x[cut:], seed=3, record=True, return_state=True, state=first.state)
        torch.testing.assert_close(torch.cat([first.readout, second.readout]), whole.readout)
        for a, b, spikes in zip(first.spikes, second.spikes, whole.spikes, strict=True):
            assert torch.equal(torch.cat([a, b]), spikes)
        for a, b, counts in zip(first.counts, second.counts, whole.counts, strict=True):
            assert torch.equal(a + b, counts)
        assert second.state.step == whole.state.step == T
        for ours, theirs in zip(second.state.layers, whole.state.layers, strict=True):
            for s, t in zip(ours, theirs, strict=True):
                torch.testing.assert_close(s, t)


@pytest.mark.parametrize("neuron", [LIF(), STOCHASTIC], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_do_not_depend_on_their_batch(kind, neuron):
    network, x, ids = make_network(kind, neuron), spikes_in(kind), torch.tensor([7, 2, 100, 0])
    whole = run(network, x, ids=ids, record=True)
    for chosen in ([2], [3, 0]):
        part = run(network, x[:, chosen], ids=ids[chosen], record=True)
        torch.testing.assert_close(part.readout, whole.readout[:, chosen])
        for a, b in zip(part.spikes, whole.spikes, strict=True):
            assert torch.equal(a, b[:, chosen])


def test_draws_repeat_with_seed_and_draw_and_differ_between_layers():
    network, x = make_network("dense", STOCHASTIC), spikes_in("dense")
    base = run(network, x, seed=1, draw=4, record=True)
    assert torch.equal(run(network, x, seed=1, draw=4).readout, base.readout)
    for other in ({"seed": 2, "draw": 4}, {"seed": 1, "draw": 5}):
        assert not torch.equal(run(network, x, **other).readout, base.readout)


@pytest.mark.parametrize("kind", KINDS)
def test_events_and_dense_spikes_are_the_same_input(kind):
    network, x = make_network(kind, STOCHASTIC), spikes_in(kind)
    ids = torch.tensor([5, 6, 7, 8])
    batch = EventBatch.from_dense(x, ids=ids)
    assert torch.equal(run(network, batch).readout, run(network, x, ids=ids).readout)


@pytest.mark.parametrize("delay", [0, 1])
def test_delay_and_step_at_which_a_spike_arrives(delay):
    """s[0] enters I[delay]; I[t] reaches i[t+1] and u[t+2], so the readout y[t] = u[t+1] moves at 1 + d."""
    network = Network([], Readout(Dense(1, 1), 20e-3, 10e-3, u0=0.0), DT, delay)
    with torch.no_grad():
        network.readout.feedforward.weight.fill_(1.0)
    x = torch.zeros(6, 1, 1)
    x[0] = 1
    y = run(network, x).readout[:, 0, 0].detach()
    assert (y[: 1 + delay] == 0).all()
    assert (y[1 + delay :] > 0).all()


def test_state_is_never_in_the_state_dict():
    network = make_network("conv1d_recurrent")
    names = set(network.state_dict())
    run(network, spikes_in("conv1d_recurrent"), return_state=True)
    assert set(network.state_dict()) == names
    assert all("weight" in n or "log_tau" in n for n in names)


def test_single_precision_gives_the_spikes_of_double_precision():
    x = spikes_in("dense_recurrent")
    double = run(make_network("dense_recurrent"), x, record=True)
    single = run(make_network("dense_recurrent", dtype=torch.float32), x, record=True)
    assert single.readout.dtype == torch.float32
    for a, b in zip(single.spikes, double.spikes, strict=True):
        assert torch.equal(a.double(), b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Network([], None, DT, delay=2), "delay=2 steps is not allowed; allowed: 0 or 1"),
        (lambda: Network([], None, 0.0), "dt=0.0 s must be positive"),
        (
            lambda: Network([SpikingLayer(Dense(4, 5), LIF(), 0.02, 0.01)], Readout(Dense(6, 2), 0.1, 0.01), DT),
            r"expects input \(6,\), but gets \(5,\)",
        ),
        (lambda: make_network("dense")(spikes_in("dense"), kernel="fast"), "kernel='fast' is unknown; allowed: auto"),
    ],
)
def test_impossible_networks_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
