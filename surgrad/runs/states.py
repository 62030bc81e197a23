"""state.h5: recorded arrays, sealed; while a run goes on parts of it, state.000001.h5 and so on.

Appending to an HDF5 file in place can lose all of it when the process is killed meanwhile. So what is recorded goes
into parts, each a new file that is written whole and never changed. A new part takes in those before it that are not
much larger: there are few at any time, and of n writes the bytes of each are copied about log n times.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from surgrad.runs import marker
from surgrad.runs.files import Damaged, check_sealed, is_sealed, replacing, seal, sync_folder
from surgrad.runs.marker import STATE_PART

NAME = "state.h5"

Arrays = Mapping[str, tuple[np.ndarray, dict[str, Any]]]
T = TypeVar("T")


def write_states(folder: Path, states: Arrays) -> None:
    """Record data sets (array, attributes) in a new part, atomically; of equal names the last one counts."""
    parts = [path for path in state_files(folder) if path.name != NAME]
    number = int(parts[-1].name.split(".")[1]) + 1 if parts else 1
    taken: list[Path] = []
    with replacing(folder / f"state.{number:06d}.h5") as temporary:
        with h5py.File(temporary, "w") as file:
            for name, (array, attributes) in states.items():
                packed = {}
                if array.dtype in (np.uint8, np.bool_) and array.size:
                    packed = {"chunks": True, "compression": "gzip", "compression_opts": 1}
                dataset = file.create_dataset(name, data=array, **packed)
                dataset.attrs.update({k: v for k, v in attributes.items() if v is not None})
            file.flush()
            size = temporary.stat().st_size
            while parts and parts[-1].stat().st_size <= 2 * size:
                taken.append(parts.pop())
                size += taken[-1].stat().st_size
            _copy(taken, file, states)
        seal(temporary, {"kind": "state"})
    for part in taken:  # one that a power cut brings back says nothing that counts
        part.unlink()


def join_states(folder: Path, keep: Collection[str] | None = None) -> list[str]:
    """Put all parts into state.h5, with `keep` only data sets of these names; return the names of what it holds."""
    whole, found = folder / NAME, state_files(folder)
    if found and (keep is not None or found != [whole]):
        with replacing(whole) as temporary:
            with h5py.File(temporary, "w") as file:
                _copy(found[::-1], file, (), keep)
            seal(temporary, {"kind": "state"})
        for path in found:
            if path != whole:
                path.unlink()
        sync_folder(folder)
    return state_names(folder)


def _copy(
    found: Sequence[Path], file: h5py.File, without: Collection[str], keep: Collection[str] | None = None
) -> None:
    """Data sets of files, the newest first, into another one; of equal names the first, as they are compressed."""
    names = set(without)
    for path in found:
        with _opened(path) as old:
            for name in _dataset_names(old, path):
                if name not in names and (keep is None or name in keep):
                    names.add(name)
                    old.copy(old[name], file.require_group(Path("/" + name).parent.as_posix()), Path(name).name)


def read_state(folder: Path, name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one data set of a run folder and its attributes.

    Raises KeyError naming the data sets there are; Damaged.
    """

    def read() -> tuple[np.ndarray, dict[str, Any]] | None:
        for path in reversed(state_files(folder)):
            with _opened(path) as file:
                if name not in _dataset_names(file, path):
                    continue
                try:
                    return file[name][()], dict(file[name].attrs)
                except Exception as error:  # of libhdf5: whatever an unsealed file makes it say
                    raise Damaged(path, f"{name}: {type(error).__name__}") from error
        return None

    found = _while_it_is_written(read)
    if found is None:
        raise KeyError(f"{folder} holds no {name!r}; it holds: {', '.join(state_names(folder)) or 'nothing'}")
    return found


def state_names(folder: Path) -> list[str]:
    """Names of the data sets of a run folder, sorted. Raises Damaged."""

    def read() -> list[str]:
        names: set[str] = set()
        for path in state_files(folder):
            with _opened(path) as file:
                names |= {*_dataset_names(file, path)}
        return sorted(names)

    return _while_it_is_written(read)


def require_states(folder: Path, names: Any) -> None:
    """Raise Damaged unless the recorded arrays of a run folder are whole, and all of a list of `names` there."""
    lost = set(names if isinstance(names, list) else ()) - set(state_names(folder))
    if lost:
        raise Damaged(folder / NAME, f"it has lost {', '.join(sorted(lost)[:5])}")


def state_files(folder: Path) -> list[Path]:
    """Files of a run folder that hold recorded arrays, the oldest first: state.h5, then the parts."""
    parts = sorted(path for path in folder.iterdir() if STATE_PART.fullmatch(path.name))
    return [folder / NAME, *parts] if (folder / NAME).exists() else parts


def check_states(path: Path) -> None:
    """Raise Damaged unless the checksum of a state file is right; that of a run of an earlier version has none."""
    stat = path.stat()
    _check(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _check(path: Path, mtime_ns: int, size: int) -> None:
    """Once for each file as it is."""
    if is_sealed(path) or marker.is_sealed(path.parent):
        check_sealed(path)


def _while_it_is_written(read: Callable[[], T]) -> T:
    """What reading gives; a file that the run has just put into another is looked for there."""
    for _ in range(20):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


def _opened(path: Path) -> h5py.File:
    check_states(path)
    try:
        return h5py.File(path, "r")
    except Exception as error:  # of libhdf5: whatever an unsealed file makes it say
        raise Damaged(path, f"no HDF5 file: {' '.join(str(error).split())[:120]}") from error


def _dataset_names(file: h5py.File, path: Path) -> list[str]:
    """Data sets in the file itself: links to others are not followed. Raises Damaged for data kept elsewhere."""
    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise Damaged(path, f"{name} refers to other files")
            names.append(name)

    try:
        file.visititems(visit)
    except Damaged:
        raise
    except Exception as error:
        raise Damaged(path, f"no HDF5 file: {type(error).__name__}") from error
    return names
