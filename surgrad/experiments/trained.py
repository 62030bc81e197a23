"""A run folder read back: the network that it trained, its data, and what one wants to see and measure of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from surgrad.analysis.rows import started_from
from surgrad.config.check import check
from surgrad.config.trust import read_back, require_resolved
from surgrad.config.validate import one_of
from surgrad.datasets.events import EventBatch, EventDataset
from surgrad.errors import UserError
from surgrad.experiments.classification.config import ClassificationConfig
from surgrad.experiments.datasets import Splits
from surgrad.experiments.dense.config import DenseConfig
from surgrad.experiments.spike_train_matching.config import SpikeTrainMatchingConfig
from surgrad.figures import plots
from surgrad.figures import runs as run_figures
from surgrad.kernels.state import NetworkOutput
from surgrad.network.connections import Dense
from surgrad.network.layers import SpikingLayer
from surgrad.network.methods import METHODS, set_neuron
from surgrad.network.network import Network, evaluating
from surgrad.paths import ROOT
from surgrad.runs.checkpoint import refuse_unfit
from surgrad.runs.find import find, find_one
from surgrad.runs.record import RunRecord
from surgrad.training.evaluation import Repeated, evaluate_repeatedly
from surgrad.training.loop import Compute

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

WEIGHTS = ("best", "last")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class TrainedRun(RunRecord):
    """A run to go on working with, read only.

    Example:
        run = surgrad.load_run("60c996d1")
        batch = run.batch("test", 5)
        spikes = run.spikes(batch)["hid_0"]  # (T, 5, *units)
        run.figure.activity(batch).savefig("activity.png")
        run.evaluate("test", method="superspike").acc

    Args:
        folder: of the run.
        weights: "best", of the best validation epoch where there is one, or "last".
        trust: build whatever classes its configuration names, not only those of `surgrad.config.trust.REGISTRY`.
    """

    weights: str = "best"
    trust: bool = False

    @cached_property
    def network(self) -> Network:
        """The trained network, on the CPU. Raises UserError, see `trained_network`."""
        return trained_network(self, self.weights, trust=self.trust)

    @cached_property
    def epoch(self) -> int:
        """The epoch after which it had these weights."""
        return int(self.trained(self.weights)[1])

    @cached_property
    def _suite(self) -> ClassificationConfig | DenseConfig:
        """Its configuration, checked again. Raises UserError for a run of a script that does not classify."""
        script = started_from(self)[0]
        if script not in CLASSIFY:
            raise UserError(f"{self.folder} is no run of {', '.join(CLASSIFY)}: its data sets are not read back")
        with read_back(self.trust):
            require_resolved(self.config)
            checked: ClassificationConfig | DenseConfig = check(configuration(self), CLASSIFY[script])
            return checked

    @cached_property
    def _splits(self) -> Splits:
        with read_back(self.trust):
            return self._suite.dataset.splits()

    def splits(self) -> Splits:
        """Training, validation (None without one) and test set, as it was trained on.

        Raises:
            UserError: the run does not classify, or its data are not there.
        """
        return self._splits

    def _split(self, name: str) -> EventDataset:
        found = dict(zip(SPLITS, self.splits(), strict=True)).get(name)
        if found is None:
            there = [name for name, data in zip(SPLITS, self.splits(), strict=True) if data is not None]
            raise UserError(f"split {name!r}: the run has {', '.join(there)}")
        return found

    def batch(self, split: str = "test", samples: int | Iterable[int] = 5) -> EventBatch:
        """Samples of a split on the grid of the run.

        Args:
            split: "train", "valid" or "test".
            samples: how many of the first ones, or their positions in the split.

        Raises:
            UserError: there is no such split or sample.
        """
        data = self._split(split)
        chosen = list(range(samples)) if isinstance(samples, int) else [int(k) for k in samples]
        if not chosen or not 0 <= min(chosen) <= max(chosen) < len(data):
            raise UserError(f"samples={samples}: {split} has samples 0 to {len(data) - 1}")
        return next(self._suite.grid(data.nb_units, batch_size=len(chosen))(data.subset(chosen)))

    def forward(self, batch: EventBatch | torch.Tensor, *, draw: int = 0) -> NetworkOutput:
        """The network's response with all spikes, `Network.forward` with record=True and the run's seed; no gradient.

        Args:
            batch: of `batch`, or any spikes (T, B, *units).
            draw: of the escape noise; another number is another presentation.
        """
        with torch.no_grad():
            return self.network(batch, record=True, seed=int(self.get("seed", 0)), draw=draw)

    def spikes(self, batch: EventBatch | torch.Tensor, *, draw: int = 0) -> dict[str, torch.Tensor]:
        """Spikes of the input and of every hidden layer, (T, B, *units) each: "input", "hid_0", "hid_1", …"""
        recorded = self.forward(batch, draw=draw).spikes or []
        shown = batch.dense() if isinstance(batch, EventBatch) else batch
        return {"input": shown} | {f"hid_{k}": layer for k, layer in enumerate(recorded)}

    def evaluate(self, split: str = "test", *, method: str | None = None, nb_draws: int | None = None) -> Repeated:
        """Loss and accuracy on a split: mean over draws of the noise, and the standard deviation between them.

        Args:
            split: "train", "valid" or "test".
            method: spikes of another published method (`surgrad.network.methods.METHODS`), such as "superspike" for
                a network trained with "stochasticsuperspike"; None for its own.
            nb_draws: presentations to a stochastic network; None for the run's test_draws.

        Raises:
            UserError: there is no such split or method.
        """
        data, suite, network = self._split(split), self._suite, self.network
        if method is not None:
            if not isinstance(suite, ClassificationConfig):
                raise UserError(f"method={method}: neurons of {self.script} are those of its configuration")
            one_of("method", method, METHODS)
            network = copy.deepcopy(network)
            set_neuron(network, suite.spiking(method, max(self.epoch, 1)))
        with read_back(self.trust):
            objective = suite.objective()
        draws = nb_draws or suite.test_draws
        grid = suite.grid(data.nb_units)
        return evaluate_repeatedly(network, data, grid, objective, nb_draws=draws, seed=suite.seed, compute=Compute())

    def predictions(self, split: str = "test", *, draw: int = 0) -> torch.Tensor:
        """The class that the network answers for every sample of a split, (N,); arguments as of `batch`, `forward`."""
        data, suite = self._split(split), self._suite
        with read_back(self.trust):
            loss = suite.objective().loss
        answers = []
        for batch in suite.grid(data.nb_units)(data):
            with torch.no_grad(), evaluating(self.network):
                out = self.network(batch, seed=suite.seed, draw=draw)
            answers.append(loss.predictions(out.y))
        return torch.cat(answers)

    def confusion(self, split: str = "test", *, draw: int = 0) -> np.ndarray:
        """Samples of a split by class and answer, (classes, classes)."""
        data, answers = self._split(split), self.predictions(split, draw=draw).numpy()
        counts = np.zeros((data.nb_classes, data.nb_classes), np.int64)
        np.add.at(counts, (data.labels, answers), 1)
        return counts

    def table(self) -> pd.DataFrame:
        """metrics.csv as a pandas table, a row per epoch. Raises UserError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise UserError("a table needs pandas: pip install pandas; or use .metrics, a dict of arrays") from error
        return pandas.DataFrame(self.metrics)

    @property
    def figure(self) -> RunFigures:
        """Figures of the run."""
        return RunFigures(self)


