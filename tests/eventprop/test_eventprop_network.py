"""Heads, bookkeeping and training of event-based networks, and the Yin-Yang script."""

import importlib.util
import math

import numpy as np
import pytest
import torch

from surgrad.datasets.encoding.latency import BrightFirst
from surgrad.datasets.sources.yin_yang import YinYang
from surgrad.errors import UserError
from surgrad.eventprop.encoding import linear_latency
from surgrad.eventprop.layers import EventLayer, EventLIF, EventReadout, Spikes, spikes_from_times
from surgrad.eventprop.network import (
    EventNetwork,
    FirstSpike,
    IntegratedVoltage,
    MaximumVoltage,
    SpikeSet,
    evaluate,
    train_epoch,
)
from surgrad.experiments.eventprop.config import YinYangConfig
from surgrad.experiments.eventprop.training import EventFit, Recipe
from surgrad.runs.record import REPO, load_runs

DURATION = 60e-3


def two_spikes():
    """Unit 1 fires at 5 and 6 ms in the first sample; the second sample is silent."""
    return Spikes(torch.tensor([5e-3, 6e-3]), torch.tensor([1, 1], dtype=torch.int32), torch.tensor([0, 2, 2]))


def toy(seed=0, n=48):
    """Which of two inputs comes first."""
    rng = np.random.default_rng(seed)
    times = rng.uniform(0, 20e-3, (n, 2))
    return SpikeSet(spikes_from_times(times, DURATION), torch.from_numpy((times[:, 1] < times[:, 0]).astype(np.int64)))


