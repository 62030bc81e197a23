"""Search for hyperparameters with Optuna: every trial is the script's own command in a run folder of its own.

Trials are processes. Their rows are read from metrics.csv as they arrive; a trial that the pruner gives up is sent
SIGTERM and leaves an interrupted run that could be resumed. The validation set alone chooses. What is tried next
follows from (seed, number of the trial, results so far), and a search is found again by its configuration: killed and
started again, it goes on with the trials that were running, in their folders, from their checkpoints.
"""

import csv
import hashlib
import json
import logging
import math
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from surgrad.errors import UserError
from surgrad.runs import files
from surgrad.runs.lock import FolderLock, is_locked
from surgrad.runs.metrics import read_metrics
from surgrad.runs.record import RunRecord
from surgrad.search.config import SearchConfig

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.3
_TERM_SECONDS = 60.0  # for a run to write its checkpoint

SAMPLERS: dict[str, Callable[[SearchConfig, int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda cfg, seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=cfg.startup_trials),
    "random": lambda cfg, seed: optuna.samplers.RandomSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[SearchConfig], optuna.pruners.BasePruner]] = {
    "median": lambda cfg: optuna.pruners.MedianPruner(cfg.startup_trials, cfg.warmup_epochs),
    "halving": lambda cfg: optuna.pruners.SuccessiveHalvingPruner(max(cfg.warmup_epochs, 1)),
    "none": lambda cfg: optuna.pruners.NopPruner(),
}


def search(cfg: SearchConfig) -> optuna.Study:
    """Run the search, or what is left of it, and write trials.csv into its folder.

    Raises:
        UserError: if the folder holds another search, if the metric is not there, or if the script's command fails
            before any trial came to an epoch.
    """
    folder = cfg.search_folder
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        study = _open_study(cfg, folder)
        worker = stack.enter_context(_worker(folder))
        jobs: list[Job] = []
        stack.callback(_stop, jobs)
        while True:
            while len(jobs) < cfg.workers and (trial := _next_trial(study, cfg, folder, worker)) is not None:
                jobs.append(_prepare(study, trial, cfg, folder))
            if not jobs:
                break
            time.sleep(_POLL_SECONDS)
            if ended := [job for job in jobs if job.step()]:
                jobs[:] = [job for job in jobs if job not in ended]
                with _guard(folder):  # a table read before another search wrote its own must not replace that
                    write_table(study, cfg, folder / "trials.csv")
    return study


# ---------------------------------------------------------------- the study
def _open_study(cfg: SearchConfig, folder: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = cfg.storage or f"sqlite:///{folder / 'study.db'}"
    with _guard(folder):
        opened: str | optuna.storages.RDBStorage = storage
        if storage.startswith("sqlite"):  # several processes write: wait for each other
            opened = optuna.storages.RDBStorage(storage, engine_kwargs={"connect_args": {"timeout": 60}})
        study = optuna.create_study(
            study_name=cfg.study_name,
            storage=opened,
            direction=cast(Any, cfg.direction),
            pruner=PRUNERS[cfg.pruner](cfg),
            load_if_exists=True,
        )
        held = study.user_attrs.get("identity", cfg.identity)
        if held != cfg.identity:
            raise UserError(
                f"study={cfg.study_name} in {storage} is another search (another script, space, seed or overrides); "
                "give another study, or none"
            )
        study.set_user_attr("identity", cfg.identity)
    return study


def _next_trial(study: optuna.Study, cfg: SearchConfig, folder: Path, worker: str) -> optuna.Trial | None:
    """A trial that was left running by a search that is no more, else a new one, else None; all parameters chosen."""
    with _guard(folder):
        trials = _trials(study)
        left = [t for t in trials if t.state == TrialState.RUNNING and _is_left(t, folder)]
        number = left[0].number if left else len(trials)
        if number >= cfg.nb_trials and not left:
            return None
        study.sampler = SAMPLERS[cfg.sampler](cfg, cfg.seed + number)
        # a trial that runs already cannot be asked for; what of it has been chosen is suggested again
        trial = optuna.trial.Trial(study, left[0]._trial_id) if left else study.ask()
        trial.set_user_attr("worker", worker)
        for key, choice in cfg.ranges().items():
            choice.suggest(trial, key)
        return trial


def _trials(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False)


def _is_left(trial: FrozenTrial, folder: Path) -> bool:
    return not is_locked(folder / "workers" / trial.user_attrs.get("worker", "none"))


@contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """One process of the search at a time."""
    with ExitStack() as stack:
        (folder / "guard").mkdir(exist_ok=True)
        stack.callback(FolderLock(folder / "guard", attempts=1200).release)
        yield


@contextmanager
def _worker(folder: Path) -> Iterator[str]:
    """A name for this process, and a lock that shows the others that it still runs."""
    name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns():x}"
    own = folder / "workers" / name
    own.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, own, ignore_errors=True)
        stack.callback(FolderLock(own).release)
        yield name


