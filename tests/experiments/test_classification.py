"""Classification/deep_convSNN.py as its users run it: what it leaves, how it resumes, what it says of mistakes."""

import importlib.util
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from classification_suite import SCRIPT, SHORT, TINY, TINY_NETWORK, load_script

import surgrad
from surgrad.runs import checkpoint, marker
from surgrad.runs.folder import open_run
from surgrad.runs.record import REPO, load_runs, run_id


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script as a module, called from another folder; logging is put back afterwards."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield load_script()
    root.handlers[:], root.level = handlers, level


def run(script, folder, *overrides):
    script.main([*TINY, f"hydra.run.dir={folder}", *overrides])
    (record,) = load_runs(folder)
    return record


def error_of(script, capsys, *overrides):
    """The one line that a mistaken command says."""
    with pytest.raises(SystemExit) as stopped:
        script.main([*TINY, "hydra.run.dir=run", *overrides])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if "error: " in line]
    assert len(lines) == 1, said
    return lines[0]


def test_a_run_leaves_metrics_scores_states_and_figures(script, tmp_path):
    record = run(script, tmp_path / "run", "monitor_chunks=true", "epoch_chunk=1", "nb_epochs=2")
    assert record.status == "done"
    columns = list(record.metrics)
    assert columns[:5] == ["epoch", "train_loss", "train_acc", "valid_loss", "valid_acc"]
    assert {"firing_rate-hid_0", "firing_rate-hid_1", "fano-hid_0", "fano-hid_1", "reg_loss", "seconds"} <= set(columns)
    assert record.metrics["epoch"].tolist() == [0, 1, 2]
    assert not np.isnan(record.metrics["fano-hid_0"]).any()
    for part in ("test", "valid"):
        for suffix in ("", "_other", "_best_valid", "_other_best_valid"):
            assert 0 <= record.summary[f"{part}_acc{suffix}"] <= 1
            assert record.summary[f"{part}_loss{suffix}"] > 0
    assert record.summary["test_acc_std_other"] == 0  # the other method is deterministic
    assert record.summary["fano_other-hid_0"] == 0
    assert record.summary["returned"] == record.summary["valid_acc_best_valid"]
    for when in ("before", "epoch_1", "after", "after_other"):
        assert set(np.unique(record.state(f"{when}/spikes-hid_1"))) <= {0, 1}
        assert record.state(f"{when}/spikes-in").shape == (20, 2, 1, 12)
        assert record.state(f"{when}/trials").shape == (20, 5, 2)
        for figure in ("activity", "trials"):
            assert (record.folder / "Plots" / f"{when}_{figure}.png").stat().st_size > 1000
    assert (record.folder / "Plots/training.png").exists()


def test_stochastic_spikes_vary_between_repeats_and_deterministic_ones_do_not(script, tmp_path):
    # silent neurons have no Fano factor: the large initial deviation makes some of them fire
    options = ["nb_epochs=0", "method.target_sigma_u=3", "fano.repeats=40", "plot=none"]
    stochastic = run(script, tmp_path / "a", *options)
    certain = run(script, tmp_path / "b", *options, "method=superspike")
    assert 0.2 < stochastic.metrics["fano-hid_0"][0] < 1.2
    assert certain.metrics["fano-hid_0"][0] == 0
    binned = run(script, tmp_path / "c", *options, "binned=true", "fano.bin_dt=4")
    assert binned.metrics["fano-hid_0"][0] != stochastic.metrics["fano-hid_0"][0]
    none = run(script, tmp_path / "d", *options, "monitor_fano=0", "monitor_spikes=false")
    assert not any(name.startswith(("fano", "firing")) for name in none.metrics)


def test_swapped_evaluation_scores_the_same_weights_with_the_other_spikes(script, tmp_path):
    """Stochastic weights, evaluated with deterministic spikes: the same as a deterministic run started from them."""
    record = run(script, tmp_path / "run", "nb_epochs=0", "plot=none")
    swapped = run(
        script, tmp_path / "swapped", "nb_epochs=0", "plot=none", "method=superspike", "method.target_sigma_u=1.3"
    )
    assert swapped.summary["test_loss"] == record.summary["test_loss_other"]
    assert swapped.summary["test_loss_other"] == record.summary["test_loss"]


