"""Stacks of event-based layers with a head that makes class scores of spikes, and what trains them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgrad.datasets.events import EventDataset
from surgrad.errors import UserError
from surgrad.eventprop.layers import EventLayer, EventReadout, Spikes, first_spikes


class FirstSpike(nn.Module):
    """Time-to-first-spike cross entropy: the unit that fires first wins (Wunderlich & Pehle 2021, eq. 14),

        L = -log(exp(-t_y / tau0) / sum_k exp(-t_k / tau0)) + alpha (exp(t_y / tau1) - 1).

    A silent unit counts as one that fires at the end, without a gradient. Where the unit of the label is silent, the
    sample has no gradient at all, which could only silence the others; `revive` raises the weights of such units.

    Args:
        nb_classes: C.
        alpha: weight of the pull towards early spikes.
        tau0: s.
        tau1: s.
        bump: see `revive`.
    """

    def __init__(
        self,
        nb_classes: int,
        alpha: float = 0.003,
        tau0: float = 0.5e-3,
        tau1: float = 6.4e-3,
        bump: float = 1.0,
    ):
        super().__init__()
        if not (tau0 > 0 and tau1 > 0):
            raise UserError(f"tau0={tau0} s and tau1={tau1} s must be positive")
        self.nb_classes, self.alpha, self.tau0, self.tau1, self.bump = nb_classes, alpha, tau0, tau1, bump

    def scores(self, spikes: Spikes, duration: float) -> Tensor:
        """-t / tau0 of first spikes, (B, C); -inf for silent units."""
        return -first_spikes(spikes, self.nb_classes) / self.tau0

    def loss(self, scores: Tensor, labels: Tensor, duration: float) -> Tensor:
        """Mean over samples: scores (B, C), labels (B,) -> ()."""
        wanted = scores.gather(1, labels[:, None])[:, 0]
        answered = wanted.isfinite()
        filled = torch.where(scores.isfinite(), scores, -duration / self.tau0)
        late = -filled.gather(1, labels[:, None])[:, 0] * self.tau0
        losses = F.cross_entropy(filled, labels, reduction="none") + self.alpha * torch.expm1(late / self.tau1)
        return torch.where(answered, losses, losses.detach()).mean()

    def silent(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Which samples lack a spike of the label's unit, (B,) bool."""
        return ~scores.gather(1, labels[:, None])[:, 0].isfinite()

    @torch.no_grad()
    def revive(self, layer: EventLayer, scores: Tensor, labels: Tensor, lr: float) -> int:
        """Add ``bump`` lr to all weights of a label's unit that is silent in some sample; returns how many samples.

        As a step of Adam would, this shrinks with the learning rate: a constant would in the end outweigh the gradient.
        """
        silent = labels[self.silent(scores, labels)]
        if len(silent):
            layer.weight[:, silent.unique()] += self.bump * lr
        return len(silent)


class _ReadoutHead(nn.Module):
    """Cross entropy on scores made of the voltage of leaky integrators."""

    def __init__(self, readout: EventReadout):
        super().__init__()
        self.readout = readout

    def loss(self, scores: Tensor, labels: Tensor, duration: float) -> Tensor:
        """Mean over samples: scores (B, C), labels (B,) -> ()."""
        return F.cross_entropy(scores, labels)

    def silent(self, scores: Tensor, labels: Tensor) -> Tensor:
        """A voltage always answers: none, (B,) bool."""
        return torch.zeros_like(labels, dtype=torch.bool)

    def revive(self, layer: EventLayer, scores: Tensor, labels: Tensor, lr: float) -> int:
        """Nothing to do."""
        return 0


class MaximumVoltage(_ReadoutHead):
    """Cross entropy of max_t V_k(t) (Wunderlich & Pehle 2021, eq. 15).

    Args:
        readout: leaky integrators of the classes.
    """

    def scores(self, spikes: Spikes, duration: float) -> Tensor:
        return self.readout.maximum(spikes, duration)


class IntegratedVoltage(_ReadoutHead):
    """Cross entropy of the mean voltage, early times weighted more: exp(-t / tau_weight) (loss shaping).

    Args:
        readout: leaky integrators of the classes.
        tau_weight: in s, inf for equal weights.
        gain: on the mean voltage.
    """

    def __init__(self, readout: EventReadout, tau_weight: float = math.inf, gain: float = 1.0):
        super().__init__(readout)
        if not tau_weight > 0:
            raise UserError(f"tau_weight={tau_weight} s must be positive")
        self.tau_weight, self.gain = tau_weight, gain

    def scores(self, spikes: Spikes, duration: float) -> Tensor:
        return self.gain * self.readout.integral(spikes, duration, self.tau_weight)


class EventOutput(NamedTuple):
    """Class scores (B, C), the largest wins; spikes of every layer."""

    scores: Tensor
    spikes: list[Spikes]


class Head(Protocol):
    """What makes class scores (B, C) of the spikes of the last layer, and a loss of them."""

    def scores(self, spikes: Spikes, duration: float) -> Tensor: ...

    def loss(self, scores: Tensor, labels: Tensor, duration: float) -> Tensor: ...

    def silent(self, scores: Tensor, labels: Tensor) -> Tensor: ...

    def revive(self, layer: EventLayer, scores: Tensor, labels: Tensor, lr: float) -> int: ...


class EventLayers(nn.ModuleList):
    """The layers of a network, bottom to top."""

    if TYPE_CHECKING:  # PyTorch knows modules only

        def __iter__(self) -> Iterator[EventLayer]: ...

        def __getitem__(self, index: int) -> EventLayer: ...  # type: ignore[override]


