"""HDF5 files of others: opened, measured and read without following them elsewhere, every fault in one line.

What is refused before anything is allocated: links and external or virtual storage (they name other files), shapes and
types that are not asked for, and data sets that declare more than the file can hold. HDF5 has no checksum of its own,
and a file with flipped bits can crash or hang the HDF5 library itself: read files of strangers in a process of their
own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from surgrad.errors import UserError

# What h5py was seen to raise on files with flipped bytes or a missing end.
_HDF5_ERRORS = (OSError, RuntimeError, LookupError, TypeError, ValueError, MemoryError, OverflowError)
_RATIO = 1100  # deflate packs at most 1032 : 1
_MOST = 1 << 24  # entries of a data set, samples of a file
_ROW = 16  # bytes of a variable-length row's reference
_KINDS = {"iu": "integers", "f": "floating-point numbers", "iuf": "numbers", "OSU": "text"}


@contextmanager
def open_hdf5(path: Path, hint: str = "") -> Iterator[h5py.File]:
    """The open file; whatever HDF5 raises while it is read becomes one line.

    Args:
        path: of the file.
        hint: how to get the file, for the message.

    Raises:
        UserError: for a file that is missing, unreadable, damaged, or open for writing.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not an HDF5 file")
    if not path.exists():
        raise UserError(f"{path}: no such file{hint}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: no permission to read the file")
    if not h5py.is_hdf5(path):
        kind = "empty" if path.stat().st_size == 0 else "not an HDF5 file"
        raise UserError(f"{path}: {kind}{hint}")
    try:
        with _opened(path) as file:
            yield file
    except UserError:
        raise
    except _HDF5_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "for write" in reason:
            raise UserError(f"{path}: another program has it open for writing, or did not close it") from error
        raise UserError(f"{path}: damaged or truncated HDF5 file ({reason}){hint}") from error


def _opened(path: Path) -> h5py.File:
    # Reading takes no lock: files are only ever replaced whole, and network folders often cannot lock. A file that this
    # process has open already has to be opened with the same flag.
    for locking in (False, True, None):
        try:
            return h5py.File(path, "r", locking=locking)
        except OSError as error:
            if "locking" not in str(error) or locking is None:
                raise
    raise AssertionError("unreachable")


def require(
    file: h5py.File, path: Path, key: str, kinds: str = "iu", *, rows: bool = False, most: int = _MOST
) -> h5py.Dataset:
    """The data set ``key``, measured and not yet read: one-dimensional, of the kinds, no larger than the file can hold.

    Args:
        file: the open file.
        path: for messages.
        key: of the data set.
        kinds: allowed kinds of numbers.
        rows: whether every entry is a row of variable length.
        most: the largest number of entries.

    Raises:
        UserError: naming the key and what is wrong with it.
    """
    parts = key.split("/")
    for n in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:n]), getlink=True)
        if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
            raise UserError(f"{path}: {'/'.join(parts[:n])} is a link to {link.path!r}; only data in the file are read")
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        present: list[str] = []
        file.visit(present.append)
        raise UserError(f"{path}: has no data set {key!r}, only {', '.join(sorted(map(str, present))) or 'nothing'}")
    if found.external or found.is_virtual:
        raise UserError(f"{path}: {key} lies in other files (external or virtual storage); only data in it are read")
    if found.ndim != 1:
        raise UserError(f"{path}: {key} has shape {found.shape}, need one dimension")
    dtype = h5py.check_vlen_dtype(found.dtype) if rows else found.dtype
    if dtype is None or np.dtype(dtype).kind not in kinds:
        wanted = f"a row of {_KINDS[kinds]} each" if rows else _KINDS[kinds]
        raise UserError(f"{path}: {key} has type {dtype or found.dtype}, need {wanted}")
    _require_room(found, path, key, most)
    return found


def _require_room(found: h5py.Dataset, path: Path, key: str, most: int) -> None:
    variable = found.dtype.kind == "O"
    packed = found.id.get_create_plist().get_nfilters() > 0
    capacity = path.stat().st_size * (_RATIO if packed else 1) // (_ROW if variable else found.dtype.itemsize)
    if found.size > min(capacity, most):
        reason = f"at most {most} are read" if most < capacity else f"a file of its size can hold {capacity}"
        raise UserError(f"{path}: {key} declares {found.size} entries, but {reason}")


def integers(column: h5py.Dataset, path: Path, largest: int) -> np.ndarray:
    """All entries as int64. Raises: UserError for one that is below 0 or above ``largest``."""
    values = column[:]
    wrong = (values < 0) | (values > largest)
    if wrong.any():
        entry = int(np.argmax(wrong))
        raise UserError(f"{path}: {column.name[1:]}[{entry}] is {values[entry]}, allowed are 0..{largest}")
    return values.astype(np.int64)


def number_attribute(owner: h5py.File | h5py.Group, path: Path, key: str, kinds: str = "iu") -> int | float | None:
    """An attribute that is one finite number of the kinds ("iu", "f" or "iuf"), None if there is none."""
    if key not in owner.attrs:
        return None
    value = np.asarray(owner.attrs[key])
    if value.shape not in ((), (1,)) or value.dtype.kind not in kinds or not np.isfinite(value).all():
        raise UserError(f"{path}: attribute {key} is {owner.attrs[key]!r}, need one of {_KINDS[kinds]}")
    return value.item()


def names(column: h5py.Dataset, path: Path) -> tuple[str, ...]:
    """All entries as text. Raises: UserError for one that is not UTF-8."""
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in column[:])
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {column.name[1:]} holds a name that is not UTF-8 ({error})") from None


@contextmanager
def created(path: Path) -> Iterator[h5py.File]:
    """A new file for writing; it appears complete or not at all, an older one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".tmp")
    try:
        with h5py.File(part, "w") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
