"""Batches of events from a `torch.utils.data.DataLoader`, for data sets, subsets and transforms of PyTorch's kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from surgrad.datasets.binning import bin_events
from surgrad.datasets.events import EventBatch


@dataclass(frozen=True)
class Collate:
    """The ``collate_fn`` of a DataLoader whose samples are (times (s), units, label), as those of `EventDataset` are.

    `EventDataset.batches` is faster, and addresses the noise by the samples; here samples count from 0 in every batch,
    so that a stochastic network wants another ``draw`` for each.

    Args:
        dt: time step (s).
        nb_steps: T; events outside [0, T dt) are dropped.
        unit_shape: shape of the input units.
    """

    dt: float
    nb_steps: int
    unit_shape: tuple[int, ...]

    def __call__(self, samples: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> EventBatch:
        """The samples on the grid. Raises: ValueError for a unit that is not in ``unit_shape``."""
        times, units, labels = zip(*samples, strict=True)
        where, offsets, nb_units = np.concatenate(units), np.cumsum([0, *map(len, times)]), prod(self.unit_shape)
        if len(where) and not 0 <= where.min() <= where.max() < nb_units:
            raise ValueError(f"units {where.min()} to {where.max()} are not all in unit_shape {self.unit_shape}")
        grid = {"dt": self.dt, "nb_steps": self.nb_steps}
        events = bin_events(np.concatenate(times), where, offsets, nb_units=nb_units, **grid)  # type: ignore[arg-type]
        arrays = (events.steps.astype(np.int32), events.units.astype(np.int32), events.offsets, np.array(labels))
        steps, found, bounds, classes = map(torch.from_numpy, arrays)
        ids = torch.arange(len(samples))
        return EventBatch(steps, found, bounds, classes.long(), ids, self.nb_steps, self.unit_shape)
