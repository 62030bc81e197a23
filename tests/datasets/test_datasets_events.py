"""Events to batches: binning, gathering, order, determinism."""

from functools import partial

import numpy as np
import pytest
import torch
from datasets.random_events import random_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from surgrad.datasets import binning
from surgrad.datasets.binning import bin_events, gather, time_to_step
from surgrad.datasets.events import EventBatch, EventDataset

DT = 2e-3
make_dataset = partial(random_dataset, nb_samples=23, nb_classes=4)


def brute_force(dataset, indices, dt, nb_steps):
    """(T, B, units) by one assignment per event, in float64."""
    x = torch.zeros(nb_steps, len(indices), dataset.nb_units)
    for b, n in enumerate(indices):
        times, units, _ = dataset[int(n)]
        for t, unit in zip(times, units, strict=True):
            step = int(np.floor(float(t) / dt))
            if step < nb_steps:
                x[step, b, int(unit)] = 1
    return x


def test_batches_equal_event_by_event_binning():
    dataset = make_dataset()
    for first, batch in enumerate(dataset.batches(7, dt=DT, nb_steps=40)):
        indices = range(first * 7, min(first * 7 + 7, len(dataset)))
        assert torch.equal(batch.dense(), brute_force(dataset, indices, DT, 40))
        assert batch.labels.tolist() == dataset.labels[list(indices)].tolist()
        assert batch.ids.tolist() == list(indices)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dt", [1e-3, 2e-3, 5e-4, 1e-4, 0.1, 1 / 24000, 0.7 / 350])
def test_edges_open_their_bin(dt, dtype):
    k = np.arange(20_000)
    product = (k.astype(dtype) * dtype(dt)).astype(np.float32)
    rounded = (k * dt).astype(np.float32)
    assert np.array_equal(time_to_step(product, dt), k)
    assert np.array_equal(time_to_step(rounded, dt), k)


def test_float16_times_are_binned_as_they_are_stored():
    times = np.random.default_rng(0).uniform(0, 1.4, 5000).astype(np.float16)
    assert np.array_equal(time_to_step(times, DT), np.floor(times.astype(np.float64) / DT))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    nb_steps=st.integers(1, 60),
    dt=st.sampled_from([1e-3, 2e-3, 0.7 / 350]),
    chunk=st.sampled_from([1, 5, 64, 1 << 21]),
)
def test_binning_conserves_counts_and_ignores_order(seed, nb_steps, dt, chunk):
    dataset = make_dataset(seed, duration=0.15)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(dataset.nb_events)
    shuffled = shuffled[np.argsort(dataset.samples()[shuffled], kind="stable")]
    arguments = {"dt": dt, "nb_steps": nb_steps, "nb_units": dataset.nb_units}
    whole = bin_events(dataset.times, dataset.units, dataset.offsets, **arguments)
    original_chunk, binning._CHUNK_EVENTS = binning._CHUNK_EVENTS, chunk
    try:
        other = bin_events(dataset.times[shuffled], dataset.units[shuffled], dataset.offsets, **arguments)
    finally:
        binning._CHUNK_EVENTS = original_chunk
    for name in ("steps", "units", "offsets"):
        assert np.array_equal(getattr(whole, name), getattr(other, name))
    # kept + dropped + collapsed duplicates = all
    step = np.floor(dataset.times.astype(np.float64) / dt)
    triples = set(zip(dataset.samples(), step, dataset.units, strict=True))
    inside = {t for t in triples if t[1] < nb_steps}
    assert len(whole.steps) == len(inside)
    assert whole.dropped == np.count_nonzero(step >= nb_steps) == other.dropped


def test_duplicates_collapse_and_events_are_sorted():
    dataset = EventDataset([0.003, 0.0021, 0.0001, 0.0025], [1, 1, 0, 0], [0, 4], [0], 2, 1)
    (batch,) = dataset.batches(1, dt=DT, nb_steps=3)
    assert batch.steps.tolist() == [0, 1, 1]
    assert batch.units.tolist() == [0, 0, 1]
    assert batch.dense(torch.float64).sum() == 3


