"""Configuration of the EventProp suite: event-based networks and the same networks on a time grid."""

from dataclasses import dataclass, field

import torch
from omegaconf import MISSING
from torch import nn

from surgrad.datasets.events import EventDataset
from surgrad.datasets.latency import linear_latency
from surgrad.datasets.yin_yang import CLASSES, Points, published_splits
from surgrad.errors import UserError
from surgrad.eventprop import EventLayer, EventLIF, EventReadout
from surgrad.eventprop_network import EventNetwork, FirstSpike, MaximumVoltage, SpikeSet
from surgrad.layers import Dense, Readout, SpikingLayer
from surgrad.network import Network
from surgrad.neurons import LIF
from surgrad.schema import CommonConfig, unknown_option
from surgrad.surrogate import SuperSpike

METHODS = ("eventprop", "surrogate")
LOSSES = ("first_spike", "max_voltage")


@dataclass
class NormalConfig:
    """Distribution of initial weights."""

    mean: float = MISSING
    std: float = MISSING

    def fill(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        """Draw a weight matrix (presynaptic, postsynaptic)."""
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * self.std + self.mean)


@dataclass
class LatencyConfig:
    """Features as spike times, in s."""

    early: float = 0.0  # spike of a feature of 0
    late: float = 30e-3  # spike of a feature of 1
    bias: float = 0.0  # spike of the bias unit


@dataclass
class YinYangConfig(CommonConfig):
    """Everything a run of `Classification/yin_yang.py` depends on."""

    method: str = "eventprop"  # eventprop | surrogate
    loss: str = "first_spike"  # first_spike | max_voltage; a surrogate gradient takes max_voltage

    nb_epochs: int = 100
    batch_size: int = 32
    lr: float = 5e-3
    lr_decay: float = 0.95  # factor per epoch
    logging_freq: int = 10  # epochs between two lines of the log
    plot: bool = True

    nb_hidden: int = 200
    tau_mem: float = 20e-3  # s
    tau_syn: float = 5e-3  # s
    duration: float = 60e-3  # of a sample (s)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    hidden: NormalConfig = field(default_factory=lambda: NormalConfig(1.5, 0.78))  # initial weights
    output: NormalConfig = field(default_factory=lambda: NormalConfig(0.93, 0.1))

    alpha: float = 0.003  # pull of the label's spike towards early times
    tau0: float = 0.5e-3  # of the softmax over spike times (s)
    tau1: float = 6.4e-3  # of the pull (s)
    bump: float = 1.0  # added to the weights of a label's unit in a batch where it is silent, in learning rates

    time_step: float = 0.5e-3  # of the grid on which surrogate gradients live (s)
    beta: float = 10.0  # slope of the SuperSpike surrogate

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(unknown_option("method", self.method, METHODS))
        if self.loss not in LOSSES:
            raise UserError(unknown_option("loss", self.loss, LOSSES))
        if self.method == "surrogate" and self.loss != "max_voltage":
            raise UserError("method=surrogate has no spike times to differentiate: take loss=max_voltage")
        for name in ("batch_size", "nb_hidden", "lr", "lr_decay", "duration", "time_step", "logging_freq"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} must be positive")

    def encode(self, points: Points) -> SpikeSet:
        """Spikes of four features and a bias unit."""
        latency = {"early": self.latency.early, "late": self.latency.late, "bias": self.latency.bias}
        spikes = linear_latency(points.features, duration=self.duration, **latency)
        return SpikeSet(spikes, torch.from_numpy(points.labels))

    def splits(self) -> tuple[SpikeSet, SpikeSet, SpikeSet]:
        """Training, validation and test set."""
        return tuple(self.encode(points) for points in published_splits())

    def event_network(self) -> EventNetwork:
        """5 - nb_hidden - 3, weights drawn from the seed."""
        neuron = EventLIF(self.tau_mem, self.tau_syn)
        hidden = EventLayer(5, self.nb_hidden, neuron)
        generator = torch.Generator().manual_seed(self.seed)
        self.hidden.fill(hidden.weight, generator)
        if self.loss == "first_spike":
            output = EventLayer(self.nb_hidden, len(CLASSES), neuron)
            layers, head = [hidden, output], FirstSpike(len(CLASSES), self.alpha, self.tau0, self.tau1, self.bump)
        else:
            output = EventReadout(self.nb_hidden, len(CLASSES), neuron)
            layers, head = [hidden], MaximumVoltage(output)
        self.output.fill(output.weight, generator)
        return EventNetwork(layers, head, self.duration)

    def grid_network(self) -> Network:
        """The network of `event_network` with maximum voltage, same weights, on a grid of `time_step`."""
        events = self.event_network()
        neuron = LIF(surrogate=SuperSpike(self.beta), reset="multiplicative_leak")
        hidden = SpikingLayer(Dense(5, self.nb_hidden), neuron, self.tau_mem, self.tau_syn)
        readout = Readout(Dense(self.nb_hidden, len(CLASSES)), self.tau_mem, self.tau_syn, u0=0.0)
        pairs: list[tuple[nn.Module, nn.Module]] = [(hidden, events.layers[0]), (readout, events.head.readout)]
        for layer, source in pairs:
            layer.feedforward.weight.data = source.weight.detach().T.contiguous()
        return Network([hidden], readout, self.time_step, delay=0)

    def dataset(self, data: SpikeSet, name: str) -> EventDataset:
        """The same spikes for the time grid."""
        spikes = data.spikes
        return EventDataset(
            times=spikes.times.numpy(),
            units=spikes.units.numpy(),
            offsets=spikes.offsets.numpy(),
            labels=data.labels.numpy(),
            nb_units=5,
            nb_classes=len(CLASSES),
            name=f"yin_yang {name}",
        )

    @property
    def nb_steps(self) -> int:
        return round(self.duration / self.time_step)
