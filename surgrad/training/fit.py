"""Training with resume, and evaluation: loops over batches of events; what a loss or a neuron is comes from outside.

A run is a pure function of its configuration: the order of the samples comes from a generator that is part of the
checkpoint, escape noise from counters addressed by (seed, epoch, sample). A run that was killed therefore repeats its
unfinished epoch and ends with the very numbers and weights of one that was not.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from surgrad.datasets.events import Augmentation, EventDataset
from surgrad.errors import UserError, known
from surgrad.network.network import Network
from surgrad.runs.folder import Run
from surgrad.training import captured
from surgrad.training.distributed import ALONE, Follower, Processes
from surgrad.training.evaluation import Best, evaluate, weights_of
from surgrad.training.loop import DEFAULT_COMPUTE, BatchGrid, Compute, Objective, Scores, Step, descend
from surgrad.training.optimizers import count_on_device
from surgrad.training.resume import Trainee, run_epochs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How a network is trained: what stays the same over all epochs, and needs neither network nor data.

    Args:
        nb_epochs: how long.
        seed: of the shuffling and the escape noise.
        augment: changes the events of every training batch.
        compute: how the network is run.
        processes: share every batch; the first writes the run folder.
        monitor_spikes: write the firing rates of the layers.
        logging_freq: epochs between two lines of the log.
        lr_key: where the configuration has the learning rate.
        schedule: gives the schedule of an optimiser, which changes the learning rate after every epoch, None for a
            constant rate; a plateau is one of the validation loss.
        grad_clip: largest norm of a gradient; None: any.
        patience: training ends when the best validation epoch is this many epochs old; 0: never.
        ema: decay per update of an exponential moving average of the weights, which then validates, and which training
            ends with; 0: none.
        cuda_graph: whether training steps are captured and replayed where they can be, on a GPU.
    """

    nb_epochs: int
    seed: int = 0
    augment: Augmentation | None = None
    compute: Compute = DEFAULT_COMPUTE
    processes: Processes = ALONE
    monitor_spikes: bool = True
    logging_freq: int = 10
    lr_key: str = "lr"
    schedule: Callable[[torch.optim.Optimizer], LRScheduler | None] = lambda optimizer: None
    grad_clip: float | None = None
    patience: int = 0
    ema: float = 0.0
    cuda_graph: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1 or self.patience < 0:
            raise UserError(f"ema={self.ema}, patience={self.patience}: allowed 0 to below 1, and 0 or more epochs")


