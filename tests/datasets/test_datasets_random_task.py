"""Random spikes with random labels: rates, independence, range checks."""

import numpy as np
import pytest

from surgrad.datasets.sources.random_task import RandomTask
from surgrad.errors import UserError


def test_rate_and_labels_are_as_asked():
    task = RandomTask(nb_samples=400, rate=20, nb_classes=3)
    dataset = task.draw()
    cells = 400 * 200 * 100
    p = 20 * 1e-3
    assert abs(dataset.nb_events - p * cells) < 5 * np.sqrt(cells * p * (1 - p))
    assert abs(np.bincount(dataset.labels, minlength=3) - 400 / 3).max() < 5 * np.sqrt(400 * 2 / 9)


def test_at_most_one_spike_per_unit_and_step_and_none_is_lost():
    dataset = RandomTask(nb_samples=20, rate=300).draw()
    assert len(dataset.binned(1e-3, 200).steps) == dataset.nb_events
    assert dataset.dropped == 0


def test_parts_and_seeds_are_independent_and_numbered_apart():
    task = RandomTask(nb_samples=10)
    first, again, second, other = task.draw(), task.draw(), task.draw(1), RandomTask(nb_samples=10, seed=1).draw()
    np.testing.assert_array_equal(first.times, again.times)
    assert not np.array_equal(first.times, second.times)
    assert not np.array_equal(first.times, other.times)
    assert set(first.ids).isdisjoint(second.ids)


@pytest.mark.parametrize(
    "options", [{"nb_samples": 0}, {"nb_classes": 0}, {"rate": 0.0}, {"rate": 1000.0}, {"dt": 0.0}]
)
def test_values_out_of_range_are_named(options):
    name, value = next(iter(options.items()))
    with pytest.raises(UserError, match=f"{name}={value}|steps of {value} s"):
        RandomTask(**options)
