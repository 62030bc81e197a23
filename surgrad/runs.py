"""The run folder: the record of one run, written so that a killed run can go on and a finished one is not repeated.

    config.yaml     the configuration as checked, all defaults filled in, nothing left to interpolate
    .hydra/         as Hydra composed it (scripts only): config.yaml, overrides.yaml, hydra.yaml
    metrics.csv     one row per epoch            summary.json    status, final numbers, versions, times
    state.h5        recorded arrays              checkpoint.pt   to go on from; checkpoint.prev.pt the one before
    Plots/*.png     figures                      run.log, traceback.txt, wandb/

Write one with `open_run`, read many with `load_runs`; in a terminal `python3 -m surgrad.runs list`.
"""

import dataclasses
import glob
import hashlib
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from surgrad import run_files as files
from surgrad.errors import UserError
from surgrad.run_wandb import Mirror, NoMirror, WandbConfig, flatten, mirror

log = logging.getLogger(__name__)

REPO = Path(__file__).resolve().parents[1]

#: Top-level keys that say where and how a run is computed, shown or logged, not what it computes.
NOT_IDENTITY = frozenset(
    {"wandb", "using_wandb", "plotting", "plot", "device", "num_threads", "kernel", "memory", "logging", "logging_freq"}
    | {"data_dir", "rerun", "hydra"}
)

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


# ---------------------------------------------------------------- which run is this
def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that makes a run the run it is, flattened, paths relative to the repository."""
    what = {k: v for k, v in flatten(files.plain(config)).items() if k.split(".")[0] not in NOT_IDENTITY}
    return {k: v.replace(f"{REPO}/", "") if isinstance(v, str) else v for k, v in what.items()}


def run_id(config: Mapping[str, Any]) -> str:
    """Eight hex digits that change with any key of `identity(config)`; a changed run gets another folder."""
    canonical = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


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


# ---------------------------------------------------------------- runs being read
@dataclasses.dataclass(frozen=True, eq=False)
class RunRecord:
    """A run folder, read only. Files are read when asked for, once."""

    folder: Path

    @property
    def name(self) -> str:
        """The path below the last folder called Runs."""
        parts = self.folder.parts
        below = parts[len(parts) - parts[::-1].index("Runs") :] if "Runs" in parts else parts[-1:]
        return "/".join(below)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The nested configuration, interpolations resolved."""
        return _read_yaml(self.folder / "config.yaml")

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the configuration by its dotted key, e.g. "method.name"."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """Columns of metrics.csv; nan where a row has no value."""
        return files.read_metrics(self.folder / "metrics.csv")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        return files.read_json(self.folder / "summary.json")

    @property
    def status(self) -> str:
        """done, failed, interrupted, or running; a run whose process died is interrupted."""
        status = self.summary.get("status", "interrupted")
        return "interrupted" if status == "running" and not files.is_locked(self.folder) else status

    @property
    def reason(self) -> str:
        """Why it is neither done nor running, in one line."""
        if self.status == "failed":
            return str(self.summary.get("error", ""))
        if self.status == "interrupted" and self.summary.get("status") == "interrupted":
            return "stopped by a signal"
        if self.status == "interrupted":
            return "its process died without a word (kill -9, out of memory, power)"
        return ""

    @cached_property
    def overrides(self) -> list[str]:
        """The overrides of the command line that started it; none if it was not started by a script."""
        path = self.folder / ".hydra" / "overrides.yaml"
        return list(OmegaConf.load(path)) if path.exists() else []

    @property
    def states(self) -> list[str]:
        """Names of the recorded arrays."""
        return files.state_names(self.folder / "state.h5")

    def state(self, name: str) -> np.ndarray:
        """A recorded array. Raises KeyError naming those there are."""
        return files.read_state(self.folder / "state.h5", name)[0]

    def attributes(self, name: str) -> dict[str, Any]:
        """Attributes (units, …) of a recorded array."""
        return files.read_state(self.folder / "state.h5", name)[1]

    def checkpoint(self) -> dict[str, Any] | None:
        """The last readable checkpoint, on the CPU."""
        return files.load_checkpoint(self.folder)


def load_runs(where: str | Path | Iterable[str | Path]) -> list[RunRecord]:
    """All run folders at or below what `where` names: a folder, a glob ("Classification/Runs/**"), or a list of them.

    Folders that are no run folder are passed over, and so are hidden ones. Raises FileNotFoundError if no run is found.
    """
    patterns = [where] if isinstance(where, str | Path) else list(where)
    found: set[Path] = set()
    for pattern in map(str, patterns):
        matches = glob.glob(pattern, recursive=True) if glob.has_magic(pattern) else [pattern]
        if not glob.has_magic(pattern) and not _is_run(Path(pattern)):
            matches = glob.glob(f"{glob.escape(pattern)}/**/", recursive=True)
        if not matches and os.path.isdir(pattern):  # a folder such as `seed=1[a]` reads as a glob
            matches = [pattern]
        found |= {Path(match).resolve() for match in matches if _is_run(Path(match))}
    if not found:
        raise FileNotFoundError(
            f"no run folder matches {', '.join(map(str, patterns)) or 'an empty list'} (from {Path.cwd()}): "
            "a run folder holds config.yaml and summary.json"
        )
    return [RunRecord(folder) for folder in sorted(found)]


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "summary.json").is_file()


def _read_yaml(path: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return {str(k): v for k, v in content.items()} if isinstance(content, dict) else {}


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


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """SIGTERM raises SystemExit(143), so that files are closed and the status is written; a second is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _peak_memory(before: Mapping[str, Any]) -> dict[str, float]:
    """Largest memory seen over all attempts, MiB."""
    now: dict[str, float] = {}
    try:
        import resource  # absent on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        now["peak_memory_mib"] = peak / 2**20 if sys.platform == "darwin" else peak / 2**10
    except ImportError:
        pass
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        now["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return {name: round(max(value, float(before.get(name) or 0.0)), 1) for name, value in now.items()}


def _versions() -> dict[str, str]:
    names = ("surgrad", "torch", "numpy", "h5py", "hydra-core", "wandb")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    return versions


def _git_commit() -> str | None:
    """Commit of the library's checkout, "-dirty" if tracked files differ from it; None outside a checkout."""
    if shutil.which("git") is None or not (REPO / ".git").exists():
        return None
    command = ["git", "-C", str(REPO), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    from surgrad.run_tools import main

    main()
