"""Training with resume, and evaluation: loops over batches of events; what a loss or a neuron is comes from outside.

A run is a pure function of its configuration: the order of the samples comes from a generator that is part of the
checkpoint, escape noise from counters addressed by (seed, epoch, sample). A run that was killed therefore repeats its
unfinished epoch and ends with the very numbers and weights of one that was not.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from surgrad.datasets.events import Augmentation, EventDataset
from surgrad.errors import UserError
from surgrad.network.network import Network
from surgrad.runs.folder import Run
from surgrad.runs.log import progress
from surgrad.training.distributed import ALONE, Processes
from surgrad.training.evaluation import evaluate
from surgrad.training.loop import FASTEST, BatchGrid, Compute, Objective, Scores, train_epoch

log = logging.getLogger(__name__)


class Best(NamedTuple):
    """The epoch of highest validation accuracy (of equal ones the lowest loss, then the earliest) and its weights."""

    epoch: int
    acc: float
    loss: float
    weights: dict[str, Tensor]

    def beaten_by(self, scores: Scores) -> bool:
        return (scores.acc, -scores.loss) > (self.acc, -self.loss)


@dataclass
class Fit:
    """Training of one network in one run folder, epoch by epoch.

    Args:
        network: what is trained and how.
        optimizer: what is trained and how.
        train: data sets.
        valid: without ``valid`` the last epoch counts as the best.
        grid: how events become batches.
        objective: loss and penalties.
        run: where rows and checkpoints go.
        nb_epochs: how long.
        seed: of the shuffling and the escape noise.
        augment: changes the events of every training batch.
        compute: how the network is run.
        processes: share every batch; the first writes the run folder.
        before_epoch: called with the number of the epoch that starts, 1 to nb_epochs: sets what changes over epochs.
        after_epoch: called with the number of epochs done, 0 to nb_epochs; returns more columns for metrics.csv.
        monitor_spikes: write the firing rates of the layers.
        logging_freq: epochs between two lines of the log.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    train: EventDataset
    valid: EventDataset | None
    grid: BatchGrid
    objective: Objective
    run: Run
    nb_epochs: int
    seed: int = 0
    augment: Augmentation | None = None
    compute: Compute = FASTEST
    processes: Processes = ALONE
    before_epoch: Callable[[int], None] = lambda epoch: None
    after_epoch: Callable[[int], Mapping[str, float]] = lambda epoch: {}
    monitor_spikes: bool = True
    logging_freq: int = 10
    best: Best | None = field(default=None, init=False)
    generator: torch.Generator = field(default_factory=torch.Generator, init=False)
    _shown: Mapping[str, str] = field(default_factory=dict, init=False)  # of the epoch before, beside the progress bar

    def __call__(self) -> Best:
        """Train, or go on where the checkpoint of the run folder ends; returns the best validation epoch.

        Raises:
            UserError: if loss or weights are not finite; the checkpoint then holds the last good epoch.
        """
        self.generator.manual_seed(self.seed)
        done = self._restore()
        parallel = self.processes.parallel(self.network)
        if done is None:
            done = 0
            untrained = dict.fromkeys(("train_loss", "train_acc"))  # empty cells keep the columns in order
            self.run.log({"epoch": 0, **untrained, **self._validate(0, math.inf), **self.after_epoch(0)})
            self._checkpoint(0)
        nb_batches = math.ceil(len(self.train) / self.grid.batch_size)
        disable = None if self.processes.first else True
        with progress(
            total=self.nb_epochs * nb_batches, initial=done * nb_batches, unit="batch", disable=disable
        ) as bar:
            for epoch in range(done + 1, self.nb_epochs + 1):
                self._epoch(epoch, parallel, bar)
        return self.best

    def _epoch(self, epoch: int, parallel: nn.Module, bar: tqdm) -> None:
        started = time.perf_counter()
        self.before_epoch(epoch)
        bar.set_description(f"epoch {epoch}/{self.nb_epochs}")

        def advance(scores: Scores) -> None:
            bar.set_postfix(self._shown | {"loss": f"{scores.loss:.3f}", "acc": f"{scores.acc:.3f}"}, refresh=False)
            bar.update()

        try:
            scores = train_epoch(
                parallel,
                self.grid(self.train, self.generator, self.augment),
                self.objective,
                self.optimizer,
                seed=self.seed,
                draw=epoch,
                device=self.grid.device,
                compute=self.compute,
                processes=self.processes,
                on_batch=advance,
            )
            self._require_finite_weights()
        except UserError as error:
            raise UserError(
                f"epoch {epoch}: {error}; training stopped, the checkpoint in {self.run.folder} keeps epoch "
                f"{epoch - 1}; try a smaller method.lr"
            ) from error
        row = {"train_loss": scores.loss, "train_acc": scores.acc}
        row |= self._validate(epoch, scores.loss, scores) | {"reg_loss": scores.penalty}
        seconds = time.perf_counter() - started
        self._report(epoch, row, seconds)
        self.run.log({"epoch": epoch, **row, **self.after_epoch(epoch), "seconds": round(seconds, 4)})
        self._checkpoint(epoch)

    def _validate(self, epoch: int, train_loss: float, trained: Scores | None = None) -> dict[str, float]:
        """Columns of the validation set after ``epoch``; keeps the best weights."""
        if self.valid is None:
            scores, columns = trained, {}
            self.best = Best(epoch, math.nan, train_loss, self._weights())
        else:
            scores = evaluate(
                self.network,
                self.valid,
                self.grid,
                self.objective,
                seed=self.seed,
                draw=epoch,
                compute=self.compute,
                processes=self.processes,
            )
            columns = {"valid_loss": scores.loss, "valid_acc": scores.acc}
            if self.best is None or self.best.beaten_by(scores):
                self.best = Best(epoch, scores.acc, scores.loss, self._weights())
        if self.monitor_spikes and scores is not None:
            columns |= {f"firing_rate-hid_{k}": rate for k, rate in enumerate(scores.rates)}
        return columns

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}

    def _require_finite_weights(self) -> None:
        for name, weight in self.network.named_parameters():
            if not bool(weight.isfinite().all()):
                raise UserError(f"the weights {name} are no longer finite")

    def _report(self, epoch: int, row: Mapping[str, float], seconds: float) -> None:
        shown = {"valid": f"{row['valid_acc']:.3f}"} if "valid_acc" in row else {}
        self._shown = {**shown, "s/epoch": f"{seconds:.2f}"}
        if epoch % self.logging_freq == 0 or epoch in (1, self.nb_epochs):
            scores = ", ".join(f"{key} {row[key]:.3f}" for key in _LOGGED if key in row)
            log.info("epoch %d/%d: %s, %.2f s", epoch, self.nb_epochs, scores, seconds)

    def _checkpoint(self, epoch: int) -> None:
        self.run.checkpoint(
            {
                "epoch": epoch,
                "model": self._weights(),
                "optimizer": self.optimizer.state_dict(),
                "shuffle": self.generator.get_state(),
                "best": self.best._asdict(),
            }
        )

    def _restore(self) -> int | None:
        """Epochs done according to the checkpoint, which is loaded; None without one."""
        content = self.processes.agreed(self.run.load_checkpoint)
        if content is None:
            return None
        self.network.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.generator.set_state(content["shuffle"])
        self.best = Best(**content["best"])
        self.run.rewind(content["epoch"])
        log.info("going on after epoch %d", content["epoch"])
        return content["epoch"]


_LOGGED = ("train_loss", "train_acc", "valid_loss", "valid_acc")


def annealed(beta: float, epoch: int, *, start: int, step: float, interval: int) -> float:
    """Slope beta in ``epoch`` (1, 2, …): raised by ``step`` after epoch start + 1 and every ``interval`` epochs on.

    Epochs of the published rule count from 0; it adds one step per layer and time to a slope that all layers share,
    here one step per time.
    """
    if interval < 1:
        raise UserError(f"anneal_interval={interval}: at least one epoch")
    elapsed = epoch - 2 - start
    return beta + step * (elapsed // interval + 1 if elapsed >= 0 else 0)
