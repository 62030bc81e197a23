"""Damages run folders and data files, and counts what is noticed: the tables of docs/security.md.

python3 scripts/fuzz_runs.py
python3 scripts/fuzz_runs.py --flips 60 --blocks 20 --resumes 10 --tables runs

A run of four epochs is written; single bits of its files are flipped, blocks of 64 bytes zeroed, ends cut off, contents
replaced by random bytes. "same": the file still says what it said (another line end, say). "noticed": it is named as
damaged, with the reason. "silent": another content is taken for what was written. "traceback": anything but one line.
At last whole run folders are damaged while interrupted, and their command is given again. Data files are read in
processes of their own, with 10 s and 2 GiB: "killed" by either, or by a crash of the library that reads the format.
Formats without checksums cannot notice every change of their values. Exit code 0 only without tracebacks, and silent
changes or other results of runs. `--tables power`: runs whose file system ends under them (Linux, root).
"""

import argparse
import fcntl
import logging
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from surgrad.datasets.encoding.audio import read_wav
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.hdf5 import read_shd, write_compact, write_shd
from surgrad.datasets.sources.targets import image_target, read_events, write_spike_image
from surgrad.errors import UserError
from surgrad.runs import marker, states
from surgrad.runs.checkpoint import read_checkpoint
from surgrad.runs.folder import RunDone, open_run
from surgrad.runs.record import RunRecord
from surgrad.runs.repair import damages

CONFIG = {"seed": 1, "nb_epochs": 4, "method": {"name": "superspike", "beta": 10.0}, "hidden": [128, 128]}
EPOCHS = 4
TABLES = ("runs", "data", "power")

Damage = Callable[[bytes, random.Random], bytes]


def train(folder: Path, stop: int | None = None) -> None:
    """w <- w/2 + noise, new or gone on with; ends before epoch `stop` as by Ctrl-C."""
    with open_run(folder, CONFIG) as run:
        generator, w, done = torch.Generator().manual_seed(0), torch.ones(64), 0
        if (saved := run.load_checkpoint()) is not None:
            done, w = saved["epoch"], saved["w"].clone()
            generator.set_state(saved["generator"])
            run.rewind(done)
        for epoch in range(done + 1, EPOCHS + 1):
            if epoch == stop:
                raise KeyboardInterrupt
            w = w / 2 + torch.randn(64, generator=generator)
            run.log({"epoch": epoch, "train_loss": float(w.sum()), "valid_acc": float(w[0])})
            run.state(f"epoch_{epoch}/w", w)
            run.checkpoint({"epoch": epoch, "w": w, "generator": generator.get_state()})
        run.summary["test_acc"] = float(w[0])


