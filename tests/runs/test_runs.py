"""The run folder: what a kill, a second process, a damaged file and a repeated command do to it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from surgrad.errors import UserError
from surgrad.runs.files import MetricsTable, read_metrics
from surgrad.runs.folder import RunDone, open_run
from surgrad.runs.record import REPO, identity, load_runs, run_id
from surgrad.runs.wandb import WandbConfig

CONFIG = {"seed": 1, "nb_epochs": 5, "method": {"name": "superspike", "beta": 10.0}, "device": "cpu"}
DISABLED = WandbConfig(mode="disabled")


def train(run, epochs: int, fail_at: int | None = None) -> None:
    """A stand-in for training: w <- w/2 + noise, everything that matters in the checkpoint."""
    generator = torch.Generator().manual_seed(0)
    first, w = 0, torch.ones(3)
    if (saved := run.load_checkpoint()) is not None:
        first, w = saved["epoch"] + 1, saved["w"]
        generator.set_state(saved["generator"])
        run.rewind(saved["epoch"])
    for epoch in range(first, epochs):
        if epoch == fail_at:
            run.log({"epoch": epoch, "train_loss": -1.0})  # logged, but never checkpointed
            raise RuntimeError("NaN in\nthe loss")
        w = w / 2 + torch.randn(3, generator=generator)
        run.log({"epoch": epoch, "train_loss": float(w.sum())})
        run.checkpoint({"epoch": epoch, "w": w, "generator": generator.get_state()})
    run.summary["test_acc"] = float(w[0])


def test_a_run_records_itself(tmp_path):
    with open_run(tmp_path / "Runs/a/b", CONFIG, DISABLED) as run:
        run.log({"epoch": 0, "train_loss": np.float32(0.5)})
        run.log({"epoch": 1, "train_loss": torch.tensor(0.25), "valid_acc": 0.75})
        run.state("before/spikes-hid_0", torch.ones(4, 2, dtype=torch.bool), units="1", dt=2e-3)
        run.state("membrane", np.full((2, 3), 0.5), units="threshold")
        figure = Figure()
        figure.add_subplot().plot([0, 1])
        run.figure("after/activity", figure)
        run.summary["test_acc"] = np.float64(0.9)
        run.summary["rates"] = np.array([1.0, np.nan])
    (record,) = load_runs(tmp_path)
    assert record.name == "a/b"
    assert record.status == "done"
    assert record.config == CONFIG
    assert record.get("method.beta") == 10.0
    assert record.get("method.gamma", 3) == 3
    assert record.summary["test_acc"] == 0.9
    assert record.summary["rates"] == [1.0, None]
    assert record.summary["versions"]["torch"].startswith("2.")
    assert record.summary["peak_memory_mib"] > 1
    np.testing.assert_array_equal(record.metrics["epoch"], np.array([0, 1]))
    np.testing.assert_array_equal(record.metrics["train_loss"], [0.5, 0.25])
    np.testing.assert_array_equal(record.metrics["valid_acc"], [np.nan, 0.75])
    assert record.metrics["epoch"].dtype == np.int64
    assert record.states == ["before/spikes-hid_0", "membrane"]
    assert record.state("before/spikes-hid_0").all()
    assert record.state("before/spikes-hid_0").dtype == np.bool_
    assert record.attributes("before/spikes-hid_0") == {"units": "1", "dt": 2e-3}
    assert (record.folder / "Plots/after/activity.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(KeyError, match="membrane"):
        record.state("nothing")
    assert not list(record.folder.rglob("*.tmp"))


def test_resumed_run_equals_unbroken_run(tmp_path):
    with open_run(tmp_path / "whole", CONFIG, DISABLED) as run:
        train(run, 5)
    with pytest.raises(RuntimeError), open_run(tmp_path / "broken", CONFIG, DISABLED) as run:
        train(run, 5, fail_at=3)
    whole, broken = load_runs([tmp_path / "whole", tmp_path / "broken"])[::-1]
    assert broken.status == "failed"
    assert broken.summary["error"] == "RuntimeError: NaN in the loss"
    assert "in train" in (broken.folder / "traceback.txt").read_text()
    seconds = broken.summary["wall_seconds"]

    with open_run(tmp_path / "broken", CONFIG, DISABLED) as run:
        assert run.resuming
        train(run, 5)
    (resumed,) = load_runs(tmp_path / "broken")
    assert resumed.status == "done"
    assert "error" not in resumed.summary
    assert not (resumed.folder / "traceback.txt").exists()
    assert (resumed.folder / "metrics.csv").read_text() == (whole.folder / "metrics.csv").read_text()
    assert resumed.summary["test_acc"] == whole.summary["test_acc"]
    assert torch.equal(resumed.checkpoint()["w"], whole.checkpoint()["w"])
    assert resumed.summary["attempts"] == 2
    assert resumed.summary["wall_seconds"] >= seconds


def test_kill_9_leaves_a_resumable_folder(tmp_path):
    script = textwrap.dedent(f"""
        import time
        from surgrad.runs.folder import open_run
        import torch
        with open_run({str(tmp_path / "run")!r}, {CONFIG!r}) as run:
            for epoch in range(3):
                run.log({{"epoch": epoch, "train_loss": 0.5}})
                run.state(f"epoch_{{epoch}}/spikes", torch.ones(8, dtype=torch.uint8))
                if epoch < 2:
                    run.checkpoint({{"epoch": epoch, "w": torch.full((2,), float(epoch))}})
            (run.folder / "ready").touch()
            time.sleep(60)
    """)
    folder = tmp_path / "run"
    environment = os.environ | {"WANDB_MODE": "disabled"}
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as process:
        try:
            deadline = time.monotonic() + 60
            while not (folder / "ready").exists():
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.05)
            (record,) = load_runs(folder)
            assert record.status == "running"
            with (
                pytest.raises(UserError, match=f"process {process.pid} "),
                open_run(folder, CONFIG, DISABLED),
            ):
                pytest.fail("a second process got in")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    (record,) = load_runs(folder)
    assert record.status == "interrupted"
    assert "without a word" in record.reason
    with open_run(folder, CONFIG, DISABLED) as run:
        saved = run.load_checkpoint()
        assert saved["epoch"] == 1
        run.rewind(saved["epoch"])
    (record,) = load_runs(folder)
    assert record.metrics["epoch"].tolist() == [0, 1]
    assert record.states == ["epoch_0/spikes", "epoch_1/spikes"]


@pytest.mark.parametrize(("send", "expected"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_stopped_from_outside_is_interrupted(tmp_path, send, expected):
    before = signal.getsignal(signal.SIGTERM)
    inherited = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where the tests run in the background
    with pytest.raises(expected) as stopped, open_run(tmp_path, CONFIG, DISABLED) as run:  # noqa: PT012
        run.log({"epoch": 0, "train_loss": 1.0})
        os.kill(os.getpid(), send)
        time.sleep(5)
    if expected is SystemExit:
        assert stopped.value.code == 143
    signal.signal(signal.SIGINT, inherited)
    assert load_runs(tmp_path)[0].status == "interrupted"
    assert load_runs(tmp_path)[0].reason == "stopped by a signal"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_folder_is_written_by_one_run_at_a_time(tmp_path):
    with open_run(tmp_path, CONFIG, DISABLED):
        with pytest.raises(UserError, match=rf"being written by process {os.getpid()}"), open_run(tmp_path, CONFIG):
            pytest.fail("the lock did not hold")
        assert load_runs(tmp_path)[0].status == "running"
    with pytest.raises(RunDone), open_run(tmp_path, CONFIG, DISABLED):
        pytest.fail("a finished run was repeated")


def test_stale_lock_of_a_dead_process_is_taken_over(tmp_path):
    (tmp_path / ".lock").write_text("process 999999 on elsewhere")
    with open_run(tmp_path, CONFIG, DISABLED) as run:
        assert not run.resuming


def test_done_run_is_not_repeated_unless_asked(tmp_path):
    with open_run(tmp_path, CONFIG, DISABLED) as run:
        run.log({"epoch": 0, "train_loss": 1.0})
        run.summary["test_acc"] = 0.5
    with pytest.raises(RunDone, match="rerun=all") as done, open_run(tmp_path, CONFIG, DISABLED):
        pytest.fail("a finished run was repeated")
    assert done.value.summary["test_acc"] == 0.5
    with open_run(tmp_path, CONFIG, DISABLED, rerun="all") as run:
        assert not run.resuming
        assert "test_acc" not in run.summary
    assert len(load_runs(tmp_path)) == 1
    assert load_runs(tmp_path)[0].metrics == {}
    (old,) = (tmp_path / ".old").iterdir()
    assert json.loads((old / "summary.json").read_text())["test_acc"] == 0.5


@pytest.mark.parametrize(
    ("rerun", "left_by", "goes_on"),
    [
        ("missing", RuntimeError, True),
        ("missing", KeyboardInterrupt, True),
        ("failed", RuntimeError, False),
        ("failed", KeyboardInterrupt, True),
        ("all", KeyboardInterrupt, False),
    ],
)
def test_rerun_decides_what_goes_on_and_what_starts_again(tmp_path, rerun, left_by, goes_on):
    with pytest.raises(left_by), open_run(tmp_path, CONFIG, DISABLED) as run:  # noqa: PT012
        run.log({"epoch": 0, "train_loss": 1.0})
        run.checkpoint({"epoch": 0})
        raise left_by
    with open_run(tmp_path, CONFIG, DISABLED, rerun=rerun) as run:
        assert run.resuming == goes_on
        assert (run.load_checkpoint() is not None) == goes_on
    (record,) = load_runs(tmp_path)
    assert record.summary["attempts"] == (2 if goes_on else 1)
    assert len(list(tmp_path.glob(".old/*/checkpoint.pt"))) == (0 if goes_on else 1)


def test_unknown_rerun_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="rerun=yes: unknown; allowed: missing, failed, all"):  # noqa: SIM117
        with open_run(tmp_path / "run", CONFIG, DISABLED, rerun="yes"):
            pytest.fail("went on")
    assert not (tmp_path / "run").exists()


def test_another_configuration_in_the_same_folder_is_refused(tmp_path):
    with open_run(tmp_path, CONFIG, DISABLED) as run:
        run.log({"epoch": 0, "train_loss": 1.0})
    other = CONFIG | {"seed": 2, "method": {"name": "superspike", "beta": 5.0}}
    with pytest.raises(UserError, match=r"method.beta \(10.0 there, 5.0 here\), seed \(1 there, 2 here\)"):  # noqa: SIM117
        with open_run(tmp_path, other, DISABLED):
            pytest.fail("mixed two configurations")
    assert load_runs(tmp_path)[0].config == CONFIG


def test_run_without_a_checkpoint_starts_again(tmp_path):
    with pytest.raises(RuntimeError), open_run(tmp_path, CONFIG, DISABLED) as run:  # noqa: PT012
        run.log({"epoch": 0, "train_loss": 1.0})
        run.state("x", np.ones(3))
        raise RuntimeError
    with open_run(tmp_path, CONFIG, DISABLED) as run:
        assert not run.resuming
        assert run.load_checkpoint() is None
    assert load_runs(tmp_path)[0].metrics == {}
    assert load_runs(tmp_path)[0].states == []


def test_identity_of_a_run():
    assert run_id(CONFIG) == run_id(CONFIG | {"device": "cuda", "wandb": {"mode": "online"}, "rerun": "all"})
    assert run_id(CONFIG) != run_id(CONFIG | {"seed": 2})
    assert run_id(CONFIG) != run_id(CONFIG | {"method": {"name": "superspike", "beta": 10.5}})
    assert identity({"dataset": {"path": f"{REPO}/data/x.h5"}}) == {"dataset.path": "data/x.h5"}


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path, CONFIG, DISABLED) as run:  # noqa: PT012
        for epoch in range(2):
            run.log({"epoch": epoch, "train_loss": 1.0})
            run.checkpoint({"epoch": epoch})
        raise KeyboardInterrupt
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", os.urandom(200)):
        (tmp_path / "checkpoint.pt").write_bytes(damaged)
        caplog.clear()
        with pytest.raises(KeyboardInterrupt), open_run(tmp_path, CONFIG, DISABLED) as run:  # noqa: PT012
            assert run.load_checkpoint() == {"epoch": 0}
            raise KeyboardInterrupt
        assert "checkpoint.pt is damaged" in caplog.text
    (tmp_path / "checkpoint.prev.pt").write_bytes(b"")
    with open_run(tmp_path, CONFIG, DISABLED) as run:
        assert run.load_checkpoint() is None
        assert not run.resuming
    assert load_runs(tmp_path)[0].metrics["epoch"].size == 0


def test_checkpoint_that_could_not_be_loaded_is_refused(tmp_path):
    with pytest.raises(TypeError, match="tensors, numbers"), open_run(tmp_path, CONFIG, DISABLED) as run:
        run.checkpoint({"epoch": 0, "loss": np.float64(0.5)})
    assert not (tmp_path / "checkpoint.pt").exists()


def test_metrics_grow_columns_merge_epochs_and_survive_a_torn_line(tmp_path):
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    table.add({"epoch": 0, "train_loss": 1.5})
    table.add({"epoch": 1, "train_loss": 1.25, "fano-hid_0": 0.9})
    table.add({"epoch": 1, "valid_acc": 0.5})
    table.add({"epoch": 2, "train_loss": float("nan"), "valid_acc": None})
    with path.open("a") as file:
        file.write("3,0.1")  # killed in the middle of a row
    metrics = read_metrics(path)
    assert metrics["epoch"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(metrics["train_loss"], [1.5, 1.25, np.nan])
    np.testing.assert_array_equal(metrics["fano-hid_0"], [np.nan, 0.9, np.nan])
    np.testing.assert_array_equal(metrics["valid_acc"], [np.nan, 0.5, np.nan])
    table = MetricsTable(path)
    table.add({"epoch": 3, "train_loss": 0.25})
    assert read_metrics(path)["epoch"].tolist() == [0, 1, 2, 3]
    assert table.rewind(1) == 2
    assert read_metrics(path)["epoch"].tolist() == [0, 1]
    with pytest.raises(TypeError, match="weights"):
        table.add({"epoch": 4, "weights": [1, 2]})


def test_state_replaces_and_keeps(tmp_path):
    with open_run(tmp_path, CONFIG, DISABLED) as run:
        x = np.zeros(3)
        run.state("a/x", x, units="s")
        x += 1  # what was recorded is the value at the time
        run.flush()
        run.state("a/y", np.ones(2, dtype=np.uint8))
        run.flush()
        run.state("a/y", np.zeros(4, dtype=np.uint8))
    (record,) = load_runs(tmp_path)
    assert record.state("a/x").tolist() == [0, 0, 0]
    assert record.attributes("a/x") == {"units": "s"}
    assert record.state("a/y").tolist() == [0, 0, 0, 0]


def test_load_runs_finds_runs_and_passes_over_the_rest(tmp_path, monkeypatch):
    for seed in (1, 2):
        with open_run(tmp_path / f"Runs/m/seed={seed}", CONFIG | {"seed": seed}, DISABLED):
            pass
    (tmp_path / "Runs/multirun.yaml").write_text("x: 1")
    (tmp_path / "Runs/empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for where in ("Runs/**", "Runs", tmp_path / "Runs", "Runs/m/*", ["Runs/m/seed=1", "Runs/m/seed=2"]):
        assert [record.get("seed") for record in load_runs(where)] == [1, 2]
    assert load_runs("Runs/m/seed=2")[0].name == "m/seed=2"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_runs("nowhere/**")
