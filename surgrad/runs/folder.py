"""The run folder: the record of one run, written so that a killed run can go on and a finished one is not repeated.

    config.yaml     the configuration as checked, all defaults filled in, nothing left to interpolate
    .hydra/         as Hydra composed it (scripts only): config.yaml, overrides.yaml, hydra.yaml
    metrics.csv     one row per epoch            summary.json    status, final numbers, versions, times
    state.h5        recorded arrays              checkpoint.pt   to go on from; checkpoint.prev.pt the one before
    Plots/*.png     figures                      run.log, traceback.txt, wandb/

Write one with `open_run`, read many with `load_runs`; in a terminal `python3 -m surgrad.runs list`.
"""

import dataclasses
import logging
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from surgrad.errors import UserError
from surgrad.runs import files
from surgrad.runs.environment import _git_commit, _now, _peak_memory, _versions, sigterm_as_exit
from surgrad.runs.record import _read_yaml, identity, run_id
from surgrad.runs.wandb import Mirror, NoMirror, WandbConfig, mirror

log = logging.getLogger(__name__)


#: What is computed again where a run folder holds something already.
RERUN = {
    "missing": "what is done is left alone, what is broken goes on from its checkpoint",
    "failed": "as missing, but what failed starts from the beginning",
    "all": "everything starts from the beginning",
}

_STATE_BUFFER = 64 * 2**20  # bytes of recorded arrays held back, so that one epoch's arrays are one write


class RunDone(UserError):
    """The folder holds the finished run of this very configuration."""

    def __init__(self, folder: Path, summary: dict[str, Any]) -> None:
        super().__init__(f"already done: {folder} (rerun=all starts afresh)")
        self.folder, self.summary = folder, summary


def check_rerun(rerun: str) -> None:
    """Raise UserError if `rerun` is not one of `RERUN`."""
    if rerun not in RERUN:
        raise UserError(f"rerun={rerun}: unknown; allowed: {', '.join(RERUN)}")


# ---------------------------------------------------------------- a run being written
class Run:
    """An open run folder. Obtained from `open_run`."""

    def __init__(self, folder: Path, summary: dict[str, Any], resuming: bool) -> None:
        self.folder = folder
        self.resuming = resuming  # an earlier attempt left a checkpoint: load_checkpoint() gives it
        self.summary = summary  # final numbers go here; written at each checkpoint and at the end
        self._metrics = files.MetricsTable(folder / "metrics.csv")
        self._pending: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}
        self._mirror: Mirror = NoMirror()
        self._seconds_before = float(summary.get("wall_seconds") or 0.0)
        self._opened = time.monotonic()
        self._checkpoint_verified = False
        self._closed = False

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a row {"epoch": …, "train_loss": …} to metrics.csv; an epoch logged twice in a row is one row."""
        self._metrics.add(row)
        self._mirror.log(row)

    def rewind(self, epoch: int | None) -> None:
        """Drop the rows of metrics.csv after `epoch`, all of them for None: what a resumed run computes again."""
        dropped = self._metrics.rewind(epoch)
        if dropped:
            log.info("dropped %d rows of metrics.csv after epoch %s", dropped, epoch)

    def figure(self, name: str, figure: Any) -> Path:
        """Save a matplotlib figure as Plots/<name>.png, mirror it, close it."""
        import matplotlib.pyplot as plt  # only here: readers of run folders may do without

        path = self.folder / "Plots" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary:
            figure.savefig(temporary, format="png")
        plt.close(figure)
        epoch = self._metrics.rows[-1].get("epoch") if self._metrics.rows else None
        self._mirror.image(name, path, int(float(epoch)) if epoch else None)
        return path

    def state(self, name: str, array: Any, units: str | None = None, **attributes: Any) -> None:
        """Record an array in state.h5 under `name` ("epoch_10/spikes-hid_0"); one of the same name is replaced.

        uint8 and bool arrays are chunked and compressed. Written at the next checkpoint, flush or the end, all
        at once: a killed run loses only what it will compute again.
        """
        if isinstance(array, torch.Tensor):
            array = array.detach().cpu().numpy()
        self._pending[name] = (np.array(array), {"units": units, **attributes})
        if sum(held.nbytes for held, _ in self._pending.values()) > _STATE_BUFFER:
            self._write_states()

    def checkpoint(self, content: Mapping[str, Any]) -> None:
        """Write checkpoint.pt (tensors, numbers, strings, lists and dicts only); the one before is kept.

        Raises TypeError if the content could not be loaded again with weights_only=True.
        """
        self.flush()  # first: nothing recorded before this checkpoint would be computed again
        files.save_checkpoint(self.folder, content, verify=not self._checkpoint_verified)
        self._checkpoint_verified = True

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, on the CPU; the one before if it is damaged; None if there is none to go on from."""
        content = files.load_checkpoint(self.folder)
        if content is None and self.resuming:
            log.warning("no readable checkpoint in %s: starting from the beginning", self.folder)
            self.resuming = False
            self.rewind(None)
        return content

    def flush(self) -> None:
        """Bring state.h5 and summary.json up to date."""
        self._write_states()
        self._write_summary()

    def _write_states(self) -> None:
        if self._pending:
            files.write_states(self.folder / "state.h5", self._pending)
            self._pending = {}

    def _write_summary(self) -> None:
        self.summary["wall_seconds"] = round(self._seconds_before + time.monotonic() - self._opened, 3)
        self.summary |= _peak_memory(self.summary)
        files.write_json(self.folder / "summary.json", self.summary)

    def _close(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        if error is None:
            status = "done"
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            status = "interrupted"
        else:
            status = "failed"
            self.summary["error"] = _one_line(error)
            files.write_text(self.folder / "traceback.txt", "".join(traceback.format_exception(error)))
        self.summary |= {"status": status, "ended": _now()}
        if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit | UserError):
            self._pending = {}  # what failed may be the writing of these arrays
        self.flush()
        self._mirror.summary(files.plain(self.summary))