def toy_network(head, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = EventLayer(2, 30)
    hidden.weight.data.normal_(5.0, 2.0, generator=generator)
    if head == "first":
        output = EventLayer(30, 2)
        output.weight.data.normal_(1.2, 0.2, generator=generator)
        return EventNetwork([hidden, output], FirstSpike(2), DURATION)
    readout = EventReadout(30, 2, EventLIF(5e-3, 5e-3))
    readout.weight.data.normal_(0.0, 1.0, generator=generator)
    heads = {"maximum": MaximumVoltage, "integral": lambda r: IntegratedVoltage(r, 20e-3, 50.0)}
    return EventNetwork([hidden], heads[head](readout), DURATION)


def test_first_spike_loss_is_its_formula_and_counts_silence_as_the_end():
    head = FirstSpike(2, alpha=0.1, tau0=1e-3, tau1=5e-3)
    scores = head.scores(two_spikes(), 8e-3)
    assert scores.tolist() == [[-math.inf, pytest.approx(-5)], [-math.inf, -math.inf]]
    expected = math.log(1 + math.exp(-3)) + 0.1 * (math.e - 1)
    assert float(head.loss(scores[:1], torch.tensor([1]), 8e-3)) == pytest.approx(expected, rel=1e-5)
    assert head.silent(scores, torch.tensor([1, 1])).tolist() == [False, True]


def test_a_silent_label_gives_no_gradient_but_raises_its_weights():
    head = FirstSpike(2, bump=2.5)
    times = torch.tensor([5e-3], requires_grad=True)
    spikes = Spikes(times, torch.tensor([1], dtype=torch.int32), torch.tensor([0, 1]))
    scores = head.scores(spikes, DURATION)
    head.loss(scores, torch.tensor([0]), DURATION).backward()
    assert not times.grad.any()
    layer = EventLayer(3, 2)
    assert head.revive(layer, scores.detach(), torch.tensor([0]), 0.1) == 1
    assert layer.weight.tolist() == [[0.25, 0.0]] * 3


@pytest.mark.parametrize("head", ["first", "maximum", "integral"])
def test_every_head_learns_which_input_comes_first(head):
    network, data = toy_network(head), toy()
    before = evaluate(network, data)
    optimizer = torch.optim.Adam(network.parameters(), 3e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        train_epoch(network, data, optimizer, 16, generator)
    after = evaluate(network, data)
    assert after.loss < 0.8 * before.loss
    assert after.acc > 0.8


def test_training_sees_what_augmentation_makes_of_the_data_and_validation_does_not():
    class Folder:
        load_checkpoint = log = checkpoint = staticmethod(lambda *_: None)

    network, recipe = toy_network("maximum"), Recipe(nb_epochs=20, batch_size=16, lr=3e-2)
    swapped = EventFit(network, recipe, Folder(), toy(), toy(), lambda data, _: SpikeSet(data.spikes, 1 - data.labels))
    swapped()
    assert evaluate(network, toy()).acc < 0.2


def test_scores_do_not_depend_on_the_batches_of_an_evaluation():
    network, data = toy_network("first"), toy()
    one, many = evaluate(network, data), evaluate(network, data, batch_size=7)
    assert one.loss == pytest.approx(many.loss, rel=1e-6)
    assert (one.acc, one.silent_hidden, *one.counts) == pytest.approx((many.acc, many.silent_hidden, *many.counts))


def test_subset_and_dropout_keep_samples_apart():
    spikes = toy(n=40).spikes
    picked = torch.tensor([7, 7, 0])
    some = spikes.subset(picked)
    for k, b in enumerate(picked):
        lo, hi = spikes.offsets[b : b + 2]
        assert torch.equal(some.times[some.offsets[k] : some.offsets[k + 1]], spikes.times[lo:hi])
    kept = spikes.dropped(0.5, torch.Generator().manual_seed(0))
    assert int(kept.offsets[-1]) == len(kept.times) == len(kept.units)
    assert 20 < len(kept.times) < 60
    assert bool((kept.counts(2) <= spikes.counts(2)).all())


def test_latency_codes():
    spikes = linear_latency(np.array([[0.5, 0.0]]), early=1e-3, late=11e-3, bias=2e-3)
    assert spikes.units.tolist() == [1, 2, 0]
    assert spikes.times.tolist() == pytest.approx([1e-3, 2e-3, 6e-3])
    with pytest.raises(UserError, match="outside the window"):
        linear_latency(np.array([[7.0]]))
    times = BrightFirst(late=20e-3)(np.array([255, 0, 51, 1, 2]) / 255)
    assert times.tolist() == pytest.approx([0.0, math.inf, 16e-3, math.inf, 20e-3 * (1 - 2 / 255)])
    with pytest.raises(UserError, match="threshold"):
        BrightFirst(threshold=1.0)


# ---------------------------------------------------------------- the script
@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("yin_yang", REPO / "Classification" / "yin_yang.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    points = [YinYang(64, seed).points() for seed in range(3)]
    monkeypatch.setattr(YinYangConfig, "splits", lambda cfg: tuple(cfg.encode(part) for part in points))
    return module


QUICK = ["nb_hidden=30", "wandb.mode=disabled", "plot=false", "hydra.run.dir=run"]


@pytest.mark.parametrize(
    "overrides", [[], ["--config-name=surrogate"], ["--config-name=surrogate", "method=eventprop"]]
)
def test_every_config_trains(script, tmp_path, overrides):
    script.main([*overrides, *QUICK, "nb_epochs=1"])
    (record,) = load_runs(tmp_path / "run")
    assert record.status == "done"
    assert 0 <= record.summary["test_acc"] <= 1


def test_a_run_cut_short_goes_on_bit_for_bit(script, tmp_path, monkeypatch):
    script.main([*QUICK, "nb_epochs=3"])
    whole = load_runs(tmp_path / "run")[0]
    from surgrad.experiments.eventprop import training as eventprop_training

    train, calls = eventprop_training.train_epoch, []

    def dies_in_the_third_epoch(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(eventprop_training, "train_epoch", dies_in_the_third_epoch)
    cut = [*QUICK[:-1], "nb_epochs=3", "hydra.run.dir=cut"]
    with pytest.raises(SystemExit):
        script.main(cut)
    script.main(cut)
    resumed = load_runs(tmp_path / "cut")[0]
    np.testing.assert_array_equal(resumed.metrics["train_loss"], whole.metrics["train_loss"])
    assert resumed.summary["test_loss"] == whole.summary["test_loss"]


def test_methods_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="max_voltage"):
        YinYangConfig(method="surrogate")
    with pytest.raises(UserError, match="method=eventprob"):
        YinYangConfig(method="eventprob")
