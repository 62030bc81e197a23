"""What of a run folder is damaged, and what of it can be saved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surgrad.errors import UserError
from surgrad.runs import checkpoint, files, marker, states
from surgrad.runs.files import Damaged
from surgrad.runs.lock import FolderLock
from surgrad.runs.metrics import MetricsTable
from surgrad.runs.record import RunRecord, read_config, run_id


def damages(folder: Path) -> list[Damaged]:
    """Everything in a run folder that is not what was written, checkpoints and arrays included."""
    found: dict[Path, Damaged] = {}
    record = RunRecord(folder)

    def checkpoints() -> None:
        for name in (checkpoint.CURRENT, checkpoint.PREVIOUS):
            if (folder / name).exists():
                try:
                    checkpoint.read_checkpoint(folder / name, sealed=marker.is_sealed(folder))
                except Damaged as error:
                    found[error.path] = error

    def rows() -> None:
        facts = record.summary.get("metrics")
        reason = MetricsTable(folder / "metrics.csv").holds(facts) if isinstance(facts, dict) else ""
        if reason:
            raise Damaged(folder / "metrics.csv", reason)

    def arrays() -> None:
        states.require_states(folder, record.summary.get("states"))

    looks = (
        lambda: marker.read_marker(folder),
        lambda: record.config,
        lambda: record.metrics,
        lambda: record.summary,
        rows,
        arrays,
        checkpoints,
    )
    for look in looks:
        try:
            look()
        except Damaged as error:
            found.setdefault(error.path, error)
    return list(found.values())


def repair(folder: Path) -> Iterator[str]:
    """Make a damaged run one that its command goes on with; says what was done, nothing for a run that is whole.

    What is damaged is moved to .old/. config.yaml and the marker hold each other's content; where the marker is lost,
    so is the identity of the data. A run that has lost results starts again from the newest checkpoint whose rows and
    arrays are all there, the next time that its command is given.
    Raises: UserError if somebody is writing it.
    """
    broken = damages(folder)
    if not broken:
        return
    lock = FolderLock(folder)
    try:
        names = {error.path.name for error in broken}
        existing = [name for name in names if (folder / name).exists()]
        known = _known_config(folder)
        target = files.set_aside(folder, keep=lambda entry: entry.name not in existing)
        for error in broken:
            yield f"{error.path.name}: {error.why}"
        if existing:
            yield f"moved {', '.join(sorted(existing))} to {target.relative_to(folder)}"
        if known is None:
            yield "its configuration is lost: rerun=all starts afresh there"
            return
        if names & {"config.yaml", marker.NAME}:
            yield _restore_config(folder, known)
        if checkpoint.has_checkpoint(folder) and not (folder / checkpoint.CURRENT).exists():
            (folder / checkpoint.PREVIOUS).replace(folder / checkpoint.CURRENT)
            yield "the checkpoint before takes the place of the last"
        yield _reopen(folder, known)
    finally:
        lock.release()


def _known_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any], bool] | None:
    """Configuration, fingerprints of the data, and whether all is sealed; None if they are lost."""
    try:
        found = marker.read_marker(folder)
        if found is not None:
            return found.config, found.data, found.sealed
        return read_config(folder), {}, False
    except Damaged:
        pass
    try:
        return read_config(folder), {}, True
    except UserError:
        return None


def _restore_config(folder: Path, known: tuple[dict[str, Any], dict[str, Any], bool]) -> str:
    config, data, sealed = known
    path = folder / "config.yaml"
    files.write_text(path, files.to_yaml(config))
    marker.Marker(run_id(config), config, marker.config_digest(path), data, sealed).write(folder)
    return "configuration and marker are written again from each other"


def _reopen(folder: Path, known: tuple[dict[str, Any], dict[str, Any], bool]) -> str:
    """Leave a summary that does not say done where results are missing."""
    record = RunRecord(folder)
    path = folder / "summary.json"
    summary = dict(record.summary) if path.exists() else {}
    if summary and not damages(folder):
        return f"it is {record.status}"
    kept = {k: v for k, v in summary.items() if k not in ("ended", "error", "metrics")}
    kept |= {"status": "interrupted", "run_id": run_id(known[0]), "versions": kept.get("versions", {})}
    files.write_json(path, kept)
    return "it is interrupted: its command goes on from the newest checkpoint that has everything"
