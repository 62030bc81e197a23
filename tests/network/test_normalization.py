"""Normalised currents and dropped units: against their definition, on every kernel, in any split, through a stop."""

import copy

import numpy as np
import pytest
import torch
from network.stopped_runs import Stopped

from surgrad.datasets.events import EventBatch
from surgrad.datasets.sources.randman import Randman
from surgrad.errors import UserError
from surgrad.kernels.events import Events
from surgrad.kernels.inputs import STREAM
from surgrad.kernels.philox import NoiseKey, uniform
from surgrad.network.connections import Conv, DelayedDense, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.models import HiddenParts, dense_snn
from surgrad.network.network import Network, evaluating
from surgrad.network.normalization import Bias, TemporalBatchNorm, folded
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF, AdaptiveLIF
from surgrad.runs.folder import open_run
from surgrad.runs.record import load_runs
from surgrad.training.fit import Fit, Plan
from surgrad.training.loop import BatchGrid, Objective
from surgrad.training.losses import MaxOverTimeCrossEntropy

T, B, N = 30, 6, 12
CONSTANTS = {"dt": 1e-3, "tau_mem": 20e-3, "tau_syn": 10e-3, "tau_readout": 0.1}


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spikes(nb_steps=T, nb_samples=B, nb_units=N, seed=0, share=0.2):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(nb_steps, nb_samples, nb_units, generator=generator) < share).float()


def delayed(shape, nb_units):
    return DelayedDense(shape, nb_units, 6e-3)


def network_of(*, p=0.4, gain=2.0, neuron=None, connection=Dense, readout=Dense, recurrent=True):
    """Two hidden layers with normalised currents and dropout between them."""
    torch.manual_seed(1)
    parts = HiddenParts(connection, normalization=lambda shape: TemporalBatchNorm(shape, gain), dropout=p)
    parts = parts._replace(readout=readout)
    neuron = neuron or LIF(diff_reset=True)
    return dense_snn((N, 10, 8, 3), neuron=neuron, hidden=parts, recurrent=recurrent, **CONSTANTS)


def moved(network):
    """A network whose running averages, gains and shifts are those of no new one."""
    generator = torch.Generator().manual_seed(3)
    for part in network.modules():
        if isinstance(part, TemporalBatchNorm):
            for x, low in ((part.mean, -1.0), (part.variance, 0.3), (part.gain.data, 0.5), (part.shift.data, -0.2)):
                x.copy_(low + 1.5 * torch.rand(x.shape, generator=generator))
    return network


@pytest.mark.parametrize("shape", [(5,), (3, 7)])
def test_currents_have_the_mean_and_deviation_that_are_learned(shape):
    norm = TemporalBatchNorm(shape, gain=1.5, momentum=0.25).double()
    with torch.no_grad():
        norm.shift.copy_(numbers(shape[0]))
    current = 3 * numbers(T, B, *shape, seed=1) + 2
    axes = (0, 1, *range(3, current.dim()))
    centred = current - current.mean(axes, keepdim=True)
    shift = norm.shift.detach().view(-1, *[1] * (len(shape) - 1))
    expected = 1.5 * centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt() + shift
    torch.testing.assert_close(norm(current).detach(), expected)
    torch.testing.assert_close(norm.mean, 0.25 * current.mean(axes))
    torch.testing.assert_close(norm.variance, 0.75 + 0.25 * current.var(axes))
    before = norm.mean.clone(), norm.variance.clone()
    norm.eval()
    root = (norm.variance + 1e-5).sqrt().view(shift.shape)
    expected = 1.5 * (current - norm.mean.view(shift.shape)) / root + shift
    torch.testing.assert_close(norm(current).detach(), expected)
    assert torch.equal(torch.stack(before), torch.stack((norm.mean, norm.variance)))


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_finite_differences(training):
    norm = moved(TemporalBatchNorm((4,), momentum=1e-12)).double().train(training)
    current = numbers(3, 2, 4).requires_grad_()

    def run(current, gain, shift):
        return torch.func.functional_call(norm, {"gain": gain, "shift": shift}, (current,))

    assert torch.autograd.gradcheck(run, (current, norm.gain, norm.shift))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("neuron", "connection"),
    [(LIF(), Dense), (LIF(escape_noise=Sigmoid(5.0)), Dense), (LIF(), delayed), (AdaptiveLIF(), delayed)],
    ids=["lif", "noise", "delays", "adaptive"],
)
def test_kernels_agree(neuron, connection, training):
    x, found = spikes(), {}
    for kernel in ("reference", "auto"):
        network = moved(network_of(neuron=neuron, connection=connection, readout=connection)).train(training)
        assert network.summary()
        out = network(x, seed=4, draw=2, kernel=kernel, record=True)
        (out.y.square().sum() + sum(c.sum() for c in out.counts)).backward()
        found[kernel] = out, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    (a, of_reference), (b, of_auto) = found.values()
    assert all(torch.equal(s, z) for s, z in zip(a.recorded, b.recorded, strict=True))
    torch.testing.assert_close(a.y, b.y, rtol=1e-4, atol=1e-5)
    assert of_reference.keys() == of_auto.keys()
    for name, gradient in of_reference.items():
        scale = float(gradient.abs().max()) or 1.0
        torch.testing.assert_close(of_auto[name] / scale, gradient / scale, rtol=1e-3, atol=2e-4, msg=name)


