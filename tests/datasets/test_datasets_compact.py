"""The compact event format: there and back, and what is refused."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgrad.datasets.binning import bin_events, time_to_step
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.compact import RESOLUTION
from surgrad.datasets.sources.hdf5 import read_shd, write_compact, write_shd
from surgrad.errors import UserError


def random_dataset(seed=0, nb_samples=6, nb_units=700, mean=40):
    rng = np.random.default_rng(seed)
    lengths = rng.poisson(mean, nb_samples) * rng.integers(0, 2, nb_samples)
    lengths[0] += 1
    return EventDataset(
        times=rng.uniform(0, 1.3, lengths.sum()),
        units=rng.integers(0, nb_units, lengths.sum()),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=rng.integers(0, 3, nb_samples),
        nb_units=nb_units,
        nb_classes=3,
        speakers=rng.integers(0, 9, nb_samples),
        class_names=("نعم", "لا", "صفر"),
    )


def events_of(dataset, resolution):
    """The multiset of (sample, unit, step) of a data set."""
    return np.unique(
        np.stack([dataset.samples(), dataset.units.astype(int), time_to_step(dataset.times, resolution)]),
        axis=1,
        return_counts=True,
    )


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    nb_samples=st.integers(1, 7),
    nb_units=st.sampled_from([1, 3, 700, 70_000]),
    mean=st.sampled_from([1, 40]),
    resolution=st.sampled_from([1 / 24000, 0.5e-3, 2e-3, 0.1]),
)
def test_every_event_keeps_its_sample_unit_and_step(tmp_path_factory, seed, nb_samples, nb_units, mean, resolution):
    dataset = random_dataset(seed, nb_samples, nb_units, mean)
    path = tmp_path_factory.mktemp("h5") / "set.h5"
    write_compact(path, dataset, resolution=resolution)
    found = read_shd(path)
    for one, two in zip(events_of(found, resolution), events_of(dataset, resolution), strict=True):
        np.testing.assert_array_equal(one, two)
    for name in ("offsets", "labels", "speakers", "nb_units", "nb_classes", "class_names"):
        np.testing.assert_array_equal(getattr(found, name), getattr(dataset, name))
    write_compact(path, found, resolution=resolution)  # a second time changes nothing
    again = read_shd(path)
    np.testing.assert_array_equal(again.times, found.times)
    np.testing.assert_array_equal(again.units, found.units)


@pytest.mark.parametrize("multiple", [1, 2, 4, 7])
def test_grids_of_whole_multiples_do_not_see_the_format(tmp_path, multiple):
    dataset = random_dataset(1, nb_samples=20)
    write_compact(tmp_path / "a.h5", dataset)
    found = read_shd(tmp_path / "a.h5")
    grid = {"dt": multiple * RESOLUTION, "nb_steps": 400, "nb_units": 700}
    one, two = (bin_events(d.times, d.units, d.offsets, **grid) for d in (found, dataset))
    for name in ("steps", "units", "offsets", "dropped"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_more_events_than_one_chunk(tmp_path, monkeypatch):
    dataset = random_dataset(3, nb_samples=11)
    monkeypatch.setattr("surgrad.datasets.binning._CHUNK_EVENTS", 50)
    write_compact(tmp_path / "a.h5", dataset)
    chunked = (tmp_path / "a.h5").read_bytes()
    monkeypatch.undo()
    write_compact(tmp_path / "a.h5", dataset)
    assert chunked == (tmp_path / "a.h5").read_bytes()


def test_it_is_smaller_than_variable_length_rows(tmp_path):
    rng = np.random.default_rng(0)
    units = np.clip(rng.normal(300, 100, 40_000), 0, 699).astype(int)
    dataset = EventDataset(rng.uniform(0, 1, 40_000), units, np.arange(11) * 4000, np.arange(10), 700, 10)
    write_compact(tmp_path / "compact.h5", dataset)
    write_shd(tmp_path / "shd.h5", dataset, time_dtype=np.float16)
    compact, shd = ((tmp_path / f"{name}.h5").stat().st_size for name in ("compact", "shd"))
    assert compact < shd / 2


def test_numbers_that_were_changed_on_disk_are_refused(tmp_path):
    """One flipped bit in what is stored of an array: the checksum of its chunk does not fit."""
    path = tmp_path / "a.h5"
    write_compact(path, random_dataset(2, nb_samples=20))
    whole = path.read_bytes()
    for key in ("events/gaps", "events/counts", "labels", "extra/speaker"):
        with h5py.File(path, "r") as file:
            chunk = file[key].id.get_chunk_info(0)
        for place in np.linspace(0, chunk.size - 1, 5).astype(int):
            content = bytearray(whole)
            content[chunk.byte_offset + place] ^= 16
            path.write_bytes(content)
            with pytest.raises(UserError, match="damaged"):
                read_shd(path)
        path.write_bytes(whole)


def replace(key, value):
    def change(file):
        del file[key]
        file[key] = np.asarray(value)

    return change


def attribute(key, value):
    def change(file):
        file["events"].attrs[key] = value

    return change


def without(key):
    return lambda file: file.attrs.pop(key) if key == "nb_units" else file["events"].attrs.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("events/counts", [1, 1]), "events/counts sums to 2, events/gaps holds 5"),
        (replace("events/counts", [7, -2]), r"events/counts\[1\] is -2"),
        (replace("events/gaps", np.zeros(5)), "events/gaps has type float64, need integers"),
        (replace("events/gaps", np.full(5, 2**31, np.uint32)), "leaves the 4 units"),
        (replace("events/gaps", np.array([-1, 0, 0, 0, 0])), "leaves the 4 units"),
        (replace("events/gaps", np.zeros((5, 1), int)), r"events/gaps has shape \(5, 1\)"),
        (replace("labels", [0]), "labels holds 1 samples, events/counts 2"),
        (attribute("resolution", np.nan), "attribute resolution is"),
        (attribute("resolution", -1.0), "resolution -1.0"),
        (attribute("nb_steps", 0), "nb_steps 0"),
        (attribute("nb_steps", "many"), "attribute nb_steps is 'many'"),
        (without("nb_steps"), "nb_steps None"),
        (without("nb_units"), "lacks the attribute nb_units"),
        (lambda file: file.pop("events/gaps"), "has no data set 'events/gaps'"),
    ],
)
def test_wrong_content_is_named_in_one_line(tmp_path, change, message):
    path = tmp_path / "a.h5"
    write_compact(path, EventDataset([0.1, 0.2, 0.3, 0.3, 0.4], [0, 3, 1, 1, 2], [0, 3, 5], [0, 1], 4, 2))
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(UserError, match=message) as caught:
        read_shd(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resolution", [0.0, -1e-3, np.nan, np.inf, 1e-12])
def test_impossible_resolutions_are_refused_and_leave_no_file(tmp_path, resolution):
    with pytest.raises(UserError, match="resolution="):
        write_compact(tmp_path / "a.h5", random_dataset(), resolution=resolution)
    assert list(tmp_path.iterdir()) == []
