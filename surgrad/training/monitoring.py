"""What a network does with single samples: spikes of all layers, rates and Fano factors over repeats, figures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surgrad.datasets.events import EventBatch, EventDataset
from surgrad.errors import UserError
from surgrad.figures import plots as figures
from surgrad.network.network import Network, evaluating
from surgrad.runs.folder import Run
from surgrad.training.distributed import Follower
from surgrad.training.loop import DEFAULT_COMPUTE, MONITOR_DRAW, BatchGrid, Compute
from surgrad.training.statistics import defined_mean, fano_over_trials, firing_rates

_RECORDED_AT_ONCE = 64  # repeats whose spikes are held as numbers rather than bytes


class Activity(NamedTuple):
    """Recorded samples.

    spikes: of every hidden layer, bottom to top, uint8 (T, B, *units).
    readout: float32 (T, B, classes).
    """

    spikes: list[Tensor]
    readout: Tensor


@torch.no_grad()
def record(
    network: Network, batches: Sequence[EventBatch], *, seed: int = 0, draw: int = 0, compute: Compute = DEFAULT_COMPUTE
) -> Activity:
    """Spikes and readout of some batches as one `Activity` on the CPU, spikes as bytes.

    Args:
        network: spiking layers and readout.
        batches: batches on its device.
        seed: of the noise.
        draw: of the noise.
        compute: how the network is run.
    """
    spikes, readouts = [], []
    for batch in batches:
        with evaluating(network):
            out = compute(network, batch, seed=seed, draw=draw, record=True)
        spikes.append([layer.to(torch.uint8).cpu() for layer in out.recorded])
        readouts.append(out.y.cpu())
    return Activity([torch.cat(layer, 1) for layer in zip(*spikes, strict=True)], torch.cat(readouts, 1))


def repeated(sample: EventBatch, nb_repeats: int, batch_size: int) -> list[EventBatch]:
    """One sample ``nb_repeats`` times, in batches; repeat k has the id k, so that each draws its own noise."""
    batches = []
    for first in range(0, nb_repeats, batch_size):
        n = min(batch_size, nb_repeats - first)
        batches.append(
            replace(
                sample,
                steps=sample.steps.repeat(n),
                units=sample.units.repeat(n),
                counts=None if sample.counts is None else sample.counts.repeat(n),
                offsets=torch.arange(n + 1, device=sample.offsets.device) * len(sample.steps),
                labels=sample.labels.repeat(n),
                ids=torch.arange(first, first + n, device=sample.ids.device),
            )
        )
    return batches


@dataclass(frozen=True)
class Shown:
    """Which samples and neurons are looked at, and how they are drawn.

    Args:
        nb_samples: samples in the snapshot, neurons in the rasters over trials.
        nb_trials: how many repeats of one sample are kept as rasters.
        idx_layer: of the rasters over trials.
        idx_neuron: neurons beyond the first (None: all) are drawn at random.
        sample_seed: chooses samples and neurons.
        alpha: opacity of a spike in the snapshot.
        alpha_trials: opacity of a spike in the rasters over trials.
    """

    nb_samples: int = 5
    nb_trials: int = 201
    idx_layer: int = 1
    idx_neuron: int | None = None
    sample_seed: int = 12
    alpha: float = 0.3
    alpha_trials: float = 0.75


@dataclass(frozen=True)
class Repeats:
    """Presentations of one sample, for the Fano factor between them.

    Args:
        number: of presentations.
        window: in which spikes are counted, in steps.
        binned: adjacent windows instead of one that moves step by step.
    """

    number: int = 400
    window: int = 10
    binned: bool = False


@dataclass
class Monitor:
    """Looks at a network before, during and after training, through the same few samples each time.

    Args:
        network: spiking layers and readout.
        dataset: where samples are taken from.
        grid: how events become batches.
        run: where arrays and figures go.
        shown: which samples and neurons.
        repeats: of one sample; None: no Fano factors.
        seed: of the noise.
        compute: how the network is run.
        plot: draw figures.
    """

    network: Network
    dataset: EventDataset
    grid: BatchGrid
    run: Run | Follower
    shown: Shown = Shown()
    repeats: Repeats | None = Repeats()
    seed: int = 0
    compute: Compute = DEFAULT_COMPUTE
    plot: bool = True

    def __post_init__(self) -> None:
        shown = self.shown
        generator = torch.Generator().manual_seed(shown.sample_seed)
        self.samples = torch.randperm(len(self.dataset), generator=generator)[: shown.nb_samples].numpy()
        nb_units = int(np.prod(self.network.layers[shown.idx_layer].unit_shape))
        self.neurons = torch.randperm(nb_units, generator=generator)[: shown.nb_samples].tolist()
        if shown.idx_neuron is not None:
            if not 0 <= shown.idx_neuron < nb_units:
                where = f"layer {shown.idx_layer} has {nb_units} neurons"
                raise UserError(f"plotting.idx_neuron={shown.idx_neuron}: {where}")
            self.neurons[0] = shown.idx_neuron

    def __call__(self, when: str) -> dict[str, float]:
        """Record, draw and return the Fano factor of each layer as ``fano-hid_<k>``; files are named after ``when``."""
        self._snapshot(when)
        return {} if self.repeats is None else self._fano(when, self.repeats)

    def _snapshot(self, when: str) -> None:
        batch = self._batch(self.samples)
        seen = record(self.network, [batch], seed=self.seed, draw=MONITOR_DRAW, compute=self.compute)
        populations = [batch.dense(torch.uint8).cpu(), *seen.spikes]
        names = ["in", *(f"hid_{k}" for k in range(len(seen.spikes)))]
        for name, spikes in zip(names, populations, strict=True):
            self.run.state(f"{when}/spikes-{name}", spikes, dt=self.grid.dt, axes="time, sample, unit")
        self.run.state(f"{when}/readout", seen.readout, dt=self.grid.dt, axes="time, sample, class")
        self.run.state(f"{when}/labels", batch.labels)
        if not self.plot:
            return
        arrays, readout, alpha = [spikes.numpy() for spikes in populations], seen.readout.numpy(), self.shown.alpha
        labels = batch.labels.tolist()
        self.run.figure(f"{when}_activity", figures.activity(arrays, readout, labels, self.grid.dt, alpha=alpha))
        pair = self._two_classes(labels)
        if pair is not None:
            chosen = [spikes[:, pair] for spikes in arrays]
            figure = figures.two_classes(chosen, readout[:, pair], [labels[k] for k in pair], self.grid.dt, alpha=alpha)
            self.run.figure(f"{when}_two_classes", figure)

    def _two_classes(self, labels: list[int]) -> list[int] | None:
        other = [k for k, label in enumerate(labels) if label != labels[0]]
        return [0, other[0]] if other else None

    def _fano(self, when: str, repeats: Repeats) -> dict[str, float]:
        sample, layer = self._batch(self.samples[:1]), self.shown.idx_layer
        batches = repeated(sample, repeats.number, min(self.grid.batch_size, _RECORDED_AT_ONCE))
        seen = record(self.network, batches, seed=self.seed, draw=MONITOR_DRAW + 1, compute=self.compute)
        columns = {}
        for k, spikes in enumerate(seen.spikes):
            fano = defined_mean(fano_over_trials(spikes, repeats.window, repeats.binned))
            columns[f"fano-hid_{k}"] = fano.value
            rates = firing_rates(spikes, self.grid.dt)
            self.run.state(
                f"{when}/rates-hid_{k}",
                rates.mean(0),
                units="Hz",
                axes="unit",
                fano=fano.value,
                fano_undefined_share=fano.undefined_share,
            )
        shown = seen.spikes[layer].flatten(2)[:, : self.shown.nb_trials, self.neurons]
        attributes: dict[str, Any] = {"dt": self.grid.dt, "neurons": self.neurons, "layer": layer}
        self.run.state(f"{when}/trials", shown, axes="time, trial, neuron", **attributes)
        if self.plot:
            title, alpha = f"hidden {layer}, one stimulus", self.shown.alpha_trials
            figure = figures.trials(shown.numpy(), self.neurons, self.grid.dt, alpha=alpha, title=title)
            self.run.figure(f"{when}_trials", figure)
        return columns

    def _batch(self, indices: np.ndarray) -> EventBatch:
        chosen = self.dataset.subset(indices)
        grid = replace(self.grid, batch_size=len(chosen))
        return next(grid(chosen)).to(self.grid.device)
