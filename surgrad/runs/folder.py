"""The run folder: the record of one run, written so that a killed run can go on and a finished one is not repeated.

    config.yaml     the configuration as checked, all defaults filled in, nothing left to interpolate
    .hydra/         as Hydra composed it (scripts only): config.yaml, overrides.yaml, hydra.yaml
    metrics.csv     one row per epoch            summary.json    status, final numbers, versions, times
    state.h5        recorded arrays (parts of it while the run goes on)
    checkpoint.pt   to go on from; checkpoint.prev.pt the one before
    Plots/*.png     figures                      run.log, traceback.txt, wandb/
    .surgrad        says that the folder is a run's, of which configuration and which data

All but logs and figures carry checksums and are held to them when read. Rows reach the disk before the checkpoint that
counts them, so that a power cut takes whole epochs only. Write a run folder with `open_run`, read many with
`load_runs`; in a terminal `python3 -m surgrad.runs list`.
"""

import dataclasses
import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from surgrad.errors import UserError
from surgrad.runs import checkpoint, environment, files, marker, states
from surgrad.runs.fingerprint import changed, fingerprints
from surgrad.runs.lock import NAMES, FolderLock
from surgrad.runs.metrics import MetricsTable
from surgrad.runs.record import NOT_IDENTITY, identity, read_config, run_id, shorter
from surgrad.runs.run import Run, one_line
from surgrad.runs.stopping import signals_as_exit
from surgrad.runs.wandb import WandbConfig, flatten, mirror

log = logging.getLogger(__name__)


#: What is computed again where a run folder holds something already.
RERUN = {
    "missing": "what is done is left alone, what is broken goes on from its checkpoint",
    "failed": "as missing, but what failed starts from the beginning",
    "all": "everything starts from the beginning",
}


class RunDone(UserError):
    """The folder holds the finished run of this very configuration."""

    def __init__(self, folder: Path, summary: dict[str, Any]) -> None:
        super().__init__(f"already done: {folder} (rerun=all starts afresh)")
        self.folder, self.summary = folder, summary


def check_rerun(rerun: str) -> None:
    """Raise UserError if `rerun` is not one of `RERUN`."""
    if rerun not in RERUN:
        raise UserError(f"rerun={rerun}: unknown; allowed: {', '.join(RERUN)}")


