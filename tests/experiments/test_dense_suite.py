"""Every YAML of the dense suite composes; its script trains, remembers and says what is wrong."""

import importlib.util
import logging
import re
import sys

import numpy as np
import pytest
import torch
from dense_suite import TINY
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from surgrad.analysis.selection import selection
from surgrad.config.check import check
from surgrad.config.command_line import options
from surgrad.config.hydra_setup import CONFIGS
from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.experiments.dense.config import DenseConfig
from surgrad.runs.record import REPO, load_runs

FOLDER = REPO / "configs" / "dense"
PRIMARY = sorted(path.stem for path in FOLDER.glob("*.yaml"))
GROUPS = (
    "connection",
    "dataset",
    "initializer",
    "lr_schedule",
    "neuron",
    "normalization",
    "surrogate",
    "time_constants",
    "wandb",
)
UNNAMED = ("camera", "hdf5", "own")  # data sets that are named on the command line
OPTIONS = [(group, option) for group in GROUPS for option in options(group, [CONFIGS / "shared"])]
OPTIONS = [(group, option) for group, option in OPTIONS if option not in UNNAMED]


@pytest.fixture(scope="module")
def main():
    """The command of Classification/dense_SNN.py; it takes a list of overrides."""
    spec = importlib.util.spec_from_file_location("dense_SNN", REPO / "Classification" / "dense_SNN.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield module.main
    root.handlers[:], root.level = handlers, level


def composed(config_name, *overrides):
    ConfigStore.instance().store(name="schema", node=DenseConfig)
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        return check(compose(config_name, [*overrides]), DenseConfig)


def network_of(cfg, nb_inputs=12, nb_classes=3):
    return cfg.network(nb_inputs, nb_classes, torch.Generator().manual_seed(cfg.seed))


@pytest.mark.parametrize("name", PRIMARY)
def test_every_primary_config_composes_and_builds_its_network(main, name):
    cfg = composed(name)
    network = network_of(cfg)
    assert [layer.unit_shape for layer in network.layers] == [(units,) for units in cfg.hidden]
    cfg.objective()
    cfg.build_optimizer(network)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_a_group_composes_and_builds(main, group, option):
    law = ["inhibitory=0.2"] if (group, option) == ("initializer", "dale") else []
    network_of(composed("config", f"{group}={option}", *law))


def test_a_run_leaves_rows_scores_and_weights(main, tmp_path):
    main([*TINY, f"hydra.run.dir={tmp_path}/run"])
    (record,) = load_runs(tmp_path / "run")
    assert record.status == "done"
    assert record.metrics["epoch"].tolist() == [0, 1, 2]
    assert {"firing_rate-hid_0", "firing_rate-hid_1"} <= record.metrics.keys()
    assert record.summary["nb_weights"] == 12 * 6 + 6 * 6 + 6 * 5 + 5 * 5 + 5 * 3
    rates = [record.metrics[f"firing_rate-hid_{k}"][-1] for k in range(2)]
    assert record.summary["test_spikes_per_sample"] == pytest.approx(0.04 * np.dot(rates, [6, 5]), rel=0.5)
    assert record.state("after/spikes-hid_1").shape == (20, 2, 5)


def test_a_surrogate_changes_gradients_and_not_spikes(main, tmp_path):
    for surrogate in ("superspike", "true_gradient"):
        main([*TINY, f"surrogate={surrogate}", "neuron=lif", f"hydra.run.dir={tmp_path}/{surrogate}"])
    learns, stuck = (load_runs(tmp_path / name)[0] for name in ("superspike", "true_gradient"))
    assert learns.metrics["valid_loss"][0] == stuck.metrics["valid_loss"][0]
    assert learns.metrics["valid_loss"][1] != stuck.metrics["valid_loss"][1]


def test_watching_the_test_set_changes_nothing_but_a_column(main, tmp_path):
    runs = {}
    for watch in ("true", "false"):
        main([*TINY, f"watch_test={watch}", f"hydra.run.dir={tmp_path}/{watch}"])
        (runs[watch],) = load_runs(tmp_path / watch)
    watched, plain = runs["true"], runs["false"]
    assert watched.metrics.keys() - plain.metrics.keys() == {"test_acc"}
    for column in ("train_loss", "valid_loss", "valid_acc"):
        assert watched.metrics[column][1:].tolist() == plain.metrics[column][1:].tolist()
    assert watched.metrics["test_acc"][-1] == watched.summary["test_acc"] == plain.summary["test_acc"]
    assert selection(watched).by_validation == watched.summary["test_acc_best_valid"]


@pytest.mark.parametrize("name", ["adaptive", "delays"])
def test_adaptive_neurons_and_delays_fit_shd_unchanged(main, name):
    cfg = composed(name, "dataset=shd")
    assert cfg.dataset.validation == "speaker"
    network = network_of(cfg, 700, 20)
    x = EventBatch.from_dense((torch.rand(cfg.dataset.nb_steps, 2, 700) < 0.01).float())
    assert network(x).readout.shape == (350, 2, 20)


def test_what_changes_training_is_configured(main, tmp_path):
    """Schedule, decay, clipping, average, smoothed labels and a late readout, in one run."""
    own = ["lr_schedule=cosine", "lr_schedule.warmup=1", "optimizer=adamw", "weight_decay=0.1", "grad_clip=1"]
    own += ["normalization=batch", "dropout=0.1", "ema=0.9"]
    own += ["label_smoothing=0.1", "loss_start=0.01", "lr=1e-2", "nb_epochs=3"]
    main([*TINY, *own, f"hydra.run.dir={tmp_path}/run"])
    (record,) = load_runs(tmp_path / "run")
    np.testing.assert_allclose(record.metrics["lr"][1:], [1e-3, 1e-2, 5e-3], rtol=1e-6)
    cfg = composed("config", *(o for o in [*TINY, *own] if "wandb" not in o))
    loss = cfg.objective().loss
    assert (loss.first_step, loss.label_smoothing) == (5, 0.1)
    plan, optimizer = cfg.plan(), cfg.build_optimizer(network_of(cfg))
    assert (plan.grad_clip, plan.ema) == (1, 0.9)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize("name", ["adaptive", "delays"])
def test_adaptive_neurons_and_delays_train(main, tmp_path, name):
    """Their own parameters move, and each stays in its range."""
    own = ["~dataset.validation", *(["connection.max_delay=8e-3"] if name == "delays" else [])]
    main(
        [
            f"--config-name={name}",
            *TINY,
            "plot=true",
            "lr=0.05",
            "initializer.sigma_u=3",
            *own,
            f"hydra.run.dir={tmp_path}/run",
        ]
    )
    (record,) = load_runs(tmp_path / "run")
    assert record.status == "done"
    start = network_of(composed(name, *(o for o in TINY if "wandb" not in o), *own))
    end = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]
    logits = [key for key in end if key.endswith("logit")]
    assert len(logits) == (6 if name == "adaptive" else 2)
    assert all(bool((end[key] != start.state_dict()[key]).any()) for key in logits)
    assert (tmp_path / "run" / "Plots" / "delays.png").exists() == (name == "delays")


