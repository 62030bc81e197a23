"""What every data set that classification trains on configures: size, time grid, changes to batches, validation."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from surgrad.config import validate
from surgrad.config.validate import one_of, positive
from surgrad.datasets.augment import Compose, augmentations
from surgrad.datasets.events import Augmentation, EventDataset
from surgrad.datasets.splits import validation_split
from surgrad.errors import UserError
from surgrad.experiments import parts

Splits = tuple[EventDataset, EventDataset | None, EventDataset]

MOST_STEPS = 10**7  # of a sample: a number that can only be a mistake of units


@dataclass
class AugmentConfig:
    """Changes to the events of every training batch; all 0: none (`surgrad.datasets.augment.augmentations`)."""

    p_drop: float = 0.0  # probability of losing a spike
    p_insert: float = 0.0  # probability of a spurious spike per unit and step
    sigma_t: float = 0.0  # standard deviation of the time jitter (s)
    sigma_u: float = 0.0  # full width of the unit jitter (units)
    sigma_u_uniform: float = 0.0  # standard deviation of a shift of the whole sample (units)
    time_stretch: float = 0.0  # f: stretch each sample by a factor from U(1 - f, 1 + f)
    time_mask: float = 0.0  # longest silent window, as a share of the sample
    unit_mask: float = 0.0  # widest silent band, as a share of the units
    p_cutmix: float = 0.0  # probability that a window is another sample's of the same class


@dataclass
class DatasetConfig:
    """What every data set configures: its size, the time grid, changes to batches (keys of the published suite)."""

    name: str = MISSING
    nb_inputs: int | None = None  # input units; null: as many as the training data have
    nb_classes: int | None = None  # readout units; null: as many as the training data have
    batch_size: int = 400  # samples per update, the default of the top-level batch_size
    nu: float = 15.8  # mean rate of the input units, assumed by the initialisation (Hz)
    duration: float = 0.7  # simulated time of a sample; later spikes are dropped (s)
    time_step: float = 2e-3  # s
    counted: bool = False  # spikes of one unit in one step are counted; false: there is a spike or none
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    augmentations: dict[str, Any] = field(default_factory=dict)  # nodes, under names of your choice, after augment

    def __post_init__(self) -> None:
        positive(self, "dataset.", "batch_size", "nu", "duration", "time_step", "nb_inputs", "nb_classes")
        noise = self.augment
        validate.probability(noise, "dataset.augment.", "p_drop", "p_insert", "time_mask", "unit_mask", "p_cutmix")
        validate.not_negative(noise, "dataset.augment.", "sigma_t", "sigma_u", "sigma_u_uniform")
        if not 0 <= noise.time_stretch < 1:
            raise UserError(f"dataset.augment.time_stretch={noise.time_stretch}: must be from 0 to below 1")
        if self.nb_steps < 1:
            raise UserError(f"dataset.duration={self.duration} s is shorter than one time_step={self.time_step} s")
        if self.nb_steps > MOST_STEPS:
            raise UserError(
                f"dataset.duration={self.duration} s has {self.nb_steps} steps of time_step={self.time_step} s, "
                f"more than {MOST_STEPS}"
            )

    @property
    def nb_steps(self) -> int:
        """T; a duration that is a whole number of steps up to rounding counts as that number."""
        return int(self.duration / self.time_step * (1 + 1e-9))

    @property
    def network_inputs(self) -> int | None:
        """Input units of a network, where the configuration says them."""
        return self.nb_inputs

    def unit_shape(self, nb_inputs: int) -> tuple[int, ...]:
        """Shape of the input units of a convolution: (channels, length) or (channels, height, width)."""
        return 1, nb_inputs

    def augmentation(self) -> Augmentation | None:
        """What is done to training batches, or None."""
        try:
            published = augmentations(dt=self.time_step, nb_steps=self.nb_steps, **asdict(self.augment))
        except ValueError as error:
            raise UserError(f"dataset.augment: {error}") from error
        own = [
            parts.part("augmentation", node, f"dataset.augmentations.{name}")
            for name, node in self.augmentations.items()
            if node is not None
        ]
        return Compose([*([published] if published else []), *own]) if own else published

    def preflight(self) -> None:
        """Raises UserError for a file that is missing, or for a part that cannot be built, before it is needed."""
        self.augmentation()

    def splits(self) -> Splits:
        """Training, validation and test set."""
        raise NotImplementedError


@dataclass
class HeldOutConfig(DatasetConfig):
    """A data set whose training part also gives what validates."""

    KINDS: ClassVar[tuple[str, ...]] = ("none", "random")

    validation: str = "random"  # random | none (files: also speaker | file): what is held out to choose between epochs
    validation_split: float = 0.9  # random: share of the training part that is kept for training
    stratified: bool = False  # random: hold out the same share of every class
    split_seed: int = 1  # random: seed of the split

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("dataset.validation", self.validation, self.KINDS)
        if self.validation == "random":
            validate.share(self, "dataset.", "validation_split")

    def hold_out(self, everything: EventDataset) -> tuple[EventDataset, EventDataset | None]:
        """(training, validation); raises UserError if one of them is left without samples."""
        return validation_split(everything, self.validation, **self._options())

    def _options(self) -> dict[str, Any]:
        """Options of the chosen kind of validation."""
        if self.validation == "none":
            return {}
        return {"fraction": 1 - self.validation_split, "seed": self.split_seed, "stratified": self.stratified}

    def require_sizes(self, dataset: EventDataset) -> None:
        """Raises UserError if the configured numbers of inputs and classes are not those of the data."""
        for key, found in (("nb_inputs", dataset.nb_units), ("nb_classes", dataset.nb_classes)):
            if getattr(self, key) not in (None, found):
                raise UserError(f"dataset.{key}={getattr(self, key)}: {self.name} has {found}; leave it null")