KEYS = """
    seed=2 sigm=true diff_reset=true beta=3 tau_mem=0.01 tau_syn=0.02 tau_readout=0.01 loss_type=sum_ce optimizer=adam
    anneal=true method.target_sigma_u=1 method.lr=0.1 regularizer.upperBoundL2Threshold=0 dataset.augment.p_drop=0.3
    dataset.nu=20 dataset.alpha=0.2 dataset.rec=false dataset.rec_kernel_size=1,dataset.rec_padding=0
    dataset.step_frac=0.9 dataset.alpha_randman=2 dataset.randmanseed=3 dataset.dim_manifold=2 dataset.nb_spikes=2
    truncate=5
"""


LEARNED = [
    *["nb_epochs=2", "plot=none", "fano.evaluate=false", "test_draws=1", "method=superspike", "dataset.rec=true"],
    *["method.target_sigma_u=2", "dataset.nb_samples=10", "batch_size=8"],
]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Weights that are learned before a key is changed."""
    return run(load_script(), tmp_path_factory.mktemp("learned"), *LEARNED).checkpoint()["model"]


@pytest.mark.parametrize("override", KEYS.split())
def test_every_key_changes_what_is_learned(script, tmp_path, learned, override):
    weights = run(script, tmp_path / "run", *LEARNED, *override.split(",")).checkpoint()["model"]
    assert any(w.shape != learned[name].shape or not torch.equal(w, learned[name]) for name, w in weights.items())


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_recomputed_states_give_the_same_weights(script, tmp_path, learned, kernel):
    options = [*LEARNED, f"kernel={kernel}"]
    kept = learned if kernel == "auto" else run(script, tmp_path / "full", *options).checkpoint()["model"]
    computed_again = run(script, tmp_path / "recompute", *options, "memory=recompute").checkpoint()["model"]
    assert all(torch.equal(kept[name], computed_again[name]) for name in kept)


def test_exponential_noise_has_its_own_parameters(script, tmp_path):
    options = ["method=exponential", "nb_epochs=1", "plot=none", "fano.evaluate=false", "test_draws=1"]
    base = run(script, tmp_path / "base", *options).metrics["valid_loss"]
    for override, changes in (("p0=0.3", True), ("delta_uh=0.5", True), ("beta=3", False)):
        other = run(script, tmp_path / override.partition("=")[0], *options, override).metrics["valid_loss"]
        assert np.array_equal(base, other) is not changes, override


@pytest.mark.slow  # test_kill_drill.py kills this script around its checkpoints, test_training.py within an epoch
def test_a_killed_run_ends_as_one_that_was_not(tmp_path):
    """kill -9 while it trains, then the same command: same metrics, same weights."""
    command = [sys.executable, str(SCRIPT), *TINY, "nb_epochs=300", "dataset.nb_samples=60", "plot=none"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, f"hydra.run.dir={killed}"], stdout=subprocess.DEVNULL)
    wait_for_rows(process, killed / "metrics.csv", 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (record,) = load_runs(killed)
    assert record.status == "interrupted"
    script = load_script()
    epochs = f"nb_epochs={int(record.checkpoint()['epoch']) + 3}"
    del record
    shorten(killed, epochs)
    arguments = [*TINY, "dataset.nb_samples=60", "plot=none", epochs]
    for folder in (killed, whole):
        script.main([*arguments, f"hydra.run.dir={folder}"])
    (a,), (b,) = load_runs(killed), load_runs(whole)
    assert a.summary["attempts"] == 2
    for name in a.metrics.keys() - {"seconds"}:
        np.testing.assert_array_equal(a.metrics[name], b.metrics[name])
    weights, expected = a.checkpoint()["model"], b.checkpoint()["model"]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert a.summary["test_acc"] == b.summary["test_acc"]


def wait_for_rows(process, path, nb_rows, seconds=60):
    """Wait until metrics.csv has that many rows."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("\n") > nb_rows:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not get {nb_rows} rows; exit code {process.poll()}")


