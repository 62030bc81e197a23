"""Kills every script at random moments and at every write, starts it again, and compares what it ends with.

python3 scripts/kill_drill.py --kills 20
python3 scripts/kill_drill.py --scripts run_superspike dense_SNN --kills 5 --crashes 10 --seed 2
python3 scripts/kill_drill.py --kills 0 --crashes 0 --checkpoints

Each script runs small, once undisturbed. Then it is killed (SIGKILL) at a random moment of that time, or dies by itself
in front of the n-th time that it opens a file of its run folder for writing, renames, removes or syncs one, and the
same command is given again until it ends; several deaths may hit one run. With `--checkpoints` a run dies before a
checkpoint in the middle takes its place, after its last one, and before the summary that says done. Rows, final
numbers, recorded arrays, the last checkpoint and the names of figures must equal those of the undisturbed run to the
last digit. Attempts are forks of one process that has imported everything, which Linux and macOS allow. Exit code 0
only if all are equal.
"""

import argparse
import importlib.util
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surgrad.datasets.sources.targets import write_spike_image
from surgrad.runs.record import REPO, RunRecord

ALWAYS = ["wandb.mode=disabled", "device=cpu", "num_threads=1"]
RANDMAN = ["dataset=randman", "dataset.nb_classes=3", "dataset.nb_inputs=12", "dataset.nb_samples=20"]
EVENT = ["dataset.duration=0.1", "nb_hidden=12", "nb_epochs=2", "time_step=5e-3", "plot=false"]

#: Folder and overrides of each script, so that it takes a second or two.
SCRIPTS: dict[str, tuple[str, list[str]]] = {
    "deep_convSNN": (
        "Classification",
        [
            *(*RANDMAN, "dataset.nb_hidden_layers=2", "dataset.nb_filters=[4,4]", "dataset.kernel_size=[3,3]"),
            *("dataset.stride=[2,1]", "dataset.padding=[0,0]", "dataset.duration=0.04", "batch_size=16", "nb_epochs=5"),
            *("fano.repeats=5", "plotting.nb_samples=2", "test_draws=2", "plot=none"),
        ],
    ),
    "dense_SNN": (
        "Classification",
        [
            *(*RANDMAN, "dataset.duration=0.04", "hidden=[6,5]", "batch_size=16", "nb_epochs=5", "monitor_samples=2"),
            "plot=false",
        ],
    ),
    "dense_SNN full": (
        "Classification",
        [
            "--config-name=ladder/full",
            *(*RANDMAN, "~dataset.units_per_channel", "dataset.duration=0.2", "hidden=[6,5]", "batch_size=16"),
            *("dataset.augment.sigma_u_uniform=1", "early_stopping=4", "ema=0.5", "grad_clip=1", "nb_epochs=5"),
            *("dataset.augment.p_cutmix=0.5", "connection.max_delay=0.05", "plot=false"),
        ],
    ),
    "dense_SNN adaptive": (
        "Classification",
        [
            "--config-name=ladder/adaptive",
            *(*RANDMAN, "~dataset.units_per_channel", "dataset.duration=0.2", "hidden=[6,5]", "batch_size=16"),
            *("time_constants=gamma", "time_constants.trainable=true", "neuron.a=[0,5]", "nb_epochs=5", "plot=false"),
        ],
    ),
    "dense_SNN dcls": (
        "Classification",
        [
            "--config-name=ladder/dcls",
            *(*RANDMAN, "~dataset.units_per_channel", "dataset.duration=0.2", "hidden=[6,5]", "batch_size=16"),
            *("connection.max_delay=0.05", "connection.sigma=0.02", "connection.sigma_end=0.01", "nb_epochs=5"),
            "plot=false",
        ],
    ),
    "non_spiking": (
        "Classification",
        [
            *RANDMAN,
            "~dataset.units_per_channel",
            "dataset.duration=0.2",
            "model.nb_units=6",
            "batch_size=16",
            "nb_epochs=5",
            "plot=false",
        ],
    ),
    "event_SNN": ("Classification", [*EVENT, "method=eventprop"]),
    "event_SNN on a grid": ("Classification", [*EVENT, "method=surrogate"]),
    "yin_yang": ("Classification", ["nb_hidden=30", "nb_epochs=3", "plot=false"]),
    "initialization": (
        "Classification",
        [
            *(*RANDMAN, "grid.xi=[1,2]", "grid.mu_u=[0]", "grid.nu=[15]", "grid.nb_inputs=20", "grid.nb_units=20"),
            *(
                "grid.duration=0.5",
                "grid.nb_draws=1",
                "steps.dts=[1e-3,2e-3]",
                "steps.nb_units=8",
                "steps.duration=0.5",
            ),
            *("depth.nb_layers=2", "depth.nb_units=20", "depth.nb_samples=4", "depth.duration=0.2", "depth.nb_draws=2"),
            *(
                "depth.sigma_us=[1,2]",
                "depth.transfer_rates=[5,20]",
                "depth.transfer_sigma_us=[1]",
                "real.nb_samples=6",
            ),
        ],
    ),
    "run_image_task_1hid": (
        "Spike_train_matching",
        [
            *("dataset.data_path={target}", "dataset.name=tiny", "dataset.nb_inputs=30", "dataset.nb_hidden=20"),
            *("dataset.nb_outputs=16", "dataset.nb_steps=40", "nb_epochs=9", "logging_freq=2", "plot=false"),
            *("save_mem=true", "save_w=true"),
        ],
    ),
    "run_superspike": ("Spike_train_matching", ["nb_hidden=20", "nb_epochs=12", "logging_freq=5", "plot=false"]),
    "integrate_closed_circle": (
        "Sigmoid_network",
        ["nb_rules=4", "max_points=2000", "nb_grid=9", "nb_radii=2"],
    ),
    "sign_bias": (
        "Sigmoid_network",
        ["flow.nb_starts=[1,1]", "flow.duration=100", "planes.nb_grid=9"],
    ),
    "single_neuron": (
        "Sigmoid_network",
        [
            *("lif.nb_steps=20", "lif.nb_samples=50", "perceptron.nb_weights=5"),
            "perceptron.nb_samples=50",
        ],
    ),
    "gradient_estimators": (
        "Sigmoid_network",
        [
            *("depths=[1,2]", "betas=[1,4]", "nb_networks=2", "nb_samples=20"),
            *("nb_averaged=5", "sample_counts=[1,4]", "sample_repeats=3", "coverage_repetitions=3"),
            *("coverage_samples=20", "chain.nb_samples=50"),
        ],
    ),
}
OF_THE_DAY = ("seconds", "started", "ended", "attempts", "git_commit", "peak", "versions", "wandb_id", "metrics")


