"""The record cannot be lost and cannot lie: damaged files, missing rows, power cuts."""

import json
import logging
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from surgrad.errors import UserError
from surgrad.runs import checkpoint, files, marker
from surgrad.runs.folder import RunDone, open_run
from surgrad.runs.record import load_runs
from surgrad.runs.repair import damages
from surgrad.runs.wandb import WandbConfig

CONFIG = {"seed": 1, "nb_epochs": 4, "method": {"name": "superspike", "beta": 10.0}}
DISABLED = WandbConfig(mode="disabled")
EPOCHS = 4


def train(where: Path, *, stop: int | None = None, config: dict = CONFIG) -> tuple[list[float], float]:
    """Four epochs of w <- w/2 + noise, new or gone on with; its rows, and a result that needs all of them in memory."""
    with open_run(where, config, DISABLED) as run:
        generator, w, done = torch.Generator().manual_seed(0), torch.ones(3), 0
        if (saved := run.load_checkpoint()) is not None:
            done, w = saved["epoch"], saved["w"].clone()
            generator.set_state(saved["generator"])
            run.rewind(done)
        for epoch in range(done + 1, EPOCHS + 1):
            if epoch == stop:
                raise KeyboardInterrupt
            w = w / 2 + torch.randn(3, generator=generator)
            run.log({"epoch": epoch, "train_loss": float(w.sum())})
            run.state(f"epoch_{epoch}/w", w)
            run.checkpoint({"epoch": epoch, "w": w, "generator": generator.get_state()})
        run.summary["test_acc"] = float(w[0])
    (finished,) = load_runs(where)
    assert finished.states == [f"epoch_{epoch}/w" for epoch in range(1, EPOCHS + 1)]
    assert finished.metrics["epoch"].tolist() == list(range(1, EPOCHS + 1))
    return finished.metrics["train_loss"].tolist(), finished.summary["test_acc"]


def interrupted(where: Path, stop: int = 4) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train(where, stop=stop)
    return where


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


