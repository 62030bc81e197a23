"""Kills a sweep of 24 runs three times, starts it again each time, and compares it with one that was left alone.

python3 scripts/sweep_drill.py joblib --folder /tmp/drill
python3 scripts/sweep_drill.py ray --folder /tmp/drill --seed 2

The sweep is 2 methods x 2 slopes x 6 seeds of the deep ConvSNN on a small Randman set, a second or two each. A kill is
SIGKILL to the command and to every process below it, at a random moment while runs are under way. The command is then
started again unchanged. In the end, and with exit code 0 only then, all runs are done, their metrics equal those of the
undisturbed sweep to the last digit, and no run that was done before a kill has been written to since. The undisturbed
sweep in FOLDER/undisturbed is computed once, whatever the launcher.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from surgrad.runs.files import read_json
from surgrad.runs.record import REPO, RunRecord, load_runs

SWEEP = ["method=superspike,stochasticsuperspike", "beta=5,10", "seed=1,2,3,4,5,6"]
NB_RUNS = 24
SMALL = [
    *("dataset=randman", "dataset.nb_classes=3", "dataset.nb_inputs=24", "dataset.nb_samples=100"),
    *("dataset.nb_hidden_layers=2", "dataset.nb_filters=[8,8]", "dataset.kernel_size=[5,3]", "dataset.stride=[2,1]"),
    *("dataset.padding=[0,0]", "dataset.duration=0.1", "batch_size=50", "nb_epochs=8", "test_draws=2"),
    *("fano.repeats=3", "plot=none", "device=cpu", "num_threads=1", "wandb.mode=disabled"),
]
OF_THE_DAY = {
    "seconds",
    "seconds_per_epoch",
    "wall_seconds",
    "peak_memory_mib",
    "started",
    "ended",
    "attempts",
    "git_commit",
    "metrics",  # checksum of the rows, their seconds included
}


def command(launcher: str, folder: Path) -> list[str]:
    """The sweep as typed."""
    script = str(REPO / "Classification" / "deep_convSNN.py")
    return [sys.executable, script, "-m", f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}", *SWEEP, *SMALL]


def start(launcher: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the sweep; what it says is added to <folder>.log."""
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command(launcher, folder), stdout=log, stderr=log, start_new_session=True)


def begun(folder: Path) -> list[RunRecord]:
    """The runs of a sweep that have written anything."""
    return load_runs(folder) if any(folder.rglob("summary.json")) else []


def attempts(folder: Path) -> int:
    """How often a run of the sweep was begun or resumed."""
    return sum(int(record.summary.get("attempts", 0)) for record in begun(folder))


def below(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def kill(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL the command and everything below it; return how many processes that were."""
    os.kill(process.pid, signal.SIGSTOP)  # starts no further process
    victims = below(process.pid)
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    return len(victims)


def wait_for_a_moment(process: subprocess.Popen[bytes], folder: Path, rng: random.Random) -> bool:
    """Wait until a random number of further runs has begun, and a little; False if the sweep ends before."""
    wanted = attempts(folder) + rng.randint(2, 7)
    while attempts(folder) < wanted:
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    time.sleep(rng.uniform(0, 2))
    return process.poll() is None


def stamps(folder: Path) -> dict[str, int]:
    """When each run that is done wrote its summary last, ns."""
    done = [record.folder / "summary.json" for record in begun(folder) if record.status == "done"]
    return {path.parent.name: path.stat().st_mtime_ns for path in done}


def numbers(record: RunRecord) -> dict[str, object]:
    """Everything that a run computed, as written: rows of metrics.csv and final numbers, without times."""
    columns = {name: column.tolist() for name, column in record.metrics.items() if name not in OF_THE_DAY}
    final = {k: v for k, v in read_json(record.folder / "summary.json").items() if k not in OF_THE_DAY}
    return {"metrics": repr(columns), "summary": repr(sorted(final.items()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("launcher", choices=["joblib", "submitit_local", "ray"])
    parser.add_argument("--folder", type=Path, required=True, help="where the sweeps' runs go")
    parser.add_argument("--kills", type=int, default=3, help="0: only compare what the launchers compute")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    args.folder.mkdir(parents=True, exist_ok=True)
    undisturbed, disturbed = args.folder / "undisturbed", args.folder / f"{args.launcher}-{args.seed}"
    disturbed.mkdir()

    if start("basic", undisturbed).wait():
        raise SystemExit(f"the undisturbed sweep did not end well; see {undisturbed}.log")

    before: dict[str, int] = {}
    hit: set[str] = set()
    for k in range(args.kills):
        process = start(args.launcher, disturbed)
        if not wait_for_a_moment(process, disturbed, rng):
            raise SystemExit(f"the sweep ended before kill {k + 1}; see {disturbed}.log")
        nb_killed = kill(process)
        before = stamps(disturbed) | before  # of a run that is done twice, the first
        broken = {record.folder.name for record in begun(disturbed) if record.status != "done"}
        hit |= broken
        print(f"kill {k + 1}: {nb_killed} processes; {len(broken)} runs were under way, {len(before)} were done")
    started = time.monotonic()
    code = start(args.launcher, disturbed).wait()
    print(f"last start: exit code {code} after {time.monotonic() - started:.0f} s")

    records = begun(disturbed)
    reference_numbers = {record.folder.name: numbers(record) for record in load_runs(undisturbed)}
    after = stamps(disturbed)
    claims = {
        f"{NB_RUNS} runs done": len(records) == NB_RUNS and len(after) == NB_RUNS and code == 0,
        "numbers equal": all(numbers(record) == reference_numbers[record.folder.name] for record in records),
        "nothing done was run again": all(after[name] == stamp for name, stamp in before.items()),
    }
    if args.kills:
        claims["kills hit runs under way"] = bool(hit)
        resumed = sum(record.summary["attempts"] > 1 for record in records)
        print(f"{len(hit)} runs were hit, {resumed} of them behind a checkpoint, from which they went on")
    for claim, holds in claims.items():
        print(f"{'yes' if holds else 'NO '}  {claim}")
    raise SystemExit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
