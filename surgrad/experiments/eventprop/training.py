"""Training of event-based networks, and of the same networks on a time grid, in a run folder, with resume."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from tqdm import tqdm

from surgrad.datasets.augment import Compose, Drop
from surgrad.datasets.events import EventDataset
from surgrad.eventprop.network import EventNetwork, SpikeSet, evaluate, train_epoch
from surgrad.figures import plots as figures
from surgrad.runs.folder import Run
from surgrad.runs.record import RunRecord
from surgrad.training.evaluation import Best, final_scores, weights_of
from surgrad.training.evaluation import evaluate as evaluate_grid
from surgrad.training.fit import Fit, Plan
from surgrad.training.loop import TEST_DRAW, BatchGrid, Objective
from surgrad.training.resume import Trainee, run_epochs

if TYPE_CHECKING:
    from surgrad.experiments.eventprop.config import EventConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Epochs of Adam with a learning rate that falls by a factor per epoch.

    Args:
        nb_epochs: passes over the training set.
        batch_size: samples in a batch.
        lr: learning rate of the first epoch.
        lr_decay: per epoch.
        input_dropout: probability of losing an input spike.
        seed: of the order of the samples and of what is dropped.
        logging_freq: epochs per line of the log.
    """

    nb_epochs: int
    batch_size: int
    lr: float
    lr_decay: float = 1.0
    input_dropout: float = 0.0
    seed: int = 0
    logging_freq: int = 10

    def optimizer(self, network: torch.nn.Module) -> torch.optim.Optimizer:
        """Adam for all parameters."""
        return torch.optim.Adam(network.parameters(), self.lr, fused=True)

    def decay(self, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """Set the learning rate of an epoch, counted from 1."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr * self.lr_decay ** (epoch - 1)


@dataclass
class EventFit(Trainee):
    """Training of an event-based network; a killed run goes on bit for bit.

    Args:
        network: is trained in place.
        recipe: how it is trained.
        run: run folder.
        train: training set.
        valid: validation set.
        augment: changes the training set for an epoch.
    """

    shown: ClassVar[tuple[str, ...]] = ("train_loss", "train_acc", "valid_loss", "valid_acc")

    network: EventNetwork
    recipe: Recipe
    run: Run
    train: SpikeSet
    valid: SpikeSet
    augment: Callable[[SpikeSet, torch.Generator], SpikeSet] = lambda data, generator: data
    best: Best = field(init=False)

    def __post_init__(self) -> None:
        self.best = Best(0, -1.0, math.inf, weights_of(self.network))
        self.optimizer = self.recipe.optimizer(self.network)
        self.generator = torch.Generator().manual_seed(self.recipe.seed + 2**32)  # another stream than of the weights

    def __call__(self) -> Best:
        """Train; returns the best validation epoch.

        Raises:
            UserError: if a gradient is not finite; the checkpoint then holds the last good epoch.
        """
        run_epochs(self, self.run, range(1, self.recipe.nb_epochs + 1), logging_freq=self.recipe.logging_freq)
        return self.best

    def epoch(self, number: int, bar: tqdm[Any]) -> Mapping[str, Any]:
        """One pass over the training set, then the validation set."""
        recipe = self.recipe
        recipe.decay(self.optimizer, number)
        data = self.augment(self.train, self.generator)
        trained = train_epoch(
            self.network, data, self.optimizer, recipe.batch_size, self.generator, recipe.input_dropout
        )
        valid = evaluate(self.network, self.valid)
        if self.best.beaten_by(valid.acc, valid.loss):
            self.best = Best(number, valid.acc, valid.loss, weights_of(self.network))
        bar.update()
        return trained.columns("train") | valid.columns("valid") | trained.activity()

    def state(self) -> dict[str, Any]:
        """Weights, optimiser, order of the samples, and the best epoch."""
        return {
            "model": weights_of(self.network),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "best": self.best._asdict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.best = Best(**state["best"])


def learn(cfg: EventConfig, run: Run) -> float:
    """Train by ``cfg.method``, then look at the test set, once; returns the best validation accuracy.

    The summary gets the scores of the last and of the best validation epoch, the run folder the figure of the training.
    """
    methods = {"eventprop": _exact, "surrogate": _surrogate}
    run.summary["nb_classes"] = cfg.sizes[-1]
    run.summary.update(methods[cfg.method](cfg, run, *cfg.splits()))
    log.info("test accuracy %.4f", run.summary["test_acc"])
    if cfg.plot:
        run.figure("training", figures.training_curves(RunRecord(run.folder).metrics, chance=1 / cfg.sizes[-1]))
    return run.summary["valid_acc_best_valid"]


def _exact(cfg: EventConfig, run: Run, train: SpikeSet, valid: SpikeSet, test: SpikeSet) -> dict[str, float]:
    """Spike times without a grid, EventProp."""
    network, change = cfg.event_network(), cfg.augmentation()

    def changed(data: SpikeSet, generator: torch.Generator) -> SpikeSet:
        if change is None:
            return data
        return SpikeSet.from_events(change(cfg.events(data, "train"), generator), cfg.duration)

    def score(data: SpikeSet) -> dict[str, float]:
        scores = evaluate(network, data)
        return {"loss": scores.loss, "acc": scores.acc, "silent_label": scores.silent_label}

    best = EventFit(network, cfg.recipe(), run, train, valid, changed)()
    return final_scores(network, best, cfg.nb_epochs, {"valid": valid, "test": test}, score)


def _surrogate(cfg: EventConfig, run: Run, train: SpikeSet, valid: SpikeSet, test: SpikeSet) -> dict[str, float]:
    """The same network on a time grid, surrogate gradients."""
    network, recipe = cfg.grid_network(), cfg.recipe()
    grid, objective = BatchGrid(cfg.batch_size, cfg.time_step, cfg.nb_steps), Objective(cfg.grid_loss())
    optimizer, splits = (
        recipe.optimizer(network),
        {"valid": cfg.events(valid, "valid"), "test": cfg.events(test, "test")},
    )
    changes = [step for step in (cfg.augmentation(), Drop(cfg.input_dropout)) if step is not None]
    plan = Plan(cfg.nb_epochs, cfg.seed, augment=Compose(changes), logging_freq=cfg.logging_freq)
    decay, train_events = partial(recipe.decay, optimizer), cfg.events(train, "train")
    best = Fit(network, optimizer, train_events, splits["valid"], grid, objective, run, plan, decay)()

    def score(data: EventDataset) -> dict[str, float]:
        scores = evaluate_grid(network, data, grid, objective, draw=TEST_DRAW)
        return {"loss": scores.loss, "acc": scores.acc}

    return final_scores(network, best, cfg.nb_epochs, splits, score)
