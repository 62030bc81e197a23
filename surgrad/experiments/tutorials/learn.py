"""Training without a run folder: what a notebook needs to look at a network that learns."""

from collections import defaultdict

import numpy as np
import torch

from surgrad.datasets.events import EventDataset
from surgrad.network.network import Network
from surgrad.training.evaluation import evaluate
from surgrad.training.loop import BatchGrid, Objective, train_epoch


def learn(
    network: Network,
    train: EventDataset,
    test: EventDataset | None = None,
    *,
    grid: BatchGrid,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    nb_epochs: int,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Trains the network as `surgrad.training.fit.Fit` does, keeping nothing but the weights and what it returns.

    Args:
        network: is trained in place.
        train: training set.
        test: scored after every epoch, for a look that no choice depends on.
        grid: how events become batches.
        objective: loss and penalties.
        optimizer: of the network's weights.
        nb_epochs: number of passes.
        seed: of order and noise.

    Returns:
        columns over epochs: epoch, train_loss, train_acc, spikes (of all hidden neurons per training sample), and with
        ``test`` test_loss and test_acc.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = [int(np.prod(layer.unit_shape)) for layer in network.layers]
    columns: dict[str, list[float]] = defaultdict(list)
    for epoch in range(1, nb_epochs + 1):
        scores = train_epoch(network, grid(train, generator), objective, optimizer, seed=seed, draw=epoch)
        spikes = grid.duration * np.dot(scores.rates, sizes)
        row = {"epoch": epoch, "train_loss": scores.loss, "train_acc": scores.acc, "spikes": spikes}
        if test is not None:
            scores = evaluate(network, test, grid, objective, seed=seed, draw=epoch)
            row |= {"test_loss": scores.loss, "test_acc": scores.acc}
        for name, value in row.items():
            columns[name].append(value)
    return {name: np.array(values) for name, values in columns.items()}
