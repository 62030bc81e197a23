"""Scores of a network on a data set, and the one place where a test set is looked at, after training."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from surgrad.datasets.events import EventDataset
from surgrad.errors import UserError
from surgrad.network.network import Network, evaluating
from surgrad.training.distributed import ALONE, Processes
from surgrad.training.loop import DEFAULT_COMPUTE, TEST_DRAW, BatchGrid, Compute, Objective, Scores, _Tally, values

Data = TypeVar("Data")


class Best(NamedTuple):
    """The epoch of highest validation accuracy (of equal ones the lowest loss, then the earliest) and its weights."""

    epoch: int
    acc: float
    loss: float
    weights: dict[str, Tensor]

    def beaten_by(self, acc: float, loss: float) -> bool:
        return (acc, -loss) > (self.acc, -self.loss)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def final_scores(
    network: nn.Module,
    best: Best,
    last_epoch: int,
    splits: Mapping[str, Data | None],
    score: Callable[[Data], Mapping[str, float]],
    variants: Mapping[str, Callable[[int], None]] | None = None,
) -> dict[str, float]:
    """The test set is looked at once, here: after training, with the weights of the last and the best validation epoch.

    Args:
        network: with the weights of the last epoch, which it keeps.
        best: best validation epoch.
        last_epoch: its number.
        splits: data sets by name, "valid" and "test"; None is left out.
        score: of a data set, such as {"acc": …}.
        variants: "" and such as "_other": prepare the network for other spikes, given the epoch of its weights.

    Returns:
        "<split>_<score><variant>" of the last epoch, with "_best_valid" of the best; and "best_epoch".
    """
    last = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found: dict[str, float] = {"best_epoch": best.epoch}
    for suffix, weights, epoch in (("", last, last_epoch), ("_best_valid", best.weights, best.epoch)):
        network.load_state_dict(weights)
        for variant, prepare in (variants or {"": lambda epoch: None}).items():
            prepare(epoch)
            for split, data in splits.items():
                if data is not None:
                    found |= {f"{split}_{name}{variant}{suffix}": value for name, value in score(data).items()}
    network.load_state_dict(last)
    return found


@torch.no_grad()
def evaluate(
    network: Network,
    dataset: EventDataset,
    grid: BatchGrid,
    objective: Objective,
    *,
    seed: int = 0,
    draw: int = 0,
    compute: Compute = DEFAULT_COMPUTE,
    processes: Processes = ALONE,
) -> Scores:
    """Scores on a data set, in its order; the last batch may be smaller. Arguments as in `train_epoch`."""
    if not len(dataset):
        raise UserError(f"{dataset.name}: there is no sample to evaluate")
    tally = _Tally(grid.duration, processes)
    for batch in grid(dataset):
        batch, weight = processes.share(batch)
        with evaluating(network):
            out = compute(network, batch, seed=seed, draw=draw)
        loss = objective.loss(out.y, batch.labels)
        correct = (objective.loss.predictions(out.y) == batch.labels).sum()
        extra = objective.penalty(out.counts, processes, weight)
        tally.add(len(batch) if weight else 0, values(loss, extra, correct, out.counts))
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

    Args:
        network: whose neurons say whether noise is drawn.
        dataset: samples and labels.
        grid: how events become batches.
        objective: loss and penalties.
        nb_draws: presentations of the whole set.
        options: seed, compute and processes of `evaluate`.
    """
    stochastic = any(layer.neuron.escape_noise.stochastic for layer in network.layers)
    draws = [TEST_DRAW + k for k in range(nb_draws if stochastic else 1)]
    scores = [evaluate(network, dataset, grid, objective, draw=draw, **options) for draw in draws]
    loss, acc = (torch.tensor([getattr(s, name) for s in scores], dtype=torch.float64) for name in ("loss", "acc"))
    return Repeated(float(loss.mean()), float(acc.mean()), float(acc.std()) if len(acc) > 1 else 0.0)
