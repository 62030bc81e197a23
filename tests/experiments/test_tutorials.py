"""Training without a run folder is that of `Fit`; its figures show what they are given."""

import numpy as np
import pytest
import torch

from surgrad.datasets.encoding.latency import ChargingLatency
from surgrad.datasets.encoding.threshold_crossing import ThresholdCrossing
from surgrad.datasets.sources.random_task import RandomTask
from surgrad.experiments.tutorials import figures
from surgrad.experiments.tutorials.learn import learn
from surgrad.network.initializers import Distribution
from surgrad.network.models import dense_snn
from surgrad.neurons.lif import LIF
from surgrad.neurons.surrogate import SuperSpike, TrueGradient
from surgrad.runs.folder import open_run
from surgrad.runs.record import load_runs
from surgrad.training.fit import Fit, Plan
from surgrad.training.loop import BatchGrid, Objective
from surgrad.training.losses import build_loss
from surgrad.training.regularizers import ActivityL1

GRID = BatchGrid(16, 1e-3, 50)
TASK = RandomTask(nb_samples=40, nb_units=30, nb_steps=50, rate=60)
OBJECTIVE = Objective(build_loss("mot_ce"), [ActivityL1(0.01)])


def make_network(surrogate=None):
    network = dense_snn(
        [30, 8, 2],
        neuron=LIF(surrogate or SuperSpike(beta=20)),
        dt=1e-3,
        tau_mem=10e-3,
        tau_syn=5e-3,
        tau_readout=10e-3,
        recurrent=False,
    )
    Distribution(std=6.0)(network, torch.Generator().manual_seed(0))
    return network


def setting(network):
    return {"grid": GRID, "objective": OBJECTIVE, "optimizer": torch.optim.Adam(network.parameters(), lr=1e-2)}


def test_columns_and_weights_are_those_of_a_run(tmp_path):
    train, test = TASK.draw(0), TASK.draw(1)
    here, there = make_network(), make_network()
    columns = learn(here, train, test, nb_epochs=3, seed=5, **setting(here))
    with open_run(tmp_path / "run", {"seed": 5}, None) as run:
        Fit(there, train=train, valid=test, run=run, plan=Plan(3, seed=5), **setting(there))()
    (record,) = load_runs(tmp_path / "run")
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for mine, its in (("epoch", "epoch"), ("train_loss", "train_loss"), ("test_acc", "valid_acc")):
        np.testing.assert_array_equal(columns[mine], record.metrics[its][1:])  # its first row is the untrained network
    assert set(columns) == {"epoch", "train_loss", "train_acc", "spikes", "test_loss", "test_acc"}


def test_nothing_reaches_the_hidden_weights_through_the_true_gradient():
    for surrogate, moves in ((TrueGradient(), False), (SuperSpike(beta=20), True)):
        network = make_network(surrogate)
        before = network.layers[0].feedforward.weight.detach().clone()
        learn(network, TASK.draw(), nb_epochs=1, **setting(network))
        assert torch.equal(before, network.layers[0].feedforward.weight) != moves


def test_spikes_are_counted_per_sample():
    network = make_network()
    columns = learn(network, TASK.draw(), nb_epochs=1, **(setting(network) | {"grid": BatchGrid(40, 1e-3, 50)}))
    (batch,) = BatchGrid(40, 1e-3, 50)(TASK.draw())
    counts = make_network()(batch).counts[0]
    assert columns["spikes"][0] == pytest.approx(float(counts.detach().sum(1).mean()), rel=1e-5)


def test_figures_hold_a_mark_for_everything_they_are_given():
    curve = {"epoch": np.arange(3), "train_loss": np.ones(3), "train_acc": np.ones(3)}
    tested = curve | {"test_loss": np.ones(3), "test_acc": np.ones(3)}
    axes = figures.learning({"a": curve, "b": tested}, chance=0.5).axes
    assert [len(ax.lines) for ax in axes] == [3, 4]
    assert len(figures.surrogates({"SG": SuperSpike(10), "true": TrueGradient()}).axes[1].lines) == 2
    code = ChargingLatency()
    assert len(figures.charging(code).axes) == 2
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 6), np.uint8)
    shown = figures.images(pixels, code, ("x", "y"))
    fires = (code(pixels / 255) < 0.1).sum((1, 2))
    assert [len(shown.axes[4 + n].collections[0].get_offsets()) for n in range(2)] == fires.tolist()
    assert len(figures.trade_off([3, 30], [0.5, 0.8], [10, 1]).axes[0].texts) == 2
    signal = np.cumsum(np.random.default_rng(0).normal(size=(20, 2)), 0)
    events = ThresholdCrossing(0.3, 2e-3)(signal[None])
    raster = figures.tactile(signal, 2e-3, {"crossings": events}, ("one", "two")).axes[1]
    assert len(raster.collections[0].get_offsets()) == len(events.times)