@dataclass
class Outcome:
    """What became of an attempt: its exit code, 137 for a kill; writes (w) and checkpoints (c); time it took, s."""

    code: int
    writes: str
    seconds: float


def attempt(main: Callable[[list[str]], Any], arguments: list[str], folder: Path, **death: float) -> Outcome:
    """One attempt in a fork, with one death at most.

    Args:
        main: of the script.
        arguments: of it.
        folder: its run folder.
        death: `kill` after so many seconds; `crash` in front of the write of this number; `before` or `after` the
            checkpoint of this number; `done`: in front of the summary that says done.
    """
    reading, writing = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(main, arguments, folder, death, writing)
    os.close(writing)
    if "kill" in death:
        deadline = time.monotonic() + death["kill"]
        while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG)[0] == 0:
            time.sleep(0.002)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # it had ended before it could be killed
        status = 0
    with os.fdopen(reading, "rb") as report:
        writes = report.read()
    return Outcome(137 if status in (-9, 137) else status, writes.decode(), time.monotonic() - started)


def _child(
    main: Callable[[list[str]], Any], arguments: list[str], folder: Path, death: dict[str, float], report: int
) -> None:
    """The script, with every write to its run folder counted; never returns."""
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    nb_writes = nb_checkpoints = 0

    def write(target: str = "", source: str = "") -> None:
        nonlocal nb_writes, nb_checkpoints
        nb_writes += 1
        dies = death.get("crash") == nb_writes or death.get("after") == nb_checkpoints
        if target.endswith("/checkpoint.pt"):
            nb_checkpoints += 1
            dies |= death.get("before") == nb_checkpoints
        elif "done" in death and target.endswith("/summary.json"):
            dies |= json.loads(Path(source).read_text())["status"] == "done"
        os.write(report, b"c" if target.endswith("/checkpoint.pt") else b"w")
        if dies:
            os._exit(137)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove") or not str(arguments[0]).startswith(f"{folder}/"):
            return
        if event == "os.rename":
            write(str(arguments[1]), str(arguments[0]))
        elif event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
            write()

    fsync = os.fsync

    def counted(handle: int) -> None:
        write()
        fsync(handle)

    os.fsync = counted  # type: ignore[assignment]
    sys.addaudithook(audit)
    code = 1
    try:
        main(arguments)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def results(folder: Path) -> dict[str, str]:
    """Everything that a run has computed, as text, without what differs from day to day."""
    record = RunRecord(folder)
    found = {"status": record.status + (f": {record.reason}" if record.reason else "")}
    if record.status == "done":
        kept = {k: v for k, v in record.summary.items() if not any(word in k for word in OF_THE_DAY)}
        found |= {f"summary {k}": repr(v) for k, v in kept.items()}
        found |= {f"metrics {k}": repr(v.tolist()) for k, v in record.metrics.items() if "seconds" not in k}
        found |= {f"state {name}": repr(np.asarray(record.state(name)).tolist()) for name in record.states}
        found |= {"figures": repr(sorted(path.name for path in folder.glob("Plots/*")))}
        found |= {"checkpoint": repr(_plain(record.checkpoint()))}
    return found


