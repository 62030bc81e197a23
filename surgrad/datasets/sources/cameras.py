"""Data sets of event cameras: a folder for every class (N-MNIST), or recordings cut by a table (DVS-Gesture).

A unit is a pixel of one polarity, numbered (p H + y) W + x on a sensor of H rows and W columns, so that spikes have the
shape (2, H, W): channel 0 became darker, channel 1 brighter.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgrad.datasets.binning import index_type
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.camera_files import MOST_EVENTS, READERS, CameraEvents, read_camera
from surgrad.errors import UserError

log = logging.getLogger(__name__)

MOST_SAMPLES = 1 << 20

#: The classes of DVS-Gesture (Amir et al. 2017), 1 to 11 in its tables.
GESTURES = (
    *("hand clapping", "right hand wave", "left hand wave", "right arm clockwise", "right arm counter-clockwise"),
    *("left arm clockwise", "left arm counter-clockwise", "arm roll", "air drums", "air guitar", "other"),
)


@dataclass(frozen=True)
class Sensor:
    """The pixels of a camera, and how many of them share a unit.

    Args:
        height: rows.
        width: columns.
        pool: rows and columns of pixels that make one unit; a unit spikes at most once in a time step.
    """

    height: int
    width: int
    pool: int = 1

    @property
    def unit_shape(self) -> tuple[int, int, int]:
        """(2, H, W) of the units."""
        return 2, -(-self.height // self.pool), -(-self.width // self.pool)

    def units(self, events: CameraEvents, path: Path) -> np.ndarray:
        """The unit of every event, (E,). Raises: UserError for an event that is not on the sensor."""
        for name, values, size in (("x", events.x, self.width), ("y", events.y, self.height)):
            if len(values) and (values.min() < 0 or values.max() >= size):
                wrong = values[(values < 0) | (values >= size)][0]
                raise UserError(
                    f"{path}: an event at {name}={wrong} on a sensor of {self.width} x {self.height} pixels; give "
                    "dataset.width and dataset.height"
                )
        _, height, width = self.unit_shape
        return (events.p * height + events.y // self.pool) * width + events.x // self.pool


def read_class_folders(
    folder: str | Path,
    sensor: Sensor,
    *,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    time_unit: float = 1e-6,
) -> EventDataset:
    """Recordings in folders that are named by their class, as of N-MNIST (Orchard et al. 2015).

    Args:
        folder: holds a folder for every class; recordings are files of any format of `read_camera`.
        sensor: the camera.
        classes: names of the classes in the order of their numbers; None for those there are, sorted.
        limit: recordings of each class, the first by name; None: all.
        time_unit: s, see `read_camera`.

    Raises:
        UserError: naming the folder or file that is missing, unknown or damaged.
    """
    found = class_folders(folder)
    names = tuple(classes or found)
    unknown = [name for name in found if name not in names]
    if unknown:
        raise UserError(f"{folder}: a class {unknown[0]!r}, which is not among those of training: {', '.join(names)}")
    labels, recordings = [], []
    for name, files in found.items():
        chosen = files[:limit]
        labels += [names.index(name)] * len(chosen)
        recordings += chosen
    read = ((path, read_camera(path, time_unit=time_unit)) for path in recordings)
    return _gathered(read, sensor, labels, names, Path(folder).name)


def class_folders(folder: str | Path) -> dict[str, list[Path]]:
    """The recordings of every class, by name. Raises: UserError if there is no class, or one without recordings."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; wanted one with a folder of recordings for every class")
    found = {}
    for entry in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = sorted(path for path in entry.iterdir() if path.suffix in READERS)
        if not files:
            raise UserError(f"{entry}: holds no recording; {', '.join(READERS)} are read")
        found[entry.name] = files
    if not found:
        raise UserError(f"{folder}: holds no folder; wanted a folder of recordings for every class")
    if sum(map(len, found.values())) > MOST_SAMPLES:
        raise UserError(f"{folder}: holds more than {MOST_SAMPLES} recordings")
    return found


