"""The mirror on wandb: whole and in order, never in the way of the run, whatever dies."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from surgrad.errors import UserError
from surgrad.runs import wandb as run_wandb
from surgrad.runs.folder import open_run
from surgrad.runs.record import REPO, load_runs
from surgrad.runs.wandb import WandbConfig

CONFIG = {"seed": 1, "nb_epochs": 5, "method": {"name": "superspike", "beta": 10.0}, "device": "cpu"}
DISABLED = WandbConfig(mode="disabled")


def records(folder: Path) -> list[dict]:
    """What wandb itself reads in its log of the run, record by record."""
    (log,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", log]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(folder: Path) -> list[dict]:
    """Rows of the log, in order, without wandb's own columns and without images."""
    rows = [record["history"]["item"] for record in records(folder) if record["type"] == "history"]
    rows = [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]
    return [row for row in rows if not any(key.startswith("Plots/") for key in row)]


def services(pid: int) -> list[int]:
    """wandb's own background processes below the process `pid`."""
    below = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in below if "wandb-core" in Path(f"/proc/{child}/cmdline").read_text()]


def test_offline_log_holds_every_row_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = WandbConfig(mode="offline", project="p", group="g", tags=["t"], notes="n", job_type="train")
    with open_run(tmp_path / "run", CONFIG, config) as run:
        for epoch in range(300):
            run.log({"epoch": epoch, "train_loss": 1 / (epoch + 1)})
        run.figure("empty", Figure())
        run.summary["test_acc"] = 0.5
    assert history(tmp_path / "run") == [{"epoch": k, "train_loss": 1 / (k + 1)} for k in range(300)]
    assert not (tmp_path / "wandb").exists()
    (start,) = [record["run"] for record in records(tmp_path / "run") if record["type"] == "run"]
    for key, value in {"project": "p", "run_group": "g", "tags": ["t"], "notes": "n", "job_type": "train"}.items():
        assert start[key] == value
    assert start["display_name"] == "run"
    assert start["config"]["update"]["method.beta"] == 10.0
    text = json.dumps(records(tmp_path / "run"))
    assert "Plots/empty" in text
    assert '"test_acc": 0.5' in text


def test_rows_wait_in_memory_while_wandb_takes_none(tmp_path):
    with open_run(tmp_path / "run", CONFIG, WandbConfig(mode="offline")) as run:
        process = run._mirror._process
        os.kill(process.pid, signal.SIGSTOP)
        started = time.monotonic()
        for epoch in range(4000):
            run.log({"epoch": epoch, "train_loss": 1.0})
        waited = time.monotonic() - started
        assert run._mirror._unsent  # more than a pipe holds
        os.kill(process.pid, signal.SIGCONT)
    assert waited < 10
    assert [row["epoch"] for row in history(tmp_path / "run")] == list(range(4000))


