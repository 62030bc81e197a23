"""Configuration of event-based networks, and of the same networks on a time grid."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from omegaconf import MISSING

from surgrad.config import validate
from surgrad.config.common import CommonConfig
from surgrad.config.validate import not_negative, one_of, positive
from surgrad.datasets.events import Augmentation, EventDataset
from surgrad.datasets.sources.yin_yang import CLASSES, Points, published_splits
from surgrad.errors import UserError
from surgrad.eventprop.encoding import linear_latency
from surgrad.eventprop.layers import EventLayer, EventLIF, EventReadout
from surgrad.eventprop.network import EventNetwork, FirstSpike, Head, IntegratedVoltage, MaximumVoltage, SpikeSet
from surgrad.experiments.datasets import DatasetConfig, DatasetNode, dataset_config, dataset_schema, no_dataset
from surgrad.experiments.eventprop.training import Recipe
from surgrad.network.connections import Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.lif import LIF
from surgrad.neurons.surrogate import SuperSpike
from surgrad.training.losses import IntegratedCrossEntropy, MaxOverTimeCrossEntropy, ReadoutCrossEntropy

EVENT_METHODS = ("eventprop", "surrogate")
EVENT_LOSSES = ("first_spike", "max_voltage", "integrated_voltage")

Splits = tuple[SpikeSet, SpikeSet, SpikeSet]


@dataclass
class NormalConfig:
    """Distribution of initial weights."""

    mean: float = MISSING  # of the weights, units of threshold
    std: float = MISSING  # their standard deviation

    def fill(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        """Draw a weight matrix (presynaptic, postsynaptic)."""
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * self.std + self.mean)


@dataclass
class EventConfig(CommonConfig):
    """One hidden layer between spikes and classes, trained by exact or by surrogate gradients."""

    method: str = "eventprop"  # eventprop | surrogate
    loss: str = "first_spike"  # first_spike | max_voltage | integrated_voltage; surrogates take one of a voltage

    nb_epochs: int = 100  # passes over the training data
    batch_size: int = 32  # samples per update
    lr: float = 5e-3  # learning rate
    lr_decay: float = 0.95  # factor per epoch
    input_dropout: float = 0.0  # probability of losing an input spike while training
    logging_freq: int = 10  # epochs between two lines of the log
    plot: bool = True  # draw figures

    nb_hidden: int = 200  # units of the hidden layer
    tau_mem: float = 20e-3  # s
    tau_syn: float = 5e-3  # s
    duration: float = 60e-3  # of a sample (s)
    hidden: NormalConfig = field(default_factory=lambda: NormalConfig(1.5, 0.78))  # initial weights
    output: NormalConfig = field(default_factory=lambda: NormalConfig(0.93, 0.1))

    alpha: float = 0.003  # first_spike: pull of the label's spike towards early times
    tau0: float = 0.5e-3  # first_spike: of the softmax over spike times (s)
    tau1: float = 6.4e-3  # first_spike: of the pull (s)
    bump: float = 1.0  # first_spike: added to the weights of a label's unit that is silent, in learning rates
    tau_weight: float = math.inf  # integrated_voltage: of the weight exp(-t / tau_weight) (s)
    gain: float = 1.0  # integrated_voltage: on the mean voltage

    time_step: float = 0.5e-3  # of the grid for surrogate gradients (s)
    beta: float = 10.0  # slope of the SuperSpike surrogate

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("method", self.method, EVENT_METHODS)
        one_of("loss", self.loss, EVENT_LOSSES)
        if self.method == "surrogate" and self.loss == "first_spike":
            raise UserError("method=surrogate has no spike times to differentiate: take loss=max_voltage")
        positive(self, "", "batch_size", "nb_hidden", "lr", "lr_decay", "duration", "time_step", "logging_freq")
        positive(self, "", "tau_mem", "tau_syn", "tau0", "tau1", "tau_weight", "beta")
        not_negative(self, "", "nb_epochs", "alpha", "bump")
        for name in ("hidden", "output"):
            not_negative(getattr(self, name), f"{name}.", "std")
        if self.nb_steps < 1:
            raise UserError(f"duration={self.duration} s is shorter than one time_step={self.time_step} s")
        if not 0 <= self.input_dropout < 1:
            raise UserError(f"input_dropout={self.input_dropout}: need a probability below 1")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Units of input, hidden layer and output."""
        raise NotImplementedError

    def splits(self) -> Splits:
        """Training, validation and test set."""
        raise NotImplementedError

    def augmentation(self) -> Augmentation | None:
        """Changes to training data besides the loss of input spikes; None: none."""
        return None

    @property
    def nb_steps(self) -> int:
        """Steps of the grid."""
        return round(self.duration / self.time_step)

    def recipe(self) -> Recipe:
        """How it is trained."""
        return Recipe(
            nb_epochs=self.nb_epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            lr_decay=self.lr_decay,
            input_dropout=self.input_dropout,
            seed=self.seed,
            logging_freq=self.logging_freq,
        )

    def event_network(self) -> EventNetwork:
        """Without a grid, weights drawn from the seed."""
        nb_inputs, nb_hidden, nb_classes = self.sizes
        neuron = EventLIF(self.tau_mem, self.tau_syn)
        hidden = EventLayer(nb_inputs, nb_hidden, neuron)
        generator = torch.Generator().manual_seed(self.seed)
        self.hidden.fill(hidden.weight, generator)
        if self.loss == "first_spike":
            output = EventLayer(nb_hidden, nb_classes, neuron)
            self.output.fill(output.weight, generator)
            head = FirstSpike(nb_classes, self.alpha, self.tau0, self.tau1, self.bump)
            return EventNetwork([hidden, output], head, self.duration)
        readout = EventReadout(nb_hidden, nb_classes, neuron)
        heads: dict[str, Callable[[EventReadout], Head]] = {
            "max_voltage": MaximumVoltage,
            "integrated_voltage": lambda readout: IntegratedVoltage(readout, self.tau_weight, self.gain),
        }
        self.output.fill(readout.weight, generator)
        return EventNetwork([hidden], heads[self.loss](readout), self.duration)

    def grid_network(self) -> Network:
        """The network of `event_network` with a readout, same weights, on a grid of `time_step`."""
        nb_inputs, nb_hidden, nb_classes = self.sizes
        events = self.event_network()
        neuron = LIF(surrogate=SuperSpike(self.beta), reset="multiplicative_leak")
        below, above = Dense(nb_inputs, nb_hidden), Dense(nb_hidden, nb_classes)
        hidden = SpikingLayer(below, neuron, self.tau_mem, self.tau_syn)
        readout = Readout(above, self.tau_mem, self.tau_syn, u0=0.0)
        if not isinstance(events.head, MaximumVoltage | IntegratedVoltage):
            raise UserError(
                f"loss={self.loss}: a network on a grid has a readout; give max_voltage or integrated_voltage"
            )
        below.weight.data = events.layers[0].weight.detach().T.contiguous()
        above.weight.data = events.head.readout.weight.detach().T.contiguous()
        return Network([hidden], readout, self.time_step, delay=0)

    def grid_loss(self) -> ReadoutCrossEntropy:
        """The loss of `event_network` on a grid."""
        steps = self.tau_weight / self.time_step
        losses: dict[str, ReadoutCrossEntropy] = {
            "max_voltage": MaxOverTimeCrossEntropy(),
            "integrated_voltage": IntegratedCrossEntropy(steps, self.gain),
        }
        return losses[self.loss]

    def events(self, data: SpikeSet, name: str) -> EventDataset:
        """The same spikes for the time grid."""
        spikes = data.spikes
        return EventDataset(
            times=spikes.times.numpy(),
            units=spikes.units.numpy(),
            offsets=spikes.offsets.numpy(),
            labels=data.labels.numpy(),
            nb_units=self.sizes[0],
            nb_classes=self.sizes[-1],
            name=name,
        )


