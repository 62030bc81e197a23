"""Whose a folder is, what one bad run does to the others, and what full disks, other data and signals leave behind."""

import errno
import os
import resource
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import pytest
import torch

from surgrad.errors import UserError
from surgrad.runs import __main__ as run_tools
from surgrad.runs import files, lock, marker
from surgrad.runs import record as run_record
from surgrad.runs.folder import RunDone, open_run
from surgrad.runs.record import RunRecord, identity, load_runs, run_id
from surgrad.runs.wandb import WandbConfig

CONFIG = {"seed": 1, "nb_epochs": 2}
DISABLED = WandbConfig(mode="disabled")


def finish(folder: Path, **settings) -> Path:
    with open_run(folder, CONFIG | settings, DISABLED) as run:
        for epoch in (1, 2):
            run.log({"epoch": epoch, "train_loss": 0.5})
            run.checkpoint({"epoch": epoch})
        run.summary["test_acc"] = 0.5
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def said(capsys, *arguments) -> str:
    capsys.readouterr()
    run_tools.main([*map(str, arguments)])
    return capsys.readouterr().out


# ---------------------------------------------------------------- ours or not
SOMEBODYS = [
    {"thesis.tex": "x"},
    {"config.yaml": "x: 1\n", "summary.json": "{}", "metrics.csv": "a\n1\n", "state.h5": "x", "notes.tmp": "x"},
    {"config.yaml": "x: 1\n", "summary.json": '{"status": "done"}'},
    {"summary.json": "not ours"},
    {"run.log": "x"},
    {"a folder.tmp/inside": "x"},
]


@pytest.mark.parametrize("theirs", SOMEBODYS, ids=lambda theirs: next(iter(theirs)))
@pytest.mark.parametrize("rerun", ["missing", "failed", "all"])
def test_a_folder_that_is_no_run_folder_is_left_as_it_is(tmp_path, theirs, rerun, capsys):
    folder = tmp_path / "there"
    for name, text in theirs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = content(tmp_path)
    with (
        pytest.raises(UserError, match=r"is no run folder, but holds .*: nothing is written there"),
        open_run(folder, CONFIG, DISABLED, rerun=rerun),
    ):
        pytest.fail("wrote into somebody's folder")
    assert "nothing to remove" in said(capsys, "clean", tmp_path, "--yes")
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["run.log", "config.yaml", "Plots", ".lock", ".writer", "wandb", ".old"])
def test_a_link_in_a_run_folder_is_not_written_through(tmp_path, name):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    folder = finish(tmp_path / "run")
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    with pytest.raises(UserError, match=f"{name} is a link"), open_run(folder, CONFIG, DISABLED, rerun="all"):
        pytest.fail("wrote through a link")
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("before", [[], [".hydra/config.yaml"], ["job.log"], [".lock", ".surgrad.tmp"]])
def test_what_hydra_launchers_and_a_kill_at_the_start_leave_in_a_folder_does_not_make_it_somebodys(tmp_path, before):
    for name in before:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    finish(tmp_path)
    assert marker.is_ours(tmp_path)


def test_clean_keeps_empty_folders_and_damaged_runs(tmp_path, capsys):
    (tmp_path / "empty/inside").mkdir(parents=True)
    damaged = finish(tmp_path / "damaged")
    (damaged / "summary.json").write_text("{")
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "broken", CONFIG, DISABLED):
        raise KeyboardInterrupt
    for path in (tmp_path / "empty/inside", tmp_path / "empty", *damaged.iterdir()):
        os.utime(path, (0, 0))
    assert "removed 1 folders" in said(capsys, "clean", tmp_path, "--yes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "empty"]
    assert (tmp_path / "empty/inside").is_dir()


# ---------------------------------------------------------------- one bad run
def spoil(folder: Path, name: str, text: bytes = b"\xff\x00{{: [garbage") -> None:
    (folder / name).write_bytes(text)


BAD = {
    "config": lambda folder: spoil(folder, "config.yaml"),
    "metrics": lambda folder: spoil(folder, "metrics.csv"),
    "one byte": lambda folder: spoil(folder, "metrics.csv", (folder / "metrics.csv").read_bytes() + b"\xff\n"),
    "summary": lambda folder: spoil(folder, "summary.json"),
    "a list": lambda folder: spoil(folder, "summary.json", b"[]"),
    "deep": lambda folder: spoil(folder, "summary.json", b"[" * 200_000),
    "marker": lambda folder: spoil(folder, ".surgrad"),
    "checkpoint": lambda folder: spoil(folder, "checkpoint.pt"),
    "state": lambda folder: spoil(folder, "state.h5"),
    "folder.tmp": lambda folder: (folder / "x.tmp").mkdir(),
    "attempts": lambda folder: files.write_json(
        folder / "summary.json", files.read_json(folder / "summary.json") | {"attempts": "three", "versions": 3}
    ),
    "lost": lambda folder: (folder / "summary.json").unlink(),
    "is a folder": lambda folder: ((folder / "metrics.csv").unlink(), (folder / "metrics.csv").mkdir()),
    "log": lambda folder: ((folder / "run.log").unlink(), (folder / "run.log").mkdir()),
}
SEEN = set(BAD) - {"checkpoint", "state", "folder.tmp", "attempts", "log"}  # without reading arrays and weights


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_run_does_not_stop_what_reads_the_others(tmp_path, monkeypatch, capsys, caplog, bad):
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2, 3):
        finish(tmp_path / f"Runs/seed={seed}", seed=seed)
    broken = tmp_path / "Runs/seed=2"
    BAD[bad](broken)
    expected = [1, 3] if bad in SEEN else [1, 2, 3]
    assert [run.get("seed") for run in load_runs("Runs")] == expected
    assert ("damaged" in caplog.text) == (bad in SEEN)
    listed = said(capsys, "list", "Runs")
    assert ("1 damaged" in listed) == (bad in SEEN)
    assert ("damaged: seed=2: " in listed) == (bad in SEEN)
    assert "seed=2" in said(capsys, "show", broken)
    assert "seed=3" in said(capsys, "compare", "Runs")
    assert "nothing to remove" in said(capsys, "clean", "Runs", "--yes")
    with suppress(UserError):  # done already, or cannot be written
        finish(broken, seed=2)


