"""Run folders are uploaded once, failures are named; the `wandb sync` beside it is a stand-in."""

import importlib.util
import sys

import pytest

from surgrad.runs.folder import open_run
from surgrad.runs.record import REPO
from surgrad.runs.wandb import WandbConfig

# Marks what it is given as wandb does, except what it is told to fail on; says nothing with its exit code.
STAND_IN = """
import sys
from pathlib import Path

with open(sys.argv[1], "a") as calls:
    calls.write(" ".join(Path(a).name if a.startswith("/") else a for a in sys.argv[2:]) + "\\n")
for folder in (Path(argument) for argument in sys.argv[2:] if argument.startswith("/")):
    if "fails" in str(folder):
        sys.exit(print("wandb: Not authenticated."))
    (log,) = folder.glob("*.wandb")
    log.with_suffix(".wandb.synced").touch()
"""


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("wandb_sync", REPO / "scripts" / "wandb_sync.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wandb(tmp_path):
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    return [sys.executable, str(tmp_path / "stand_in.py"), str(tmp_path / "calls")]


@pytest.fixture
def runs(tmp_path):
    """Three finished runs, one of them in two attempts, and one without wandb."""
    attempts = {"a": 1, "resumed": 2, "fails": 1, "disabled": 1}
    for seed, (name, number) in enumerate(attempts.items()):
        folder = tmp_path / "Runs" / name
        with open_run(folder, {"seed": seed}, WandbConfig(mode="disabled")) as run:
            run.log({"epoch": 0, "train_loss": 1.0})
        for attempt in range(number if name != "disabled" else 0):
            log = folder / "wandb" / f"offline-run-20260101_00000{attempt}-id{name}" / f"run-id{name}.wandb"
            log.parent.mkdir(parents=True)
            log.touch()
    return tmp_path / "Runs"


def test_every_log_is_uploaded_once_and_failures_are_named(script, wandb, runs, tmp_path, capsys):
    assert script.main([f"{runs}/**"], wandb) == 1
    said = capsys.readouterr().out
    assert "failed: fails (Not authenticated.)" in said
    assert "2 uploaded, 1 without a log, 1 failed" in said
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "offline-run-20260101_000000-idresumed offline-run-20260101_000001-idresumed" in calls  # one wandb run
    assert len(calls) == 3
    assert script.main([f"{runs}/a", f"{runs}/resumed"], wandb) == 0
    assert "2 synced before" in capsys.readouterr().out
    assert len((tmp_path / "calls").read_text().splitlines()) == 3


def test_a_dry_run_uploads_nothing_and_options_are_passed_on(script, wandb, runs, tmp_path, capsys):
    assert script.main([str(runs), "--dry-run"], wandb) == 0
    assert "3 to upload, 1 without a log" in capsys.readouterr().out
    assert not (tmp_path / "calls").exists()
    script.main([f"{runs}/a", "--project=p", "--entity=e"], wandb)
    assert (tmp_path / "calls").read_text() == "--project=p --entity=e offline-run-20260101_000000-ida\n"


def test_a_run_that_goes_on_is_left_alone(script, wandb, tmp_path, capsys):
    with open_run(tmp_path / "run", {"seed": 1}, WandbConfig(mode="offline")) as run:
        run.log({"epoch": 0, "train_loss": 1.0})
        assert script.main([str(tmp_path / "run")], wandb) == 0
    assert "1 still running" in capsys.readouterr().out
    assert script.main([str(tmp_path / "run")], wandb) == 0
    assert "1 uploaded" in capsys.readouterr().out
