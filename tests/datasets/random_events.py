"""Data sets of random events, of which sample 0 has none."""

import numpy as np

from surgrad.datasets.events import EventDataset


def random_dataset(seed=0, *, nb_samples=20, nb_units=13, nb_classes=3, mean=30, duration=0.1):
    """Poisson numbers of events, uniform in time (s) and over units."""
    rng = np.random.default_rng(seed)
    lengths = rng.poisson(mean, nb_samples)
    lengths[0] = 0
    nb_events = int(lengths.sum())
    return EventDataset(
        times=rng.uniform(0, duration, nb_events),
        units=rng.integers(0, nb_units, nb_events),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=rng.integers(0, nb_classes, nb_samples),
        nb_units=nb_units,
        nb_classes=nb_classes,
        speakers=rng.integers(0, 3, nb_samples),
    )