@pytest.mark.parametrize("bad", sorted(set(BAD) - {"folder.tmp", "attempts", "log"}))
def test_repair_makes_a_damaged_run_one_that_its_command_ends(tmp_path, capsys, bad):
    folder = finish(tmp_path / "run")
    with open_run(folder, CONFIG, DISABLED, rerun="all") as run:
        run.state("x", torch.ones(3))
        run.log({"epoch": 1})
        run.checkpoint({"epoch": 1})
        run.log({"epoch": 2})
        run.checkpoint({"epoch": 2})
    BAD[bad](folder)
    assert "1 runs repaired" in said(capsys, "repair", folder)
    assert RunRecord(folder).status in ("done", "interrupted")
    if RunRecord(folder).status == "interrupted":
        finish(folder)
    assert RunRecord(folder).status == "done"
    assert said(capsys, "repair", folder) == "nothing to repair\n"


# ---------------------------------------------------------------- disks
@contextmanager
def filling_disk():
    """Gives a function after whose call no file can grow beyond so many bytes: the operating system refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda nb_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (nb_bytes, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_state(run) -> None:
    run.state("large", torch.zeros(1 << 20))
    run.flush()


def fill_metrics(run) -> None:
    for epoch in range(20_000):
        run.log({"epoch": epoch, "train_loss": 0.5})


def fill_checkpoint(run) -> None:
    run.checkpoint({"w": torch.zeros(1 << 20)})


def fill_summary(run) -> None:
    run.summary["text"] = "x" * (1 << 20)


def run_on_a_full_disk(folder: Path, limit, fill) -> None:
    with open_run(folder, CONFIG, DISABLED) as run:
        limit(1 << 16)
        fill(run)


@pytest.mark.parametrize("fill", [fill_state, fill_metrics, fill_checkpoint, fill_summary])
def test_a_full_disk_is_one_line_and_the_status_is_failed(tmp_path, fill):
    with filling_disk() as limit, pytest.raises(UserError, match=r"could not be written .*: make room") as caught:
        run_on_a_full_disk(tmp_path, limit, fill)
    assert "\n" not in str(caught.value)
    if fill is not fill_summary:  # which cannot say so
        (found,) = load_runs(tmp_path)
        assert (found.status, found.summary["error"]) == ("failed", str(caught.value))
    assert not list(tmp_path.glob("*.tmp"))


def test_a_summary_is_written_over_where_there_is_no_room_for_a_second(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    files.write_json(path, {"status": "running"})

    def no_room(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", no_room)
    files.write_json(path, {"status": "failed"})
    assert files.read_json(path, sealed=True) == {"status": "failed"}


@pytest.mark.parametrize("gone", [shutil.rmtree, lambda folder: folder.rename(f"{folder}-elsewhere")])
def test_the_first_error_is_shown_where_the_folder_went_away(tmp_path, gone):
    with pytest.raises(UserError, match="is gone: it was deleted or renamed"), open_run(tmp_path / "a", CONFIG) as run:  # noqa: PT012
        run.log({"epoch": 1})
        gone(tmp_path / "a")
        run.log({"epoch": 2})
    with pytest.raises(RuntimeError, match="the first"), open_run(tmp_path / "b", CONFIG) as run:  # noqa: PT012
        gone(tmp_path / "b")
        raise RuntimeError("the first")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_the_file_system_knows_no_locks_a_file_stands_for_one(tmp_path, monkeypatch, code):
    class NoLocks(filelock.FileLock):
        def acquire(self, *args, **options):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock, "FileLock", NoLocks)
    with open_run(tmp_path, CONFIG, DISABLED) as run:
        run.log({"epoch": 1})
        assert lock.is_locked(tmp_path)
        with pytest.raises(UserError, match=f"being written by process {os.getpid()}"), open_run(tmp_path, CONFIG):
            pytest.fail("the lock did not hold")
    assert not lock.is_locked(tmp_path)
    assert RunRecord(tmp_path).status == "done"


# ---------------------------------------------------------------- identity
def test_other_data_at_the_same_path_are_another_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGRAD_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "train.h5"
    data.write_bytes(b"first")
    settings = {"dataset": {"train_path": str(data)}}
    folder = finish(tmp_path / "run", **settings)
    with pytest.raises(RunDone):
        finish(folder, **settings)
    status = data.stat()
    os.utime(data, (1, 1))  # touched, not changed
    with pytest.raises(RunDone):
        finish(folder, **settings)
    data.write_bytes(b"other")
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(UserError, match=r"other data: the file of dataset.train_path .*rerun=all"):
        finish(folder, **settings)
    data.unlink()
    with pytest.raises(RunDone):
        finish(folder, **settings)


def test_a_key_introduced_later_leaves_the_id_at_its_neutral_value(monkeypatch):
    monkeypatch.setattr(run_record, "LATER_KEYS", {"schedule.name": lambda flat: "none"})
    assert run_id(CONFIG | {"schedule": {"name": "none"}}) == run_id(CONFIG)
    assert run_id(CONFIG | {"schedule": {"name": "cosine"}}) != run_id(CONFIG)
    assert identity({"schedule": {"name": "cosine"}}) == {"schedule.name": "cosine"}
