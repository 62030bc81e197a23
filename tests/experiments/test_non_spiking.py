"""Networks without spikes on the same input: they are called as spiking ones, train, and go on where they stopped."""

import importlib.util
import logging
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from surgrad.config.check import check
from surgrad.config.hydra_setup import CONFIGS
from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.experiments.non_spiking.config import NonSpikingConfig
from surgrad.experiments.non_spiking.networks import GRU, Convolutional
from surgrad.runs.record import REPO, load_runs

TINY = ["dataset=randman", "dataset.nb_classes=3", "dataset.nb_inputs=12", "dataset.nb_samples=20", "batch_size=16"]
TINY += ["dataset.duration=0.04", "dataset.time_step=2e-3", "~dataset.units_per_channel", "wandb.mode=disabled"]
TINY += ["device=cpu", "num_threads=1", "plot=false", "lr_schedule=constant"]


@pytest.fixture
def main():
    """The command of Classification/non_spiking.py."""
    spec = importlib.util.spec_from_file_location("non_spiking", REPO / "Classification" / "non_spiking.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    spec.loader.exec_module(module)
    yield module.main
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("model", ["gru", "convolutional"])
def test_every_model_composes_on_spoken_commands(main, model):
    ConfigStore.instance().store(name="schema", node=NonSpikingConfig)
    with initialize_config_dir(str(CONFIGS / "non_spiking"), version_base="1.3"):
        cfg = check(compose("config", [f"model={model}"]), NonSpikingConfig)
    network = cfg.network(cfg.dataset.network_inputs, cfg.dataset.nb_classes)
    batch = EventBatch.from_dense((torch.rand(cfg.dataset.nb_steps, 2, 140) < 0.05).float())
    assert network(batch, seed=1, kernel="auto").y.shape == (100, 2, 20)


@pytest.mark.parametrize("model", ["gru", "convolutional"])
def test_a_longer_run_goes_on_to_the_same_weights(main, tmp_path, model):
    """PyTorch's own dropout draws from a global generator, which every epoch sets."""
    weights = []
    for name, epochs in (("a", (1, 3)), ("b", (3,))):
        for nb_epochs in epochs:
            main([*TINY, f"model={model}", f"nb_epochs={nb_epochs}", f"hydra.run.dir={tmp_path}/{name}"])
        (record,) = load_runs(tmp_path / name)
        assert record.metrics["epoch"].tolist() == [0, 1, 2, 3]
        assert {"valid_acc_best_valid", "test_acc", "nb_weights"} <= record.summary.keys()
        weights.append(record.checkpoint()["model"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GRU(3, 2, nb_units=0), "nb_units=0: must be at least 1"),
        (lambda: GRU(3, 2, dropout=1.0), "dropout=1.0"),
        (lambda: Convolutional(3, 2, kernel_size=4), "kernel_size=4: must be an odd number"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