@dataclass(frozen=True)
class RunFigures:
    """Figures of one run; each is a matplotlib Figure: save it, or let a notebook show it."""

    run: TrainedRun

    def activity(self, batch: EventBatch, *, draw: int = 0, alpha: float = 0.3) -> Figure:
        """Rasters of all layers and the readout, a column per sample; `surgrad.figures.plots.activity`."""
        out = self.run.forward(batch, draw=draw)
        if out.readout is None:
            raise UserError(f"{self.run.folder}: its network has no readout to show")
        populations = [layer.numpy() for layer in (batch.dense(), *(out.spikes or []))]
        read = "_splits" in vars(self.run)  # the data set is not read for its names alone
        names = self.run.splits()[2].class_names if read else None
        labels, dt = batch.labels.tolist(), self.run.network.dt
        return plots.activity(populations, out.readout.numpy(), labels, dt, alpha=alpha, names=names)

    def confusion(self, split: str = "test", *, draw: int = 0) -> Figure:
        """Which class was taken for which; `surgrad.figures.runs.confusion`."""
        return run_figures.confusion(self.run.confusion(split, draw=draw), self.run._split(split).class_names)

    def training(self) -> Figure:
        """Loss, accuracy and firing rates over epochs; `surgrad.figures.plots.training_curves`."""
        classes = self.run.summary.get("nb_classes")
        return plots.training_curves(self.run.metrics, chance=1 / classes if classes else None)


def load_run(where: str | Path, *, weights: str = "best", trust: bool = False) -> TrainedRun:
    """One run, to go on working with.

    Args:
        where: its folder, its name (the path below Runs), or its id (at least four digits of those at the name's end).
        weights: "best", of the best validation epoch where there is one, or "last".
        trust: build whatever classes its configuration names; only for folders whose author you trust.

    Raises:
        UserError: no run, or more than one, is named so; unknown weights.
    """
    one_of("weights", weights, WEIGHTS)
    return TrainedRun(find_one(str(where)).folder, weights, trust)