@contextmanager
def open_run(
    folder: str | Path, config: Any, wandb: WandbConfig | None = None, *, rerun: str = "missing"
) -> Iterator[Run]:
    """Open a run folder for writing, new or to go on with; the status is right whatever happens inside.

    `config` (mapping or dataclass) decides: an unfinished run of the same configuration is resumed, unless `rerun`
    (see `RERUN`) has it start again; what is there is then moved to `.old/` first. On SIGTERM the process ends with
    exit code 143, status interrupted.
    Raises RunDone if the run is done already; UserError if the folder cannot be written, if another process is writing
    it, or if it holds a run of another configuration.
    """
    check_rerun(rerun)
    folder = Path(folder).absolute()
    settings = files.plain(dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = files.FolderLock(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): give another hydra.run.dir") from error
    with ExitStack() as stack:
        stack.callback(lock.release)
        run = _prepare(folder, settings, rerun)
        stack.enter_context(_log_file(folder / "run.log"))
        stack.enter_context(sigterm_as_exit())
        log.info("%s %s", "resuming in" if run.resuming else "run folder", folder)
        try:
            run._mirror = stack.enter_context(mirror(wandb, folder, settings, run.summary.get("wandb_id")))
            run.summary["wandb_id"] = run._mirror.id
            yield run
        except BaseException as error:
            run._close(error)
            raise
        run._close(None)


def _prepare(folder: Path, config: dict[str, Any], rerun: str) -> Run:
    """Decide between new, resumed and done, and leave the folder as a running run."""
    before = files.read_json(folder / "summary.json")
    afresh = rerun == "all" or (rerun == "failed" and before.get("status") == "failed")
    if afresh and (folder / "summary.json").exists():
        target = files.set_aside(folder, keep=lambda entry: entry.name == ".lock")
        log.info("rerun: what was here is now in %s", target)
        before = {}
    begun = files.has_checkpoint(folder) or (folder / "metrics.csv").exists() or before.get("status") == "done"
    if begun:
        require_same(folder, config)
    if before.get("status") == "done":
        raise RunDone(folder, before)
    resuming = files.has_checkpoint(folder)
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()
    for name in ("traceback.txt",) if resuming else ("traceback.txt", "metrics.csv", "state.h5"):
        (folder / name).unlink(missing_ok=True)
    files.write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    kept = {k: v for k, v in before.items() if k not in ("error", "ended")} if resuming else {}
    summary = kept | {
        "status": "running",
        "started": kept.get("started", _now()),
        "attempts": int(kept.get("attempts") or 0) + 1,
        "run_id": run_id(config),
        "versions": _versions(),
        "git_commit": _git_commit(),
    }
    run = Run(folder, summary, resuming)
    run._write_summary()
    return run


def require_same(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError naming the keys in which a run folder holds another run than that of `config`."""
    if not (folder / "config.yaml").exists():
        return
    old, new = identity(_read_yaml(folder / "config.yaml")), identity(config)
    absent = "absent"
    different = [k for k in sorted(old.keys() | new.keys()) if old.get(k, absent) != new.get(k, absent)]
    if different:
        shown = ", ".join(f"{k} ({old.get(k, absent)} there, {new.get(k, absent)} here)" for k in different[:5])
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        raise UserError(
            f"{folder} holds a run with another configuration: {shown}{more}; give another hydra.run.dir, "
            "or rerun=all to start afresh there"
        )


# ---------------------------------------------------------------- what surrounds a run
@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Log lines also go into the run folder."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except BaseException as error:
        handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, "stopped: %s", (_one_line(error),), None))
        raise
    finally:
        root.removeHandler(handler)
        handler.close()


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    from surgrad.runs.__main__ import main

    main()
