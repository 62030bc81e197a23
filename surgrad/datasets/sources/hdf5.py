"""Reads and writes spike data sets in HDF5: the format of the Heidelberg sets (Cramer et al. 2020), the compact one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.compact import MAX_EVENTS, RESOLUTION, read_gaps, write_gaps, write_packed
from surgrad.datasets.sources.hdf5_file import created, integers, names, number_attribute, open_hdf5, require
from surgrad.errors import UserError

logger = logging.getLogger(__name__)

MAX_UNITS, MAX_CLASSES = 1 << 24, 1 << 20
_SAMPLES_AT_ONCE = 512  # rows read in one go: bounds the memory of variable-length rows
_PUBLISHED = ("shd", "ssc")

Writer = Callable[[h5py.Group, str, np.ndarray], None]


def read_shd(path: str | Path, *, nb_units: int | None = None, nb_classes: int | None = None) -> EventDataset:
    """Reads a file in the format of SHD and SSC, or in the compact one, into memory; it is closed on return.

    Groups of SHD: ``spikes/times`` (one row of seconds per sample, any float type; float16 in the published
    files, cast to float32 before anything is computed), ``spikes/units`` (one row of integers per
    sample), ``labels``; optional ``extra/speaker`` and ``extra/keys`` (names of the classes). The compact format
    (`surgrad.datasets.sources.compact`) has ``events`` in place of ``spikes``.
    Source: Cramer, Stradmann, Schemmel & Zenke, IEEE TNNLS 2020; https://zenkelab.org/datasets.

    Args:
        path: the file.
        nb_units: number of input units; default: the file's attribute ``nb_units``, else largest unit + 1.
        nb_classes: number of classes; default: the number of ``extra/keys``, else largest label + 1.

    Raises:
        UserError: the file is missing, damaged, not in this format or larger than what it can hold; the line names
            the file and what.
    """
    path = Path(path)
    with open_hdf5(path, _hint(path)) as file:
        if nb_units is None:
            nb_units = _written_units(file, path)
        labels = integers(require(file, path, "labels"), path, MAX_CLASSES - 1)
        speakers = class_names = None
        if "extra/speaker" in file:
            speakers = integers(require(file, path, "extra/speaker"), path, 2**31)
        if "extra/keys" in file:
            class_names = names(require(file, path, "extra/keys", "OSU"), path)
        key = "events/counts" if "events" in file else "spikes/times"
        read = _read_compact if "events" in file else _read_rows
        times, units, offsets = read(file, path, nb_units)
    for name, column in {"labels": labels, "extra/speaker": speakers}.items():
        if column is not None and len(column) != len(offsets) - 1:
            raise UserError(f"{path}: {name} holds {len(column)} samples, {key} {len(offsets) - 1}")
    _check_empty(path, np.diff(offsets))
    _check_times(path, times, offsets)
    nb_units = int(units.max()) + 1 if nb_units is None else nb_units
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
    with created(Path(path)) as file:
        unit_dtype = np.uint16 if dataset.nb_units <= 1 << 16 else np.uint32
        _write_rows(file, "spikes/times", dataset.times.astype(time_dtype), dataset.offsets)
        file["spikes/times"].attrs["units"] = "s"
        _write_rows(file, "spikes/units", dataset.units.astype(unit_dtype), dataset.offsets)
        _write_columns(file, dataset)


def write_compact(path: str | Path, dataset: EventDataset, *, resolution: float = RESOLUTION) -> None:
    """Writes a data set in the compact format; the file appears complete or not at all.

    Args:
        path: the file; its folder is made if need be, an older file is replaced.
        dataset: what to write; times become floor(time / resolution) steps, and lie at their step's beginning when
            they are read again. Grids whose step is a multiple of the resolution do not see the difference.
        resolution: s.

    Raises:
        UserError: for a resolution that is not positive or too fine for 32 bits.
    """
    with created(Path(path)) as file:
        write_gaps(file, dataset, resolution)
        _write_columns(file, dataset, write_packed)


def _write_columns(file: h5py.File, dataset: EventDataset, write: Writer = h5py.Group.__setitem__) -> None:
    file.attrs["nb_units"] = dataset.nb_units
    write(file, "labels", dataset.labels.astype(np.uint16 if dataset.nb_classes <= 1 << 16 else np.int64))
    if dataset.speakers is not None:
        write(file, "extra/speaker", dataset.speakers)
    if dataset.class_names is not None:
        file["extra/keys"] = [name.encode() for name in dataset.class_names]


def _hint(path: Path) -> str:
    for name in _PUBLISHED:
        if path.name.startswith(f"{name}_") or path.parent.name == name:
            return f"; get it with: python3 scripts/download_data.py {name}"
    return ""


def _written_units(file: h5py.File, path: Path) -> int | None:
    """The attribute ``nb_units``, None if there is none."""
    value = number_attribute(file, path, "nb_units")
    if value is None:
        return None
    if not 1 <= value <= MAX_UNITS:
        raise UserError(f"{path}: attribute nb_units is {value}, allowed are 1..{MAX_UNITS}")
    return int(value)


def _read_compact(file: h5py.File, path: Path, nb_units: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    written = _written_units(file, path)
    if written is None:
        raise UserError(f"{path}: lacks the attribute nb_units")
    return read_gaps(file, path, written)


def _read_rows(file: h5py.File, path: Path, nb_units: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (float32), units and offsets of all rows."""
    times, lengths = _read_row_by_row(require(file, path, "spikes/times", "f", rows=True), path)
    units, unit_lengths = _read_row_by_row(require(file, path, "spikes/units", "iu", rows=True), path)
    if len(unit_lengths) != len(lengths):
        raise UserError(f"{path}: spikes/units holds {len(unit_lengths)} samples, spikes/times {len(lengths)}")
    if not np.array_equal(unit_lengths, lengths):
        sample = int(np.flatnonzero(unit_lengths != lengths)[0])
        raise UserError(
            f"{path}: sample {sample} has {lengths[sample]} spikes/times but {unit_lengths[sample]} spikes/units"
        )
    if nb_units is None and len(units) and units.max() >= MAX_UNITS:
        raise UserError(f"{path}: has unit {units.max()}, allowed are 0..{MAX_UNITS - 1}")
    return times, units, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _read_row_by_row(rows: h5py.Dataset, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All rows one after the other, and their lengths; floats as float32."""
    stored = np.dtype(h5py.check_vlen_dtype(rows.dtype))
    dtype = np.dtype(np.float32) if stored.kind == "f" else stored
    capacity = min(path.stat().st_size // stored.itemsize, MAX_EVENTS)
    lengths, pieces, total = [np.zeros(0, np.int64)], [np.zeros(0, dtype)], 0
    for first in range(0, len(rows), _SAMPLES_AT_ONCE):
        part = rows[first : first + _SAMPLES_AT_ONCE]
        lengths.append(np.fromiter(map(len, part), np.int64, len(part)))
        total += int(lengths[-1].sum())
        if total > capacity:  # rows that share their bytes
            raise UserError(f"{path}: {rows.name[1:]} holds more events than a file of its size can")
        pieces.append(np.concatenate(part).astype(dtype))
    return np.concatenate(pieces), np.concatenate(lengths)


def _write_rows(file: h5py.File, key: str, values: np.ndarray, offsets: np.ndarray) -> None:
    rows = file.create_dataset(key, (len(offsets) - 1,), dtype=h5py.vlen_dtype(values.dtype))
    for k in range(len(rows)):  # one by one: h5py takes rows of equal length for a matrix
        rows[k] = values[offsets[k] : offsets[k + 1]]


def _owner(offsets: np.ndarray, event: int) -> int:
    """The sample that owns an event."""
    return int(np.searchsorted(offsets, event, side="right")) - 1


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


def _check_range(path: Path, what: str, values: np.ndarray, size: int, sample_of: Callable[[int], int]) -> None:
    if values.size and (values.min() < 0 or values.max() >= size):
        position = int(np.argmax((values < 0) | (values >= size)))
        raise UserError(
            f"{path}: sample {sample_of(position)} has {what} {values[position]}, allowed are 0..{size - 1}"
        )
