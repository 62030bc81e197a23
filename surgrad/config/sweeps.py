"""What `-m` does: which jobs of a sweep are run, what a dead worker costs, and what came of all of them."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from surgrad.config.check import check_settings
from surgrad.config.entry import JobFailed, preflight
from surgrad.config.explain import CONFIG_ERRORS, explain
from surgrad.config.names import run_of
from surgrad.errors import UserError
from surgrad.runs.folder import require_same
from surgrad.runs.record import RunRecord, run_id
from surgrad.runs.stopping import signals_as_exit
from surgrad.runs.tables import sweep_table

log = logging.getLogger(__name__)

NOT_BEGUN = "not begun"

#: Has the launcher run these lists of overrides, numbered from `initial_job_idx`.
Launch = Callable[..., Any]


@dataclass
class Job:
    """One run of a sweep: the overrides that make it, its run folder, what of it is to be computed again."""

    overrides: list[str]
    folder: Path
    rerun: str
    name: str = ""  # the override that names its folder; empty where the command line does
    launched_at: int | None = None  # the stamp of its folder then, 0 for none

    @property
    def stamp(self) -> int:
        """Changes whenever the run's summary is written, as the first thing that a run does."""
        try:
            return (self.folder / "summary.json").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    @property
    def begun(self) -> bool:
        """Whether it has written anything since it was launched."""
        return self.launched_at is not None and self.stamp != self.launched_at

    @property
    def record(self) -> RunRecord:
        """What its folder holds now."""
        return RunRecord(self.folder)

    @property
    def status(self) -> str:
        """That of its record; a run to be done again that has not begun does not count as the one before it."""
        waits = self.launched_at is not None and not self.begun and self.rerun == "all"
        return NOT_BEGUN if not self.stamp or waits else self.record.status


def plan(products: Iterable[tuple[Sequence[str], DictConfig]], schema: type) -> list[Job]:
    """The jobs that composed configurations stand for. Raises UserError for a mistake in any of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # its processes would each decide what is left to do
        raise UserError("torchrun starts the processes of one run: start it once for each run, without -m")
    jobs: dict[Path, Job] = {}
    for overrides, config in products:
        try:
            job = _planned(list(overrides), config, schema)
        except (UserError, *CONFIG_ERRORS) as error:
            raise UserError(f"{explain(error)} (in the job {' '.join(overrides)})") from error
        other = jobs.setdefault(job.folder, job)
        if other is not job:
            raise UserError(
                f"{' '.join(other.overrides)} and {' '.join(overrides)} would share the run folder {job.folder}: "
                "they are the same run, or hydra.sweep.subdir does not tell them apart"
            )
    return list(jobs.values())


def _planned(overrides: list[str], config: DictConfig, schema: type) -> Job:
    global_config: Any = HydraConfig.instance()  # its set_config would copy
    before, global_config.cfg = global_config.cfg, config
    try:
        cfg, settings = check_settings(config, schema)
        preflight(cfg)
        whole = OmegaConf.get_type(config) is schema  # else the id is of a configuration without defaults
        with run_of(run_id(settings) if whole else ""):
            name = str(config.hydra.sweep.subdir)
            folder = Path(config.hydra.sweep.dir, name).absolute()
    finally:
        global_config.cfg = before
    rerun = getattr(cfg, "rerun", "missing")
    own = any(override.lstrip("+").startswith("hydra.sweep.subdir=") for override in overrides)
    job = Job(overrides, folder, rerun, "" if own else f"hydra.sweep.subdir='{name}'")
    if job.stamp and rerun != "all":
        require_same(folder, settings)
    return job


def run(jobs: Sequence[Job], launch: Launch, batch_size: int | None) -> None:
    """Have the jobs that are not done run, in batches; say what came of all. Raises JobFailed if not all are done."""
    todo = [job for job in jobs if job.rerun == "all" or job.status != "done"]
    log.info("%d runs, %d of them done already", len(jobs), len(jobs) - len(todo))
    todo.sort(key=lambda job: job.status == "running")  # by another process, which may be through by then
    size = batch_size or max(1, len(todo))
    try:
        with signals_as_exit():
            for first in range(0, len(todo), size):
                _run_batch(todo[first : first + size], launch, first)
    finally:
        log.info("%s", sweep_table([(job.overrides, job.status, job.record) for job in jobs]))
    if any(job.status != "done" for job in jobs):
        raise JobFailed


def _run_batch(jobs: Sequence[Job], launch: Launch, first: int) -> None:
    """Have jobs run, whatever becomes of one of them.

    A dead worker takes the others of a pool along. The jobs that had not begun then get a new pool; those that were
    under way, the guilty one among them, go on one by one when the others are through.
    """
    waiting, hit = list(jobs), []
    while waiting and _launch(waiting, launch, first):
        begun = [job for job in waiting if job.begun]
        hit += [job for job in begun if job.status == "interrupted"]
        waiting = [job for job in waiting if not job.begun] if begun else []
    for job in hit:
        _launch([job], launch, first)


def _launch(jobs: Sequence[Job], launch: Launch, first: int) -> bool:
    """Launch jobs and wait for them; return whether a pool of workers broke.

    Other launchers give up on a job whose worker died, while those beside it go on: they are waited for.
    """
    for job in jobs:
        job.launched_at = job.stamp
    try:
        launch([[*job.overrides, *filter(None, [job.name])] for job in jobs], initial_job_idx=first)
    except Exception as error:
        causes = [f"{type(e).__name__}: {e}" for e in (error, error.__cause__) if e]
        log.error("the launcher stopped: %s", "; ".join(causes))
        while any(job.begun and job.status == "running" for job in jobs):
            time.sleep(1)
        return isinstance(error, BrokenExecutor)
    return False
