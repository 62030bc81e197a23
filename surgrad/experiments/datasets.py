"""Configuration of the data sets that classification trains on: typed, with units; one schema per kind of data."""

import logging
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from omegaconf import MISSING

from surgrad.config import validate
from surgrad.config.build import build
from surgrad.config.check import check
from surgrad.config.validate import one_of, positive
from surgrad.datasets.encoding.latency import image_events
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources import idx
from surgrad.datasets.sources.braille import encoded, read_braille
from surgrad.datasets.sources.hdf5 import read_shd
from surgrad.datasets.sources.randman import Randman
from surgrad.datasets.sources.random_task import RandomTask
from surgrad.datasets.splits import VALIDATIONS, check_window, first_of_each, joined, of_other_speakers, of_speakers
from surgrad.errors import UserError, known, naming
from surgrad.experiments import parts
from surgrad.experiments.camera_datasets import CameraConfig, GestureConfig
from surgrad.experiments.dataset_base import DatasetConfig, HeldOutConfig, Splits

log = logging.getLogger(__name__)


@dataclass
class HDF5Config(HeldOutConfig):
    """A data set in files of the SHD format or the compact one (spoken_commands, shd, ssc, or the user's own)."""

    KINDS: ClassVar[tuple[str, ...]] = tuple(VALIDATIONS)

    datadir: str = "."  # folder of the files
    train_path: str = MISSING
    test_path: str = MISSING
    valid_path: str | None = None  # for validation=file
    validation_speakers: list[int] | None = None  # speaker: who is held out; null: the last one
    train_speakers: list[int] | None = None  # who trains; null: all who do not validate
    test_speakers: list[int] | None = None  # who tests, among those of both files; null: those of test_path
    limit: int | None = None  # recordings of each speaker and class, the first of every file; null: all
    units_per_channel: int = 1  # neighbouring units of the files that are one input of the network

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation == "file" and not self.valid_path:
            raise UserError("dataset.validation=file: give dataset.valid_path=…")
        positive(self, "dataset.", "limit", "units_per_channel")

    def preflight(self) -> None:
        """Raises UserError naming the key of a file that is missing, and how to get it."""
        super().preflight()
        for key in ("train_path", "test_path", *(["valid_path"] if self.validation == "file" else [])):
            path = getattr(self, key)
            if not Path(path).is_file():
                get = DOWNLOADED.get(self.name)
                hint = f"; get it with: python3 scripts/download_data.py {get}" if get else ""
                raise UserError(f"dataset.{key}={path}: no such file{hint}")

    def splits(self) -> Splits:
        """Reads the files; raises UserError naming file and cause where one is missing or damaged."""
        everything = self._read(self.train_path, nb_units=self.nb_inputs, nb_classes=self.nb_classes)
        sizes = {"nb_units": everything.nb_units, "nb_classes": everything.nb_classes}
        test = self._read(self.test_path, **sizes)
        if self.test_speakers is not None:
            both = joined(everything, test)
            with naming(f"dataset.test_speakers={self.test_speakers}"):
                everything, test = of_other_speakers(both, self.test_speakers), of_speakers(both, self.test_speakers)
        train, valid = self.hold_out(everything)
        if self.train_speakers is not None:
            with naming(f"dataset.train_speakers={self.train_speakers}"):
                train = of_speakers(train, self.train_speakers)
        if valid is not None and self.validation == "file" and self.valid_path:
            valid = self._used(valid, self.valid_path)
        width = self.units_per_channel
        return train.grouped(width), None if valid is None else valid.grouped(width), test.grouped(width)

    def hold_out(self, everything: EventDataset) -> tuple[EventDataset, EventDataset | None]:
        """As of every data set; raises UserError also for a speaker who is not there."""
        if self.validation != "speaker" or self.validation_speakers is None:
            return super().hold_out(everything)
        with naming(f"dataset.validation_speakers={self.validation_speakers}"):
            return super().hold_out(everything)

    def _read(self, path: str, **sizes: int | None) -> EventDataset:
        return self._used(read_shd(path, **sizes), path)

    def _used(self, dataset: EventDataset, path: str) -> EventDataset:
        check_window(dataset, self.duration, path)
        return dataset if self.limit is None else first_of_each(dataset, self.limit)

    @property
    def network_inputs(self) -> int | None:
        """Channels."""
        return None if self.nb_inputs is None else -(-self.nb_inputs // self.units_per_channel)

    def _options(self) -> dict[str, Any]:
        own: dict[str, dict[str, Any]] = {
            "speaker": {"speakers": self.validation_speakers},
            "file": {"path": self.valid_path},
        }
        return own.get(self.validation) or super()._options()


@dataclass
class SpikingDigitsConfig(HDF5Config):
    """The spoken digits that ship with the repository, as in the documented runs."""

    limit: int | None = 18  # recordings of each speaker and digit; null: all 50


@dataclass
class ImageLatencyConfig(HeldOutConfig):
    """MNIST or Fashion-MNIST, one spike per bright pixel at the time that ``code`` gives to its brightness."""

    folder: str = MISSING  # of the published files; subset/ below it holds the extract
    subset: bool = False  # the extract that ships with the repository instead of the published files
    code: dict[str, Any] = field(default_factory=dict)  # node: from brightness to the time of the spike (s)

    def preflight(self) -> None:
        """Raises UserError naming the file, and the command that fetches it, if one is missing."""
        super().preflight()
        idx.find_images(self.folder, self.name, subset=self.subset)
        self._code()

    def _code(self) -> Any:
        validate.node("dataset.code", self.code, "surgrad.datasets.encoding.latency.ChargingLatency")
        return build(self.code, at="dataset.code")

    def splits(self) -> Splits:
        """Reads the images; raises UserError naming the file, and the command that fetches it, if one is missing."""
        one_of("dataset.name", self.name, idx.CLASSES)
        code = self._code()
        parts = idx.read_images(self.folder, self.name, subset=self.subset)
        train, test = (image_events(part, code, name=self.name, class_names=idx.CLASSES[self.name]) for part in parts)
        self.require_sizes(train)
        return *self.hold_out(train), test


@dataclass
class BrailleConfig(HeldOutConfig):
    """Braille letters under a fingertip (`surgrad.datasets.sources.braille`), turned into spikes by ``encoding``."""

    path: str = MISSING  # of braille.npz
    taxels: list[int] = field(default_factory=lambda: [1, 2, 6, 10])  # the others never change
    standardize: bool = True  # with mean and deviation of the training part
    encoding: dict[str, Any] = field(default_factory=dict)  # node; its dt is the time from sample to sample (s)
    test_split: float = 0.2  # share of all recordings that tests, drawn by split_seed

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.share(self, "dataset.", "test_split")
        validate.not_empty(self, "dataset.", "taxels")
        validate.not_negative(self, "dataset.", "taxels")

    def preflight(self) -> None:
        """Raises UserError if the file is missing, or for an encoding that cannot be built."""
        super().preflight()
        if not Path(self.path).is_file():
            raise UserError(f"dataset.path={self.path}: no such file; it is part of the repository, in data/braille")
        self._encoding()

    def _encoding(self) -> Any:
        validate.node("dataset.encoding", self.encoding, "surgrad.datasets.encoding.lif_encoding.LIFEncoding")
        return build(self.encoding, at="dataset.encoding")

    def splits(self) -> Splits:
        """Reads and encodes the recordings; raises UserError if the file is missing or damaged."""
        recordings = read_braille(self.path, tuple(self.taxels))
        tests = np.zeros(len(recordings.labels), bool)
        order = np.random.default_rng(self.split_seed).permutation(len(tests))
        tests[order[: round(self.test_split * len(tests))]] = True
        if self.standardize:
            recordings = recordings.standardized(like=recordings.subset(~tests))
        encoding = self._encoding()
        spikes = encoded(recordings, encoding, encoding.nb_units(len(self.taxels)), self.name)
        self.require_sizes(spikes)
        return *self.hold_out(spikes.subset(~tests)), spikes.subset(tests)


@dataclass
class OwnConfig(HeldOutConfig):
    """A data set of one's own class, whose ``splits()`` gives (training, test) or (training, validation, test)."""

    source: dict[str, Any] = field(default_factory=dict)  # node

    def preflight(self) -> None:
        """Raises UserError for a class that is not there or has no splits."""
        super().preflight()
        self._source()

    def _source(self) -> Any:
        validate.node("dataset.source", self.source, "my_module.MyData")
        return parts.part("data set", self.source, "dataset.source")

    def splits(self) -> Splits:
        """What the class gives; of two parts the first is divided by ``validation``. Raises: UserError."""
        given = tuple(self._source().splits())
        if len(given) not in (2, 3) or not all(isinstance(part, EventDataset) for part in given if part is not None):
            named = ", ".join(type(part).__name__ for part in given)
            raise UserError(
                f"dataset.source={self.source['_target_']}: splits() gives ({named}), not (training, test) or "
                "(training, validation, test), each a surgrad.EventDataset"
            )
        train, *middle, test = given
        for part in given:
            if part is not None:
                check_window(part, self.duration, f"dataset.source={self.source['_target_']}")
        self.require_sizes(train)
        held = (train, middle[0]) if middle else self.hold_out(train)
        log.info("input units fire at %.3g Hz (dataset.nu=%g is assumed)", _rate(held[0], self.duration), self.nu)
        return *held, test


def _rate(dataset: EventDataset, duration: float) -> float:
    """Mean rate of the input units within the window, Hz."""
    return int((dataset.times < duration).sum()) / (max(1, len(dataset)) * dataset.nb_units * duration)


@dataclass
class RandomTaskConfig(DatasetConfig):
    """Random spikes, random labels (`surgrad.datasets.sources.random_task`): tests at chance, whatever was learned."""

    nb_inputs: int | None = 100
    nb_classes: int | None = 2
    nb_samples: int = 256
    task_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "dataset.", "nb_samples")
        if self.nu * self.time_step > 1:
            raise UserError(f"dataset.nu={self.nu} Hz: more than one spike per step of time_step={self.time_step} s")

    def splits(self) -> Splits:
        """Generates the data; nu is the rate of the inputs. There is nothing to validate on."""
        task = RandomTask(
            nb_samples=self.nb_samples,
            nb_units=self.nb_inputs or 0,
            nb_classes=self.nb_classes or 0,
            nb_steps=self.nb_steps,
            rate=self.nu,
            dt=self.time_step,
            seed=self.task_seed,
        )
        return task.draw(0), None, task.draw(1)