def read_dvs_gesture(folder: str | Path, part: str, sensor: Sensor, *, limit: int | None = None) -> EventDataset:
    """The gestures of DVS-Gesture (Amir et al. 2017, CVPR) as published: 23 users train, 6 others test.

    Args:
        folder: holds trials_to_train.txt, trials_to_test.txt, and for every trial NAME.aedat and NAME_labels.csv.
        part: "train" or "test".
        sensor: the camera, 128 x 128 pixels.
        limit: gestures of each class and trial, the first; None: all.

    Returns:
        a sample for each row of the tables, time counted from its start; speakers are the users.

    Raises:
        UserError: naming the file that is missing, damaged or not as published.
    """
    folder = Path(folder)
    labels: list[int] = []
    users: list[int] = []

    def gestures() -> Iterator[tuple[Path, CameraEvents]]:
        for path in gesture_files(folder, part):
            user = re.match(r"user(\d+)", path.name)
            if user is None:
                raise UserError(f"{path}: its name does not begin with user and a number")
            events = read_camera(path)
            order = np.argsort(events.t, kind="stable")
            events = CameraEvents(*(column[order] for column in events))
            seen = [0] * len(GESTURES)
            for label, start, end in _gesture_rows(path.with_name(f"{path.stem}_labels.csv")):
                seen[label] += 1
                if limit is not None and seen[label] > limit:
                    continue
                labels.append(label)
                users.append(int(user[1]))
                first, last = np.searchsorted(events.t, [start, end])
                yield path, CameraEvents(events.t[first:last] - start, *(c[first:last] for c in events[1:]))

    return _gathered(gestures(), sensor, labels, GESTURES, f"dvs_gesture_{part}", users)


def gesture_files(folder: str | Path, part: str) -> list[Path]:
    """The recordings of a part. Raises: UserError naming a file that is missing."""
    listing = Path(folder) / f"trials_to_{part}.txt"
    if not listing.is_file():
        raise UserError(
            f"{listing}: no such file; unpack DvsGesture.tar.gz of IBM (research.ibm.com/dvsgesture) in {folder}"
        )
    names = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    for name in names:
        if Path(name).name != name or Path(name).suffix != ".aedat":
            raise UserError(f"{listing}: {name!r} is not the name of a recording")
        for path in (Path(folder) / name, Path(folder) / f"{Path(name).stem}_labels.csv"):
            if not path.is_file():
                raise UserError(f"{path}: no such file, but {listing} names it")
    return [Path(folder) / name for name in names]


def _gesture_rows(path: Path) -> list[tuple[int, int, int]]:
    """Class from 0 on, start and end (µs) of every gesture of a table."""
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                label, start, end = (int(row[key]) for key in ("class", "startTime_usec", "endTime_usec"))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}: wanted columns class, startTime_usec, endTime_usec of integers") from error
            if not 1 <= label <= len(GESTURES) or end <= start:
                raise UserError(f"{path}: class {label} from {start} to {end} us; classes are 1 to {len(GESTURES)}")
            rows.append((label - 1, start, end))
    return rows


def _gathered(
    recordings: Iterable[tuple[Path, CameraEvents]],
    sensor: Sensor,
    labels: list[int],
    names: Sequence[str],
    name: str,
    speakers: list[int] | None = None,
) -> EventDataset:
    """One data set of all recordings, which may add to ``labels`` and ``speakers`` while they are read."""
    nb_units = int(np.prod(sensor.unit_shape))
    times, units, lengths = [np.empty(0, np.float32)], [np.empty(0, index_type(nb_units))], [0]
    total = 0
    for path, events in recordings:
        total += len(events.t)
        if total > MOST_EVENTS:
            raise UserError(f"{path}: with it there are more than {MOST_EVENTS} events; take fewer (dataset.limit)")
        times.append((events.t * 1e-6).astype(np.float32))
        units.append(sensor.units(events, path).astype(index_type(nb_units)))
        lengths.append(len(events.t))
    empty = lengths[1:].count(0)
    if empty:
        log.warning("%s: %d of %d recordings hold no event", name, empty, len(lengths) - 1)
    return EventDataset(
        times=np.concatenate(times),
        units=np.concatenate(units),
        offsets=np.cumsum(lengths),
        labels=np.array(labels, np.int64),
        nb_units=nb_units,
        nb_classes=len(names),
        speakers=None if speakers is None else np.array(speakers),
        name=name,
        class_names=tuple(names),
    )
