"""Spike_train_matching/run_image_task_1hid.py as its users run it, and the notebooks over its run folders."""

import csv
import importlib.util
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import notebooks
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from matplotlib import pyplot as plt

from surgrad.config.check import check
from surgrad.datasets.sources.targets import write_spike_image
from surgrad.experiments.spike_train_matching import analysis
from surgrad.experiments.spike_train_matching import figures as figures_matching
from surgrad.experiments.spike_train_matching.config import SpikeTrainMatchingConfig
from surgrad.runs.record import REPO, load_runs

SCRIPT = REPO / "Spike_train_matching" / "run_image_task_1hid.py"
CONFIGS = REPO / "configs" / "spike_train_matching"
NOTEBOOKS = REPO / "Spike_train_matching" / "analysis"
METHODS = ("superspike", "stochasticsuperspike", "multilayerspiker")
SIZE = ["dataset.nb_inputs=30", "dataset.nb_hidden=20", "dataset.nb_outputs=16", "dataset.nb_steps=40"]
TINY = [*SIZE, "dataset.name=tiny", "device=cpu", "num_threads=1", "wandb.mode=disabled", "logging_freq=3"]


def load_script():
    spec = importlib.util.spec_from_file_location("run_image_task_1hid", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield load_script()
    root.handlers[:], root.level = handlers, level


def tiny_target(path: Path, seed: int = 0, shape=(40, 16)) -> Path:
    write_spike_image(path, np.random.default_rng(seed).random(shape) < 0.15)
    return path


@pytest.fixture(scope="module")
def fixture_runs(script, tmp_path_factory):
    """A finished run of every method: what the notebooks are executed on."""
    folder = tmp_path_factory.mktemp("matching")
    target = tiny_target(folder / "tiny.png")
    for method in METHODS:
        options = [f"method={method}", f"dataset.data_path={target}", "nb_epochs=7", f"hydra.run.dir={folder}/{method}"]
        if method == "stochasticsuperspike":
            options += ["method.nb_trials=4", "save_mem=true", "save_dw=true", "save_w=true"]
        script.main([*TINY, *options])
    return folder


def run(script, folder, *overrides):
    target = tiny_target(folder.parent / "target.png")
    script.main([*TINY, f"dataset.data_path={target}", f"hydra.run.dir={folder}", "plot=false", *overrides])
    (record,) = load_runs(folder)
    return record


def error_of(script, capsys, *overrides):
    """The one line that a mistaken command says."""
    with pytest.raises(SystemExit) as stopped:
        script.main([*TINY, "plot=false", "nb_epochs=2", *overrides])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if "error: " in line]
    assert len(lines) == 1, said
    return lines[0]


# ---------------------------------------------------------------- configurations
def composed(*overrides):
    ConfigStore.instance().store(name="schema", node=SpikeTrainMatchingConfig)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return check(compose("config", overrides=list(overrides)), SpikeTrainMatchingConfig)


@pytest.mark.parametrize("dataset", sorted(p.stem for p in CONFIGS.glob("dataset/*.yaml")))
@pytest.mark.parametrize("method", sorted(p.stem for p in CONFIGS.glob("method/*.yaml")))
def test_every_yaml_composes_and_builds(script, dataset, method):
    cfg = composed(f"dataset={dataset}", f"method={method}")
    task, weights, training = cfg.build(torch.device("cpu"))
    assert task.target.shape == (cfg.dataset.nb_steps, 1, cfg.dataset.nb_outputs)
    assert weights.hidden.shape == (200, 200)
    assert training.mode.stochastic == (method != "superspike")
    assert training.other.stochastic == (method == "superspike")


def test_the_published_experiment_is_the_default(script):
    cfg = composed()
    assert (cfg.seed, cfg.nb_epochs, cfg.dataset.nb_steps, cfg.reset_mode) == (17, 1500, 189, False)
    assert (cfg.dataset_method.lr_h, cfg.dataset_method.lr_o) == (1e-5, 1e-4)
    task, _, _ = cfg.build(torch.device("cpu"))
    assert task.x.mean().item() == pytest.approx(0.05, abs=0.005)