# ---------------------------------------------------------------- one trial
@dataclass
class Job:
    """A trial being run: its process, and how much of its metrics has been reported to the study."""

    study: optuna.Study
    trial: optuna.Trial
    cfg: SearchConfig
    folder: Path
    command: list[str]
    output: Path
    reported: int = -1  # last epoch that the study knows of
    process: subprocess.Popen[bytes] | None = None
    pruned: bool = False
    _seen: tuple[int, int] | None = None

    def step(self) -> bool:
        """Start the run as soon as its folder is free, pass its rows on; whether the trial has come to its end."""
        if self.process is None:
            if is_locked(self.folder):  # the run outlived a killed search, or is that of an equal trial
                return False
            self._report()  # what an earlier attempt, or an equal trial, left
            if self.pruned or RunRecord(self.folder).status == "done":
                self._finish()
                return True
            self._start()
            return False
        ended = self.process.poll() is not None
        if not self.pruned:
            self._report()
            if self.pruned:
                self.process.terminate()
        if ended:
            self._finish()
        return ended

    def stop(self) -> None:
        """Let the run write its checkpoint; the trial stays running in the study and is gone on with another time."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_TERM_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _start(self) -> None:
        log.info("trial %d: %s", self.trial.number, _assignments(self.trial.params))
        with self.output.open("w") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=subprocess.STDOUT)

    def _report(self) -> None:
        """Tell the study of new rows, one by one, until it gives the trial up: in which poll they came is no matter."""
        path = self.folder / "metrics.csv"
        if self.cfg.pruner == "none" or not path.exists():
            return
        stat = path.stat()
        if (seen := (stat.st_mtime_ns, stat.st_size)) == self._seen:
            return
        self._seen = seen
        for epoch, value in _values(path, self.cfg.metric).items():
            if epoch < self.reported:
                continue
            if epoch > self.reported:
                self.trial.report(value, epoch)
                self.reported = epoch
            if self.trial.should_prune():
                self.pruned = True
                return

    def _finish(self) -> None:
        number = self.trial.number
        if self.pruned:
            self.study.tell(self.trial, state=TrialState.PRUNED)
            log.info("trial %d: pruned after epoch %d", number, self.reported)
            return
        record = RunRecord(self.folder)
        if record.status == "done":
            values = _values(self.folder / "metrics.csv", self.cfg.metric)
            if not values:
                columns = ", ".join(record.metrics) or "none"
                raise UserError(f"metric={self.cfg.metric}: {self.folder} has no such values; its columns: {columns}")
            epoch, value = _best(values, self.cfg.direction)
            self.trial.set_user_attr("best_epoch", epoch)
            self.study.tell(self.trial, value)
            log.info("trial %d: %s %.6g at epoch %d", number, self.cfg.metric, value, epoch)
            return
        reason = self._reason(record)
        if not any((self.folder.parent / t.user_attrs["folder"] / "metrics.csv").exists() for t in _trials(self.study)):
            raise UserError(f"trial {number} failed before its first epoch: {reason} (all it said: {self.output})")
        self.study.tell(self.trial, state=TrialState.FAIL)
        log.warning("trial %d: failed: %s", number, reason)

    def _reason(self, record: RunRecord) -> str:
        said = self.output.read_text(errors="replace").strip().splitlines()
        errors = [line.split("error: ", 1)[1] for line in said if "error: " in line]
        last = (errors or [str(record.summary.get("error") or ""), *said])[-1]
        return last or f"exit code {self.process.returncode if self.process else None}"


def _prepare(study: optuna.Study, trial: optuna.Trial, cfg: SearchConfig, folder: Path) -> Job:
    params = dict(trial.params)
    run = folder / hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:8]
    trial.set_user_attr("folder", run.name)
    output = folder / "output" / f"{trial.number}.txt"
    output.parent.mkdir(exist_ok=True)
    given = {override.split("=")[0].lstrip("+") for override in cfg.overrides}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ours = {
        "num_threads": max(cores // cfg.workers, 1),
        "wandb.group": cfg.study_name,
        "wandb.job_type": "search",
    }
    defaults = [f"{key}={value}" for key, value in ours.items() if key not in given]
    place = f"hydra.run.dir={json.dumps(str(run))}"
    command = [sys.executable, str(cfg.script_path), *cfg.overrides, *defaults, *_overrides(params), place]
    reported = max(_trials(study)[trial.number].intermediate_values, default=-1)
    return Job(study, trial, cfg, run, command, output, reported)


def _stop(jobs: list[Job]) -> None:
    for job in jobs:
        if job.process is not None:
            job.process.terminate()  # all at once, then wait for each
    for job in jobs:
        job.stop()


def _values(path: Path, metric: str) -> dict[int, float]:
    """Epoch -> metric, of the rows that have one."""
    columns = read_metrics(path)
    if metric not in columns or columns[metric].dtype == object:
        return {}
    epochs = columns.get("epoch", range(len(columns[metric])))
    pairs = zip(epochs, columns[metric], strict=True)
    return {int(epoch): float(value) for epoch, value in pairs if math.isfinite(value)}


def _best(values: Mapping[int, float], direction: str) -> tuple[int, float]:
    """The best epoch, the earliest of equal ones."""
    best = {"maximize": max, "minimize": min}[direction](values.values())
    return next((epoch, value) for epoch, value in values.items() if value == best)


# ---------------------------------------------------------------- what came out
def _overrides(params: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]


def _assignments(params: Mapping[str, Any]) -> str:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in params.items()}
    return " ".join(_overrides(shown))


STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def table(study: optuna.Study, cfg: SearchConfig) -> list[dict[str, Any]]:
    """One row per trial, the best first: number, state, metric (of a pruned trial: as far as it came), parameters."""
    rows = []
    for trial in _trials(study):
        seen = trial.intermediate_values
        epoch, value = _best(seen, cfg.direction) if seen else (None, None)
        if trial.state == TrialState.COMPLETE:
            epoch, value = trial.user_attrs["best_epoch"], trial.value
        rows.append(
            {"trial": trial.number, "state": STATES[trial.state], cfg.metric: value, "best_epoch": epoch}
            | {key: trial.params.get(key) for key in cfg.ranges()}
            | {"folder": trial.user_attrs.get("folder", "")}
        )
    return sorted(rows, key=partial(_rank, metric=cfg.metric, sign=-1 if cfg.direction == "maximize" else 1))


def _rank(row: Mapping[str, Any], metric: str, sign: int) -> tuple[int, float]:
    order = ["done", "pruned", "running", "waiting", "failed"]
    return order.index(row["state"]), sign * row[metric] if row[metric] is not None else math.inf


def write_table(study: optuna.Study, cfg: SearchConfig, path: Path) -> None:
    """The table as a CSV file, written atomically."""
    rows = table(study, cfg)
    with files.replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def best_command(study: optuna.Study, cfg: SearchConfig) -> str | None:
    """The script's command with the parameters of the best finished trial, ready for a shell; None without one."""
    rows = [row for row in table(study, cfg) if row["state"] == "done"]
    if not rows:
        return None
    chosen = {key: rows[0][key] for key in cfg.ranges()}
    return shlex.join(["python3", cfg.script, *cfg.overrides, *_overrides(chosen)])


def importances(study: optuna.Study, cfg: SearchConfig) -> dict[str, float]:
    """Share of each parameter in what separates good from bad trials (PED-ANOVA, Watanabe et al. 2023).

    Empty with less than two parameters or ten finished trials, where it would say nothing.
    """
    done = [trial for trial in _trials(study) if trial.state == TrialState.COMPLETE]
    if len(done) < 10 or len(cfg.ranges()) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(study, evaluator=evaluator)
