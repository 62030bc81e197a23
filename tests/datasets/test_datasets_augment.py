"""Augmentations: the distribution each one states, nothing else changed."""

from functools import partial

import numpy as np
import pytest
import torch
from datasets.random_events import random_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from surgrad.datasets.augment import (
    Compose,
    CutMix,
    Drop,
    Insert,
    TimeJitter,
    TimeMask,
    TimeStretch,
    UnitJitter,
    UnitMask,
    UnitShift,
    augmentations,
    published_noise,
)
from surgrad.datasets.events import EventDataset

ALL = [
    Drop(0.3),
    Insert(0.01, 2e-3, 50),
    TimeJitter(5e-3),
    UnitJitter(4.0),
    UnitShift(3.0),
    TimeStretch(0.8, 1.2),
    TimeMask(0.4, 0.1),
    UnitMask(0.4),
    CutMix(0.7, 0.1),
    Compose([Drop(0.1), TimeJitter(1e-3)]),
]
make_dataset = partial(random_dataset, nb_units=100, mean=1000)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("augmentation", ALL, ids=lambda a: type(a).__name__)
def test_repeats_with_the_seed_and_keeps_the_samples(augmentation):
    dataset = make_dataset()
    times, units = dataset.times.copy(), dataset.units.copy()
    before = torch.get_rng_state()
    one, two, other = (augmentation(dataset, seeded(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.times, two.times)
    assert np.array_equal(one.units, two.units)
    assert not (np.array_equal(one.times, other.times) and np.array_equal(one.units, other.units))
    assert np.array_equal(one.labels, dataset.labels)
    assert np.array_equal(one.ids, dataset.ids)
    assert np.array_equal(times, dataset.times)
    assert np.array_equal(units, dataset.units)
    assert torch.equal(before, torch.get_rng_state())


@settings(max_examples=30, deadline=None)
@given(p=st.floats(0, 1), seed=st.integers(0, 1000))
def test_drop_keeps_a_binomial_share_in_order(p, seed):
    dataset = make_dataset(mean=200)
    left = Drop(p)(dataset, seeded(seed))
    n = dataset.nb_events
    assert abs(left.nb_events - n * (1 - p)) <= 6 * np.sqrt(n * p * (1 - p)) + 1e-9
    for k in range(len(dataset)):
        assert set(left[k][0]) <= set(dataset[k][0])


def test_insert_adds_the_stated_number_and_keeps_the_old():
    dataset = make_dataset()
    noisy = Insert(0.05, dt=2e-3, nb_steps=50)(dataset, seeded())
    assert (np.diff(noisy.offsets) - np.diff(dataset.offsets) == 250).all()
    for k in range(len(dataset)):
        (old_times, old_units, _), (times, units, _) = dataset[k], noisy[k]
        assert np.array_equal(times[: len(old_times)], old_times)
        assert np.array_equal(units[: len(old_units)], old_units)
    new = np.concatenate([noisy[k][0][len(dataset[k][0]) :] for k in range(len(dataset))])
    assert new.min() >= 0
    assert new.max() < 0.1
    assert abs(new.mean() - 0.05) < 6 * 0.1 / np.sqrt(12 * len(new))


def test_time_jitter_is_normal():
    dataset = make_dataset()
    moved = TimeJitter(3e-3)(dataset, seeded()).times - dataset.times
    assert abs(moved.mean()) < 6 * 3e-3 / np.sqrt(len(moved))
    assert moved.std() == pytest.approx(3e-3, rel=0.05)


def test_unit_jitter_is_unbiased_and_bounded():
    dataset = make_dataset()
    inner = EventDataset(dataset.times, 50 + dataset.units % 3, dataset.offsets, dataset.labels, dataset.nb_units, 3)
    moved = UnitJitter(6.0)(inner, seeded()).units.astype(int) - inner.units
    assert set(moved) == set(range(-3, 4))
    assert abs(moved.mean()) < 6 * np.sqrt(3 / len(moved))
    assert moved.var() == pytest.approx(6**2 / 12, rel=0.1)
    assert np.array_equal(UnitJitter(0.9)(inner, seeded()).units, inner.units)


def test_unit_shift_moves_a_sample_as_one():
    dataset = make_dataset(nb_samples=400, mean=5)
    middle = EventDataset(
        dataset.times, np.full(dataset.nb_events, 50), dataset.offsets, dataset.labels, dataset.nb_units, 3
    )
    moved = UnitShift(4.0)(middle, seeded())
    shifts = [set(moved[k][1].tolist()) for k in range(len(moved)) if len(moved[k][1])]
    assert all(len(s) == 1 for s in shifts)
    assert np.std([s.pop() for s in shifts]) == pytest.approx(4.0, rel=0.2)


def test_units_moved_off_the_edge_are_removed():
    dataset = make_dataset(nb_units=5)
    moved = UnitShift(50.0)(dataset, seeded())
    assert moved.nb_events < dataset.nb_events
    assert moved.units.max(initial=0) < 5


def test_time_stretch_is_one_factor_per_sample():
    dataset = make_dataset()
    stretched = TimeStretch(0.5, 1.5)(dataset, seeded())
    for k in range(1, len(dataset)):
        ratio = stretched[k][0] / dataset[k][0]
        assert np.ptp(ratio) < 1e-5
        assert 0.5 <= ratio[0] <= 1.5
    assert np.ptp(stretched.times / dataset.times) > 0.3


@pytest.mark.parametrize(("mask", "axis", "whole"), [(TimeMask(0.5, 0.1), "times", 0.1), (UnitMask(0.5), "units", 100)])
def test_a_mask_is_one_window_of_the_stated_width(mask, axis, whole):
    """Everything outside is as it was; the mean share that is lost is that of a window ~ U(0, 1/2)."""
    dataset = make_dataset(nb_samples=300, mean=2000)
    left, lost = mask(dataset, seeded()), []
    for k in range(1, len(dataset)):
        before, after = (getattr(d, axis)[d.offsets[k] : d.offsets[k + 1]] for d in (dataset, left))
        gone = np.setdiff1d(before, after)
        assert np.isin(after, before).all()
        if len(gone):
            assert not ((after > gone.min()) & (after < gone.max())).any()
            lost.append(float(np.ptp(gone)) / whole)
    assert max(lost) <= 0.5
    assert np.mean(lost) == pytest.approx(0.25, abs=0.03)


def test_cutmix_takes_a_window_from_one_other_sample_of_the_class():
    """Every event knows its sample by its unit: a mixed sample has its own outside a window, its partner's inside."""
    nb_samples, per_sample = 40, 200
    labels = np.append(np.arange(nb_samples - 1) % 3, 3)  # the last is alone in its class
    rng = np.random.default_rng(0)
    dataset = EventDataset(
        times=rng.uniform(0, 0.1, nb_samples * per_sample),
        units=np.repeat(np.arange(nb_samples), per_sample),
        offsets=np.arange(nb_samples + 1) * per_sample,
        labels=labels,
        nb_units=nb_samples,
        nb_classes=4,
    )
    mixed, givers = CutMix(1.0, 0.1)(dataset, seeded()), []
    for k in range(nb_samples):
        times, units, _ = mixed[k]
        giver = set(units.tolist()) - {k}
        assert len(giver) <= 1
        for other in giver:
            assert labels[other] == labels[k]
            inside = times[units == other]
            own = times[units == k]
            assert not ((own > inside.min()) & (own < inside.max())).any()
            of_giver = dataset[other][0]
            assert set(inside) == set(of_giver[(of_giver >= inside.min()) & (of_giver <= inside.max())])
            givers.append(other)
    assert len(givers) == len(set(givers)) > 30
    assert np.array_equal(mixed[nb_samples - 1][0], dataset[nb_samples - 1][0])
    untouched = CutMix(0.0, 0.1)(dataset, seeded())
    assert np.array_equal(untouched.times, dataset.times)


def test_the_whole_chain_mixes_first_and_masks_last():
    assert augmentations(dt=2e-3, nb_steps=50) is None
    chain = augmentations(dt=2e-3, nb_steps=50, unit_mask=0.1, time_mask=0.2, p_cutmix=0.5, p_drop=0.1)
    assert [type(a) for a in chain.augmentations] == [CutMix, Drop, TimeMask, UnitMask]
    assert (chain.augmentations[0].duration, chain.augmentations[2].duration) == (0.1, 0.1)


def test_published_chain_has_only_what_was_asked_for():
    assert published_noise(dt=2e-3, nb_steps=50) is None
    chain = published_noise(dt=2e-3, nb_steps=50, p_drop=0.1, sigma_t=1e-3, p_insert=0.01)
    assert [type(a) for a in chain.augmentations] == [TimeJitter, Drop, Insert]


def test_events_pushed_out_of_the_window_are_counted():
    dataset = make_dataset(mean=50)
    late = dataset.with_events(dataset.times * 0 + 0.05, dataset.units, dataset.offsets)
    batches = late.batches(7, dt=1e-3, nb_steps=100, generator=seeded(), augment=TimeStretch(3.0, 3.0))
    assert sum(len(b.steps) for b in batches) == 0
    assert batches.dropped == late.nb_events


def test_batches_are_augmented():
    dataset = make_dataset(mean=50)
    noise = published_noise(dt=2e-3, nb_steps=50, p_drop=0.5)
    sizes = [
        sum(len(b.steps) for b in dataset.batches(7, dt=2e-3, nb_steps=50, generator=seeded(), augment=a))
        for a in (None, noise)
    ]
    assert 0.4 * sizes[0] < sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Drop(1.2),
        lambda: Insert(-0.1, 1e-3, 5),
        lambda: TimeMask(2, 1),
        lambda: UnitMask(-1),
        lambda: CutMix(1.5, 1),
        lambda: TimeStretch(0, 1),
    ],
)
def test_impossible_settings_are_named(make):
    with pytest.raises(ValueError, match=r"p_drop|p_insert|stretch|time_mask|unit_mask|p_cutmix"):
        make()
