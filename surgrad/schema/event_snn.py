"""Configuration of `Classification/event_SNN.py`: event-based networks on data sets in files."""

from dataclasses import dataclass, field
from typing import Any

from surgrad.datasets.events import Augmentation
from surgrad.errors import UserError
from surgrad.eventprop_network import SpikeSet
from surgrad.schema.datasets import dataset_config
from surgrad.schema.eventprop import EventConfig, Splits


@dataclass
class EventSNNConfig(EventConfig):
    """Everything a run of `Classification/event_SNN.py` depends on."""

    dataset: dict[str, Any] = field(default_factory=dict)  # becomes the schema of its name

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dataset = dataset_config(self.dataset)

    def augmentation(self) -> Augmentation | None:
        """What the data set asks for, under dataset.augment."""
        return self.dataset.augmentation()

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.dataset.nb_inputs, self.nb_hidden, self.dataset.nb_classes

    def splits(self) -> Splits:
        """Raises: UserError without a validation set, by which an epoch is chosen."""
        parts = self.dataset.splits()
        if parts[1] is None:
            raise UserError("dataset.validation=none: an event-based run needs a validation set, e.g. random")
        return tuple(SpikeSet.from_events(part, self.duration) for part in parts)