def shorten(folder, epochs):
    """Let the record be of a run that ends sooner, so that the test need not wait for 300 epochs."""
    path, found = folder / "config.yaml", marker.read_marker(folder)
    path.write_text(path.read_text().replace("nb_epochs: 300", epochs.replace("=", ": ")))
    config = found.config | {"nb_epochs": int(epochs.partition("=")[2])}
    marker.Marker(run_id(config), config, marker.config_digest(path), found.data).write(folder)
    content, facts = checkpoint.read_checkpoint(folder / "checkpoint.pt")
    checkpoint.save_checkpoint(folder, content, facts | {"run_id": run_id(config)}, verify=False)


MISTAKES = [
    (["nb_epoch=3"], "nb_epochs"),
    (["dataset.kernel_sizes=3"], "dataset.kernel_size"),
    (["nb_epochs=many"], "nb_epochs=many"),
    (["dataset.nb_filters=[a,b]"], "dataset.nb_filters"),
    (["method=superspik"], "did you mean superspike"),
    (["method.other=nothing"], "method.other=nothing"),
    (["dataset=shdd"], "spiking_digits"),
    (["optimizer=smorms"], "optimizer=smorms: unknown (did you mean smorms3?)"),
    (["loss_type=mse"], "loss_type=mse: unknown; allowed: mot_ce"),
    (["dataset.kernel_size=[13,3]"], "hidden layer 0: kernel_size=13 is larger than its input of length 12"),
    (["dataset.nb_filters=[4]"], "dataset.nb_filters=[4]: one for each of"),
    (["dataset.rec=true", "dataset.rec_padding=0"], "rec_padding"),
    (["dataset.duration=1e-3"], "shorter than one time_step"),
    (["dataset.nb_inputs=-2"], "dataset.nb_inputs=-2: must be positive"),
    (["method.lr=-1"], "method.lr=-1"),
    (["batch_size=0"], "batch_size=0"),
    (["eps_0=1"], "eps_0=1.0: has no effect here"),
    (["plotting.idx_layer=2"], "there are layers 0 to 1"),
    (["plotting.idx_neuron=500"], "plotting.idx_neuron=500"),
    (["monitor_fano=21"], "longer than a sample"),
    (["regularizer.dims=[3]", "regularizer.upperBoundL2Threshold=0"], "dims=[3]"),
    (["method.lr=1e30", "optimizer=sgd"], "try a smaller method.lr"),
    (["device=tpu"], "device=tpu"),
    (["kernel=fast"], "kernel=fast: unknown"),
    (["memory=less"], "memory=less: unknown; allowed: full, recompute"),
    (["truncate=-1"], "truncate=-1: must not be negative"),
    (["precision=fp16"], "precision=fp16: unknown"),
    (["precision=bf16"], "precision='bf16' is for kernel='cuda'"),
]


