"""Faults of machines and people: what a run leaves behind, what it says in one line, and that it goes on."""

import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from classification_suite import GRID, SCRIPT, TINY, load_script, make_network

from surgrad.datasets.sources.randman import Randman
from surgrad.errors import UserError
from surgrad.runs.folder import open_run
from surgrad.runs.record import load_runs
from surgrad.training.fit import Fit, Plan
from surgrad.training.loop import Objective
from surgrad.training.losses import MaxOverTimeCrossEntropy
from surgrad.training.schedules import build_schedule

QUICK = [*TINY, "plot=none", "fano.evaluate=false", "test_draws=1"]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script as a module, called from another folder; logging is put back afterwards."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield load_script()
    root.handlers[:], root.level = handlers, level


def error_of(capsys, script, *overrides):
    """The one line that a command says which cannot run."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        script.main([*QUICK, *overrides])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "error: " in line]
    return line


@pytest.fixture(scope="module")
def splits():
    return Randman(nb_classes=3, nb_units=12, nb_steps=40, duration=0.08, nb_samples=10, alpha=2.0).splits()


def fit(folder, splits, before_epoch=lambda epoch: None):
    """Weights and metrics of a run of four epochs, new or gone on with."""
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    objective = Objective(MaxOverTimeCrossEntropy())
    with open_run(folder, {"nb_epochs": 4}) as run:
        Fit(network, optimizer, *splits[:2], GRID, objective, run, Plan(4), before_epoch)()
    return network.state_dict(), load_runs(folder)[0].metrics


def require_equal(found, expected):
    assert all(torch.equal(found[0][name], expected[0][name]) for name in expected[0])
    for name in expected[1].keys() - {"seconds"}:
        np.testing.assert_array_equal(found[1][name], expected[1][name])


@contextmanager
def filling_disk():
    """Gives a function after whose call no file can grow beyond so many bytes: the operating system refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda nb_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (nb_bytes, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before(tmp_path, splits):
    whole = fit(tmp_path / "whole", splits)
    too_small = (tmp_path / "whole/checkpoint.pt").stat().st_size // 2
    with filling_disk() as fill, pytest.raises(UserError, match="make room, then the same command goes on") as said:
        fit(tmp_path / "full", splits, lambda epoch: epoch == 3 and fill(too_small))
    assert "\n" not in str(said.value)
    (record,) = load_runs(tmp_path / "full")
    assert (record.status, record.summary["error"]) == ("failed", str(said.value))
    assert record.checkpoint()["epoch"] == 2
    assert not list(record.folder.glob("*.tmp"))
    require_equal(fit(tmp_path / "full", splits), whole)


@contextmanager
def read_only_folder():
    """An empty folder that this process may not write, even if it is root's."""
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above, "run")
        folder.mkdir(mode=0o555)
        Path(above).chmod(0o755)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)
        try:
            yield folder
        finally:
            os.seteuid(user)


def test_a_read_only_folder_is_named_in_one_line(tmp_path, capsys, script):
    for place in ("", "below"):
        with (
            read_only_folder() as folder,
            pytest.raises(UserError, match=rf"{folder / place} cannot be written \(Permission denied\)"),
            open_run(folder / place, {}),
        ):
            pytest.fail("opened a folder that cannot be written")
    (tmp_path / "file").touch()
    said = error_of(capsys, script, "hydra.run.dir=file/run")
    assert "file/run cannot be written (Not a directory)" in said


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda c: c[::-1]]
)
def test_a_run_whose_last_checkpoint_is_damaged_repeats_an_epoch_and_says_so(tmp_path, splits, caplog, damage):
    def stop(epoch):
        if epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", splits, stop)
    path = tmp_path / "a/checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.INFO):
        found = fit(tmp_path / "a", splits)
    for said in ("checkpoint.pt is damaged", "continuing from the previous checkpoint", "going on after epoch 2"):
        assert said in caplog.text
    require_equal(found, fit(tmp_path / "b", splits))


def everything(folder):
    """What a run has computed, as text: rows, weights, recorded arrays, final numbers."""
    (record,) = load_runs(folder)
    of_attempt = ("seconds", "started", "ended", "attempts", "peak", "git_commit", "wandb_id", "metrics")
    return {
        "rows": {k: repr(v.tolist()) for k, v in record.metrics.items() if k != "seconds"},
        "weights": {k: repr(v.tolist()) for k, v in record.checkpoint()["model"].items()},
        "states": {name: repr(record.state(name).tolist()) for name in record.states},
        "summary": {k: repr(v) for k, v in record.summary.items() if not any(word in k for word in of_attempt)},
    }