@pytest.mark.parametrize("augmented", [False, True])
def test_batches_made_on_a_device_are_those_made_on_the_host(augmented):
    """The device's own operations, run on the CPU."""
    dataset = make_dataset(mean=60, nb_units=5)  # few units: many duplicates
    late = (
        (lambda part, generator: part.with_events(part.times + 0.03, part.units, part.offsets)) if augmented else None
    )
    host, device = (
        dataset.batches(7, dt=2e-3, nb_steps=40, generator=torch.Generator().manual_seed(1), augment=late)
        for _ in range(2)
    )
    for indices in host.groups:
        expected, got = host._from_host(indices), device._on_device(indices)
        for a, b in zip(expected, got, strict=True):
            assert a is b is None or (torch.equal(a, b) and a.dtype == b.dtype)
    assert host.dropped == device.dropped
    assert not augmented or device.dropped > 0


def test_window_is_half_open_and_dropped_is_counted():
    dataset = EventDataset([-0.001, 0.0, 0.0059, 0.006, 9.0], [0] * 5, [0, 5], [0], 1, 1)
    (batch,) = dataset.batches(1, dt=DT, nb_steps=3)
    assert batch.steps.tolist() == [0, 2]
    assert dataset.dropped == 3


def test_gather_equals_concatenation():
    dataset = make_dataset(3)
    indices = np.array([5, 5, 0, 22, 7])
    positions, offsets = gather(dataset.offsets, indices)
    pieces = [np.arange(dataset.offsets[n], dataset.offsets[n + 1]) for n in indices]
    assert np.array_equal(positions, np.concatenate(pieces))
    assert offsets.tolist() == [0, *np.cumsum([len(p) for p in pieces])]


def test_subset_of_subset_keeps_ids_and_events():
    dataset = make_dataset(4)
    part = dataset.subset([3, 9, 4]).subset(torch.tensor([2, 0]))
    assert part.ids.tolist() == [4, 3]
    for k, n in enumerate([4, 3]):
        assert all(np.array_equal(a, b) for a, b in zip(part[k], dataset[n], strict=True))
    assert part.speakers.tolist() == dataset.speakers[[4, 3]].tolist()
    assert dataset.subset(dataset.labels == 1).labels.tolist() == [1] * int((dataset.labels == 1).sum())


def test_counts_equal_events_per_unit():
    dataset = make_dataset(5)
    counts = dataset.counts()
    for n in range(len(dataset)):
        assert np.array_equal(counts[n], np.bincount(dataset[n][1], minlength=dataset.nb_units))


def test_shuffle_is_a_permutation_and_resumes_from_the_generator_state():
    dataset = make_dataset(6)
    generator = torch.Generator().manual_seed(1)
    first = [b.ids for b in dataset.batches(5, dt=DT, nb_steps=9, generator=generator)]
    state = generator.get_state()
    partly_read = dataset.batches(5, dt=DT, nb_steps=9, generator=generator)
    second = [next(partly_read).ids, next(partly_read).ids]
    third = torch.cat([b.ids for b in dataset.batches(5, dt=DT, nb_steps=9, generator=generator)])
    resumed = torch.Generator()
    resumed.set_state(state)
    again = [b.ids for b in dataset.batches(5, dt=DT, nb_steps=9, generator=resumed)]
    assert torch.equal(torch.cat(again[:2]), torch.cat(second))
    again_third = torch.cat([b.ids for b in dataset.batches(5, dt=DT, nb_steps=9, generator=resumed)])
    assert torch.equal(third, again_third)
    assert sorted(torch.cat(first).tolist()) == list(range(len(dataset)))
    assert not torch.equal(torch.cat(first), torch.cat(again))