# ---------------------------------------------------------------- damage
def flipped(content: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(8 * len(content))
    damaged = bytearray(content)
    damaged[position // 8] ^= 1 << position % 8
    return bytes(damaged)


def zeroed(content: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(max(1, len(content) - 64))
    return content[:first] + bytes(len(content[first : first + 64])) + content[first + 64 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def replaced(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(4096))


KINDS: dict[str, Damage] = {"flips": flipped, "blocks": zeroed, "cuts": cut, "random": replaced}


# ---------------------------------------------------------------- what is read
def _states(folder: Path) -> Any:
    names = states.state_names(folder)
    return {name: states.read_state(folder, name)[0].tolist() for name in names}


def _checkpoint(folder: Path) -> Any:
    content = read_checkpoint(folder / "checkpoint.pt", sealed=True)[0]
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in content.items()}


READERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint.pt": _checkpoint,
    "state.h5": _states,
    "summary.json": lambda folder: RunRecord(folder).summary,
    "metrics.csv": lambda folder: {k: repr(v.tolist()) for k, v in RunRecord(folder).metrics.items()},
    "config.yaml": lambda folder: RunRecord(folder).config,
    ".surgrad": marker.read_marker,
}


def outcome(folder: Path, name: str, expected: Any) -> str:
    """same, noticed, silent or traceback."""
    try:
        if name in {error.path.name for error in damages(folder)}:
            return "noticed"
        return "same" if READERS[name](folder) == expected else "silent"
    except UserError:
        return "noticed"
    except Exception:
        logging.exception("%s", name)
        return "traceback"


def fuzz(folder: Path, name: str, damage: Damage, repeats: int, rng: random.Random) -> Counter[str]:
    """What became of so many damages of one file."""
    path = folder / name
    intact, expected = path.read_bytes(), READERS[name](folder)
    counted: Counter[str] = Counter()
    for _ in range(repeats):
        path.write_bytes(damage(intact, rng))
        counted[outcome(folder, name, expected)] += 1
    path.write_bytes(intact)
    return counted


def resumed(interrupted: Path, whole: Path, folder: Path, rng: random.Random) -> str:
    """The command given again in a folder one of whose files is damaged or lost: equal, refused, other or traceback."""
    shutil.copytree(interrupted, folder)
    path = folder / rng.choice(sorted(entry.name for entry in interrupted.iterdir() if entry.is_file()))
    kind = rng.choice([*KINDS, "lost"])
    if kind == "lost":
        path.unlink()
    else:
        path.write_bytes(KINDS[kind](path.read_bytes() or b"x", rng))
    try:
        train(folder)
    except RunDone:
        pass
    except UserError:
        return "refused"
    except Exception:
        logging.exception("%s %s", kind, path.name)
        return "traceback"
    a, b = RunRecord(folder), RunRecord(whole)
    equal = _states(folder) == _states(whole) and READERS["metrics.csv"](folder) == READERS["metrics.csv"](whole)
    return "equal" if equal and a.summary["test_acc"] == b.summary["test_acc"] else "other"


def fuzz_folders(place: Path, given: argparse.Namespace, rng: random.Random) -> int:
    """The tables of run folders; returns how many silent changes, tracebacks and other results there were."""
    whole, interrupted, wrong = place / "whole", place / "interrupted", 0
    train(whole)
    with suppress(KeyboardInterrupt):
        train(interrupted, stop=EPOCHS)
    print("| file | damage | tried | same | noticed | silent | traceback |\n|---|---|---|---|---|---|---|")
    for name in READERS:
        for kind, damage in KINDS.items():
            counted = fuzz(whole, name, damage, given.flips if kind == "flips" else given.blocks, rng)
            cells = [counted[word] for word in ("same", "noticed", "silent", "traceback")]
            print(f"| {name} | {kind} | {sum(cells)} | {' | '.join(map(str, cells))} |", flush=True)
            wrong += cells[2] + cells[3]
    ends = Counter(resumed(interrupted, whole, place / f"resumed-{k}", rng) for k in range(given.resumes))
    print("\n| folders gone on with | equal | refused | other | traceback |\n|---|---|---|---|---|")
    cells = [ends[word] for word in ("equal", "refused", "other", "traceback")]
    print(f"| {given.resumes} | {' | '.join(map(str, cells))} |", flush=True)
    return wrong + cells[2] + cells[3]


# ---------------------------------------------------------------- data files
def _events() -> EventDataset:
    """40 samples of 50 events at 700 units."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.random((40, 50)), axis=1).ravel()
    units, labels = rng.integers(700, size=2000), np.arange(40) % 4
    return EventDataset(times, units, np.arange(41) * 50, labels, 700, 4, speakers=np.arange(40) % 3)


def _write_wav(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 8000, "NONE", ""))
        file.writeframes(np.random.default_rng(0).integers(-9999, 9999, 8000, np.int16).tobytes())


def _write_csv(path: Path) -> None:
    rows = zip(*np.random.default_rng(0).random((2, 200)), strict=True)
    path.write_text("time,unit\n" + "".join(f"{0.5 * t:.4f},{int(50 * u)}\n" for t, u in rows))


def _write_hdf5(path: Path) -> None:
    times, units = np.random.default_rng(0).random((2, 200))
    with h5py.File(path, "w") as file:
        file["times"], file["units"] = 0.5 * times, (50 * units).astype(np.int64)


def _write_target(path: Path) -> None:
    write_spike_image(path, np.random.default_rng(0).random((40, 60)) < 0.1)


def _shd(path: Path) -> list[np.ndarray]:
    found = read_shd(path)
    speakers = np.zeros(0) if found.speakers is None else found.speakers
    return [found.times, found.units, found.offsets, found.labels, speakers, np.array(found.nb_units)]


#: Name of a file, what writes and what reads it, and how often it is damaged in which way.
DATA: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], dict[str, int]]] = {
    "shd.h5": (lambda path: write_shd(path, _events()), _shd, {"flips": 600, "blocks": 200, "cuts": 20}),
    "compact.h5": (lambda path: write_compact(path, _events()), _shd, {"flips": 66}),
    "events.h5": (_write_hdf5, read_events, {"flips": 100}),
    "events.csv": (_write_csv, read_events, {"flips": 50, "cuts": 50}),
    "clip.wav": (_write_wav, read_wav, {"cuts": 150, "flips": 150}),
    "target.png": (_write_target, lambda path: [image_target(path)], {"flips": 60, "cuts": 60}),
}
WORDS = ("same", "noticed", "silent", "traceback", "killed")


def read_apart(path: Path, read: Callable[[Path], Any], expected: Any) -> str:
    """What became of reading a file in a process of its own: one of `WORDS`."""
    child = os.fork()
    if child == 0:
        logging.disable(logging.CRITICAL)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if os.path.exists("/proc/self/statm") else 0
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**31, resource.RLIM_INFINITY))
        signal.alarm(10)
        code = 3
        try:
            found = read(path)
            equal = all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
            code = 0 if equal else 2
        except UserError:
            code = 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return WORDS[code] if 0 <= code <= 3 else "killed"


def fuzz_data(place: Path, rng: random.Random) -> int:
    """The table of data files; returns how many tracebacks there were."""
    print(f"\n| file | damage | tried | {' | '.join(WORDS)} |\n|{'---|' * 8}")
    wrong = 0
    for name, (write, read, damages_of) in DATA.items():
        path = place / name
        write(path)
        intact, expected = path.read_bytes(), read(path)
        for kind, repeats in damages_of.items():
            counted: Counter[str] = Counter()
            for _ in range(repeats):
                path.write_bytes(KINDS[kind](intact, rng))
                counted[read_apart(path, read, expected)] += 1
            print(f"| {name} | {kind} | {repeats} | {' | '.join(str(counted[word]) for word in WORDS)} |", flush=True)
            wrong += counted["traceback"]
    return wrong


# ---------------------------------------------------------------- power cuts
_GOING_DOWN, _NO_FLUSH = 0x8004587D, 2  # of Linux: a file system ends at once, what its journal does not hold is lost


def cut_power(place: Path, cuts: int, rng: random.Random) -> int:
    """Runs on an ext4 of their own, a loop device, which ends at a random moment; returns how many end otherwise.

    The file system is mounted again, its journal replayed, and the command given again.
    """
    image, mounted = place / "image", place / "mounted"
    mounted.mkdir()
    train(place / "whole")
    expected, ends, kept = _states(place / "whole"), Counter[str](), []
    for k in range(cuts):
        image.write_bytes(b"")
        os.truncate(image, 2**26)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
        folder = mounted / "run"
        child = os.fork()
        if child == 0:
            logging.disable(logging.CRITICAL)
            with suppress(BaseException):
                train(folder)
            os._exit(0)
        time.sleep(rng.uniform(0.0, 1.5))
        handle = os.open(mounted, os.O_RDONLY)
        fcntl.ioctl(handle, _GOING_DOWN, struct.pack("I", _NO_FLUSH))
        os.close(handle)
        os.waitpid(child, 0)
        subprocess.run(["umount", mounted], check=True)
        subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
        try:
            record = RunRecord(folder)
            checkpoint = record.checkpoint() if (folder / "checkpoint.pt").exists() else None
            kept.append(checkpoint["epoch"] if checkpoint else 0)
            with suppress(RunDone):
                train(folder)
            ends["equal" if _states(folder) == expected else "other"] += 1
        except Exception as error:
            logging.exception("cut %d", k)
            ends["refused" if isinstance(error, UserError) else "traceback"] += 1
        subprocess.run(["umount", mounted], check=True)
    print("\n| power cuts | epochs kept | equal | refused | other | traceback |\n|---|---|---|---|---|---|")
    cells = [ends[word] for word in ("equal", "refused", "other", "traceback")]
    print(f"| {cuts} | {min(kept, default=0)} to {max(kept, default=0)} | {' | '.join(map(str, cells))} |", flush=True)
    return sum(cells[1:])


def main(arguments: list[str] | None = None) -> int:
    """The tables; returns how many silent changes, tracebacks and other results there were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=600, help="single bits, of each file")
    parser.add_argument("--blocks", type=int, default=200, help="blocks of zeros, files cut short, random files")
    parser.add_argument("--resumes", type=int, default=100, help="damaged folders that are gone on with")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cuts", type=int, default=40, help="of the power, by root")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES[:2])
    given = parser.parse_args(arguments)
    logging.getLogger("surgrad").setLevel(logging.CRITICAL)
    tables: dict[str, Callable[[Path, random.Random], int]] = {
        "runs": lambda place, rng: fuzz_folders(place, given, rng),
        "data": fuzz_data,
        "power": lambda place, rng: cut_power(place, given.cuts, rng),
    }
    wrong = 0
    for name in given.tables:
        with tempfile.TemporaryDirectory() as place:
            wrong += tables[name](Path(place), random.Random(given.seed))
    return wrong


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
