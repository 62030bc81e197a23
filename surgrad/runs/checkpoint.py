"""checkpoint.pt and the one before: sealed, loaded with weights_only, used only if all that they count is there."""

import logging
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from surgrad.errors import UserError
from surgrad.runs.files import Damaged, is_sealed, read_sealed, replacing, seal, sync_folder

log = logging.getLogger(__name__)

SCHEMA = 1
CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.prev.pt"

#: Says why the facts sealed with a checkpoint do not fit the folder; empty if it does.
Fits = Callable[[dict[str, Any], dict[str, Any]], str]


def save_checkpoint(
    folder: Path, content: Mapping[str, Any], facts: Mapping[str, Any], *, verify: bool, sync_names: bool = True
) -> None:
    """Write checkpoint.pt atomically and keep the one before as checkpoint.prev.pt.

    `facts` (run id, rows, …) are sealed with it. Without `sync_names` a power cut may give back the one before.
    Raises UserError if it could not be written; with `verify` TypeError if it could not be loaded again with
    weights_only=True.
    """
    current, previous = folder / CURRENT, folder / PREVIOUS
    with replacing(current, sync=False) as temporary:
        torch.save(dict(content), temporary)
        if verify:
            try:
                torch.load(temporary, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise TypeError(
                    "a checkpoint holds tensors, numbers, strings, lists and dicts only (no NumPy values, no "
                    f"objects): {str(error).splitlines()[0]}"
                ) from error
        seal(temporary, {"kind": "checkpoint", "schema": SCHEMA} | dict(facts))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if current.exists():
            os.replace(current, previous)
    if sync_names:
        sync_folder(folder)


def load_checkpoint(
    folder: Path, *, sealed: bool = False, fits: Fits = lambda content, facts: ""
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Content, on the CPU, and facts of the newest checkpoint that is whole and `fits` its folder; None without one.

    What is passed over is logged, with the reason. A checkpoint of an earlier version, which has no checksum of its
    own, is held to those of the ZIP format and logged, unless `sealed`.
    """
    for path in (folder / CURRENT, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            content, facts = read_checkpoint(path, sealed=sealed)
            if reason := fits(content, facts):
                log.warning("%s is not used (%s): falling back", path, reason)
                continue
        except Damaged as error:
            log.warning("%s: falling back", error)
            continue
        if not facts:
            log.info("%s is of an earlier version, without a checksum of its own", path)
        if path.name != CURRENT:
            log.warning("continuing from the previous checkpoint %s", path)
        return content, facts
    return None


def read_checkpoint(path: Path, *, sealed: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Content and facts of one checkpoint file. Raises Damaged."""
    source: Any
    facts: dict[str, Any] = {}
    if sealed or is_sealed(path):
        source, facts = read_sealed(path)
        if facts.get("schema") != SCHEMA:
            raise Damaged(path, f"schema {facts.get('schema')} of another version, not {SCHEMA}")
    else:
        source = path
        _check_zip(path)
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # of a file that is whole, but holds what no checkpoint may hold
        raise Damaged(path, (str(error).splitlines() or [type(error).__name__])[0][:120]) from error
    if not isinstance(content, dict):
        raise Damaged(path, f"it holds {type(content).__name__}, not a dict")
    return content, facts


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # zipfile says very different things of a damaged directory
        raise Damaged(path, f"no ZIP file: {' '.join(str(error).split())[:80]}") from error
    if bad is not None:
        raise Damaged(path, f"wrong checksum of {bad}")


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint, readable or not, is there."""
    return any((folder / name).exists() for name in (CURRENT, PREVIOUS))


def refuse_unfit(folder: Path, error: Exception) -> UserError:
    """What is said where a whole checkpoint does not fit the code that reads it: other keys, other shapes."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"the checkpoint in {folder} does not fit this program ({type(error).__name__}: {reason}): "
        "take the version that wrote it (summary.json: git_commit), or rerun=all to start afresh there"
    )
