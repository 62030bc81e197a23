"""Configuration of data sets of event cameras: folders of recordings (N-MNIST, one's own) and DVS-Gesture."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from surgrad.config.validate import positive
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.cameras import (
    Sensor,
    class_folders,
    gesture_files,
    read_class_folders,
    read_dvs_gesture,
)
from surgrad.datasets.splits import check_window
from surgrad.errors import UserError
from surgrad.experiments.dataset_base import HeldOutConfig, Splits


@dataclass
class SensorConfig(HeldOutConfig):
    """A camera, and where its recordings are."""

    folder: str = MISSING
    height: int = MISSING  # rows of the sensor
    width: int = MISSING  # columns of the sensor
    pool: int = 1  # rows and columns of pixels that make one unit; it spikes at most once in a time step
    limit: int | None = None  # recordings of each class, the first ones; null: all

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "dataset.", "height", "width", "pool", "limit")

    @property
    def sensor(self) -> Sensor:
        """The camera."""
        return Sensor(self.height, self.width, self.pool)

    def unit_shape(self, nb_inputs: int) -> tuple[int, ...]:
        """(2, rows, columns) of the units."""
        return self.sensor.unit_shape

    def _parted(self, train: EventDataset, test: EventDataset) -> Splits:
        for part in (train, test):
            check_window(part, self.duration)
        self.require_sizes(train)
        return *self.hold_out(train), test


@dataclass
class CameraConfig(SensorConfig):
    """Recordings in a folder for every class (`surgrad.datasets.sources.cameras.read_class_folders`)."""

    train: str = "Train"  # folder of the training classes, in ``folder``
    test: str = "Test"  # folder of the test classes, in ``folder``
    time_unit: float = 1e-6  # of the times in arrays and CSV; .bin and AEDAT count microseconds (s)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "dataset.", "time_unit")

    def preflight(self) -> None:
        """Raises UserError for a folder that is missing or holds no recordings."""
        super().preflight()
        for key in ("train", "test"):
            try:
                class_folders(Path(self.folder, getattr(self, key)))
            except UserError as error:
                get = "; N-MNIST: https://www.garrickorchard.com/datasets/n-mnist" if self.name == "nmnist" else ""
                raise UserError(f"dataset.folder, dataset.{key}: {error}{get}") from error

    def splits(self) -> Splits:
        """Reads all recordings; raises UserError naming the file that is damaged."""
        options = {"limit": self.limit, "time_unit": self.time_unit}
        train = read_class_folders(Path(self.folder, self.train), self.sensor, **options)  # type: ignore[arg-type]
        classes = train.class_names
        test = read_class_folders(Path(self.folder, self.test), self.sensor, classes=classes, **options)  # type: ignore[arg-type]
        return self._parted(train, test)


@dataclass
class GestureConfig(SensorConfig):
    """DVS-Gesture with its published parts (`surgrad.datasets.sources.cameras.read_dvs_gesture`)."""

    KINDS: ClassVar[tuple[str, ...]] = ("none", "random", "speaker")

    validation_speakers: list[int] | None = None  # speaker: users who are held out; null: the last one

    def preflight(self) -> None:
        """Raises UserError for a file that is missing."""
        super().preflight()
        for part in ("train", "test"):
            gesture_files(self.folder, part)

    def _options(self) -> dict[str, object]:
        return {"speakers": self.validation_speakers} if self.validation == "speaker" else super()._options()

    def splits(self) -> Splits:
        """Reads all recordings; raises UserError naming the file that is damaged."""
        train, test = (read_dvs_gesture(self.folder, part, self.sensor, limit=self.limit) for part in ("train", "test"))
        return self._parted(train, test)
