"""Runs read back: what a finished run says of itself is what its network computes again."""

import classification_suite
import dense_suite
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import yaml

import surgrad
from surgrad.errors import UserError
from surgrad.experiments import trained
from surgrad.paths import ROOT
from surgrad.runs.find import pretrained
from surgrad.training.evaluation import weights_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two finished runs: of a stochastic convolutional network, and of a dense one."""
    folder = tmp_path_factory.mktemp("runs")
    convolutional = [*classification_suite.TINY, "plot=none", f"hydra.run.dir={folder}/conv"]
    classification_suite.load_script().main(convolutional)
    dense_suite.run_dense(*dense_suite.TINY, f"hydra.run.dir={folder}/dense")
    return folder


@pytest.mark.parametrize("name", ["conv", "dense"])
@pytest.mark.parametrize(("weights", "suffix"), [("best", "_best_valid"), ("last", "")])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_scores_are_those_of_the_summary(folder, name, weights, suffix, split):
    run = surgrad.load_run(folder / name, weights=weights)
    loss, acc, std = run.evaluate(split)
    found = {"loss": loss, "acc": acc, "acc_std": std}
    assert found == {key: pytest.approx(run.summary[f"{split}_{key}{suffix}"], rel=1e-5) for key in found}


def test_scores_with_the_spikes_of_another_method(folder):
    run = surgrad.load_run(folder / "conv")
    before = run.network.layers[0].neuron
    scores = run.evaluate("test", method="superspike")
    assert scores.acc == pytest.approx(run.summary["test_acc_other_best_valid"], rel=1e-5)
    assert scores.acc_std == 0  # no noise
    assert run.network.layers[0].neuron is before


@pytest.mark.parametrize("name", ["conv", "dense"])
def test_spikes_are_those_of_the_network_on_the_grid_of_the_run(folder, name):
    run = surgrad.load_run(folder / name)
    batch = run.batch("test", [2, 0])
    data = run.splits()[2]
    assert batch.labels.tolist() == data.labels[[2, 0]].tolist()
    spikes = run.spikes(batch)
    assert list(spikes) == ["input", "hid_0", "hid_1"]
    out = run.network(batch.dense(), ids=batch.ids, record=True, seed=run.config["seed"], kernel="reference")
    for mine, expected in zip(spikes.values(), (batch.dense(), *out.spikes), strict=True):
        assert torch.equal(mine, expected)
    assert not spikes["hid_0"].requires_grad


def test_figures_draw(folder):
    run = surgrad.load_run(folder / "conv")
    for figure in (run.figure.activity(run.batch("valid", 3)), run.figure.training(), run.figure.confusion("valid")):
        assert figure.axes
    plt.close("all")


def test_answers_and_classes_make_the_accuracy(folder):
    run = surgrad.load_run(folder / "dense")
    data, counts = run.splits()[2], run.confusion("test")
    assert counts.sum(1).tolist() == np.bincount(data.labels, minlength=data.nb_classes).tolist()
    assert np.trace(counts) / len(data) == pytest.approx(run.evaluate("test").acc)
    assert counts[:, 0].sum() == int((run.predictions("test") == 0).sum())


def test_the_table_holds_the_metrics(folder):
    pytest.importorskip("pandas")
    run = surgrad.load_run(folder / "dense")
    table = run.table()
    assert list(table) == list(run.metrics)
    np.testing.assert_array_equal(table["train_loss"], run.metrics["train_loss"])


def test_the_best_run_is_chosen_by_validation(folder):
    by_accuracy = surgrad.best_run("valid_acc_best_valid", folder)
    runs = surgrad.load_runs(folder)
    values = [run.summary["valid_acc_best_valid"] for run in runs]
    assert by_accuracy.summary["valid_acc_best_valid"] == max(values)
    by_loss = surgrad.best_run("valid_loss", folder, smallest=True)
    assert by_loss.summary["valid_loss"] == min(run.summary["valid_loss"] for run in runs)
    assert weights_of(by_loss.network)  # it is a run to go on with


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda folder: surgrad.load_run(folder / "nowhere"), "nowhere"),
        (lambda folder: surgrad.load_run(folder), "2 runs"),
        (lambda folder: surgrad.load_run("pretrained:nothing"), "pretrained:nothing: unknown; there are"),
        (lambda folder: surgrad.load_run(folder / "conv", weights="first"), "weights=first.*best, last"),
        (lambda folder: surgrad.load_run(folder / "conv").batch("tset"), "'tset'.*train, valid, test"),
        (lambda folder: surgrad.load_run(folder / "conv").batch("test", 10**6), "samples=1000000.*0 to"),
        (lambda folder: surgrad.load_run(folder / "conv").batch("test", 0), "samples=0"),
        (lambda folder: surgrad.load_run(folder / "conv").batch("test", [-1]), "samples"),
        (lambda folder: surgrad.load_run(folder / "conv").evaluate(method="superspite"), "method=superspite"),
        (lambda folder: surgrad.load_run(folder / "dense").evaluate(method="superspike"), "method=superspike"),
        (lambda folder: surgrad.best_run("test_acc", folder), "test set"),
        (lambda folder: surgrad.best_run("valid_accuracy", folder), "valid_accuracy.*valid_acc_best_valid"),
    ],
)
def test_mistakes_are_named(folder, mistake, says):
    with pytest.raises(UserError, match=says):
        mistake(folder)


def test_data_that_ship_here_are_found_for_a_run_of_another_place(tmp_path):
    config = {"dataset": {"name": "x", "train_path": "/somebody/else/data/spiking_digits/train.h5", "limit": 3}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    found = trained.TrainedRun(tmp_path)
    assert trained.configuration(found).dataset.train_path == str(ROOT / "data" / "spiking_digits" / "train.h5")
    assert found.config == config
    config["dataset"]["train_path"] = "/somebody/else/data/mine.h5"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert trained.configuration(trained.TrainedRun(tmp_path)).dataset.train_path == "/somebody/else/data/mine.h5"


@pytest.mark.parametrize("name", sorted(pretrained()))
def test_runs_that_ship_here_score_as_they_say(name):
    run = surgrad.load_run(f"pretrained:{name}")
    assert run.status == "done"
    assert run.evaluate("valid", nb_draws=run.config["test_draws"]).acc == pytest.approx(
        run.summary["valid_acc_best_valid"], abs=0.03
    )
