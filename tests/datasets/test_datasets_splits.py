"""Validation splits: disjoint, complete, reproducible, honest about speakers."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.hdf5 import write_shd
from surgrad.datasets.splits import (
    RandomValidation,
    SpeakerValidation,
    check_window,
    first_of_each,
    joined,
    of_other_speakers,
    of_speakers,
    validation_split,
)
from surgrad.errors import UserError
from surgrad.experiments.datasets import HDF5Config


def make_dataset(nb_samples=60, seed=0, speakers=True):
    rng = np.random.default_rng(seed)
    return EventDataset(
        times=rng.random(nb_samples),
        units=rng.integers(0, 5, nb_samples),
        offsets=np.arange(nb_samples + 1),
        labels=np.arange(nb_samples) % 4,
        nb_units=5,
        nb_classes=4,
        speakers=rng.integers(0, 6, nb_samples) if speakers else None,
        name="set",
    )


@settings(max_examples=50, deadline=None)
@given(
    nb_samples=st.integers(40, 200),  # ten of each class: a tenth of them is one
    fraction=st.floats(0.1, 0.9),
    seed=st.integers(0, 1000),
    stratified=st.booleans(),
)
def test_random_split_parts_the_samples(nb_samples, fraction, seed, stratified):
    dataset = make_dataset(nb_samples)
    options = {"fraction": fraction, "seed": seed, "stratified": stratified}
    train, valid = validation_split(dataset, "random", **options)
    assert sorted([*train.ids, *valid.ids]) == list(range(nb_samples))
    if stratified:
        expected = [round(fraction * n) for n in np.bincount(dataset.labels)]
        assert np.bincount(valid.labels, minlength=4).tolist() == expected
    else:
        assert len(valid) == round(fraction * nb_samples)
    again = validation_split(dataset, "random", **options)[1]
    assert np.array_equal(valid.ids, again.ids)
    for n, sample in zip(valid.ids, range(len(valid)), strict=True):
        assert valid[sample][0] == dataset[n][0]


def test_seed_changes_the_random_split():
    ids = [RandomValidation(seed=seed)(make_dataset())[1].ids.tolist() for seed in (0, 1)]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, {5}), ({"nb_speakers": 2}, {4, 5}), ({"speakers": [0, 3]}, {0, 3})],
)
def test_speakers_are_held_out_whole(options, expected):
    train, valid = validation_split(make_dataset(), "speaker", **options)
    assert set(valid.speakers) == expected
    assert set(train.speakers) == set(range(6)) - expected


def test_no_validation():
    dataset = make_dataset()
    assert validation_split(dataset, "none") == (dataset, None)


def test_file_is_read_with_the_training_sets_sizes(tmp_path):
    small = EventDataset([0.1], [0], [0, 1], [0], 1, 1)
    write_shd(tmp_path / "valid.h5", small)
    train, valid = validation_split(make_dataset(), "file", path=tmp_path / "valid.h5")
    assert (valid.nb_units, valid.nb_classes) == (5, 4)
    assert not set(valid.ids) & set(train.ids)


@pytest.mark.parametrize(
    ("validation", "options", "message"),
    [
        ("speakers", {}, "allowed are file, none, random, speaker"),
        ("random", {"fraction": 0.0}, "between 0 and 1"),
        ("random", {"fraction": 0.001}, "no sample for validation"),
        ("random", {"fraction": 0.999}, "no sample for training"),
        ("speaker", {"speakers": [7]}, "no speaker 7"),
        ("speaker", {"speakers": range(6)}, "no sample for training"),
        ("speaker", {"nb_speakers": 6}, r"need 1\.\.5"),
        ("file", {}, "valid_path"),
        ("file", {"path": "nowhere.h5"}, "no such file"),
    ],
)
def test_impossible_splits_are_named(validation, options, message):
    with pytest.raises(UserError, match=message):
        validation_split(make_dataset(), validation, **options)


def test_speaker_split_needs_speakers():
    with pytest.raises(UserError, match="validation=random"):
        SpeakerValidation()(make_dataset(speakers=False))


@pytest.mark.parametrize("speakers", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_limit_keeps_the_first_samples_of_each_speaker_and_class(limit, speakers):
    dataset = make_dataset(speakers=speakers)
    seen, expected = {}, []
    for n in range(len(dataset)):
        group = dataset.labels[n], dataset.speakers[n] if speakers else None
        seen[group] = seen.get(group, 0) + 1
        if seen[group] <= limit:
            expected.append(n)
    assert first_of_each(dataset, limit).ids.tolist() == expected


def test_a_limit_below_one_is_refused():
    with pytest.raises(UserError, match=r"dataset.limit=0: need at least one"):
        first_of_each(make_dataset(), 0)


@pytest.mark.parametrize(
    ("factor", "guess"),
    [
        (1e3, "look like ms, divide them by 1000$"),
        (1e6, "look like us, divide them by 1000000$"),
        (1e12, "in seconds$"),
    ],
)
def test_times_in_another_unit_are_an_error_that_guesses_it(factor, guess):
    times = np.array([0.02, 0.3, 0.65]) * factor
    dataset = EventDataset(times, [0, 1, 2], [0, 2, 3], [0, 1], 3, 2)
    with pytest.raises(UserError, match=r"mine.h5: 3 of 3 events lie outside \[0, 0.7\) s.*" + guess):
        check_window(dataset, 0.7, "mine.h5")


@pytest.mark.parametrize(("late", "warned"), [(0, False), (5, False), (6, True), (99, True)])
def test_more_than_a_twentieth_outside_the_window_is_a_warning(late, warned, caplog):
    times = np.concatenate([np.full(100 - late, 0.1), np.full(late, 0.9)])
    check_window(EventDataset(times, np.zeros(100, int), [0, 100], [0], 1, 1, name="set"), 0.7)
    assert (f"set: {late} of 100 events lie outside [0, 0.7) s and are dropped" in caplog.text) == warned


def test_samples_of_some_speakers_are_all_of_theirs():
    dataset = make_dataset()
    some = of_speakers(dataset, [1, 4])
    assert np.array_equal(some.ids, np.flatnonzero(np.isin(dataset.speakers, [1, 4])))
    for part, speakers, said in (
        (dataset, [1, 9], "set: no speaker 9, there are"),
        (dataset, [], "no speaker is named; there are"),
        (make_dataset(speakers=False), [1], "has no speakers"),
    ):
        with pytest.raises(UserError, match=said):
            of_speakers(part, speakers)


def test_every_sample_of_two_sets_is_of_some_speakers_or_of_the_others():
    first, second = make_dataset(), make_dataset(30, seed=1)
    both = joined(first, second)
    assert both.ids.tolist() == list(range(90))
    for n, (part, index) in {3: (first, 3), 60: (second, 0), 89: (second, 29)}.items():
        times, units, label = part[index]
        assert np.array_equal(both[n][0], times)
        assert np.array_equal(both[n][1], units)
        assert (both[n][2], both.speakers[n]) == (label, part.speakers[index])
    some, others = of_speakers(both, [1, 4]), of_other_speakers(both, [1, 4])
    assert sorted([*some.ids, *others.ids]) == both.ids.tolist()
    assert not set(some.speakers) & set(others.speakers)
    assert joined(first, make_dataset(30, speakers=False)).speakers is None
    with pytest.raises(UserError, match="nobody is left beside"):
        of_other_speakers(both, range(6))


@pytest.mark.parametrize("key", ["test_speakers", "train_speakers", "validation_speakers"])
@pytest.mark.parametrize(("speakers", "said"), [([99], "no speaker 99, there are"), ([], "no")])
def test_a_speaker_who_is_not_there_is_refused_by_key(tmp_path, key, speakers, said):
    paths = {}
    for seed, part in enumerate(("train_path", "test_path")):
        write_shd(tmp_path / f"{part}.h5", make_dataset(seed=seed))
        paths[part] = str(tmp_path / f"{part}.h5")
    config = HDF5Config(**paths, name="set", validation="speaker", duration=10.0, **{key: speakers})
    with pytest.raises(UserError, match=rf"^dataset.{key}={re.escape(str(speakers))}: .*{said}"):
        config.splits()
