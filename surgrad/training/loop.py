"""One epoch: batches of events, the objective, the scores."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from surgrad.datasets.events import Augmentation, Batches, EventBatch, EventDataset
from surgrad.errors import UserError
from surgrad.kernels.state import NetworkOutput
from surgrad.training.distributed import ALONE, Processes
from surgrad.training.losses import ReadoutCrossEntropy
from surgrad.training.regularizers import ActivityRegularizer, penalty

#: Draws of the escape noise: training and validation take the epoch, tests and monitors numbers no epoch reaches.
TEST_DRAW, MONITOR_DRAW = 1 << 20, 1 << 21


@dataclass(frozen=True)
class BatchGrid:
    """How events become batches.

    Args:
        batch_size: samples in a batch.
        dt: time step in s.
        nb_steps: number of steps.
        unit_shape: shape of the input units.
        device: of the network.
        counted: whether spikes of one unit in one step are counted, not only seen.
    """

    batch_size: int
    dt: float
    nb_steps: int
    unit_shape: tuple[int, ...] | None = None
    device: str = "cpu"
    counted: bool = False

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
            counted=self.counted,
        )


@dataclass(frozen=True)
class Compute:
    """How a network is run, apart from what it computes: the arguments of `Network.forward` of the same names.

    Args:
        kernel: "auto", "reference", "cpu" or "cuda".
        memory: "full", or "recompute" to keep less for the backward pass.
        truncate: in steps, 0 for gradients through all of them.
        precision: of the products.
    """

    kernel: str = "auto"
    memory: str = "full"
    truncate: int = 0
    precision: str = "float32"

    def __call__(self, network: nn.Module, x: Tensor | EventBatch, **options: Any) -> NetworkOutput:
        """Run ``network`` on ``x``; ``options`` are further arguments of `Network.forward`."""
        return network(x, **asdict(self), **options)


#: What `Network.forward` does by itself.
DEFAULT_COMPUTE = Compute()


@dataclass(frozen=True)
class Objective:
    """What is minimised: a loss on the readout plus penalties on the spike counts."""

    loss: ReadoutCrossEntropy
    regularizers: Sequence[ActivityRegularizer] = ()

    def penalty(self, counts: Sequence[Tensor], processes: Processes, weight: float) -> Tensor:
        """Sum of the penalties on spike counts (B, *units) of each layer, the share of one process with its weight.

        What acts on averages over the batch sees those of the whole batch.
        """
        of_batch = [r for r in self.regularizers if getattr(r, "dims", None) == "batch"]
        of_samples = [r for r in self.regularizers if getattr(r, "dims", None) != "batch"]
        averaged = [processes.with_common_mean(c, weight) for c in counts] if of_batch else []
        found = penalty(of_samples, counts)
        return found + penalty(of_batch, averaged) if of_batch else found


class Scores(NamedTuple):
    """Means over samples: loss, penalty, share of correct predictions; firing rate in Hz of each spiking layer."""

    loss: float
    penalty: float
    acc: float
    rates: list[float]


@torch.no_grad()
def values(loss: Tensor, extra: Tensor, correct: Tensor, counts: Sequence[Tensor]) -> Tensor:
    """What is read of a batch: mean loss, penalty, mean spike count of each layer, number of right predictions."""
    return torch.stack([loss, extra.to(loss.device), *(c.mean() for c in counts), correct.to(loss.dtype)])


class _Tally:
    """Sums of what `Scores` averages, over the samples of all processes; float64 on the host."""

    def __init__(self, duration: float, processes: Processes):
        self.duration, self.processes = duration, processes
        self.sums = torch.zeros((), dtype=torch.float64)

    def add(self, nb_samples: int, values: Tensor) -> Scores:
        """Add a batch, of which ``nb_samples`` are this process's, with their `values`.

        Returns:
            the scores of that batch, of all processes.
        """
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


@dataclass(frozen=True)
class Step:
    """One step of gradient descent.

    Args:
        network: the network, or `Processes.parallel` of it.
        objective: what is minimised.
        optimizer: of the network's weights.
        seed: of the escape noise.
        grad_clip: largest norm of the gradient; None: any.
        compute: how the network is run.
        processes: they share every batch.
    """

    network: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    seed: int = 0
    grad_clip: float | None = None
    compute: Compute = DEFAULT_COMPUTE
    processes: Processes = ALONE

    def gradients(self, batch: EventBatch, draw: int | Tensor, weight: float = 1.0) -> Tensor:
        """The `values` of a batch, whose gradients, times ``weight``, the parameters then have."""
        out = self.compute(self.network, batch, seed=self.seed, draw=draw)
        loss = self.objective.loss(out.y, batch.labels)
        extra = self.objective.penalty(out.counts, self.processes, weight)
        self.optimizer.zero_grad(set_to_none=True)
        (weight * (loss + extra)).backward()
        correct = (self.objective.loss.predictions(out.y.detach()) == batch.labels).sum()
        return values(loss, extra, correct, out.counts)

    def update(self) -> None:
        """Let the optimiser step."""
        if self.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.grad_clip)
        self.optimizer.step()

    def __call__(self, batch: EventBatch, draw: int | Tensor) -> Tensor:
        """Both, whatever the loss is."""
        found = self.gradients(batch, draw)
        self.update()
        return found


class Whole(Protocol):
    """Runs a step as a whole where it can (`surgrad.training.captured.Captured`)."""

    def begin(self, step: Step) -> None:
        """Take the step of an epoch."""

    def __call__(self, batch: EventBatch, draw: int) -> Tensor | None:
        """What the step returns, or None where it has not run."""


def descend(
    step: Step,
    batches: Batches,
    draw: int = 0,
    on_batch: Callable[[Scores], None] = lambda scores: None,
    whole: Whole | None = None,
) -> Scores:
    """One pass of gradient descent.

    Args:
        step: is made on every batch.
        batches: the pass.
        draw: the epoch, which with the seed addresses the noise.
        on_batch: called with the scores so far.
        whole: runs the step on those batches that it is for.

    Returns:
        scores averaged over the pass, each batch with the weights it met.

    Raises:
        UserError: if the loss is not finite.
    """
    tally = _Tally(batches.nb_steps * batches.dt, step.processes)
    step.network.train()
    if whole is not None:
        whole.begin(step)
    for batch in batches:
        batch, weight = step.processes.share(batch)
        done = None if whole is None else whole(batch, draw)
        seen = tally.add(len(batch) if weight else 0, step.gradients(batch, draw, weight) if done is None else done)
        if not math.isfinite(seen.loss + seen.penalty):
            raise UserError(f"the loss is {seen.loss} (penalty {seen.penalty})")
        if done is None:
            step.update()
        on_batch(tally.scores())
    return tally.scores()


def train_epoch(
    network: nn.Module,
    batches: Batches,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    seed: int = 0,
    draw: int = 0,
    grad_clip: float | None = None,
    compute: Compute = DEFAULT_COMPUTE,
    processes: Processes = ALONE,
    on_batch: Callable[[Scores], None] = lambda scores: None,
) -> Scores:
    """One pass of gradient descent: arguments as of `Step` and `descend`."""
    return descend(Step(network, objective, optimizer, seed, grad_clip, compute, processes), batches, draw, on_batch)
