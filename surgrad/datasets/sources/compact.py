"""The compact event format: sorted, delta-coded, compressed, some three times smaller than variable-length rows.

events/gaps    (E,) uint32, chunked, shuffled, gzip; events of a sample are sorted by unit, then by time, and
               gap = position - position of the event before (0 before the first), position = unit nb_steps + step
events/counts  (N,) int32, events of every sample
attributes of events: resolution (s), nb_steps;   time = step resolution
labels, extra/speaker, extra/keys and the attribute nb_units as in SHD's format
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from surgrad.datasets.binning import chunks, time_to_step
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.hdf5_file import integers, number_attribute, require
from surgrad.errors import UserError

RESOLUTION = 0.5e-3  # s, what SHD's float16 times resolve at one second
MAX_EVENTS = 2**31
_CHUNK = 1 << 18


def write_gaps(file: h5py.File, dataset: EventDataset, resolution: float) -> None:
    """Writes the group ``events``; times become floor(time / resolution) steps.

    Raises:
        UserError: if unit and step do not fit into 32 bits.
    """
    if not 0 < resolution < np.inf:
        raise UserError(f"resolution={resolution} s: need a positive time")
    nb_steps = int(time_to_step(dataset.times, resolution).max(initial=0)) + 1
    if dataset.nb_units * nb_steps > 2**32:
        raise UserError(
            f"resolution={resolution} s: {nb_steps} steps of {dataset.nb_units} units do not fit into 32 bits;"
            " take a coarser one"
        )
    group = file.create_group("events")
    group.attrs["resolution"], group.attrs["nb_steps"] = resolution, nb_steps
    write_packed(group, "counts", np.diff(dataset.offsets).astype(np.int32))
    write_packed(group, "gaps", np.concatenate([np.zeros(0, np.uint32), *_gaps(dataset, resolution, nb_steps)]))


def write_packed(owner: h5py.Group, key: str, values: np.ndarray) -> None:
    """Writes values (n,) in compressed chunks with checksums."""
    if not len(values):
        owner[key] = values
        return
    packing = {"compression": "gzip", "compression_opts": 9, "shuffle": True, "fletcher32": True}
    owner.create_dataset(key, data=values, chunks=(min(len(values), _CHUNK),), **packing)


def _gaps(dataset: EventDataset, resolution: float, nb_steps: int) -> Iterator[np.ndarray]:
    size = dataset.nb_units * nb_steps
    for first, last in chunks(dataset.offsets):
        event = slice(dataset.offsets[first], dataset.offsets[last])
        lengths = np.diff(dataset.offsets[first : last + 1])
        step = time_to_step(dataset.times[event], resolution).astype(np.int64)
        key = np.repeat(np.arange(last - first), lengths) * size + dataset.units[event].astype(np.int64) * nb_steps
        key = np.sort(key + step) % size
        gaps = np.diff(key, prepend=0)
        starts = dataset.offsets[first:last][lengths > 0] - dataset.offsets[first]
        gaps[starts] = key[starts]
        yield gaps.astype(np.uint32)


def read_gaps(file: h5py.File, path: Path, nb_units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (s, float32), units and offsets (N+1,) of the group ``events``, sorted by unit and time in every sample.

    Raises:
        UserError: naming what is missing, of another kind, or out of range.
    """
    # of zeros alone, a megabyte would unpack into a gigabyte; real events take several bits each
    gaps = require(file, path, "events/gaps", most=min(8 * path.stat().st_size, MAX_EVENTS))
    counts = require(file, path, "events/counts")
    resolution = number_attribute(file["events"], path, "resolution", "f")
    nb_steps = number_attribute(file["events"], path, "nb_steps")
    if resolution is None or nb_steps is None or not resolution > 0 or not 1 <= nb_steps <= 2**32:
        raise UserError(f"{path}: events has resolution {resolution} s and nb_steps {nb_steps}; need both, positive")
    lengths = integers(counts, path, MAX_EVENTS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] != len(gaps):
        raise UserError(f"{path}: events/counts sums to {offsets[-1]}, events/gaps holds {len(gaps)}")
    times, units = np.empty(len(gaps), np.float32), np.empty(len(gaps), np.int32)
    for first, last in chunks(offsets):
        event = slice(offsets[first], offsets[last])
        total = np.concatenate([[0], np.cumsum(gaps[event], dtype=np.int64)])
        base = total[offsets[first:last] - offsets[first]]  # what the samples before have summed to
        position = total[1:] - np.repeat(base, lengths[first:last])
        if len(position) and (position.min() < 0 or position.max() >= nb_units * nb_steps):
            raise UserError(f"{path}: events/gaps leaves the {nb_units} units of {nb_steps} steps")
        units[event], step = np.divmod(position, nb_steps)
        times[event] = step * resolution
    return times, units, offsets