@pytest.mark.parametrize("victim", ["service", "process"])
def test_a_killed_wandb_is_said_once_and_the_run_goes_on(tmp_path, caplog, victim):
    with caplog.at_level(logging.WARNING), open_run(tmp_path / "run", CONFIG, WandbConfig(mode="offline")) as run:
        run.log({"epoch": 0, "train_loss": 1.0})
        process = run._mirror._process
        while not list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb")):
            time.sleep(0.05)
        os.kill(services(process.pid)[0] if victim == "service" else process.pid, signal.SIGKILL)
        for epoch in range(1, 30):
            run.log({"epoch": epoch, "train_loss": 0.5})
            time.sleep(0.01)
        run.figure("empty", Figure())
    (said,) = [record for record in caplog.messages if "wandb" in record]
    assert "the run goes on" in said
    (record,) = load_runs(tmp_path)
    assert record.status == "done"
    assert record.metrics["epoch"].tolist() == list(range(30))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_log_of_a_killed_run_is_whole(tmp_path, number):
    program = """
import os, signal, sys
from surgrad.runs.wandb import WandbConfig
from surgrad.runs.folder import open_run
with open_run(sys.argv[1], {"seed": 1}, WandbConfig(mode="offline")) as run:
    for epoch in range(50):
        run.log({"epoch": epoch, "train_loss": 1.0})
    print(run._mirror._process.pid, flush=True)
    os.kill(os.getpid(), int(sys.argv[2]))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "run"), str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    pid, deadline = int(done.stdout.split()[-1]), time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:  # outlives a killed run to finish the log
        time.sleep(0.05)
    assert [row["epoch"] for row in history(tmp_path / "run")] == list(range(50))
    assert any(record["type"] == "exit" for record in records(tmp_path / "run"))


def test_a_message_cut_off_by_a_kill_ends_the_log_as_a_failed_run(tmp_path):
    init = {"mode": "offline", "dir": str(tmp_path), "project": "p"}
    start = json.dumps({"start": {"argv": ["script.py"], "init": init, "settings": {}}})
    messages = start + '\n{"log": {"epoch": 0}}\n{"log": {"epo'
    command = [sys.executable, "-P", str(Path(run_wandb.__file__).with_name("wandb_process.py"))]
    subprocess.run(command, input=messages, text=True, capture_output=True, check=True)
    assert history(tmp_path) == [{"epoch": 0}]
    assert [record["exit"]["exit_code"] for record in records(tmp_path) if record["type"] == "exit"] == [1]


def test_a_resumed_run_keeps_its_wandb_id(tmp_path):
    ids = []
    for attempt in range(2):
        with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run", CONFIG, WandbConfig(mode="offline")) as run:  # noqa: PT012
            run.log({"epoch": attempt, "train_loss": 1.0})
            run.checkpoint({"epoch": attempt})
            ids.append(run.summary["wandb_id"])
            raise KeyboardInterrupt
    assert ids[0] == ids[1]
    logs = [path.name for path in (tmp_path / "run/wandb").glob("offline-run-*/*.wandb")]
    assert logs == [f"run-{ids[0]}.wandb"] * len(logs)


def test_a_checkpoint_is_an_artifact_on_request(tmp_path):
    with open_run(tmp_path / "run", CONFIG, WandbConfig(mode="offline", checkpoints=True)) as run:
        run.checkpoint({"epoch": 0})
    assert f"checkpoint-{run.summary['wandb_id']}" in json.dumps(records(tmp_path / "run"))
    staged = [path for path in (tmp_path / "run/wandb").rglob("*") if path.is_file() and "staging" in path.parts]
    content = (tmp_path / "run/checkpoint.pt").read_bytes()
    assert content in [path.read_bytes() for path in staged]  # beside the run, to be uploaded later


def test_a_sweep_agent_names_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "fromagent")
    with open_run(tmp_path / "run", CONFIG, WandbConfig(mode="offline")) as run:
        run.log({"epoch": 0, "train_loss": 1.0})
    assert list(tmp_path.glob("run/wandb/offline-run-*-fromagent"))


def test_the_runs_of_a_sweep_are_a_group(tmp_path):
    script = REPO / "tests" / "smallest_suite" / "script.py"
    command = [sys.executable, script, "-m", "seed=1,2", "wandb.mode=offline", f"hydra.sweep.dir={tmp_path}"]
    subprocess.run(command, check=True, capture_output=True)
    logs = [log for record in load_runs(tmp_path) for log in records(record.folder)]
    groups = [log["run"]["run_group"] for log in logs if log["type"] == "run"]
    assert len(groups) == 2
    assert len(set(groups)) == 1
    assert groups[0].startswith("seed=1,2 ")


def test_the_sweep_that_the_docs_recommend_is_one_of_our_scripts():
    """Its parameters are keys of the script's configuration, its metric is not one of the test set."""
    page = (REPO / "docs" / "wandb.md").read_text()
    sweep = OmegaConf.to_container(OmegaConf.create(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]))
    overrides = [f"{key}={space.get('min', space.get('values', [0])[0])}" for key, space in sweep["parameters"].items()]
    overrides += [argument for argument in sweep["command"] if "=" in argument]
    command = [sys.executable, REPO / sweep["program"], *overrides, "--cfg", "job"]
    composed = OmegaConf.create(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert composed.wandb.mode == "online"
    assert composed.method.lr == sweep["parameters"]["method.lr"]["min"]
    assert "${args_no_hyphens}" in sweep["command"]
    assert sweep["metric"]["name"] == "valid_acc"


def test_disabled_starts_no_process_and_mistakes_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(run_wandb, "WandbMirror", None)  # a call would raise
    with open_run(tmp_path / "a", CONFIG, DISABLED) as run:
        run.log({"epoch": 0, "train_loss": 1.0})
    with pytest.raises(UserError, match=r"wandb.mode=on: unknown; allowed: offline, online, disabled"):
        WandbConfig(mode="on")


def test_online_without_a_key_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with (
        pytest.raises(UserError, match=r"wandb login.*WANDB_API_KEY.*wandb.mode=offline"),
        open_run(tmp_path / "run", CONFIG, WandbConfig(mode="online")),
    ):
        pytest.fail("went on without a key")
    assert "\n" not in load_runs(Path(tmp_path / "run"))[0].summary["error"]
