"""Training and evaluation of spike-train matching, epoch by epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.experiments.spike_train_matching.rules import UPDATES, Episode
from surgrad.experiments.spike_train_matching.task import Activity, SpikeMode, Task, Weights
from surgrad.kernels.philox import NoiseKey
from surgrad.neurons.surrogate import Surrogate


# ---------------------------------------------------------------- learning
@dataclass(frozen=True)
class Training:
    """How to learn.

    Args:
        surrogate: g_h. mode: spikes while learning. other: the swapped mode, to evaluate with; None to skip it.
        update: "three_factor", "autograd" or "full".
        lr_h: learning rates.
        lr_o: learning rates.
        nb_trials: K, averaged in every update.
        batch_size: pairs per update. seed: of the noise.
    """

    surrogate: Surrogate
    mode: SpikeMode
    other: SpikeMode | None
    lr_h: float
    lr_o: float
    update: str = "three_factor"
    nb_trials: int = 1
    batch_size: int = 1
    seed: int = 0

    def __post_init__(self):
        if self.update not in UPDATES:
            raise UserError(f"update={self.update!r} is unknown; allowed: {', '.join(UPDATES)}")
        for name in ("nb_trials", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")


class Epoch(NamedTuple):
    """What happened in one epoch.

    number; activity while learning and its distances (K, P); the sum of the updates before the learning rates; weights
    after it; activity and distances in the swapped mode with these weights, one trial (None if not asked for).
    """

    number: int
    activity: Activity
    van_rossum: Tensor
    l2: Tensor
    update: Weights
    weights: Weights
    other: Activity | None
    van_rossum_other: Tensor | None
    l2_other: Tensor | None


class Diverged(UserError):
    """Weights are no longer finite; ``weights`` are the last good ones, of epoch ``epoch``."""

    def __init__(self, epoch: int, weights: Weights):
        super().__init__(
            f"weights are not finite after epoch {epoch}: lower dataset_method.lr_h and dataset_method.lr_o"
        )
        self.epoch, self.weights = epoch - 1, weights


@torch.no_grad()
def train(task: Task, weights: Weights, training: Training, epochs: range) -> Iterator[Epoch]:
    """Learn, yielding every epoch. Noise is addressed by the epoch, so a run goes on from any epoch's weights.

    Raises: Diverged when a weight is not finite.
    """
    update = UPDATES[training.update]
    size = training.batch_size
    batches = [task.pairs(p, p + size) for p in range(0, task.nb_pairs, size)]
    alone = batches[0] if len(batches) == 1 else None
    current = alone.hidden_current(weights) if alone else None
    for number in epochs:
        key = NoiseKey(training.seed, number)
        seen, total, before = [], None, weights
        for batch in batches:
            activity = batch.forward(weights, training.mode, key, training.nb_trials, hidden_current=current)
            episode = Episode(batch, weights, activity, training.mode, key, training.surrogate)
            step = update(episode)
            weights = Weights(
                weights.hidden + training.lr_h * step.hidden, weights.output + training.lr_o * step.output
            )
            if not weights.isfinite():
                raise Diverged(number, before)
            current = alone.hidden_current(weights) if alone else None  # serves the evaluation and the next epoch
            seen.append((activity, *batch.distances(batch.difference(activity.spikes_output))))
            total = step if total is None else Weights(total.hidden + step.hidden, total.output + step.output)
        activity, van_rossum, l2 = _joined(seen)
        swapped = (None, None, None)
        if training.other is not None:
            swapped = _joined([evaluate(b, weights, training.other, key, hidden_current=current) for b in batches])
        yield Epoch(number, activity, van_rossum, l2, total, weights, *swapped)


@torch.no_grad()
def evaluate(
    task: Task,
    weights: Weights,
    mode: SpikeMode,
    key: NoiseKey,
    nb_trials: int = 1,
    hidden_current: Tensor | None = None,
) -> tuple[Activity, Tensor, Tensor]:
    """Activity in a spike mode, van Rossum and L2 distance of each trial and pair, (K, P)."""
    activity = task.forward(weights, mode, key, nb_trials, hidden_current=hidden_current)
    return activity, *task.distances(task.difference(activity.spikes_output))


def _joined(parts: list[tuple[Activity, Tensor, Tensor]]) -> tuple[Activity, Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    activities, van_rossum, l2 = zip(*parts, strict=True)
    activity = Activity(*(torch.cat(arrays, 2) for arrays in zip(*activities, strict=True)))
    return activity, torch.cat(van_rossum, 1), torch.cat(l2, 1)