@pytest.mark.parametrize("there", ["beside it", "in its folder"])
def test_a_higher_nb_epochs_goes_on_from_the_finished_run_and_equals_one_that_had_them_from_the_start(
    tmp_path, script, there
):
    script.main([*QUICK, "nb_epochs=4", f"hydra.run.dir={tmp_path}/whole"])
    folder = f"{tmp_path}/runs/fewer-" + "${run_id:}" if there == "beside it" else f"{tmp_path}/run"
    script.main([*QUICK, "nb_epochs=2", f"hydra.run.dir={folder}"])
    script.main([*QUICK, "nb_epochs=4", f"hydra.run.dir={folder}"])
    (longer,) = [r for r in load_runs(tmp_path / "runs" if there == "beside it" else folder) if r.get("nb_epochs") == 4]
    assert "going on after epoch 1\n" in (longer.folder / "run.log").read_text()
    found, expected = everything(longer.folder), everything(tmp_path / "whole")
    assert found == expected


def test_training_starts_from_the_weights_of_another_run_and_keeps_what_is_frozen(tmp_path, script, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    script.main([*QUICK, "nb_epochs=1", f"hydra.run.dir={first}"])
    given = load_runs(first)[0].checkpoint()["best"]["weights"]
    name = next(iter(given))
    script.main([*QUICK, "nb_epochs=1", f"init_from={first}", f"frozen=[{name}]", f"hydra.run.dir={second}"])
    found = load_runs(second)[0].checkpoint()["model"]
    assert torch.equal(found[name], given[name])
    assert not all(torch.equal(found[other], given[other]) for other in given)
    said = error_of(capsys, script, f"init_from={first}", "dataset.nb_filters=[4,5]", f"hydra.run.dir={tmp_path}/third")
    assert "has shape (4, " in said
    said = error_of(capsys, script, "frozen=[nothing]", f"hydra.run.dir={tmp_path}/fourth")
    assert f"frozen=nothing: no such weights; there are {name}, " in said


@pytest.mark.parametrize(("name", "epochs"), [("cosine", 2), ("one_cycle", 2), ("step", None)])
def test_a_schedule_whose_course_depends_on_the_length_refuses_more_epochs(tmp_path, splits, name, epochs):
    def train(nb_epochs):
        network = make_network()
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        plan = Plan(nb_epochs, schedule=partial(build_schedule, name, nb_epochs=nb_epochs))
        with open_run(tmp_path, {"nb_epochs": nb_epochs}) as run:
            objective = Objective(MaxOverTimeCrossEntropy())
            Fit(network, optimizer, *splits[:2], GRID, objective, run, plan)()

    train(2)
    if epochs is None:
        train(3)
        return
    with pytest.raises(
        UserError, match=r"was planned for another number of epochs .*; give another folder or rerun=all"
    ):
        train(3)


def test_a_second_command_on_a_run_folder_is_refused_and_the_first_goes_on(tmp_path, script, capsys):
    with open_run(tmp_path, {}) as run:
        run.log({"epoch": 0, "train_loss": 1.0})
        run.checkpoint({"epoch": 0})
        said = error_of(capsys, script, f"hydra.run.dir={tmp_path}")
        assert f"{tmp_path} is being written by process {os.getpid()}" in said
        assert "wait for it, or give another hydra.run.dir" in said
        run.log({"epoch": 1, "train_loss": 0.5})
        run.checkpoint({"epoch": 1})
    (record,) = load_runs(tmp_path)
    assert (record.status, record.config, record.summary["attempts"]) == ("done", {}, 1)
    assert record.metrics["epoch"].tolist() == [0, 1]
    assert record.checkpoint() == {"epoch": 1}


def test_sigterm_leaves_a_checkpoint_the_status_and_exit_code_143(tmp_path, script):
    """What a cluster sends when time is up."""
    folder = tmp_path / "run"
    options = [*QUICK, "nb_epochs=2000", f"hydra.run.dir={folder}"]
    with subprocess.Popen([sys.executable, str(SCRIPT), *options], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (folder / "metrics.csv").exists() or (folder / "metrics.csv").read_text().count("\n") < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=400) == 143
    (record,) = load_runs(folder)
    assert record.status == "interrupted"
    assert record.metrics["epoch"][-1] - record.checkpoint()["epoch"] in (0, 1)  # the row is written first
    assert not list(folder.glob("*.tmp"))


def test_a_run_of_an_older_version_is_read_and_what_differs_is_said_in_one_line(tmp_path, script, capsys):
    folder = tmp_path / "run"
    script.main([*QUICK, f"hydra.run.dir={folder}"])
    path = folder / "config.yaml"
    assert "truncate: 0\n" in path.read_text()
    path.write_text(path.read_text().replace("truncate: 0\n", "nb_hidden_units: 128\n"))
    (folder / ".surgrad").unlink()  # which those versions did not write
    (record,) = load_runs(folder)
    assert record.status == "done"
    assert record.get("nb_hidden_units") == 128
    assert record.get("truncate", "unknown then") == "unknown then"
    assert record.metrics["epoch"].tolist() == [0, 1, 2]
    said = error_of(capsys, script, f"hydra.run.dir={folder}")
    assert "nb_hidden_units (128 there, absent here), truncate (absent there, 0 here)" in said
    assert "rerun=all to start afresh" in said
