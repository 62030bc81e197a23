"""The files of a run folder, each written so that a kill at any moment leaves a readable file."""

import csv
import json
import logging
import math
import os
import pickle
import socket
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from surgrad.errors import UserError

try:
    import fcntl
except ImportError:  # no POSIX locks on this platform: runs work, a second process is not noticed
    fcntl = None

log = logging.getLogger(__name__)


# ---------------------------------------------------------------- atomic writing
@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; once the block has written it, it takes the place of `path`."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- summary.json
def plain(value: Any, *, finite: bool = False) -> Any:
    """Reduce a value to dicts, lists, numbers and strings; with `finite`, nan and inf become None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v, finite=finite) for k, v in value.items()}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple | set):
        return [plain(v, finite=finite) for v in value]
    if finite and isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as strict JSON (nan and inf as null), atomically."""
    write_text(path, json.dumps(plain(value, finite=True), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing or damaged file reads as empty."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


# ---------------------------------------------------------------- metrics.csv
_SYNC_SECONDS = 1.0


class MetricsTable:
    """metrics.csv: one row per epoch. A new row is appended; a new column rewrites the file.

    A row is with the operating system when `add` returns, so that a killed process loses none. It is synced to the
    disk at most once a second: a sync costs milliseconds, as much as an epoch of a small network.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns, self.rows = _read_rows(path)
        self._torn = path.exists() and not path.read_bytes().endswith(b"\n")
        self._synced = time.monotonic()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; a row with the epoch of the last one is merged into it."""
        cells = {name: _cell(name, value) for name, value in row.items()}
        if self.rows and "epoch" in cells and self.rows[-1].get("epoch") == cells["epoch"]:
            self.rows[-1] |= cells
            rewrite = True
        else:
            self.rows.append(cells)
            rewrite = self._torn or not self.path.exists()
        new = [name for name in cells if name not in self.columns]
        self.columns += new
        if rewrite or new:
            self._rewrite()
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([cells.get(name, "") for name in self.columns])
            file.flush()
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(file.fileno())
                self._synced = time.monotonic()

    def rewind(self, epoch: float | None) -> int:
        """Drop the rows after `epoch` (all of them for None); return how many were dropped."""
        keep = [row for row in self.rows if epoch is not None and float(row.get("epoch") or "-inf") <= epoch]
        dropped = len(self.rows) - len(keep)
        if dropped:
            self.rows = keep
            self._rewrite()
        return dropped

    def _rewrite(self) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        self._torn = False


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """Read metrics.csv as one array per column; empty cells are nan, whole columns of integers int64."""
    columns, rows = _read_rows(path)
    return {name: _column([row.get(name, "") for row in rows]) for name in columns}


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.exists():
        return [], []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]  # a line without its end was cut by a kill: not a row
    reader = csv.DictReader(whole.splitlines(), restval="")
    columns = list(reader.fieldnames or [])
    return columns, [{k: v for k, v in row.items() if k is not None} for row in reader]


def _cell(name: str, value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    if value is None:
        return ""
    if isinstance(value, bool | int | float | str):
        return str(value)
    raise TypeError(f"metrics column {name!r} takes a number or a string, not {type(value).__name__}")


def _column(cells: list[str]) -> np.ndarray:
    for dtype, read in ((np.int64, int), (np.float64, lambda cell: float(cell) if cell else math.nan)):
        try:
            return np.array([read(cell) for cell in cells], dtype=dtype)
        except ValueError:
            continue
    return np.array(cells, dtype=object)


# ---------------------------------------------------------------- state.h5
def write_states(path: Path, states: Mapping[str, tuple[np.ndarray, dict[str, Any]]]) -> None:
    """Put data sets (array, attributes) into an HDF5 file, atomically.

    Everything goes into a new file that takes the old one's place: appending to an HDF5 file in place can
    lose all of it when the process is killed meanwhile. Data sets of the same name are replaced.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as new:
        if path.exists():
            with h5py.File(path, "r") as old:
                for name in _dataset_names(old):
                    if name not in states:
                        old.copy(old[name], new.require_group(Path("/" + name).parent.as_posix()), Path(name).name)
        for name, (array, attributes) in states.items():
            packed = {}
            if array.dtype in (np.uint8, np.bool_) and array.size:
                packed = {"chunks": True, "compression": "gzip", "compression_opts": 1}
            dataset = new.create_dataset(name, data=array, **packed)
            dataset.attrs.update({k: v for k, v in attributes.items() if v is not None})


def read_state(path: Path, name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one data set and its attributes.

    Raises KeyError naming the data sets there are.
    """
    names = state_names(path)
    if name not in names:
        raise KeyError(f"{path} holds no {name!r}; it holds: {', '.join(names) or 'nothing'}")
    with h5py.File(path, "r") as file:
        return file[name][()], dict(file[name].attrs)


def state_names(path: Path) -> list[str]:
    """Names of the data sets of a state file, sorted; none if there is no file."""
    if not path.exists():
        return []
    with h5py.File(path, "r") as file:
        return sorted(_dataset_names(file))


def _dataset_names(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


# ---------------------------------------------------------------- checkpoint.pt
_DAMAGED = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


def save_checkpoint(folder: Path, content: Mapping[str, Any], *, verify: bool) -> None:
    """Write checkpoint.pt atomically and keep the one before as checkpoint.prev.pt.

    Raises UserError if it could not be written; with `verify` TypeError if it could not be loaded again with
    weights_only=True.
    """
    current, previous = folder / "checkpoint.pt", folder / "checkpoint.prev.pt"
    with replacing(current) as temporary:
        try:
            torch.save(dict(content), temporary)
        except (OSError, RuntimeError) as error:  # the latter is what PyTorch says of a full disk
            reason = getattr(error, "strerror", None) or "a full disk or a quota?"
            raise UserError(
                f"{current} could not be written ({reason}): make room, then the same command goes on from the "
                "checkpoint before"
            ) from error
        if verify:
            try:
                torch.load(temporary, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise TypeError(
                    "a checkpoint holds tensors, numbers, strings, lists and dicts only (no NumPy values, no "
                    f"objects): {str(error).splitlines()[0]}"
                ) from error
        if current.exists():
            os.replace(current, previous)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Load the newest readable checkpoint of a run folder onto the CPU; None if there is none."""
    for path in (folder / "checkpoint.pt", folder / "checkpoint.prev.pt"):
        if not path.exists():
            continue
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except _DAMAGED as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("%s is damaged (%s): falling back", path, reason[:120])
            continue
        if path.name != "checkpoint.pt":
            log.warning("continuing from the previous checkpoint %s", path)
        return content
    return None


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint, readable or not, is there."""
    return any((folder / name).exists() for name in ("checkpoint.pt", "checkpoint.prev.pt"))


# ---------------------------------------------------------------- .lock
class FolderLock:
    """An advisory lock on a run folder, held by the kernel for as long as the process lives.

    A killed process leaves nothing stale behind: its lock ends with it, whatever the file says.
    """

    def __init__(self, folder: Path, attempts: int = 5) -> None:
        self._path = folder / ".lock"
        self._file = self._path.open("a+", encoding="utf-8")
        while not _try_lock(self._file):
            attempts -= 1
            if not attempts:  # load_runs() peeks at locks for an instant, hence more than one attempt
                self._file.seek(0)
                holder = self._file.read().strip() or "another process"
                self._file.close()
                raise UserError(f"{folder} is being written by {holder}: wait for it, or give another hydra.run.dir")
            time.sleep(0.05)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def release(self) -> None:
        self._file.truncate(0)
        self._file.close()


def is_locked(folder: Path) -> bool:
    """Whether a living process is writing this run folder."""
    try:
        with (folder / ".lock").open("r", encoding="utf-8") as file:
            return not _try_lock(file)
    except OSError:
        return False


def _try_lock(file: Any) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# ---------------------------------------------------------------- clearing
def set_aside(folder: Path, keep: Callable[[Path], bool]) -> Path:
    """Move what is in a run folder into its `.old/<n>/`, which load_runs() does not look into."""
    old = folder / ".old"
    old.mkdir(exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=old))
    for entry in folder.iterdir():
        if entry != old and not keep(entry):
            os.replace(entry, target / entry.name)
    return target
