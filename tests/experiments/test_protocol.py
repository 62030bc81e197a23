"""What every suite that trains promises of its scores and seeds: which weights are scored, and who draws them."""

import importlib.util
import logging
import sys

import pytest
import torch
from classification_suite import TINY as CONV
from dense_suite import TINY as DENSE

from surgrad.runs.record import REPO, load_runs
from surgrad.training.evaluation import Best

SCRIPTS = {
    "dense": ("Classification/dense_SNN.py", DENSE),
    "conv": ("Classification/deep_convSNN.py", [*CONV, "method=superspike", "plot=none"]),
    "matching": (
        "Spike_train_matching/run_image_task_1hid.py",
        [
            "nb_epochs=1",
            "dataset_method.lr_h=0",
            "dataset_method.lr_o=0",
            "plot=false",
            "wandb.mode=disabled",
            "num_threads=1",
        ],
    ),
}


def run(suite, folder, *overrides):
    """A finished run of a suite's script; the loggers are left as they were."""
    script, tiny = SCRIPTS[suite]
    spec = importlib.util.spec_from_file_location(f"protocol_{suite}", REPO / script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        module.main([*tiny, *overrides, f"hydra.run.dir={folder}"])
    finally:
        root.handlers[:], root.level = handlers, level
    (record,) = load_runs(folder)
    return record


@pytest.mark.parametrize("suite", ["dense", "conv"])
def test_scores_of_the_best_epoch_are_those_of_its_weights(suite, tmp_path, monkeypatch):
    """The best epoch is made the untrained network: its loss is the first of the run, the last one is another."""
    monkeypatch.setattr(Best, "beaten_by", lambda *scores: False)
    record = run(suite, tmp_path)
    losses = record.metrics["valid_loss"]
    assert losses[0] != losses[-1]
    assert record.summary["best_epoch"] == 0
    assert record.summary["valid_loss_best_valid"] == pytest.approx(losses[0], rel=1e-6)
    assert record.summary["valid_loss"] == pytest.approx(losses[-1], rel=1e-6)
    assert record.summary["test_loss_best_valid"] != record.summary["test_loss"]


def weights(suite, record):
    """Initial weights: those of the best epoch, which is the untrained network, or of a run that did not learn."""
    content = record.checkpoint()
    found = {name: content[name] for name in ("w_hidden", "w_output")} if suite == "matching" else None
    return found or {name: tensor for name, tensor in content["best"]["weights"].items() if tensor.dim() > 1}


@pytest.mark.parametrize("suite", SCRIPTS)
def test_the_seed_draws_the_initial_weights(suite, tmp_path, monkeypatch):
    monkeypatch.setattr(Best, "beaten_by", lambda *scores: False)
    one, same, other = (
        weights(suite, run(suite, tmp_path / str(k), f"seed={seed}", "nb_epochs=1")) for k, seed in enumerate((1, 1, 2))
    )
    assert one
    assert all(torch.equal(weight, same[name]) for name, weight in one.items())
    assert not any(torch.equal(weight, other[name]) for name, weight in one.items())