def best_run(metric: str, where: str | Path | Iterable[str | Path] = (), *, smallest: bool = False) -> TrainedRun:
    """The finished run with the largest value of a number in its summary.

    Args:
        metric: such as "valid_acc_best_valid".
        where: folders, globs, names or ids of the runs to choose from; all runs if empty.
        smallest: take the smallest value, for losses.

    Raises:
        UserError: no finished run has this number; a metric of the test set, which is not there to choose by.
    """
    if metric.startswith("test_"):
        raise UserError(f"metric={metric}: the test set is not there to choose by; take its like of the validation set")
    places = [where] if isinstance(where, str | Path) else list(where)
    done = [record for record in find(map(str, places)) if record.status == "done"]
    scored = [(float(record.summary[metric]), record) for record in done if record.summary.get(metric) is not None]
    if not scored:
        there = sorted({name for record in done for name, value in record.summary.items() if is_score(name, value)})
        raise UserError(f"metric={metric}: no finished run has it; there are {', '.join(there) or 'no finished runs'}")
    _, best = (min if smallest else max)(scored, key=lambda pair: pair[0])
    return TrainedRun(best.folder)


def is_score(name: str, value: Any) -> bool:
    """Whether an entry of a summary is a number to compare runs by."""
    return isinstance(value, int | float) and not isinstance(value, bool) and name.startswith(("valid_", "train_"))


def trained_network(record: RunRecord, weights: str = "best", *, trust: bool = False) -> Network:
    """The network of a run on the CPU, with its trained weights and the neurons that it had then.

    Args:
        record: run of deep_convSNN.py, dense_SNN.py or run_image_task_1hid.py.
        weights: "best", of the best validation epoch where there is one, or "last".
        trust: build whatever classes its configuration names, not only those of `surgrad.config.trust.REGISTRY`.

    Raises:
        UserError: for a run of another script, one without checkpoint, unknown weights, a damaged folder, and a
            configuration that names other classes.
    """
    one_of("weights", weights, WEIGHTS)
    script = record.script
    if script not in SCRIPTS:
        raise UserError(f"{record.folder} is a run of {script}: a network is read back from {', '.join(SCRIPTS)}")
    record.require_checkpoint()
    with read_back(trust):
        require_resolved(record.config)
        try:
            return SCRIPTS[script](record, weights).eval()
        except UserError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise refuse_unfit(record.folder, error) from error


def configuration(record: RunRecord) -> DictConfig:
    """The configuration of a run; what ships with the package is found here, if the run was made somewhere else."""
    config = copy.deepcopy(record.config)
    data = config.get("dataset")
    if not isinstance(data, dict):
        return OmegaConf.create(config)
    for key, value in data.items():
        if isinstance(value, str) and not os.path.exists(value):
            parts = Path(value).parts
            tails = (ROOT.joinpath(*parts[k:]) for k in range(os.path.isabs(value), len(parts) - 1))
            data[key] = str(next((tail for tail in tails if tail.exists()), value))
    return OmegaConf.create(config)


def _units(cfg: ClassificationConfig | DenseConfig) -> tuple[int, int]:
    """Input units and classes; of the training data, where the configuration leaves them to these."""
    data = cfg.dataset
    if data.network_inputs is not None and data.nb_classes is not None:
        return data.network_inputs, data.nb_classes
    train = data.splits()[0]
    return train.nb_units, train.nb_classes


def _convolutional(record: RunRecord, weights: str) -> Network:
    cfg = check(configuration(record), ClassificationConfig)
    network = cfg.network(*_units(cfg), torch.Generator().manual_seed(cfg.seed))
    state, epoch = record.trained(weights)
    network.load_state_dict(state)
    set_neuron(network, cfg.spiking(cfg.method.name, max(epoch, 1)))
    return network


def _dense(record: RunRecord, weights: str) -> Network:
    cfg = check(configuration(record), DenseConfig)
    network = cfg.network(*_units(cfg), torch.Generator().manual_seed(cfg.seed))
    network.load_state_dict(record.trained(weights)[0])
    return network


def _matching(record: RunRecord, weights: str) -> Network:
    """Two layers without delay or readout; weights in units of the threshold."""
    task, _, training = check(configuration(record), SpikeTrainMatchingConfig).build(torch.device("cpu"))
    content, constants, layers = record.require_checkpoint(), task.neurons, []
    for name, noise in (("w_hidden", training.mode.hidden), ("w_output", training.mode.output)):
        matrix = content[name].T / constants.theta
        connection = Dense(matrix.shape[1], matrix.shape[0])
        connection.weight.data = matrix.contiguous()
        layers.append(SpikingLayer(connection, task.neuron(noise, None), constants.tau_mem, constants.tau_syn))
    return Network(layers, None, constants.dt, delay=0)


#: Scripts whose runs train on a data set with splits, and what their configuration is checked against.
CLASSIFY: dict[str, type] = {"deep_convSNN": ClassificationConfig, "dense_SNN": DenseConfig}

SCRIPTS: dict[str, Callable[[RunRecord, str], Network]] = {
    "deep_convSNN": _convolutional,
    "dense_SNN": _dense,
    "run_image_task_1hid": _matching,
}