# ---------------------------------------------------------------- what a run leaves behind
def test_a_run_leaves_losses_spikes_and_figures(fixture_runs):
    (record,) = load_runs(fixture_runs / "stochasticsuperspike")
    assert record.status == "done"
    names = ["epoch", "van_rossum", "l2", "van_rossum_other", "l2_other", "firing_rate-hid_0", "firing_rate-out"]
    assert list(record.metrics)[:7] == names
    assert record.metrics["epoch"].tolist() == list(range(7))
    assert analysis.epochs_recorded(record) == [0, 2, 5, 6]
    assert record.state("target").shape == (40, 1, 16)
    assert record.state("input").shape == (40, 1, 30)
    spikes = analysis.spikes(record, "out", 6)
    assert spikes.shape == (40, 4, 1, 16)
    assert record.metrics["firing_rate-out"][6] == pytest.approx(spikes.mean() / 1e-3)
    difference = spikes[:, :, 0] - record.state("target").astype(float)
    assert record.metrics["l2"][6] == pytest.approx((difference**2).sum(0).mean() / 2, rel=1e-5)
    assert analysis.spikes(record, "hid_0", 6, other=True).shape == (40, 1, 1, 20)
    assert record.state("epoch_6/membrane-hid_0").shape == (40, 4, 1, 20)
    step = record.state("epoch_6/w-hid_0") - record.checkpoint()["w_hidden"].numpy()
    assert np.abs(step).max() == 0
    assert record.state("epoch_6/dw-out").shape == (20, 16)
    assert 0 < record.metrics["fano-out"][6] <= 1.2
    assert record.summary["returned"] == pytest.approx(record.metrics["van_rossum"].mean())
    for figure in ("output_0", "output_6", "membranes_6", "losses"):
        assert (record.folder / "Plots" / f"{figure}.png").stat().st_size > 1000


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(script, tmp_path):
    target = tiny_target(tmp_path / "target.png")
    options = [*TINY, f"dataset.data_path={target}", "method=stochasticsuperspike", "plot=false", "nb_epochs=120"]
    options += ["logging_freq=10", "method.nb_trials=2"]
    whole = run(script, tmp_path / "whole", *options[-5:])
    command = [sys.executable, SCRIPT, *options, f"hydra.run.dir={tmp_path}/killed"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        metrics = tmp_path / "killed" / "metrics.csv"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.read_text().count("\n") > 30) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    (killed,) = load_runs(tmp_path / "killed")
    assert killed.status == "interrupted"
    assert killed.checkpoint()["epoch"] < 119
    script.main([*options, f"hydra.run.dir={tmp_path}/killed"])
    (killed,) = load_runs(tmp_path / "killed")
    for name in ("van_rossum", "l2", "van_rossum_other", "firing_rate-hid_0"):
        np.testing.assert_array_equal(killed.metrics[name], whole.metrics[name])
    assert torch.equal(killed.checkpoint()["w_output"], whole.checkpoint()["w_output"])
    np.testing.assert_array_equal(analysis.spikes(killed, "out", 119), analysis.spikes(whole, "out", 119))


def test_autograd_learns_the_same_and_full_something_else(script, tmp_path):
    three = run(script, tmp_path / "a", "nb_epochs=3", "save_dw=true")
    autograd = run(script, tmp_path / "b", "nb_epochs=3", "save_dw=true", "update=autograd")
    full = run(script, tmp_path / "c", "nb_epochs=3", "save_dw=true", "update=full")
    updates = [record.state("epoch_0/dw-hid_0") for record in (three, autograd, full)]
    np.testing.assert_allclose(updates[0], updates[1], atol=1e-4 * np.abs(updates[0]).max())
    assert np.abs(updates[2]).max() > 0
    assert not np.allclose(updates[0], updates[2])


def test_several_targets_and_batches_of_pairs(script, tmp_path):
    other = tiny_target(tmp_path / "other.png", seed=1)
    first = tiny_target(tmp_path / "target.png")
    both = f"dataset.data_path=[{first},{other}]"
    record = run(script, tmp_path / "a", both, "nb_epochs=2", "dataset.batch_size=2")
    target = record.state("target")
    assert target.shape == (40, 2, 16)
    assert (target[:, 0] != target[:, 1]).any()
    assert analysis.spikes(record, "out", 1).shape == (40, 1, 2, 16)
    online = run(script, tmp_path / "b", both, "nb_epochs=2")
    np.testing.assert_array_equal(online.state("input"), record.state("input"))
    # the second pair has met updated weights
    assert online.metrics["van_rossum"][0] != record.metrics["van_rossum"][0]
    same = run(script, tmp_path / "c", "nb_epochs=2", "dataset.batch_size=3")
    assert (same.state("target")[:, 0] == same.state("target")[:, 2]).all()
    assert (same.state("input")[:, 0] != same.state("input")[:, 2]).any()


