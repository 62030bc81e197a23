"""Training with resume, and evaluation: loops over batches of events; what a loss or a neuron is comes from outside.

A run is a pure function of its configuration: the order of the samples comes from a generator that is part of the
checkpoint, escape noise from counters addressed by (seed, epoch, sample). A run that was killed therefore repeats its
unfinished epoch and ends with the very numbers and weights of one that was not.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from surgrad.datasets.events import Augmentation, Batches, EventBatch, EventDataset
from surgrad.distributed import ALONE, Processes
from surgrad.errors import UserError
from surgrad.losses import ReadoutCrossEntropy
from surgrad.network import Network
from surgrad.regularizers import ActivityRegularizer, penalty
from surgrad.run_log import progress
from surgrad.runs import Run
from surgrad.state import NetworkOutput

log = logging.getLogger(__name__)

#: Draws of the escape noise: training and validation take the epoch, tests and monitors numbers no epoch reaches.
TEST_DRAW, MONITOR_DRAW = 1 << 20, 1 << 21


@dataclass(frozen=True)
class BatchGrid:
    """How events become batches.

    Args: samples in a batch; time step in s; number of steps; shape of the input units; device of the network.
    """

    batch_size: int
    dt: float
    nb_steps: int
    unit_shape: tuple[int, ...] | None = None
    device: str = "cpu"

    @property
    def duration(self) -> float:
        """Simulated time of one sample in s."""
        return self.nb_steps * self.dt

    def __call__(
        self,
        dataset: EventDataset,
        generator: torch.Generator | None = None,
        augment: Augmentation | None = None,
    ) -> Batches:
        return dataset.batches(
            self.batch_size,
            dt=self.dt,
            nb_steps=self.nb_steps,
            generator=generator,
            augment=augment,
            unit_shape=self.unit_shape,
            device=self.device,
        )


@dataclass(frozen=True)
class Compute:
    """How a network is run, apart from what it computes: the arguments of `Network.forward` of the same names.

    Args: kernel; memory; truncate in steps, 0 for gradients through all of them; precision of the products.
    """

    kernel: str = "auto"
    memory: str = "full"
    truncate: int = 0
    precision: str = "float32"

    def __call__(self, network: nn.Module, x: Tensor | EventBatch, **options: Any) -> NetworkOutput:
        """Run ``network`` on ``x``; ``options`` are further arguments of `Network.forward`."""
        return network(x, **asdict(self), **options)


#: What `Network.forward` does by itself.
FASTEST = Compute()


@dataclass(frozen=True)
class Objective:
    """What is minimised: a loss on the readout plus penalties on the spike counts."""

    loss: ReadoutCrossEntropy
    regularizers: Sequence[ActivityRegularizer] = ()

    def penalty(self, counts: Sequence[Tensor], processes: Processes, weight: float) -> Tensor:
        """Sum of the penalties on spike counts (B, *units) of each layer, the share of one process with its weight.

        What acts on averages over the batch sees those of the whole batch.
        """
        of_batch = [r for r in self.regularizers if r.dims == "batch"]
        of_samples = [r for r in self.regularizers if r.dims != "batch"]
        averaged = [processes.with_common_mean(c, weight) for c in counts] if of_batch else []
        return penalty(of_samples, counts) + penalty(of_batch, averaged)


class Scores(NamedTuple):
    """Means over samples: loss, penalty, share of correct predictions; firing rate in Hz of each spiking layer."""

    loss: float
    penalty: float
    acc: float
    rates: list[float]


class _Tally:
    """Sums of what `Scores` averages, over the samples of all processes; float64 on the host."""

    def __init__(self, duration: float, processes: Processes):
        self.duration, self.processes = duration, processes
        self.sums = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def add(self, nb_samples: int, loss: Tensor, extra: Tensor, correct: Tensor, counts: Sequence[Tensor]) -> Scores:
        """Add a batch, of which ``nb_samples`` are this process's, with their mean loss, penalty and spike counts.

        Returns: the scores of that batch, of all processes.
        """
        values = torch.stack([loss, extra.to(loss.device), *(c.mean() for c in counts), correct.to(loss.dtype)])
        means, correct = values.double().cpu().split([len(values) - 1, 1])
        nb = torch.full((1,), nb_samples, dtype=torch.float64)
        sums = self.processes.total(torch.cat([nb * means, nb.clamp(max=1) * correct, nb]))
        self.sums = self.sums + sums
        return self._scores(sums)

    def scores(self) -> Scores:
        """The scores of all batches so far."""
        return self._scores(self.sums)

    def _scores(self, sums: Tensor) -> Scores:
        loss, extra, *counts, correct = (sums[:-1] / sums[-1]).tolist()
        return Scores(loss, extra, correct, [count / self.duration for count in counts])


def train_epoch(
    network: nn.Module,
    batches: Batches,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    seed: int = 0,
    draw: int = 0,
    device: str = "cpu",
    compute: Compute = FASTEST,
    processes: Processes = ALONE,
    on_batch: Callable[[Scores], None] = lambda scores: None,
) -> Scores:
    """One pass of gradient descent.

    Args: network (`Processes.parallel` of it), batches, objective, optimizer; ``seed`` and ``draw`` (the epoch) address
        the escape noise; ``compute``; ``processes`` share every batch; ``on_batch`` is told the scores so far.
    Returns: scores averaged over the pass, each batch with the weights it met.
    Raises: UserError if the loss is not finite.
    """
    tally = _Tally(batches.nb_steps * batches.dt, processes)
    for batch in batches:
        batch, weight = processes.share(batch)
        batch = batch.to(device)
        out = compute(network, batch, seed=seed, draw=draw)
        loss = objective.loss(out.readout, batch.labels)
        extra = objective.penalty(out.counts, processes, weight)
        optimizer.zero_grad(set_to_none=True)
        (weight * (loss + extra)).backward()
        correct = (objective.loss.predictions(out.readout.detach()) == batch.labels).sum()
        seen = tally.add(len(batch) if weight else 0, loss, extra, correct, out.counts)
        if not math.isfinite(seen.loss + seen.penalty):
            raise UserError(f"the loss is {seen.loss} (penalty {seen.penalty})")
        optimizer.step()
        on_batch(tally.scores())
    return tally.scores()


@torch.no_grad()
def evaluate(
    network: Network,
    dataset: EventDataset,
    grid: BatchGrid,
    objective: Objective,
    *,
    seed: int = 0,
    draw: int = 0,
    compute: Compute = FASTEST,
    processes: Processes = ALONE,
) -> Scores:
    """Scores on a data set, in its order; the last batch may be smaller. Arguments as in `train_epoch`."""
    if not len(dataset):
        raise UserError(f"{dataset.name}: there is no sample to evaluate")
    tally = _Tally(grid.duration, processes)
    for batch in grid(dataset):
        batch, weight = processes.share(batch)
        batch = batch.to(grid.device)
        out = compute(network, batch, seed=seed, draw=draw)
        loss = objective.loss(out.readout, batch.labels)
        correct = (objective.loss.predictions(out.readout) == batch.labels).sum()
        extra = objective.penalty(out.counts, processes, weight)
        tally.add(len(batch) if weight else 0, loss, extra, correct, out.counts)
    return tally.scores()


class Repeated(NamedTuple):
    """Mean over repeated draws of the noise, and the standard deviation of the accuracy between draws."""

    loss: float
    acc: float
    acc_std: float


def evaluate_repeatedly(
    network: Network, dataset: EventDataset, grid: BatchGrid, objective: Objective, *, nb_draws: int, **options: Any
) -> Repeated:
    """Evaluate with ``nb_draws`` draws of the escape noise; a network without noise is evaluated once.

    Args: as in `evaluate`; ``options`` are its seed, compute and processes.
    """
    stochastic = any(layer.neuron.escape_noise.stochastic for layer in network.layers)
    draws = [TEST_DRAW + k for k in range(nb_draws if stochastic else 1)]
    scores = [evaluate(network, dataset, grid, objective, draw=draw, **options) for draw in draws]
    loss, acc = (torch.tensor([getattr(s, name) for s in scores], dtype=torch.float64) for name in ("loss", "acc"))
    return Repeated(float(loss.mean()), float(acc.mean()), float(acc.std()) if len(acc) > 1 else 0.0)


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
        network, optimizer: what is trained and how.
        train, valid: data sets; without ``valid`` the last epoch counts as the best.
        grid: how events become batches.
        objective: loss and penalties.
        run: where rows and checkpoints go.
        nb_epochs, seed: how long; of the shuffling and the escape noise.
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

        Raises: UserError if loss or weights are not finite; the checkpoint then holds the last good epoch.
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
