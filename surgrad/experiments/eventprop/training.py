"""Training of event-based networks, and of the same networks on a time grid, in a run folder, with resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgrad.datasets.augment import Compose, Drop
from surgrad.errors import UserError
from surgrad.eventprop.network import EventNetwork, SpikeSet, evaluate, train_epoch
from surgrad.runs.folder import Run
from surgrad.runs.log import progress
from surgrad.training.evaluation import evaluate as evaluate_grid
from surgrad.training.fit import Fit
from surgrad.training.loop import TEST_DRAW, BatchGrid, Objective

if TYPE_CHECKING:
    from surgrad.experiments.eventprop.config import EventConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Epochs of Adam with a learning rate that falls by a factor per epoch.

    Args:
        nb_epochs: the nb epochs.
        batch_size: the batch size.
        lr: the lr.
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
class EventFit:
    """Training of an event-based network; a killed run goes on bit for bit.

    Args: network; recipe; run folder; training and validation set; augment, changes the training set for an epoch.
    """

    network: EventNetwork
    recipe: Recipe
    run: Run
    train: SpikeSet
    valid: SpikeSet
    augment: Callable[[SpikeSet, torch.Generator], SpikeSet] = lambda data, generator: data
    best: dict = field(default_factory=lambda: {"epoch": 0, "acc": -1.0, "model": {}}, init=False)

    def __call__(self) -> dict:
        """Train; returns epoch, accuracy and weights ("model") of the best validation epoch, the first of equal ones.

        Raises:
            UserError: if a gradient is not finite; the checkpoint then holds the last good epoch.
        """
        recipe, optimizer = self.recipe, self.recipe.optimizer(self.network)
        generator = torch.Generator().manual_seed(recipe.seed + 2**32)  # another stream than that of the weights
        done = self._restore(optimizer, generator)
        for epoch in progress(range(done + 1, recipe.nb_epochs + 1), unit="epoch"):
            started = time.perf_counter()
            recipe.decay(optimizer, epoch)
            data = self.augment(self.train, generator)
            try:
                trained = train_epoch(self.network, data, optimizer, recipe.batch_size, generator, recipe.input_dropout)
            except UserError as error:
                raise UserError(f"epoch {epoch}: {error}; the checkpoint keeps epoch {epoch - 1}") from error
            valid = evaluate(self.network, self.valid)
            row = trained.columns("train") | valid.columns("valid") | trained.activity()
            seconds = time.perf_counter() - started
            self.run.log({"epoch": epoch, **row, "seconds": round(seconds, 4)})
            if valid.acc > self.best["acc"]:
                self.best = {"epoch": epoch, "acc": valid.acc, "model": self._weights()}
            self.run.checkpoint(
                {
                    "epoch": epoch,
                    "model": self._weights(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                    "best": self.best,
                }
            )
            if epoch % recipe.logging_freq == 0 or epoch in (1, recipe.nb_epochs):
                log.info("epoch %d: train %.4f, valid %.4f, %.2f s", epoch, trained.acc, valid.acc, seconds)
        return self.best

    def _weights(self) -> dict[str, Tensor]:
        return {name: x.detach().clone() for name, x in self.network.state_dict().items()}

    def _restore(self, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> int:
        saved = self.run.load_checkpoint()
        if saved is None:
            return 0
        self.network.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        self.best = saved["best"]
        self.run.rewind(saved["epoch"])
        log.info("going on after epoch %d", saved["epoch"])
        return saved["epoch"]


def learn(cfg: EventConfig, run: Run) -> float:
    """Train by ``cfg.method``, then look at the test set, once; returns the best validation accuracy.

    The summary gets test accuracies of the last and of the best validation epoch.
    """
    methods = {"eventprop": _exact, "surrogate": _surrogate}
    run.summary["nb_classes"] = cfg.sizes[-1]
    methods[cfg.method](cfg, run, *cfg.splits())
    log.info("test accuracy %.4f", run.summary["test_acc"])
    return run.summary["valid_acc_best_valid"]


def _exact(cfg: EventConfig, run: Run, train: SpikeSet, valid: SpikeSet, test: SpikeSet) -> None:
    """Spike times without a grid, EventProp."""
    network, change = cfg.event_network(), cfg.augmentation()

    def changed(data: SpikeSet, generator: torch.Generator) -> SpikeSet:
        return SpikeSet.from_events(change(cfg.events(data, "train"), generator), cfg.duration)

    augment = {} if change is None else {"augment": changed}
    best = EventFit(network, cfg.recipe(), run, train, valid, **augment)()
    scores = evaluate(network, test)
    run.summary.update(test_loss=scores.loss, test_acc=scores.acc, test_silent_label=scores.silent_label)
    if best["model"]:
        network.load_state_dict(best["model"])
    run.summary.update(
        test_acc_best_valid=evaluate(network, test).acc, valid_acc_best_valid=best["acc"], best_epoch=best["epoch"]
    )


def _surrogate(cfg: EventConfig, run: Run, train: SpikeSet, valid: SpikeSet, test: SpikeSet) -> None:
    """The same network on a time grid, surrogate gradients."""
    network, recipe = cfg.grid_network(), cfg.recipe()
    grid, objective = BatchGrid(cfg.batch_size, cfg.time_step, cfg.nb_steps), Objective(cfg.grid_loss())
    optimizer, tests = recipe.optimizer(network), cfg.events(test, "test")
    changes = [step for step in (cfg.augmentation(), Drop(cfg.input_dropout)) if step is not None]
    best = Fit(
        network,
        optimizer=optimizer,
        train=cfg.events(train, "train"),
        valid=cfg.events(valid, "valid"),
        grid=grid,
        objective=objective,
        run=run,
        nb_epochs=cfg.nb_epochs,
        seed=cfg.seed,
        augment=Compose(changes),
        before_epoch=lambda epoch: recipe.decay(optimizer, epoch),
        logging_freq=cfg.logging_freq,
    )()
    last = evaluate_grid(network, tests, grid, objective, draw=TEST_DRAW)
    network.load_state_dict(best.weights)
    chosen = evaluate_grid(network, tests, grid, objective, draw=TEST_DRAW)
    run.summary.update(test_loss=last.loss, test_acc=last.acc, test_acc_best_valid=chosen.acc)
    run.summary.update(valid_acc_best_valid=best.acc, best_epoch=best.epoch)