@pytest.mark.parametrize(("overrides", "said"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_one_line_that_names_it(script, capsys, overrides, said):
    assert said in error_of(script, capsys, *overrides)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_cuda_is_one_line(script, capsys):
    assert "device=cuda: no CUDA" in error_of(script, capsys, "device=cuda")


def write_file(path, *, labels=(0, 1, 2), unit=5, empty=False):
    """Three samples in the SHD format."""
    with h5py.File(path, "w") as file:
        times = file.create_dataset("spikes/times", (3,), dtype=h5py.vlen_dtype(np.float16))
        units = file.create_dataset("spikes/units", (3,), dtype=h5py.vlen_dtype(np.uint16))
        for k in range(3):
            n = 0 if empty and k == 1 else 4
            times[k] = np.linspace(0.001, 0.03, n).astype(np.float16)
            units[k] = np.full(n, unit + k, np.uint16)
        file["labels"] = np.array(labels)


FILES = [
    *TINY_NETWORK,
    *SHORT,
    "dataset=hdf5",
    "dataset.nb_inputs=12",
    "dataset.nb_classes=3",
    "dataset.train_path=train.h5",
    "dataset.test_path=test.h5",
    "dataset.validation=none",
    "hydra.run.dir=run",
]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda: None, "train.h5: no such file"),
        (lambda: (Path("test.h5").touch(), Path("train.h5").write_text("text")), "train.h5: not an HDF5 file"),
        (lambda: (Path("test.h5").touch(), write_file("train.h5", labels=(0, 1, 3))), "train.h5: sample 2 has label 3"),
        (lambda: (Path("test.h5").touch(), write_file("train.h5", unit=11)), "train.h5: sample 1 has unit 12"),
        (lambda: write_file("train.h5"), "test.h5: no such file"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(script, capsys, damage, said):
    damage()
    with pytest.raises(SystemExit):
        script.main(FILES)
    assert said in capsys.readouterr().err


def test_files_of_the_user_train_even_with_an_empty_sample(script, tmp_path):
    write_file(tmp_path / "train.h5", empty=True)
    write_file(tmp_path / "test.h5")
    script.main([o for o in FILES if "nb_inputs" not in o and "nb_classes" not in o])
    (record,) = load_runs(tmp_path / "run")
    assert record.status == "done"
    assert "valid_acc" not in record.summary


def test_the_report_reads_finished_runs_and_leaves_those_of_other_scripts_out(script, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("report_classification", REPO / "scripts/report_classification.py")
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    run(script, tmp_path / "runs/one", "fano.evaluate=false", "plot=none", "nb_epochs=1", "test_draws=1")
    with open_run(tmp_path / "runs/other", {"seed": 0, "dataset": {"name": "randman"}}):
        pass
    capsys.readouterr()
    report.main([f"--runs={tmp_path}/runs", f"--figures={tmp_path}/figures"])
    said = capsys.readouterr().out
    assert "Runs grouped by method.name (" in said
    assert ": 1)" in said
    assert "spike counts, logistic regression" in said
    assert [path.suffix for path in (tmp_path / "figures").iterdir()] == [".png"]


UPPER = (
    "regularizers={upper: {_target_: surgrad.regularizers.UpperBoundL2, strength: 0.1, threshold: 7, dims: [-2, -1]}}"
)
FLUCTUATIONS = [
    "initializer=fluctuation_driven",
    "initializer.sigma_u=1.3",
    "+initializer.readout={_target_: X, std: 1}",
]
FLUCTUATIONS[2] = FLUCTUATIONS[2].replace("X", "surgrad.initializers.Distribution")


@pytest.mark.parametrize(
    "parts", [["regularizer=none", UPPER], ["neuron=lif"], FLUCTUATIONS], ids=["regularizers", "neuron", "initializer"]
)
def test_a_published_preset_is_the_parts_that_it_names(script, tmp_path, parts):
    preset = run(script, tmp_path / "preset", "nb_epochs=1", "plot=none", "fano.evaluate=false")
    named = run(script, tmp_path / "parts", "nb_epochs=1", "plot=none", "fano.evaluate=false", *parts)
    for column in ("train_loss", "valid_loss", "reg_loss"):
        np.testing.assert_array_equal(named.metrics[column], preset.metrics[column])
    assert named.summary["test_acc"] == preset.summary["test_acc"]
    assert named.summary["run_id"] != preset.summary["run_id"]


def test_layers_are_adaptive_normalised_and_drop_out_on_request_and_are_read_back(script, tmp_path):
    asked = ["neuron=adaptive_lif", "normalization=batch", "dropout=0.2", "fano.evaluate=false", "plot=none"]
    record = run(script, tmp_path / "run", "nb_epochs=1", *asked)
    weights = record.checkpoint()["best"]["weights"]
    assert weights["layers.1.adaptation.a.logit"].shape == weights["layers.1.adaptation.b.logit"].shape
    assert "layers.0.normalization.gain" in weights
    loaded = surgrad.load_run(tmp_path / "run")
    assert loaded.evaluate("test").acc == pytest.approx(record.summary["test_acc_best_valid"], abs=0.2)
    assert [layer.dropout for layer in loaded.network.layers] == [0.0, 0.2]
    assert loaded.network.readout.dropout == 0.2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("neuron=stochastic_lif", "neuron.escape_noise=surgrad.escape_noise.Sigmoid: the method says how spikes are"),
        ("dropout=1", "dropout=1.0: must be a probability from 0 to below 1"),
        ("regularizers={mine: {strength: 1}}", "regularizers.mine={'strength': 1}: has no _target_"),
        ("initializer.sigma_u=1", "initializer"),
    ],
)
def test_parts_that_cannot_be_are_refused_by_their_key(script, capsys, override, said):
    assert said in error_of(script, capsys, override)