@dataclass
class RandmanConfig(DatasetConfig):
    """Smooth random manifolds as spike times (`surgrad.datasets.sources.randman`)."""

    dim_manifold: int = 1
    step_frac: float = 0.5  # share of the duration that holds spikes
    nb_samples: int = 1000  # per class
    nb_spikes: int = 1  # per input unit
    alpha_randman: float = 0.5  # smoothness of the manifolds
    randmanseed: int = 1
    fractions: list[float] = field(default_factory=lambda: [0.8, 0.1, 0.1])  # training, validation, test

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "dataset.", "dim_manifold", "nb_samples", "nb_spikes", "alpha_randman")
        if not 0 < self.step_frac <= 1:
            raise UserError(f"dataset.step_frac={self.step_frac}: must be above 0, and at most 1")
        if len(self.fractions) != 3 or min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(f"dataset.fractions={self.fractions}: wanted three shares that add up to 1")

    def splits(self) -> Splits:
        """Generates the data; the same for the same numbers."""
        try:
            train, valid, test = Randman(
                dim_manifold=self.dim_manifold,
                nb_classes=known("dataset.nb_classes", self.nb_classes),
                nb_units=known("dataset.nb_inputs", self.nb_inputs),
                nb_steps=self.nb_steps,
                duration=self.nb_steps * self.time_step,
                step_frac=self.step_frac,
                nb_samples=self.nb_samples,
                nb_spikes=self.nb_spikes,
                alpha=self.alpha_randman,
                seed=self.randmanseed,
            ).splits(self.fractions)
            return train, valid if len(valid) else None, test
        except ValueError as error:
            raise UserError(f"dataset: {error}") from error