@dataclass
class Fit(Trainee):
    """Training of one network in one run folder, epoch by epoch.

    Args:
        network: is trained in place.
        optimizer: of its weights.
        train: training set.
        valid: validation set; without one the last epoch counts as the best.
        grid: how events become batches.
        objective: loss and penalties.
        run: where rows and checkpoints go.
        plan: how long and how.
        before_epoch: called with the number of the epoch that starts, 1 to nb_epochs: sets what changes over epochs.
        after_epoch: called with the number of epochs done, 0 to nb_epochs; returns more columns for metrics.csv.
    """

    shown: ClassVar[tuple[str, ...]] = ("train_loss", "train_acc", "valid_loss", "valid_acc")

    network: Network
    optimizer: torch.optim.Optimizer
    train: EventDataset
    valid: EventDataset | None
    grid: BatchGrid
    objective: Objective
    run: Run | Follower
    plan: Plan
    before_epoch: Callable[[int], None] = lambda epoch: None
    after_epoch: Callable[[int], Mapping[str, float]] = lambda epoch: {}
    best: Best | None = field(default=None, init=False)
    done: int = field(default=0, init=False)  # epochs
    generator: torch.Generator = field(default_factory=torch.Generator, init=False)
    _shown: Mapping[str, str] = field(default_factory=dict, init=False)  # of the epoch before, beside the progress bar

    def __call__(self) -> Best:
        """Train, or go on where the checkpoint of the run folder ends; returns the best validation epoch.

        Raises:
            UserError: if loss or weights are not finite; the checkpoint then holds the last good epoch.
        """
        plan = self.plan
        self.generator.manual_seed(plan.seed)
        epochs = range(1, plan.nb_epochs + 1)
        run_epochs(self, self.run, epochs, logging_freq=plan.logging_freq, processes=plan.processes, unit="batch")
        if self._average is not None:
            self.network.load_state_dict(self._average.module.state_dict())
        return known("the best epoch", self.best)

    def __post_init__(self) -> None:
        plan = self.plan
        if plan.patience and self.valid is None:
            raise UserError(f"patience={plan.patience}: there is no validation set by which training could end early")
        self.lr_key = plan.lr_key
        self.schedule = plan.schedule(self.optimizer)
        self._average: AveragedModel | None = None
        if plan.ema:
            average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(plan.ema))
            self.optimizer.register_step_post_hook(lambda *_: average.update_parameters(self.network))
            self._average = average

    @property
    def evaluated(self) -> Network:
        """The network that validates: the trained one, or one of the same neurons with its average weights."""
        if self._average is None:
            return self.network
        average = cast(Network, self._average.module)
        for layer, trained in zip(average.layers, self.network.layers, strict=True):
            layer.neuron = trained.neuron
        return average

    @property
    def steps(self) -> int:
        """Batches."""
        return math.ceil(len(self.train) / self.grid.batch_size)

    @cached_property
    def _parallel(self) -> nn.Module:
        return self.plan.processes.parallel(self.network)

    @cached_property
    def _whole(self) -> captured.Captured | None:
        """Runs training steps as CUDA graphs; None where they are launched one by one."""
        reason = self._uncaptured()
        if reason is not None:
            logger.debug("training steps are launched one by one: %s", reason)
            return None
        logger.info("training steps are captured as CUDA graphs; cuda_graph=false launches them one by one")
        count_on_device(self.optimizer, True)
        return captured.Captured(self.grid.batch_size)

    def _uncaptured(self) -> str | None:
        """Why training steps are not captured, or None."""
        plan = self.plan
        if not plan.cuda_graph or plan.ema or plan.processes.size > 1:
            return f"cuda_graph={plan.cuda_graph}, ema={plan.ema}, {plan.processes.size} processes"
        return captured.obstacle(self.network, self.optimizer, plan.compute.kernel)

    def start(self) -> Mapping[str, Any]:
        """Scores of the untrained network; the empty cells keep the columns in order."""
        return {"train_loss": None, "train_acc": None, **self._validate(0, math.inf)}

    def epoch(self, number: int, bar: "tqdm[Any]") -> Mapping[str, Any]:
        """One pass over the training set, then the validation set."""
        self.before_epoch(number)
        before = self._shown

        def advance(scores: Scores) -> None:
            bar.set_postfix({**before, "loss": f"{scores.loss:.3f}", "acc": f"{scores.acc:.3f}"}, refresh=False)
            bar.update()

        plan = self.plan
        how = (plan.seed, plan.grad_clip, plan.compute, plan.processes)
        step = Step(self._parallel, self.objective, self.optimizer, *how)
        scores = descend(step, self.grid(self.train, self.generator, plan.augment), number, advance, self._whole)
        self._require_finite_weights()
        self.done = number
        row = {"train_loss": scores.loss, "train_acc": scores.acc}
        row |= self._validate(number, scores.loss, scores) | {"reg_loss": scores.penalty}
        if self.schedule is not None:
            row["lr"] = self.optimizer.param_groups[0]["lr"]
            if isinstance(self.schedule, ReduceLROnPlateau):
                self.schedule.step(row.get("valid_loss", scores.loss))
            else:
                self.schedule.step()
        self._shown = {"valid": f"{row['valid_acc']:.3f}"} if "valid_acc" in row else {}
        return row

    def observe(self, number: int) -> Mapping[str, float]:
        """What ``after_epoch`` finds."""
        return self.after_epoch(number)

    def finished(self, number: int) -> bool:
        """Whether validation has not become better for ``patience`` epochs."""
        patience = self.plan.patience
        return bool(patience) and number - known("the best epoch", self.best).epoch >= patience

    def is_last(self, number: int) -> bool:
        """Whether an epoch that is validated is the last one."""
        return number == self.plan.nb_epochs or self.finished(number)

    def _validate(self, epoch: int, train_loss: float, trained: Scores | None = None) -> dict[str, float]:
        """Columns of the validation set after ``epoch``; keeps the best weights."""
        if self.valid is None:
            scores, columns = trained, {}
            self.best = Best(epoch, math.nan, train_loss, weights_of(self.evaluated))
        else:
            scores = evaluate(
                self.evaluated,
                self.valid,
                self.grid,
                self.objective,
                seed=self.plan.seed,
                draw=epoch,
                compute=self.plan.compute,
                processes=self.plan.processes,
            )
            columns = {"valid_loss": scores.loss, "valid_acc": scores.acc}
            if self.best is None or self.best.beaten_by(scores.acc, scores.loss):
                self.best = Best(epoch, scores.acc, scores.loss, weights_of(self.evaluated))
        if self.plan.monitor_spikes and scores is not None:
            columns |= {f"firing_rate-hid_{k}": rate for k, rate in enumerate(scores.rates)}
        return columns

    def _require_finite_weights(self) -> None:
        for name, weight in self.network.named_parameters():
            if not bool(weight.isfinite().all()):
                raise UserError(f"the weights {name} are no longer finite")

    def state(self) -> dict[str, Any]:
        """Weights, optimiser, order of the samples, the best epoch, and what of schedule and average there is."""
        more = {"schedule": self.schedule, "average": self._average}
        return {
            "model": weights_of(self.network),
            "optimizer": self.optimizer.state_dict(),
            "shuffle": self.generator.get_state(),
            "best": known("the best epoch", self.best)._asdict(),
            **{name: part.state_dict() for name, part in more.items() if part is not None},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self._whole is not None or next(self.network.parameters()).device.type == "cpu":
            count_on_device(self.optimizer, self._whole is not None)
        self.generator.set_state(state["shuffle"])
        self.best, self.done = Best(**state["best"]), int(state["epoch"])
        if self.schedule is not None:
            planned, there = _course(self.schedule.state_dict()), _course(state["schedule"])
            if planned != there:
                raise UserError(
                    f"its {type(self.schedule).__name__} was planned for another number of epochs ({there} there, "
                    f"{planned} here) and cannot be made longer; give another folder or rerun=all"
                )
        for name, part in (("schedule", self.schedule), ("average", self._average)):
            if part is not None:
                part.load_state_dict(state[name])


def _course(schedule: Mapping[str, Any]) -> str:
    """The number of epochs in the state of a schedule whose course depends on it."""
    parts = [schedule, *schedule.get("_schedulers", ())]
    return ", ".join(f"{key}={part[key]}" for part in parts for key in ("T_max", "total_steps") if part.get(key))


def annealed(beta: float, epoch: int, *, start: int, step: float, interval: int) -> float:
    """Slope beta in ``epoch`` (1, 2, …): raised by ``step`` after epoch start + 1 and every ``interval`` epochs on.

    Epochs of the published rule count from 0; it adds one step per layer and time to a slope that all layers share,
    here one step per time.
    """
    if interval < 1:
        raise UserError(f"anneal_interval={interval}: at least one epoch")
    elapsed = epoch - 2 - start
    return beta + step * (elapsed // interval + 1 if elapsed >= 0 else 0)