def _plain(content: Any) -> Any:
    """Tensors as lists, at any depth."""
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return content.tolist() if hasattr(content, "tolist") else content


def deaths_of(undisturbed: Outcome, given: argparse.Namespace, rng: random.Random) -> list[list[dict[str, float]]]:
    """What runs die of: of one or two deaths each at random, one of three in front of and behind checkpoints."""
    single = [{"kill": rng.uniform(0.02, undisturbed.seconds)} for _ in range(given.kills)]
    nb_writes, nb_checkpoints = len(undisturbed.writes), undisturbed.writes.count("c")
    chosen = rng.sample(range(1, nb_writes + 1), min(given.crashes, nb_writes))
    single += [{"crash": point} for point in chosen]
    plans = []
    while single:
        plans.append([single.pop() for _ in range(min(len(single), rng.randint(1, 2)))])
    if given.checkpoints:
        middle = nb_checkpoints // 2 + 1
        plans.append([{"before": middle}, {"after": nb_checkpoints - (middle - 1)}, {"done": 1}])
    return plans


def drill(
    name: str, main: Callable[[list[str]], Any], arguments: list[str], root: Path, given: argparse.Namespace
) -> tuple[int, int, int, int]:
    """(writes, deaths, runs, runs that ended otherwise) of one script."""
    whole = root / f"{name}-whole"
    undisturbed = attempt(main, [*arguments, f"hydra.run.dir={whole}"], whole)
    if undisturbed.code:
        raise SystemExit(f"{name} does not run undisturbed: see {whole}.log")
    expected, deaths, runs, different = results(whole), 0, 0, 0
    for plan in deaths_of(undisturbed, given, random.Random(f"{name} {given.seed}")):
        folder = root / f"{name}-{runs}"
        line = [*arguments, f"hydra.run.dir={folder}"]
        for death in plan:
            deaths += attempt(main, line, folder, **death).code == 137
        last = attempt(main, line, folder)
        runs += 1
        found = results(folder) if last.code == 0 else {"status": f"exit code {last.code}"}
        if found != expected:
            different += 1
            names = [k for k in expected | found if expected.get(k) != found.get(k)]
            print(f"DIFFERENT {folder}: {', '.join(names[:5])} ({found.get(names[0], 'missing')[:200]})", flush=True)
    return len(undisturbed.writes), deaths, runs, different


def load(name: str, folder: str) -> Callable[[list[str]], Any]:
    """The `main` of a script."""
    spec = importlib.util.spec_from_file_location(name, REPO / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    main: Callable[[list[str]], Any] = module.main
    return main


def target(folder: Path) -> Path:
    """A small target of spike-train matching: 16 channels, 40 steps."""
    path = folder / "target.png"
    write_spike_image(path, np.random.default_rng(0).random((40, 16)) < 0.1)
    return path


def main(arguments: list[str] | None = None) -> int:
    """The drill; returns how many runs ended otherwise than undisturbed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--kills", type=int, default=10, help="of each script, at random moments")
    parser.add_argument("--crashes", type=int, default=10, help="of each script, in front of a write")
    parser.add_argument("--checkpoints", action="store_true", help="of each script, around its checkpoints")
    parser.add_argument("--folder", type=Path, help="where the runs go; default: a temporary folder")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in ("torch._dynamo", "matplotlib.pyplot"):  # what runs import late, and forks then need not
        importlib.import_module(name)
    root = given.folder or Path(tempfile.mkdtemp(prefix="kill-drill-"))
    root.mkdir(parents=True, exist_ok=True)
    total = [0, 0, 0]
    print("| script | writes | deaths | runs | not equal |\n|---|---|---|---|---|", flush=True)
    for name in given.scripts:
        folder, overrides = SCRIPTS[name]
        line = [one.format(target=target(root)) for one in overrides] + ALWAYS
        if folder == "Sigmoid_network":
            line = [one for one in line if one.partition("=")[0] not in ("device", "num_threads")]
        writes, deaths, runs, different = drill(name, load(name.split()[0], folder), line, root, given)
        print(f"| {name} | {writes} | {deaths} | {runs} | {different} |", flush=True)
        total = [a + b for a, b in zip(total, (deaths, runs, different), strict=True)]
    print(f"| all | | {total[0]} | {total[1]} | {total[2]} |")
    return total[2]


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
