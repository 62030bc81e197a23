"""state.h5: recorded arrays, sealed."""

from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from surgrad.runs import marker
from surgrad.runs.files import Damaged, check_sealed, is_sealed, replacing, seal


def write_states(
    path: Path, states: Mapping[str, tuple[np.ndarray, dict[str, Any]]], keep: Collection[str] | None = None
) -> list[str]:
    """Put data sets (array, attributes) into an HDF5 file, atomically; return the names of all that it holds.

    Everything goes into a new file that takes the old one's place: appending to an HDF5 file in place can
    lose all of it when the process is killed meanwhile. Data sets of the same name are replaced. With `keep` only those
    of these names stay.
    """
    with replacing(path) as temporary:
        with h5py.File(temporary, "w") as new:
            if path.exists():
                with _opened(path) as old:
                    for name in _dataset_names(old, path):
                        if name not in states and (keep is None or name in keep):
                            old.copy(old[name], new.require_group(Path("/" + name).parent.as_posix()), Path(name).name)
            for name, (array, attributes) in states.items():
                packed = {}
                if array.dtype in (np.uint8, np.bool_) and array.size:
                    packed = {"chunks": True, "compression": "gzip", "compression_opts": 1}
                dataset = new.create_dataset(name, data=array, **packed)
                dataset.attrs.update({k: v for k, v in attributes.items() if v is not None})
            names = sorted(_dataset_names(new, path))
        seal(temporary, {"kind": "state"})
    return names


def read_state(path: Path, name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one data set and its attributes.

    Raises KeyError naming the data sets there are; Damaged.
    """
    names = state_names(path)
    if name not in names:
        raise KeyError(f"{path} holds no {name!r}; it holds: {', '.join(names) or 'nothing'}")
    with _opened(path) as file:
        try:
            return file[name][()], dict(file[name].attrs)
        except Exception as error:  # of libhdf5: whatever an unsealed file makes it say
            raise Damaged(path, f"{name}: {type(error).__name__}") from error


def state_names(path: Path) -> list[str]:
    """Names of the data sets of a state file, sorted; none if there is no file. Raises Damaged."""
    if not path.exists():
        return []
    with _opened(path) as file:
        return sorted(_dataset_names(file, path))


def require_states(path: Path, names: Any) -> None:
    """Raise Damaged unless a state file is whole and holds all data sets of a list of `names`."""
    lost = set(names if isinstance(names, list) else ()) - set(state_names(path))
    if lost:
        raise Damaged(path, f"it has lost {', '.join(sorted(lost)[:5])}")


def check_states(path: Path) -> None:
    """Raise Damaged unless the checksum of a state file is right; that of a run of an earlier version has none."""
    stat = path.stat()
    _check(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _check(path: Path, mtime_ns: int, size: int) -> None:
    """Once for each file as it is."""
    if is_sealed(path) or marker.is_sealed(path.parent):
        check_sealed(path)


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