@contextmanager
def open_run(
    folder: str | Path, config: Any, wandb: WandbConfig | None = None, *, rerun: str = "missing"
) -> Iterator[Run]:
    """Open a run folder for writing, new or to go on with; the status is right whatever happens inside.

    `config` (mapping or dataclass) decides: an unfinished run of the same configuration is resumed, unless `rerun`
    (see `RERUN`) has it start again; what is there is then moved to `.old/` first. A run with more `nb_epochs` than a
    finished one, in the same folder or in one beside it whose name ends with its id, goes on from that one's
    checkpoint before the last. On SIGTERM the process ends with exit code 143, status interrupted.
    Raises RunDone if the run is done already; UserError if the folder cannot be written, if another process is writing
    it, or if it holds a run of another configuration.
    """
    check_rerun(rerun)
    folder = Path(folder).absolute()
    settings = files.plain(
        dataclasses.asdict(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else config
    )
    try:
        marker.require_ours(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): give another hydra.run.dir") from error
    with ExitStack() as stack:
        stack.callback(lock.release)
        run = _prepare(folder, settings, rerun)
        stack.enter_context(_log_file(folder / "run.log"))
        stack.enter_context(signals_as_exit())
        log.info("%s %s", "resuming in" if run.resuming else "run folder", folder)
        try:
            run._mirror = stack.enter_context(mirror(wandb, folder, settings, run.summary.get("wandb_id")))
            run.summary["wandb_id"] = run._mirror.id
            yield run
            run._close(None)
        except BaseException as error:
            run._close(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                _say_how_to_go_on(folder)
            raise


def _say_how_to_go_on(folder: Path) -> None:
    where = "goes on from its last checkpoint" if checkpoint.has_checkpoint(folder) else "starts it again"
    log.warning("stopped by a signal; the run is kept in %s: the same command %s", folder, where)


def _prepare(folder: Path, config: dict[str, Any], rerun: str) -> Run:
    """Decide between new, resumed and done, and leave the folder as a running run."""
    before = _summary_before(folder)
    afresh = rerun == "all" or (rerun == "failed" and before.get("status") == "failed")
    if afresh and marker.is_ours(folder):
        target = files.set_aside(folder, keep=lambda entry: entry.name in NAMES)
        log.info("rerun: what was here is now in %s", target)
        before = {}
    old = _marker_before(folder)
    data = fingerprints(_with_paths(config))
    begun = checkpoint.has_checkpoint(folder) or (folder / "metrics.csv").exists() or before.get("status") == "done"
    fewer = shorter(config)
    longer = begun and old is not None and old.run_id in fewer
    if begun:
        require_same(folder, config | {"nb_epochs": fewer[old.run_id]} if longer and old is not None else config)
    if before.get("status") == "done" and not longer and _is_complete(folder, before):
        raise RunDone(folder, before)
    resuming = checkpoint.has_checkpoint(folder)
    _clear(folder, resuming)
    sealed = old.sealed if old is not None else not (resuming and not (folder / marker.NAME).exists())
    _mark(folder, config, (old.data if old is not None and begun else {}) | data, sealed)
    if not resuming and rerun == "missing" and (taken := _take_over(folder, fewer, data)):
        before, resuming, longer = taken, True, True
    summary = (_kept(before, longer) if resuming else {}) | _attempt(before if resuming else {}, config)
    run = Run(folder, summary, resuming, sealed=sealed, shorter=fewer)
    run._write_summary()
    return run


def _kept(before: Mapping[str, Any], longer: bool) -> dict[str, Any]:
    """What a run that goes on keeps of its last attempt's summary; of a shorter run's, not what it ended with."""
    if not longer:
        return {k: v for k, v in before.items() if k not in ("error", "ended", "metrics")}
    rows = before.get("metrics", {}).get("rows") if before.get("status") == "done" else before.get("rows_of_shorter")
    kept = {k: v for k, v in before.items() if k in ("started", "attempts", "wall_seconds", "wandb_id")}
    return kept | {"rows_of_shorter": rows}


def _attempt(before: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """What the summary of a running run says of this attempt."""
    return {
        "status": "running",
        "started": before.get("started", environment.now()),
        "attempts": int(environment.number(before.get("attempts"))) + 1,
        "run_id": run_id(config),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "machine": environment.machine(),
    }


def _take_over(folder: Path, fewer: Mapping[str, int], data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Copy rows, arrays and checkpoints of the finished run beside this one that differs by fewer epochs only.

    Returns: its summary; None if there is none on the same data.
    """
    beside = {path.name.rpartition("-")[2]: path for path in folder.parent.iterdir() if path != folder}
    for name in sorted(beside.keys() & fewer.keys(), key=lambda name: -fewer[name]):
        with suppress(files.Damaged, OSError):
            found, summary = (
                marker.read_marker(beside[name]),
                files.read_json(beside[name] / "summary.json", sealed=True),
            )
            whole = found is not None and found.sealed and found.run_id == name and not changed(found.data, data)
            if not whole or summary.get("status") != "done" or not _is_complete(beside[name], summary):
                continue
            for part in (
                "state.h5",
                "metrics.csv",
                checkpoint.PREVIOUS,
                checkpoint.CURRENT,
            ):  # the last says that all are
                if (beside[name] / part).exists():
                    with files.replacing(folder / part) as temporary:
                        shutil.copyfile(beside[name] / part, temporary)
            if checkpoint.has_checkpoint(folder):
                log.info("going on from %s, the same run of %d epochs", beside[name], fewer[name])
                return summary | {"wandb_id": None, "attempts": 0, "wall_seconds": 0}
    return None


def _summary_before(folder: Path) -> dict[str, Any]:
    """summary.json of an earlier attempt; a damaged one is moved out of the way, and the run goes on without it."""
    path = folder / "summary.json"
    if not path.exists():
        return {}
    try:
        return files.read_json(path, sealed=marker.is_sealed(folder))
    except files.Damaged as error:
        target = files.set_aside(folder, keep=lambda entry: entry != path)
        log.warning("%s: it is now in %s, and the run is not taken for done", error, target)
        return {}


def _marker_before(folder: Path) -> marker.Marker | None:
    try:
        return marker.read_marker(folder)
    except files.Damaged as error:
        log.warning("%s: it is written again from config.yaml", error)
        return None


def _is_complete(folder: Path, summary: Mapping[str, Any]) -> bool:
    """Whether everything that a run which is done has recorded is still there."""
    facts = summary.get("metrics")
    reason = MetricsTable(folder / "metrics.csv").holds(facts) if isinstance(facts, Mapping) else ""
    try:
        states.require_states(folder, summary.get("states"))
    except files.Damaged as error:
        reason = reason or str(error)
    if reason:
        log.warning("%s is done, but %s: it goes on from a checkpoint that has everything", folder, reason)
    return not reason


def _clear(folder: Path, resuming: bool) -> None:
    """Remove what an earlier attempt has left half written, or what will be computed again."""
    leftovers = [f"{name}.tmp" for name in ("config.yaml", "metrics.csv", "summary.json", "checkpoint.pt")]
    leftovers += ["traceback.txt", f"{marker.NAME}.tmp", *(path.name for path in folder.glob("state.*h5.tmp"))]
    again = [] if resuming else ["metrics.csv", *(path.name for path in states.state_files(folder))]
    for name in leftovers + again:
        with files.writing(folder / name):
            (folder / name).unlink(missing_ok=True)


def _mark(folder: Path, config: dict[str, Any], data: dict[str, Any], sealed: bool) -> None:
    """Write configuration and marker, unless they are there; the marker first, so that the folder is known as ours."""
    path, text = folder / "config.yaml", files.to_yaml(config)
    digest = hashlib.sha256(text.encode()).hexdigest()
    found = marker.Marker(run_id(config), config, digest, data, sealed)
    with suppress(files.Damaged):
        if marker.read_marker(folder) == found and marker.config_digest(path) == digest:
            return
    found.write(folder)
    files.write_text(path, text)


def require_same(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError naming what makes the run that a folder holds another one than that of `config` and its data."""
    old = _marker_before(folder)
    if old is None and not (folder / "config.yaml").exists():
        if marker.is_ours(folder):
            raise UserError(f"{folder} has lost its configuration: rerun=all starts afresh there")
        return
    there, new = identity(old.config if old is not None else read_config(folder)), identity(config)
    absent = "absent"
    different = [k for k in sorted(there.keys() | new.keys()) if there.get(k, absent) != new.get(k, absent)]
    if different:
        shown = ", ".join(f"{k} ({there.get(k, absent)} there, {new.get(k, absent)} here)" for k in different[:5])
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        raise UserError(
            f"{folder} holds a run with another configuration: {shown}{more}; give another hydra.run.dir, "
            "or rerun=all to start afresh there"
        )
    if old is not None and (others := changed(old.data, fingerprints(_with_paths(config)))):
        raise UserError(
            f"{folder} holds a run on other data: the file of {', '.join(others)} is not the one of then (SHA-256 in "
            f"{folder / marker.NAME}); give another hydra.run.dir, or rerun=all to start afresh there"
        )


def _with_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flattened configuration, paths as they are; without what says where a run is shown or logged."""
    return {k: v for k, v in flatten(config).items() if k.split(".")[0] not in NOT_IDENTITY}


# ---------------------------------------------------------------- what surrounds a run
class _RunLog(logging.FileHandler):
    """Says nothing of its own failures: what fills the disk is said by what must be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Log lines also go into the run folder."""
    with files.writing(path):
        handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except BaseException as error:
        handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, "stopped: %s", (one_line(error),), None))
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