def convolutional():
    torch.manual_seed(2)
    below = Conv((1, N), 3, 4, 2)
    layer = SpikingLayer(below, LIF(), 20e-3, 10e-3, normalization=TemporalBatchNorm(below.out_shape))
    return Network([layer], Readout(Dense(below.out_shape, 3), 0.1, 10e-3), dt=1e-3)


@pytest.mark.parametrize("kind", ["dense", "delayed", "convolution"])
def test_folded_equals_unfolded_in_evaluation(kind):
    network = convolutional() if kind == "convolution" else network_of(connection={"delayed": delayed}.get(kind, Dense))
    network = moved(network).double().eval()
    x = spikes().double()
    x = x[:, :, None] if kind == "convolution" else x
    before = copy.deepcopy(network.state_dict())
    plain = folded(network)
    assert not any(isinstance(part, TemporalBatchNorm) for part in plain.modules())
    assert any(isinstance(part, Bias) for part in plain.modules())
    a, b = network(x, record=True), plain(x, record=True)
    assert all(torch.equal(s, z) for s, z in zip(a.recorded, b.recorded, strict=True))
    assert a.recorded[0].any()
    torch.testing.assert_close(a.y, b.y)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_dropped_unit_is_silent_for_the_whole_sample_and_the_others_count_more():
    """The second layer of a network is that of the masked spikes, by hand."""
    p, ids = 0.4, torch.tensor([7, 3, 12, 5, 9, 1])
    network = network_of(p=p, gain=1.0).double()
    x = spikes().double()
    out = network(x, seed=5, draw=3, ids=ids, record=True)
    kept = uniform(NoiseKey(5, 3, STREAM + 2), 0, ids, (8,)) > p
    with torch.no_grad():
        below = out.recorded[1] * kept / (1 - p)
        alone = Network([], network.readout, dt=1e-3).eval()
        torch.testing.assert_close(alone(below).y, out.y.detach())
    with evaluating(network):
        assert network.layers[1].spec("layer", 1e-3, 1).input.dropout == 0
        assert network.readout.spec("readout", 1e-3, 1).input is None
    assert network.training


def test_as_many_units_are_dropped_as_said():
    kept = uniform(NoiseKey(1, 2, STREAM), 0, torch.arange(500), (64,)) > 0.3
    n = kept.numel()
    assert abs(int(kept.sum()) - 0.7 * n) < 4 * (0.7 * 0.3 * n) ** 0.5


def test_what_is_dropped_depends_on_sample_epoch_and_layer_alone():
    network = network_of(p=0.5)
    network.apply(lambda part: part.eval() if isinstance(part, TemporalBatchNorm) else part)
    x, ids = spikes(), torch.arange(10, 10 + B)
    whole = network(x, seed=1, draw=4, ids=ids)
    parts = [network(x[:, k : k + 2], seed=1, draw=4, ids=ids[k : k + 2]) for k in range(0, B, 2)]
    torch.testing.assert_close(torch.cat([part.y for part in parts], 1), whole.y)
    first = network(x[:13], seed=1, draw=4, ids=ids, return_state=True)
    second = network(x[13:], seed=1, draw=4, ids=ids, state=first.state)
    torch.testing.assert_close(torch.cat([first.y, second.y]), whole.y, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(network(x, seed=1, draw=5, ids=ids).y, whole.y)


def test_events_of_dropped_units_are_left_out():
    layer = SpikingLayer(Dense(N, 5), LIF(), 20e-3, 10e-3, dropout=0.5)
    network = Network([layer], Readout(Dense(5, 2), 0.1, 10e-3), dt=1e-3)
    x = spikes()
    events = Events.of(x)
    kept = torch.rand(B, N, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(events.where(kept).dense(torch.float32), x * kept)
    torch.testing.assert_close(network(EventBatch.from_dense(x), seed=2).y, network(x, seed=2).y)


def test_a_stopped_run_goes_on_to_the_same_averages_and_the_same_dropped_units(tmp_path):
    train, valid, _ = Randman(nb_classes=3, nb_units=N, nb_steps=T, duration=0.06, nb_samples=12, alpha=2.0).splits()

    def fit(folder, loss):
        network = network_of(p=0.3, recurrent=False)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        grid = BatchGrid(8, 2e-3, T)
        with open_run(folder, {}) as run:
            best = Fit(network, optimizer, train, valid, grid, Objective(loss), run, Plan(3, ema=0.8))()
        (record,) = load_runs(folder)
        return network.state_dict(), best.weights, record.metrics

    for limit in (3, 8):  # in the first and in the second epoch
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / f"a{limit}", Stopped(limit))
        gone_on = fit(tmp_path / f"a{limit}", MaxOverTimeCrossEntropy())
        whole = fit(tmp_path / f"b{limit}", MaxOverTimeCrossEntropy())
        for ours, theirs in zip(gone_on[:2], whole[:2], strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert "layers.0.normalization.mean" in whole[0]
        for column in ("train_loss", "valid_loss", "valid_acc"):
            np.testing.assert_array_equal(gone_on[2][column], whole[2][column])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TemporalBatchNorm((3,), gain=0.0), "gain=0.0"),
        (lambda: TemporalBatchNorm((3,), momentum=1.5), "momentum=1.5"),
        (lambda: SpikingLayer(Dense(3, 2), LIF(), 2e-2, 1e-2, dropout=1.0), "dropout=1.0"),
        (lambda: Readout(Dense(3, 2), 2e-2, 1e-2, dropout=-0.1), "dropout=-0.1"),
        (lambda: TemporalBatchNorm((3,))(torch.zeros(1, 1, 3)), "more than one step or sample"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