# ---------------------------------------------------------------- sealed files
def flipped(content: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(8 * len(content))
    damaged = bytearray(content)
    damaged[position // 8] ^= 1 << position % 8
    return bytes(damaged)


def zeroed(content: bytes, rng: random.Random) -> bytes:
    """A block of 64 zeros, as a disk leaves that lost a sector; one that held zeros before is no damage."""
    while True:
        first = rng.randrange(max(1, len(content) - 64))
        damaged = content[:first] + bytes(len(content[first : first + 64])) + content[first + 64 :]
        if damaged != content:
            return damaged


def garbage(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(400))


@pytest.mark.parametrize(("damage", "repeats"), [(flipped, 600), (zeroed, 200), (garbage, 100)])
def test_no_damaged_checkpoint_is_used(tmp_path, damage, repeats, caplog):
    checkpoint.save_checkpoint(tmp_path, {"epoch": 1, "w": torch.arange(50.0)}, {"run_id": "a"}, verify=True)
    path = tmp_path / "checkpoint.pt"
    intact, rng = path.read_bytes(), random.Random(0)
    assert checkpoint.load_checkpoint(tmp_path, sealed=True)[0]["epoch"] == 1
    for _ in range(repeats):
        path.write_bytes(damage(intact, rng))
        assert checkpoint.load_checkpoint(tmp_path, sealed=True) is None
    assert caplog.text.count("checkpoint.pt is damaged (") == repeats


@pytest.mark.parametrize("name", ["summary.json", "state.h5", ".surgrad", "config.yaml", "metrics.csv"])
@pytest.mark.parametrize(("damage", "repeats"), [(flipped, 40), (zeroed, 20), (garbage, 20)])
def test_no_damaged_file_of_a_finished_run_is_taken_for_what_was_written(tmp_path, name, damage, repeats):
    train(tmp_path)
    assert damages(tmp_path) == []
    intact, rng = (tmp_path / name).read_bytes(), random.Random(1)
    for _ in range(repeats):
        damaged = damage(intact, rng)
        if name == "metrics.csv" and damaged.split() == intact.split():
            continue  # another line end says the same
        (tmp_path / name).write_bytes(damaged)
        assert [error.path.name for error in damages(tmp_path)][:1] == [name]


@pytest.mark.parametrize("name", ["state.h5", "checkpoint.pt"])
def test_a_file_without_its_trailer_is_damaged(tmp_path, name):
    """Its content is whole, but nothing says so any more."""
    train(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    assert [error.path.name for error in damages(tmp_path)] == [name]


def test_a_checkpoint_is_still_what_torch_loads(tmp_path):
    checkpoint.save_checkpoint(tmp_path, {"w": torch.ones(3)}, {}, verify=True)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["w"].tolist() == [1, 1, 1]


def test_a_whole_checkpoint_that_holds_objects_is_refused_by_name(tmp_path, caplog):
    torch.save({"path": Path("x")}, tmp_path / "checkpoint.pt")
    files.seal(tmp_path / "checkpoint.pt", {"schema": checkpoint.SCHEMA})
    assert checkpoint.load_checkpoint(tmp_path) is None
    assert "checkpoint.pt is damaged (Weights only load failed" in caplog.text


# ---------------------------------------------------------------- resuming proves that everything is there
def lose_rows(where: Path) -> None:
    (where / "metrics.csv").unlink()


def lose_a_row(where: Path) -> None:
    lines = (where / "metrics.csv").read_text().splitlines(keepends=True)
    (where / "metrics.csv").write_text("".join(lines[:2] + lines[3:]))


def lose_the_last_row(where: Path) -> None:
    lines = (where / "metrics.csv").read_text().splitlines(keepends=True)
    (where / "metrics.csv").write_text("".join(lines[:-1]))


def change_a_digit(where: Path) -> None:
    text = (where / "metrics.csv").read_text()
    (where / "metrics.csv").write_text(text[:-8] + ("1" if text[-8] != "1" else "2") + text[-7:])


def bad_byte(where: Path) -> None:
    (where / "metrics.csv").write_bytes(b"\xff" + (where / "metrics.csv").read_bytes())


def file_of(where: Path, name: str) -> Path:
    """A file of a run; of one that goes on, a part of state.h5 in its place."""
    return next(iter(sorted(where.glob("state.0*.h5"))), where / name) if name == "state.h5" else where / name


def lose(name: str):
    def apply(where: Path) -> None:
        file_of(where, name).unlink()

    apply.__name__ = f"lose_{name}"
    return apply


def spoil(name: str):
    def apply(where: Path) -> None:
        file_of(where, name).write_bytes(b"\x00\xff{{: garbage")

    apply.__name__ = f"spoil_{name}"
    return apply


def cut(name: str):
    def apply(where: Path) -> None:
        path = file_of(where, name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    apply.__name__ = f"cut_{name}"
    return apply


NAMES = ("checkpoint.pt", "checkpoint.prev.pt", "summary.json", "state.h5", "metrics.csv", "config.yaml", ".surgrad")
DAMAGES = [lose_rows, lose_a_row, lose_the_last_row, change_a_digit, bad_byte]
DAMAGES += [make(name) for name in NAMES for make in (lose, spoil, cut) if (make, name) != (lose, ".surgrad")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("finished", [False, True], ids=["interrupted", "done"])
def test_a_run_that_lost_something_computes_it_again(tmp_path, whole, damage, finished):
    """Whatever is lost, the same command ends with the numbers of the run that lost nothing."""
    if finished:
        train(tmp_path)
    else:
        interrupted(tmp_path)
    damage(tmp_path)
    try:
        assert train(tmp_path) == whole
    except RunDone:  # what is lost is not needed, because everything was computed
        assert finished
        assert damage.__name__.rpartition("_")[2] in ("checkpoint.pt", "checkpoint.prev.pt", "config.yaml", ".surgrad")


@pytest.mark.parametrize("damage", [spoil("config.yaml"), lose("config.yaml"), spoil("metrics.csv")])
def test_another_configuration_is_refused_in_a_damaged_folder_too(tmp_path, damage):
    damage(interrupted(tmp_path))
    with pytest.raises(UserError, match=r"seed \(1 there, 2 here\)"):
        train(tmp_path, config=CONFIG | {"seed": 2})


def test_a_checkpoint_of_another_run_is_not_used(tmp_path, whole, caplog):
    interrupted(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", stop=4, config=CONFIG | {"seed": 2})
    for name in ("checkpoint.pt", "checkpoint.prev.pt"):
        shutil.copy(tmp_path / "b" / name, tmp_path / "a" / name)
    assert train(tmp_path / "a") == whole
    assert "it is of the run" in caplog.text


def unsealed(where: Path) -> Path:
    """The folder as earlier versions left it: no marker, no checksums."""
    (where / marker.NAME).unlink()
    for name in ("checkpoint.pt", "checkpoint.prev.pt"):
        torch.save(torch.load(where / name, weights_only=True), where / name)
    summary = json.loads((where / "summary.json").read_text())
    del summary["seal"]
    (where / "summary.json").write_text(json.dumps(summary))
    return where


def test_a_run_of_an_earlier_version_goes_on_and_says_so(tmp_path, whole, caplog):
    with caplog.at_level(logging.INFO):
        assert train(unsealed(interrupted(tmp_path))) == whole
    assert "of an earlier version, without a checksum" in caplog.text


def test_the_checkpoint_of_an_earlier_version_is_held_to_the_checksums_of_its_zip(tmp_path):
    path = unsealed(interrupted(tmp_path)) / "checkpoint.pt"
    intact, rng = path.read_bytes(), random.Random(0)
    expected = checkpoint.read_checkpoint(path)[0]["w"].tolist()
    for _ in range(100):
        path.write_bytes(flipped(intact, rng))
        try:
            assert checkpoint.read_checkpoint(path)[0]["w"].tolist() == expected
        except files.Damaged:
            continue


@pytest.mark.parametrize("epoch", [99, -1, "three"])
def test_an_epoch_that_the_rows_do_not_have_is_not_gone_on_from(tmp_path, whole, epoch):
    unsealed(interrupted(tmp_path))
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(content | {"epoch": epoch}, tmp_path / "checkpoint.pt")
    assert train(tmp_path) == whole


def test_a_run_that_logs_its_rows_again_needs_none_of_them(tmp_path):
    (interrupted(tmp_path) / "metrics.csv").unlink()
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path, CONFIG, DISABLED) as run:  # noqa: PT012
        assert run.load_checkpoint(rows=False)["epoch"] == 3
        raise KeyboardInterrupt


# ---------------------------------------------------------------- a power cut
class Disk:
    """What a disk holds that writes only what was synced, and names in their folder in any order.

    Records every sync; `crash` rebuilds the folder as it may be found after a cut: files that were synced with what
    they held then, names as of the last sync of the folder or, each for itself, as of the cut.
    """

    def __init__(self, where: Path, monkeypatch) -> None:
        self.where, self.synced = where, {}
        self.names: dict[str, int] = {}
        self.cuts: list[tuple[dict[int, bytes], dict[str, int], dict[str, int]]] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, handle: int) -> None:
        self._fsync(handle)
        status = os.fstat(handle)
        if os.path.samestat(status, self.where.stat()):
            self.names = self.now()
        else:
            path = Path(os.readlink(f"/proc/self/fd/{handle}"))
            if path.parent == self.where:
                self.synced[status.st_ino] = path.read_bytes()
        self.cuts.append((dict(self.synced), dict(self.names), self.now()))

    def now(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self.where.iterdir() if path.is_file()}

    def crash(self, cut: tuple, into: Path, rng: random.Random) -> None:
        synced, before, now = cut
        into.mkdir()
        for name in sorted(before.keys() | now.keys()):
            inode = rng.choice((before, now)).get(name)
            if inode is not None and not name.endswith((".tmp", ".lock", ".writer")):
                (into / name).write_bytes(synced.get(inode, b""))


def test_a_power_cut_costs_whole_epochs_only(tmp_path, whole, monkeypatch):
    """After a cut at any sync the same command ends with the same numbers; a checkpoint that is used has its rows."""
    where = tmp_path / "run"
    where.mkdir()
    disk = Disk(where, monkeypatch)
    monkeypatch.setattr("surgrad.runs.run._SYNC_SECONDS", 0.0)
    train(where)
    monkeypatch.undo()
    rng = random.Random(0)
    assert len(disk.cuts) > 20
    went_on = 0
    for k, cut_at in enumerate(disk.cuts):
        after = tmp_path / f"cut-{k}"
        disk.crash(cut_at, after, rng)
        if not marker.is_ours(after):  # cut before the run had begun
            continue
        went_on += checkpoint.has_checkpoint(after)
        with suppress(RunDone):
            assert train(after) == whole
        (record,) = load_runs(after)
        assert (record.metrics["train_loss"].tolist(), record.summary["test_acc"]) == whole
    assert went_on > len(disk.cuts) // 2