class EventNetwork(nn.Module):
    """Event-based layers and a head.

    Args:
        layers: bottom to top.
        head: makes class scores of the last layer's spikes.
        duration: of a sample, s.
    """

    def __init__(self, layers: Sequence[EventLayer], head: Head, duration: float):
        super().__init__()
        if not (duration > 0 and math.isfinite(duration)):
            raise UserError(f"duration={duration} s must be positive")
        self.layers, self.head, self.duration = EventLayers(layers), head, duration

    def forward(self, spikes: Spikes) -> EventOutput:
        seen = []
        for layer in self.layers:
            spikes = layer(spikes, self.duration)
            seen.append(spikes)
        return EventOutput(self.head.scores(spikes, self.duration), seen)


class SpikeSet(NamedTuple):
    """Samples and their labels (N,) int64."""

    spikes: Spikes
    labels: Tensor

    @classmethod
    def from_events(cls, data: EventDataset, duration: float) -> "SpikeSet":
        """The spikes of a data set up to ``duration`` (s), in the order of their times."""
        keep = (data.times >= 0) & (data.times <= duration)
        samples = np.repeat(np.arange(len(data.labels)), np.diff(data.offsets))[keep]
        times, units = data.times[keep], data.units[keep]
        order = np.lexsort((times, samples))
        offsets = np.concatenate([[0], np.bincount(samples, minlength=len(data.labels)).cumsum()])
        spikes = (torch.from_numpy(x) for x in (times[order], units[order].astype(np.int32), offsets))
        return cls(Spikes(*spikes), torch.from_numpy(data.labels))

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> "Iterator[SpikeSet]":
        """In order, or shuffled by ``generator``; the last may be smaller."""
        n = len(self.labels)
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        for samples in order.split(batch_size):
            yield SpikeSet(self.spikes.subset(samples), self.labels[samples])


@dataclass
class EventScores:
    """Means over samples: loss, share of correct answers, of samples whose label's unit is silent, and of hidden units
    that are silent; spikes per unit and sample of each layer."""

    loss: float = 0.0
    acc: float = 0.0
    silent_label: float = 0.0
    silent_hidden: float = 0.0
    counts: tuple[float, ...] = ()

    def columns(self, prefix: str) -> dict[str, float]:
        """For metrics.csv."""
        return {f"{prefix}_{key}": getattr(self, key) for key in ("loss", "acc")}

    def activity(self) -> dict[str, float]:
        """How many spikes there are, and how many units have none."""
        counts = {f"spikes-layer_{k}": count for k, count in enumerate(self.counts)}
        return {"silent_label": self.silent_label, "silent_hidden": self.silent_hidden} | counts


class EventTally:
    """Sums of what `EventScores` averages."""

    def __init__(self, network: EventNetwork):
        self.network, self.n, self.sums = network, 0, [0.0] * 4
        self.counts = [0] * len(network.layers)

    def add(self, loss: Tensor, output: EventOutput, labels: Tensor) -> None:
        n, scores, bottom = len(labels), output.scores.detach(), self.network.layers[0].nb_units
        silent = self.network.head.silent(scores, labels)
        correct = (scores.argmax(1) == labels) & ~silent
        spiked = torch.zeros(n * bottom, dtype=torch.bool)
        spiked[output.spikes[0].samples * bottom + output.spikes[0].units] = True
        active = int(spiked.sum()) / bottom
        for k, value in enumerate((float(loss.detach()) * n, int(correct.sum()), int(silent.sum()), n - active)):
            self.sums[k] += value
        self.n += n
        for k, spikes in enumerate(output.spikes):
            self.counts[k] += len(spikes.times)

    def scores(self) -> EventScores:
        units = [layer.nb_units for layer in self.network.layers]
        counts = tuple(count / (self.n * nb) for count, nb in zip(self.counts, units, strict=True))
        loss, acc, silent_label, silent_hidden = (x / self.n for x in self.sums)
        return EventScores(loss, acc, silent_label, silent_hidden, counts)


def train_epoch(
    network: EventNetwork,
    data: SpikeSet,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    generator: torch.Generator,
    input_dropout: float = 0.0,
) -> EventScores:
    """One pass of gradient descent; every batch is scored with the weights it met.

    Args:
        network: is trained in place.
        data: training set.
        optimizer: of the network's weights.
        batch_size: samples in a batch.
        generator: orders the samples and drops input spikes.
        input_dropout: probability with which an input spike is dropped.

    Raises:
        UserError: if a gradient is not finite.
    """
    tally = EventTally(network)
    for spikes, labels in data.batches(batch_size, generator):
        if input_dropout:
            spikes = spikes.dropped(input_dropout, generator)
        output = network(spikes)
        loss = network.head.loss(output.scores, labels, network.duration)
        optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            # a sum is not finite if any of its terms is not, and costs a fifth of looking at each
            if not math.isfinite(sum(float(p.grad.sum()) for p in network.parameters() if p.grad is not None)):
                raise UserError(f"the gradient is not finite (loss {float(loss.detach()):g}); lower lr")
            optimizer.step()
        network.head.revive(network.layers[-1], output.scores.detach(), labels, optimizer.param_groups[0]["lr"])
        tally.add(loss, output, labels)
    return tally.scores()


@torch.no_grad()
def evaluate(network: EventNetwork, data: SpikeSet, batch_size: int = 500) -> EventScores:
    """Scores on a data set, in its order."""
    tally = EventTally(network)
    for spikes, labels in data.batches(batch_size):
        output = network(spikes)
        tally.add(network.head.loss(output.scores, labels, network.duration), output, labels)
    return tally.scores()