@dataclass
class LatencyConfig:
    """Features as spike times, in s."""

    early: float = 0.0  # spike of a feature of 0
    late: float = 30e-3  # spike of a feature of 1
    bias: float = 0.0  # spike of the bias unit


@dataclass
class YinYangConfig(EventConfig):
    """Everything a run of `Classification/yin_yang.py` depends on."""

    latency: LatencyConfig = field(default_factory=LatencyConfig)

    @property
    def sizes(self) -> tuple[int, int, int]:
        return 5, self.nb_hidden, len(CLASSES)

    def encode(self, points: Points) -> SpikeSet:
        """Spikes of four features and a bias unit."""
        early, late, bias = self.latency.early, self.latency.late, self.latency.bias
        spikes = linear_latency(points.features, duration=self.duration, early=early, late=late, bias=bias)
        return SpikeSet(spikes, torch.from_numpy(points.labels))

    def splits(self) -> Splits:
        train, valid, test = (self.encode(points) for points in published_splits())
        return train, valid, test


@dataclass
class EventSNNConfig(EventConfig):
    """Everything a run of `Classification/event_SNN.py` depends on."""

    KEYS_OF: ClassVar = {"dataset": dataset_schema}

    dataset: DatasetNode = field(default_factory=no_dataset)  # one of the group

    def __post_init__(self) -> None:
        self.dataset = dataset_config(self.dataset, DatasetConfig)  # first: other keys follow from it
        super().__post_init__()
        if getattr(self.dataset, "validation", None) == "none" or self.dataset.name == "random":
            raise UserError(f"dataset={self.dataset.name}: needs a validation set, by which an epoch is chosen")
        validate.at_default(self.dataset, "dataset.", "counted")

    def preflight(self) -> None:
        """Files of the data set. Raises: UserError naming the first that is missing."""
        self.dataset.preflight()

    def augmentation(self) -> Augmentation | None:
        """What the data set asks for, under dataset.augment."""
        return self.dataset.augmentation()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Units of input, hidden layer and output; of the training data where the configuration leaves it to these."""
        data = self.dataset
        if data.network_inputs is not None and data.nb_classes is not None:
            return data.network_inputs, self.nb_hidden, data.nb_classes
        train = self._parts[0]
        return train.nb_units, self.nb_hidden, train.nb_classes

    def splits(self) -> Splits:
        train, valid, test = (SpikeSet.from_events(part, self.duration) for part in self._parts)
        return train, valid, test

    @cached_property
    def _parts(self) -> tuple[EventDataset, EventDataset, EventDataset]:
        train, valid, test = self.dataset.splits()
        if valid is None:
            raise UserError("dataset.validation=none: an event-based run needs a validation set, e.g. random")
        return train, valid, test
