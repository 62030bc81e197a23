"""Whose a folder is: a run folder is known by its marker, and what is no run folder is never written into or emptied.

The marker `.surgrad` is sealed JSON: {"schema", "run_id", "config", "config_sha256", "data", "sealed"}. A folder of an
earlier version has none. It counts as a run folder if it holds config.yaml and a summary.json with "status", "run_id"
and "versions", or config.yaml, run.log and .lock; its files need no checksum until they are written again.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgrad.errors import UserError
from surgrad.runs import lock
from surgrad.runs.files import Damaged, read_json, write_json

NAME = ".surgrad"
SCHEMA = 1

#: Names of the parts of state.h5.
STATE_PART = re.compile(r"state\.(\d{6})\.h5")

#: What may be in a folder before its run begins: what locks, Hydra and launchers put there, and a marker half written.
_BEFORE = {*lock.NAMES, ".hydra", "wandb", f"{NAME}.tmp"}

#: What a run writes, or moves: none of it may be a link, which would lead to a place elsewhere.
_WRITTEN = {
    *(*lock.NAMES, NAME, ".hydra", ".old", "wandb", "Plots", "config.yaml", "metrics.csv", "summary.json", "state.h5"),
    *("checkpoint.pt", "checkpoint.prev.pt", "run.log", "traceback.txt"),
}


@dataclass(frozen=True)
class Marker:
    """What a run folder says of itself.

    Args:
        run_id: of its run.
        config: settings of its run.
        config_sha256: of its config.yaml.
        data: fingerprints of its data.
        sealed: whether everything in it was written with checksums.
    """

    run_id: str
    config: dict[str, Any]
    config_sha256: str
    data: dict[str, Any]
    sealed: bool = True

    def write(self, folder: Path) -> None:
        """Mark a folder."""
        write_json(folder / NAME, {"schema": SCHEMA} | vars(self), finite=False)


def read_marker(folder: Path) -> Marker | None:
    """The marker of a folder, None where there is none. Raises Damaged."""
    path = folder / NAME
    if not path.exists():
        return None
    content = read_json(path, sealed=True)
    if content.pop("schema", None) != SCHEMA:
        raise Damaged(path, f"its schema is not {SCHEMA}: another version wrote it")
    try:
        return Marker(**content)
    except TypeError as error:
        raise Damaged(path, str(error)) from error


def is_sealed(folder: Path) -> bool:
    """Whether all files of a run folder must have checksums."""
    try:
        found = read_marker(folder)
    except Damaged:
        return True
    return found is not None and found.sealed


def is_ours(folder: Path) -> bool:
    """Whether a folder is a run folder, whole or damaged."""
    if (folder / NAME).is_file():
        return True
    if not (folder / "config.yaml").is_file():
        return False
    with suppress(Damaged):
        return {"status", "run_id", "versions"} <= read_json(folder / "summary.json").keys()
    return (folder / "run.log").is_file() and (folder / ".lock").is_file()


def require_ours(folder: Path) -> None:
    """Raise UserError if a folder holds anything that no run has put there, or a link where a run would write."""
    entries = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    written = [name for name in entries if name in _WRITTEN or STATE_PART.fullmatch(name)]
    links = [name for name in written if (folder / name).is_symlink()]
    if links:
        raise UserError(f"{folder / links[0]} is a link: a run would write where it leads; remove it")
    foreign = [name for name in entries if name not in _BEFORE and not _is_log(name)]
    if foreign and not is_ours(folder):
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UserError(
            f"{folder} is no run folder, but holds {', '.join(foreign[:3])}{more}: nothing is written there; "
            "give another hydra.run.dir"
        )


def _is_log(name: str) -> bool:
    """Hydra's own log of a job, where it is asked for."""
    return name.endswith(".log") and name != "run.log"


def config_digest(path: Path) -> str:
    """SHA-256 of a config.yaml as it is. Raises Damaged if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise Damaged(path, str(error.strerror)) from error


def require_config(folder: Path, found: Marker) -> Mapping[str, Any]:
    """The configuration of a marked folder. Raises Damaged if config.yaml is not the one that was written."""
    path = folder / "config.yaml"
    if config_digest(path) != found.config_sha256:
        raise Damaged(path, "it is not what was written; `python3 -m surgrad.runs repair` puts it back")
    return found.config