def test_global_random_state_is_untouched():
    dataset = make_dataset(6)
    before = torch.get_rng_state()
    list(dataset.batches(5, dt=DT, nb_steps=9, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())


def test_number_of_batches_and_drop_last():
    dataset = make_dataset()
    assert [len(b) for b in dataset.batches(10, dt=DT, nb_steps=5)] == [10, 10, 3]
    assert [len(b) for b in dataset.batches(10, dt=DT, nb_steps=5, drop_last=True)] == [10, 10]
    assert len(dataset.batches(10, dt=DT, nb_steps=5)) == 3


def test_augmentation_sees_each_batch_once_and_repeats_with_the_seed():
    def silence_odd_units(part, generator):
        keep = (part.units % 2 == 0) & (torch.rand(part.nb_events, generator=generator).numpy() < 0.5)
        counts = np.bincount(part.samples()[keep], minlength=len(part))
        return part.with_events(part.times[keep], part.units[keep], np.cumsum([0, *counts]))

    dataset = make_dataset(8)
    passes = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        batches = dataset.batches(4, dt=DT, nb_steps=50, generator=generator, augment=silence_odd_units)
        passes.append([b.dense() for b in batches])
    for one, two in zip(*passes, strict=True):
        assert torch.equal(one, two)
        assert one[..., 1::2].sum() == 0
    kept = sum(float(x.sum()) for x in passes[0])
    assert 0 < kept < sum(float(b.dense()[..., ::2].sum()) for b in dataset.batches(4, dt=DT, nb_steps=50))
    with pytest.raises(ValueError, match="generator"):
        dataset.batches(4, dt=DT, nb_steps=50, augment=silence_odd_units)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    nb_steps=st.integers(1, 6),
    nb_samples=st.integers(0, 5),
    unit_shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
)
def test_dense_round_trip(seed, nb_steps, nb_samples, unit_shape):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(nb_steps, nb_samples, *unit_shape, generator=generator) < 0.4).double()
    batch = EventBatch.from_dense(x)
    assert batch.unit_shape == unit_shape
    assert torch.equal(batch.dense(torch.float64), x)
    assert batch.steps.dtype == batch.units.dtype == torch.int32
    assert torch.equal(batch.to("cpu").dense(), batch.dense())


def test_unit_shape_is_row_major():
    dataset = EventDataset([0.0], [5], [0, 1], [0], 6, 1)
    (batch,) = dataset.batches(1, dt=DT, nb_steps=1, unit_shape=(2, 3))
    assert batch.dense()[0, 0, 1, 2] == 1


def test_large_unit_numbers_survive():
    dataset = EventDataset([0.0, 0.0], [69_999, 3], [0, 2], [0], 70_000, 1)
    (batch,) = dataset.batches(1, dt=DT, nb_steps=70_000)
    assert batch.units.tolist() == [3, 69_999]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": [0, 9]}, "unit 9"),
        ({"units": [0, -1]}, "unit -1"),
        ({"labels": [4]}, "label 4"),
        ({"times": [0.0, np.nan]}, "finite"),
        ({"times": [0.0]}, "times"),
        ({"offsets": [0, 1]}, "offsets"),
        ({"offsets": [0, 1, 2]}, "offsets"),
        ({"speakers": [0, 1]}, "speakers"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, message):
    good = {
        "times": [0.0, 0.1],
        "units": [0, 1],
        "offsets": [0, 2],
        "labels": [0],
        "nb_units": 3,
        "nb_classes": 2,
    }
    EventDataset(**good)
    with pytest.raises(ValueError, match=message):
        EventDataset(**{**good, **change})


def test_wrong_arguments_are_named():
    dataset = make_dataset()
    with pytest.raises(ValueError, match="unit_shape"):
        dataset.batches(4, dt=DT, nb_steps=5, unit_shape=(2, 3))
    with pytest.raises(ValueError, match="batch_size"):
        dataset.batches(0, dt=DT, nb_steps=5)
    with pytest.raises(ValueError, match="dt"):
        next(dataset.batches(4, dt=0.0, nb_steps=5))
    with pytest.raises(ValueError, match="sample 99"):
        dataset.subset([99])
    with pytest.raises(ValueError, match="0 or 1"):
        EventBatch.from_dense(torch.full((2, 1, 1), 0.5))


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(("nb_units", "nb_steps"), [(3, 4), (40, 20), (700, 500)])
def test_cells_are_those_of_the_events_on_grids_of_any_density(nb_units, nb_steps, counted):
    """Grids with fewer cells than events, with some for each, and with hundreds."""
    rng = np.random.default_rng(5)
    times, units, offsets = rng.random(600), rng.integers(nb_units, size=600), np.array([0, 100, 100, 600])
    binned = bin_events(times, units, offsets, dt=1 / nb_steps, nb_steps=nb_steps, nb_units=nb_units, counted=counted)
    step = time_to_step(times, 1 / nb_steps).astype(int)
    for n in range(3):
        event, cell = slice(*offsets[n : n + 2]), slice(*binned.offsets[n : n + 2])
        expected = np.zeros((nb_steps, nb_units), int)
        np.add.at(expected, (step[event], units[event]), 1)
        t, i = np.nonzero(expected)
        assert np.array_equal(binned.steps[cell], t)
        assert np.array_equal(binned.units[cell], i)
        if counted:
            assert np.array_equal(binned.counts[cell], expected[t, i])
