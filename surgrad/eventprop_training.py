"""Training of event-based networks in a run folder, with resume."""

import logging
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.eventprop_network import EventNetwork, SpikeSet, evaluate, train_epoch
from surgrad.run_log import progress
from surgrad.runs import Run

log = logging.getLogger(__name__)


@dataclass
class EventFit:
    """Epochs of Adam with a learning rate that falls by a factor per epoch; a killed run goes on bit for bit.

    Args: network; run folder; training and validation set; nb_epochs; batch_size; lr; lr_decay; seed of the order of
        the samples; input_dropout, probability of losing an input spike; logging_freq, epochs per line of the log.
    """

    network: EventNetwork
    run: Run
    train: SpikeSet
    valid: SpikeSet
    nb_epochs: int
    batch_size: int
    lr: float
    lr_decay: float = 1.0
    seed: int = 0
    input_dropout: float = 0.0
    logging_freq: int = 10
    best: dict = field(default_factory=lambda: {"epoch": 0, "acc": -1.0, "model": {}}, init=False)

    def __call__(self) -> dict:
        """Train; returns epoch, accuracy and weights ("model") of the best validation epoch, the first of equal ones.

        Raises: UserError if a gradient is not finite; the checkpoint then holds the last good epoch.
        """
        optimizer = torch.optim.Adam(self.network.parameters(), self.lr, fused=True)
        generator = torch.Generator().manual_seed(self.seed + 2**32)  # another stream than that of the weights
        done = self._restore(optimizer, generator)
        for epoch in progress(range(done + 1, self.nb_epochs + 1), unit="epoch"):
            started = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = self.lr * self.lr_decay ** (epoch - 1)
            try:
                trained = train_epoch(
                    self.network, self.train, optimizer, self.batch_size, generator, self.input_dropout
                )
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
            if epoch % self.logging_freq == 0 or epoch in (1, self.nb_epochs):
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
