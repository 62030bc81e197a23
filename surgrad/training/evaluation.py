"""Scores of a network on a data set, once or over repeated draws of its escape noise."""

from typing import Any, NamedTuple

import torch

from surgrad.datasets.events import EventDataset
from surgrad.errors import UserError
from surgrad.network.network import Network
from surgrad.training.distributed import ALONE, Processes
from surgrad.training.loop import FASTEST, TEST_DRAW, BatchGrid, Compute, Objective, Scores, _Tally


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