def test_spikes_of_a_last_layer_are_counted(main):
    cfg = composed("config", "spiking_readout=true", "loss_type=sum_ce", "hidden=[8]")
    network = network_of(cfg)
    with torch.no_grad():
        network.layers[1].feedforward.weight.abs_()
    nb_inputs, nb_classes = network.layers[0].feedforward.in_shape[0], network.layers[1].unit_shape[0]
    assert [layer.unit_shape for layer in network.stack] == [(8,), (nb_classes,), (nb_classes,)]
    x = (torch.rand(60, 3, nb_inputs, generator=torch.Generator().manual_seed(1)) < 0.1).float()
    out = network(x, record=True)
    assert out.recorded[1].sum() > 20
    assert torch.equal(out.y[2:], out.recorded[1][:-2])
    cfg.objective().loss(out.y, torch.tensor([0, 1, 2])).backward()
    assert all(bool(layer.feedforward.weight.grad.any()) for layer in network.layers)
    assert network.readout.feedforward.weight.grad is None
    with pytest.raises(UserError, match="leave readout_connection="):
        composed("config", "spiking_readout=true", "connection@readout_connection=delayed")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("hidden=[]", "must not be empty"),
        ("hidden=[8,0]", "must be positive"),
        ("lr=-1", "lr=-1"),
        ("loss_type=mse", "loss_type=mse"),
        ("neuron.reset=hard", "reset='hard'"),
        ("surrogate.beta=-1", "surrogate"),
        ("surrogate._target_=surgrad.surrogate.SuperSpik", "did you mean SuperSpike"),
        ("connection._target_=os.system", "connection"),
        ("+regularizers.mine.strength=1", "regularizers.mine"),
        ("delay=2", "delay=2"),
        ("+optimizer_options.momentums=1", "momentums"),
        ("weight_decay=1e-3", "weight_decay"),  # smorms3 has none
        ("+lr_schedule.nam=cosine", "lr_schedule.name=None"),
        ("+lr_schedule={name:step,gama:1}", "gama"),
        ("label_smoothing=1", "label_smoothing=1"),
        ("dropout=1", "dropout=1.0"),
        ("recurrent_dropout=1", "recurrent_dropout=1.0"),
        ("+normalization._target_=surgrad.layers.BatchNorm", "did you mean TemporalBatchNorm"),
        ("+readout_connection.x=1", "readout_connection={'x': 1}: has no _target_"),
        ("ema=-0.1", "ema=-0.1"),
        ("grad_clip=0", "grad_clip=0"),
        ("loss_start=2", "loss_start=2.0 s leaves no step of dataset.duration"),
    ],
)
def test_mistakes_are_named(main, override, says):
    def built():
        cfg = composed("config", override)
        return cfg.objective(), cfg.schedule(cfg.build_optimizer(network_of(cfg)))

    with pytest.raises(UserError, match=re.escape(says)):
        built()


def test_training_that_ends_early_is_watched_at_its_end(main, tmp_path):
    main([*TINY, "nb_epochs=30", "early_stopping=2", "lr=1e-9", f"hydra.run.dir={tmp_path}"])
    (record,) = load_runs(tmp_path)
    assert record.metrics["epoch"][-1] == record.summary["best_epoch"] + 2 < 30
    assert any(name.startswith("after") for name in record.states)
    with pytest.raises(UserError, match=r"early_stopping=2: needs a validation set, not dataset.validation=none"):
        composed("config", "early_stopping=2", "dataset.validation=none")
