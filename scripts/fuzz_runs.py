"""Damages every file of run folders and counts what is noticed: the table of docs/security.md.

python3 scripts/fuzz_runs.py
python3 scripts/fuzz_runs.py --flips 60 --blocks 20 --resumes 10

A run of four epochs is written; single bits of its files are flipped, blocks of 64 bytes zeroed, ends cut off, contents
replaced by random bytes. "same": the file still says what it said (another line end, say). "noticed": it is named as
damaged, with the reason. "silent": another content is taken for what was written. "traceback": anything but one line.
At last whole run folders are damaged while interrupted, and their command is given again. Exit code 0 only without
silent changes, tracebacks and other results.
"""

import argparse
import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from surgrad.errors import UserError
from surgrad.runs import marker, states
from surgrad.runs.checkpoint import read_checkpoint
from surgrad.runs.folder import RunDone, open_run
from surgrad.runs.record import RunRecord
from surgrad.runs.repair import damages

CONFIG = {"seed": 1, "nb_epochs": 4, "method": {"name": "superspike", "beta": 10.0}, "hidden": [128, 128]}
EPOCHS = 4

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
    names = states.state_names(folder / "state.h5")
    return {name: states.read_state(folder / "state.h5", name)[0].tolist() for name in names}


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


def main(arguments: list[str] | None = None) -> int:
    """The tables; returns how many silent changes, tracebacks and other results there were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=600, help="single bits, of each file")
    parser.add_argument("--blocks", type=int, default=200, help="blocks of zeros, files cut short, random files")
    parser.add_argument("--resumes", type=int, default=100, help="damaged folders that are gone on with")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    logging.getLogger("surgrad").setLevel(logging.CRITICAL)
    rng, wrong = random.Random(given.seed), 0
    with tempfile.TemporaryDirectory() as place:
        whole, interrupted = Path(place, "whole"), Path(place, "interrupted")
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
        ends = Counter(resumed(interrupted, whole, Path(place, f"resumed-{k}"), rng) for k in range(given.resumes))
        print("\n| folders gone on with | equal | refused | other | traceback |\n|---|---|---|---|---|")
        cells = [ends[word] for word in ("equal", "refused", "other", "traceback")]
        print(f"| {given.resumes} | {' | '.join(map(str, cells))} |")
    return wrong + cells[2] + cells[3]


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
