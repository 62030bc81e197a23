"""Training and evaluation of spike-train matching, epoch by epoch."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surgrad.errors import UserError, known
from surgrad.experiments.spike_train_matching.rules import UPDATES, Episode
from surgrad.experiments.spike_train_matching.task import Activity, SpikeMode, Task, Weights
from surgrad.kernels.philox import NoiseKey
from surgrad.neurons.surrogate import Surrogate


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

    def __post_init__(self) -> None:
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


class Learner:
    """Learns epoch by epoch. Noise is addressed by the epoch, so that the weights are all there is to go on from.

    Args:
        task: input, target and neurons.
        weights: initial weights.
        training: how to learn.
    """

    def __init__(self, task: Task, weights: Weights, training: Training):
        self.training, size = training, training.batch_size
        self._batches = [task.pairs(p, p + size) for p in range(0, task.nb_pairs, size)]
        self.go_on_from(weights)

    def go_on_from(self, weights: Weights) -> None:
        """Take these weights."""
        self.weights, self._current = weights, self._hidden_current(weights)

    @torch.no_grad()
    def __call__(self, number: int) -> Epoch:
        """Learn for one epoch. Raises: UserError when a weight is not finite; the weights stay those before it."""
        training, update = self.training, UPDATES[self.training.update]
        key = NoiseKey(training.seed, number)
        weights, current = self.weights, self._current
        seen: list[tuple[Activity, Tensor, Tensor]] = []
        total: Weights | None = None
        for batch in self._batches:
            activity = batch.forward(weights, training.mode, key, training.nb_trials, hidden_current=current)
            step = update(Episode(batch, weights, activity, training.mode, key, training.surrogate))
            weights = Weights(
                weights.hidden + training.lr_h * step.hidden, weights.output + training.lr_o * step.output
            )
            if not weights.isfinite():
                raise UserError("weights are not finite")
            current = self._hidden_current(weights)
            seen.append((activity, *batch.distances(batch.difference(activity.spikes_output))))
            total = step if total is None else Weights(total.hidden + step.hidden, total.output + step.output)
        self.weights, self._current = weights, current
        activity, van_rossum, l2 = _joined(seen)
        swapped: tuple[Activity, Tensor, Tensor] | tuple[None, None, None] = (None, None, None)
        if training.other is not None:
            other = [evaluate(b, weights, training.other, key, hidden_current=current) for b in self._batches]
            swapped = _joined(other)
        return Epoch(number, activity, van_rossum, l2, known("the update", total), weights, *swapped)

    def _hidden_current(self, weights: Weights) -> Tensor | None:
        """Of a batch that is alone, where it serves the evaluation of an epoch and the next epoch, too."""
        return self._batches[0].hidden_current(weights) if len(self._batches) == 1 else None


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