def test_reset_mode_spaces_the_target(script, tmp_path):
    record = run(script, tmp_path / "a", "nb_epochs=1", "reset_mode=true", "validate_with_other_method=false")
    assert record.state("target").shape == (80, 1, 16)
    assert record.state("target")[::2].sum() == 0
    hidden = analysis.spikes(record, "hid_0", 0)
    assert (hidden[1:] * hidden[:-1]).sum() == 0
    assert "van_rossum_other" not in record.metrics


def test_event_files_and_sizes_from_the_file(script, tmp_path):
    path = tmp_path / "events.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["time", "unit"], [0.012, 3], [0.045, 0], [0.105, 5]])
    options = ["dataset.nb_outputs=null", "dataset.nb_steps=null", "dataset.bin_dt=0.005", "nb_epochs=1"]
    record = run(script, tmp_path / "a", f"dataset.data_path={path}", *options)
    assert record.state("target").shape == (22, 1, 6)
    assert [tuple(e) for e in np.argwhere(record.state("target")[:, 0])] == [(2, 3), (9, 0), (21, 5)]


# ---------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.data_path=none.png"], "none.png: there is no such file"),
        (["method=superspite"], "method=superspite: unknown (did you mean superspike"),
        (["method.sg_mode=superspite"], "method.sg_mode=superspite: unknown"),
        (["update=hebb"], "update=hebb: unknown; allowed: three_factor, autograd, full"),
        (["fi=-50"], "fi=-50.0: must be positive"),
        (["dataset_method.lr_h=-1"], "must not be negative"),
        (["dataset=oxford", "dataset.nb_outputs=100", "dataset.nb_steps=189"], "has 200 rows, but nb_outputs=100"),
        (["dataset.nb_outputs=200", "dataset.nb_steps=100"], "has 189 columns, but nb_steps=100"),
        (["dataset.nb_outputs=null", "dataset.nb_steps=null", "out_prob=0"], "without a spike"),
        (["ms=2"], "has no effect here"),
        (["taumem=1"], "taumem"),
    ],
)
def test_mistakes_are_one_line(script, tmp_path, capsys, overrides, message):
    assert message in error_of(script, capsys, f"hydra.run.dir={tmp_path}/run", *overrides)


def test_a_diverging_run_stops_and_keeps_the_last_good_weights(script, tmp_path, capsys):
    target = tiny_target(tmp_path / "target.png")
    options = [f"dataset.data_path={target}", f"hydra.run.dir={tmp_path}/run", "dataset_method.lr_o=1e38"]
    assert "epoch 0: weights are not finite; training stopped" in error_of(script, capsys, *options)
    (record,) = load_runs(tmp_path / "run")
    assert record.status == "failed"
    assert all(bool(record.checkpoint()[name].isfinite().all()) for name in ("w_hidden", "w_output"))


# ---------------------------------------------------------------- analysis
def test_final_numbers_are_those_of_the_run(fixture_runs):
    runs = analysis.runs_by_method(fixture_runs, "tiny")
    assert list(runs) == list(METHODS)
    (record,) = runs["stochasticsuperspike"]
    final = analysis.final_numbers(record)
    assert final.van_rossum == pytest.approx(record.metrics["van_rossum"].mean())
    s = analysis.spikes(record, "hid_0", 6)[:, :, 0].astype(float)
    with np.errstate(invalid="ignore"):
        assert final.fano_hidden == pytest.approx(np.nanmean(s.var(1) / s.mean(1)))
    assert np.isnan(analysis.final_numbers(runs["superspike"][0]).fano_hidden)
    assert "van_rossum" in analysis.table(runs)


def test_published_curves_are_complete():
    curves = analysis.published_curves()
    assert set(curves) == set(METHODS)
    assert all(len(c["van_rossum"]) == 1500 for c in curves.values())


def test_missing_runs_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="Make some with: python3 Spike_train_matching"):
        analysis.runs_by_method(tmp_path)


def test_smoothing_averages_up_to_the_epoch():
    values = np.arange(100.0)
    assert figures_matching.smoothed(values, 5)[[0, 50]].tolist() == [0.0, 48.0]
    plt.close("all")


@pytest.mark.parametrize("name", ["firing_rates", "loss", "spk", "vogels_plots"])
def test_notebooks_run_on_run_folders_and_are_committed_without_output(name, fixture_runs, monkeypatch):
    monkeypatch.setenv("SURGRAD_MATCHING_RUNS", str(fixture_runs))
    assert any("image/png" in output for output in notebooks.execute(NOTEBOOKS / f"{name}.ipynb"))
