"""Reads and writes the HDF5 format of the Heidelberg spiking data sets (Cramer et al. 2020)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from surgrad.datasets.events import EventDataset
from surgrad.errors import UserError

logger = logging.getLogger(__name__)

_SAMPLES_AT_ONCE = 512  # rows read in one go: bounds the memory of variable-length rows
_PUBLISHED = ("shd", "ssc")
# What h5py was seen to raise on files with flipped bytes or a missing end.
_HDF5_ERRORS = (OSError, RuntimeError, LookupError, TypeError, ValueError, MemoryError)


def read_shd(path: str | Path, *, nb_units: int | None = None, nb_classes: int | None = None) -> EventDataset:
    """Reads a file in the format of SHD and SSC into memory; the file is closed on return.

    Groups: ``spikes/times`` (one row of seconds per sample, any float type; float16 in the published
    files, cast to float32 before anything is computed), ``spikes/units`` (one row of integers per
    sample), ``labels``; optional ``extra/speaker`` and ``extra/keys`` (names of the classes).
    Source: Cramer, Stradmann, Schemmel & Zenke, IEEE TNNLS 2020; https://zenkelab.org/datasets.

    Args:
        path: the file.
        nb_units: number of input units; default: the file's attribute ``nb_units``, else largest unit + 1.
        nb_classes: number of classes; default: the number of ``extra/keys``, else largest label + 1.

    Raises:
        UserError: the file is missing, damaged or not in this format; the line names the file and what.
    """
    path = Path(path)
    with _open(path) as file:
        times, lengths = _read_rows(_require(file, path, "spikes/times"), path, "f")
        units, unit_lengths = _read_rows(_require(file, path, "spikes/units"), path, "iu")
        labels = _read_integers(_require(file, path, "labels"), path)
        speakers = _read_integers(file["extra/speaker"], path) if "extra/speaker" in file else None
        class_names = _read_names(file["extra/keys"]) if "extra/keys" in file else None
        if nb_units is None:
            nb_units = file.attrs.get("nb_units")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    _check_lengths(path, lengths, {"spikes/units": unit_lengths}, {"labels": labels, "extra/speaker": speakers})
    _check_empty(path, lengths)
    _check_times(path, times, offsets)
    if nb_units is None:
        nb_units = int(units.max()) + 1
    if nb_classes is None:
        nb_classes = len(class_names) if class_names else int(labels.max()) + 1
    _check_range(path, "unit", units, int(nb_units), lambda event: _owner(offsets, event))
    _check_range(path, "label", labels, int(nb_classes), lambda sample: sample)
    return EventDataset(
        times=times,
        units=units,
        offsets=offsets,
        labels=labels,
        nb_units=int(nb_units),
        nb_classes=int(nb_classes),
        speakers=speakers,
        name=path.stem,
        class_names=class_names,
    )


def write_shd(path: str | Path, dataset: EventDataset, *, time_dtype: type[np.floating] = np.float32) -> None:
    """Writes a data set in the format of SHD and SSC; the file appears complete or not at all.

    Args:
        path: the file; its folder is made if need be, an older file is replaced.
        dataset: what to write; the number of units is kept in the attribute ``nb_units``.
        time_dtype: type of the stored times (s). The published files hold float16, which is half as large
            and resolves 0.5 ms at 1 s; float32 keeps every event in its bin.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".tmp")
    try:
        with h5py.File(part, "w") as file:
            file.attrs["nb_units"] = dataset.nb_units
            unit_dtype = np.uint16 if dataset.nb_units <= 1 << 16 else np.uint32
            _write_rows(file, "spikes/times", dataset.times.astype(time_dtype), dataset.offsets)
            file["spikes/times"].attrs["units"] = "s"
            _write_rows(file, "spikes/units", dataset.units.astype(unit_dtype), dataset.offsets)
            file["labels"] = dataset.labels.astype(np.uint16 if dataset.nb_classes <= 1 << 16 else np.int64)
            if dataset.speakers is not None:
                file["extra/speaker"] = dataset.speakers
            if dataset.class_names is not None:
                file["extra/keys"] = [name.encode() for name in dataset.class_names]
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    """The open file; whatever HDF5 raises while it is read becomes one line."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not an HDF5 file")
    if not path.exists():
        raise UserError(f"{path}: no such file{_hint(path)}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: no permission to read the file")
    if not h5py.is_hdf5(path):
        kind = "empty" if path.stat().st_size == 0 else "not an HDF5 file"
        raise UserError(f"{path}: {kind}{_hint(path)}")
    try:
        # Reading takes no lock: files are only ever replaced whole, and network folders often cannot lock.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except UserError:
        raise
    except _HDF5_ERRORS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged or truncated HDF5 file ({reason}){_hint(path)}") from error


def _hint(path: Path) -> str:
    for name in _PUBLISHED:
        if path.name.startswith(f"{name}_") or path.parent.name == name:
            return f"; get it with: python3 scripts/download_data.py {name}"
    return ""


def _require(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        present: list[str] = []
        file.visit(present.append)
        raise UserError(f"{path}: has no data set {key!r}, only {', '.join(sorted(map(str, present))) or 'nothing'}")
    if found.ndim != 1:
        raise UserError(f"{path}: {key} has shape {found.shape}, need one entry per sample")
    return found


def _read_rows(rows: h5py.Dataset, path: Path, kinds: str) -> tuple[np.ndarray, np.ndarray]:
    """All rows one after the other, and their lengths; floats as float32."""
    dtype = h5py.check_vlen_dtype(rows.dtype)
    if dtype is None or np.dtype(dtype).kind not in kinds:
        wanted = "floating-point times" if "f" in kinds else "integer units"
        raise UserError(f"{path}: {rows.name[1:]} has type {dtype or rows.dtype}, need a row of {wanted} each")
    dtype = np.dtype(np.float32) if np.dtype(dtype).kind == "f" else np.dtype(dtype)
    lengths, pieces = [np.zeros(0, np.int64)], [np.zeros(0, dtype)]
    for first in range(0, len(rows), _SAMPLES_AT_ONCE):
        part = rows[first : first + _SAMPLES_AT_ONCE]
        lengths.append(np.fromiter(map(len, part), np.int64, len(part)))
        pieces.append(np.concatenate(part).astype(dtype))
    return np.concatenate(pieces), np.concatenate(lengths)


def _read_integers(column: h5py.Dataset, path: Path) -> np.ndarray:
    if column.dtype.kind not in "iu":
        raise UserError(f"{path}: {column.name[1:]} has type {column.dtype}, need integers")
    return column[:].astype(np.int64)


def _read_names(column: h5py.Dataset) -> tuple[str, ...]:
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in column[:])


def _write_rows(file: h5py.File, key: str, values: np.ndarray, offsets: np.ndarray) -> None:
    rows = file.create_dataset(key, (len(offsets) - 1,), dtype=h5py.vlen_dtype(values.dtype))
    for k in range(len(rows)):  # one by one: h5py takes rows of equal length for a matrix
        rows[k] = values[offsets[k] : offsets[k + 1]]


def _owner(offsets: np.ndarray, event: int) -> int:
    """The sample that owns an event."""
    return int(np.searchsorted(offsets, event, side="right")) - 1


def _check_lengths(
    path: Path, lengths: np.ndarray, rows: dict[str, np.ndarray], columns: dict[str, np.ndarray | None]
) -> None:
    for key, other in {**rows, **columns}.items():
        if other is not None and len(other) != len(lengths):
            raise UserError(f"{path}: {key} holds {len(other)} samples, spikes/times {len(lengths)}")
    for key, other in rows.items():
        if not np.array_equal(other, lengths):
            sample = int(np.flatnonzero(other != lengths)[0])
            raise UserError(f"{path}: sample {sample} has {lengths[sample]} spikes/times but {other[sample]} {key}")


def _check_empty(path: Path, lengths: np.ndarray) -> None:
    if not lengths.any():
        raise UserError(f"{path}: none of the {len(lengths)} samples holds a spike")
    nb_empty = np.count_nonzero(lengths == 0)
    if nb_empty:
        first = int(np.flatnonzero(lengths == 0)[0])
        logger.warning("%s: %d of %d samples hold no spike (first: sample %d)", path, nb_empty, len(lengths), first)


def _check_times(path: Path, times: np.ndarray, offsets: np.ndarray) -> None:
    wrong = ~(np.isfinite(times) & (times >= 0))
    if wrong.any():
        event = int(np.argmax(wrong))
        raise UserError(
            f"{path}: sample {_owner(offsets, event)} has a spike at {times[event]} s,"
            " times must be finite and at least 0"
        )


def _check_range(path: Path, what: str, values: np.ndarray, size: int, sample_of) -> None:
    if values.size and (values.min() < 0 or values.max() >= size):
        position = int(np.argmax((values < 0) | (values >= size)))
        raise UserError(
            f"{path}: sample {sample_of(position)} has {what} {values[position]}, allowed are 0..{size - 1}"
        )