#: The schema of each data set by name; one of another name has a ``source`` of one's own, or is in files.
DATASETS: dict[str, type[DatasetConfig]] = {
    "spiking_digits": SpikingDigitsConfig,
    "randman": RandmanConfig,
    "mnist": ImageLatencyConfig,
    "fashion_mnist": ImageLatencyConfig,
    "braille": BrailleConfig,
    "random": RandomTaskConfig,
    "nmnist": CameraConfig,
    "camera": CameraConfig,
    "dvs_gesture": GestureConfig,
}


#: Data sets in files that scripts/download_data.py fetches, and how; of spoken_commands, three takes are there.
DOWNLOADED = {"shd": "shd", "ssc": "ssc", "spoken_commands": "spoken_commands --full"}

if TYPE_CHECKING:
    DatasetNode = DatasetConfig
else:  # Hydra composes a dict, since its keys depend on the name; `__post_init__` of a suite makes it the object
    DatasetNode = dict[str, Any]

D = TypeVar("D", bound=DatasetConfig)


def no_dataset() -> Any:
    """Default of a key `dataset`: nothing composed yet."""
    return {}


def dataset_schema(choice: str, kind: type[DatasetConfig] = DatasetConfig) -> type[DatasetConfig]:
    """The dataclass of the keys of ``dataset=choice``; kind as of `dataset_config`."""
    named = {"own": OwnConfig, "braille_threshold_crossing": BrailleConfig}
    own = named.get(choice) or DATASETS.get(choice, HDF5Config)
    return own if issubclass(own, kind) else make_dataclass(own.__name__, [], bases=(kind, own))


def dataset_config(content: Any, kind: type[D] = DatasetConfig) -> D:  # type: ignore[assignment]
    """What is composed under `dataset`, as an object of the data set's own schema, which its name chooses.

    Args:
        content: keys and values; an object is returned as it is.
        kind: what a suite's data sets are; its keys are known beside those of the data set.

    Raises:
        UserError: naming an unknown key, a wrong type, a value out of range.
    """
    if isinstance(content, kind):
        return content
    if not content:
        raise UserError("dataset: is empty; choose one, e.g. dataset=spiking_digits")
    name = content.get("name")
    choice = "own" if "source" in content else str(name)
    checked: D = check({"dataset": dict(content)}, _wrapper(kind, choice)).dataset  # type: ignore[arg-type]  # a class is hashable
    return checked


@cache
def _wrapper(kind: type[DatasetConfig], choice: str) -> type:
    """A dataclass with the data set as its only field, so that messages name whole keys."""
    schema = dataset_schema(choice, kind)
    return make_dataclass("Wrapper", [("dataset", schema, field(default_factory=schema))])
