"""SHD-format files: round trip, float16 times, damaged files."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgrad.datasets.binning import bin_events
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.hdf5 import read_shd, write_shd
from surgrad.errors import UserError


def make_dataset(seed=0, nb_samples=6, nb_units=700, mean=40, dt=None):
    rng = np.random.default_rng(seed)
    lengths = rng.poisson(mean, nb_samples)
    nb_events = int(lengths.sum())
    times = rng.uniform(0, 1, nb_events) if dt is None else rng.integers(0, 350, nb_events) * dt
    return EventDataset(
        times=times,
        units=rng.integers(0, nb_units, nb_events),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=rng.integers(0, 5, nb_samples),
        nb_units=nb_units,
        nb_classes=5,
        speakers=rng.integers(0, 3, nb_samples),
        class_names=("zero", "one", "two", "drei", "fünf"),
    )


def assert_same(one, two):
    for name in ("times", "units", "offsets", "labels", "speakers"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    assert (one.nb_units, one.nb_classes, one.class_names) == (two.nb_units, two.nb_classes, two.class_names)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    nb_samples=st.integers(1, 7),
    nb_units=st.sampled_from([1, 3, 700, 70_000]),
    mean=st.sampled_from([1, 30]),
)
def test_round_trip(tmp_path_factory, seed, nb_samples, nb_units, mean):
    dataset = make_dataset(seed, nb_samples, nb_units, mean)
    if not dataset.nb_events:
        return
    path = tmp_path_factory.mktemp("h5") / "set.h5"
    write_shd(path, dataset)
    assert_same(read_shd(path), dataset)
    assert os.listdir(path.parent) == ["set.h5"]


def test_rows_of_equal_length(tmp_path):
    dataset = EventDataset([0.1, 0.2, 0.3, 0.4], [0, 1, 2, 3], [0, 2, 4], [0, 1], 4, 2)
    write_shd(tmp_path / "a.h5", dataset)
    assert read_shd(tmp_path / "a.h5").offsets.tolist() == [0, 2, 4]


def test_more_samples_than_one_read(tmp_path, monkeypatch):
    dataset = make_dataset(3, nb_samples=11)
    monkeypatch.setattr("surgrad.datasets.sources.hdf5._SAMPLES_AT_ONCE", 4)
    write_shd(tmp_path / "a.h5", dataset)
    assert_same(read_shd(tmp_path / "a.h5"), dataset)


def test_published_layout_with_float16_times(tmp_path):
    """Times near 1 s in float16 overflow if they are scaled before the cast (x 1e6 > 65504)."""
    path = tmp_path / "shd_train.h5"
    times = np.array([0.001, 0.5, 0.9995, 1.37], dtype=np.float16)
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("spikes/times", (2,), dtype=h5py.vlen_dtype(np.float16))
        rows[0], rows[1] = times, times[:1]
        rows = file.create_dataset("spikes/units", (2,), dtype=h5py.vlen_dtype(np.uint16))
        rows[0], rows[1] = np.array([0, 699, 3, 3], np.uint16), np.array([5], np.uint16)
        file["labels"] = np.array([19, 0], np.uint8)
        file["extra/speaker"] = np.array([4, 11], np.uint8)
        file["extra/keys"] = [b"%d" % k for k in range(20)]
        file["extra/meta_info/gender"] = [b"f", b"m"]
    dataset = read_shd(path)
    assert dataset.times.dtype == np.float32
    assert np.array_equal(dataset.times[:4], times.astype(np.float32))
    assert (dataset.nb_units, dataset.nb_classes, dataset.class_names[19]) == (700, 20, "19")
    assert dataset.speakers.tolist() == [4, 11]
    assert (dataset.times * 1e6).max() > 1.3e6


def test_read_leaves_no_handle_open(tmp_path):
    write_shd(tmp_path / "a.h5", make_dataset())
    dataset = read_shd(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["labels"][0] = 4
    write_shd(tmp_path / "a.h5", dataset)
    assert_same(read_shd(tmp_path / "a.h5"), dataset)


def test_float32_keeps_grid_times_in_their_bin(tmp_path):
    dataset = make_dataset(2, dt=2e-3)
    write_shd(tmp_path / "a.h5", dataset)
    grid = {"dt": 2e-3, "nb_steps": 350, "nb_units": 700}
    read = read_shd(tmp_path / "a.h5")
    one = bin_events(read.times, read.units, read.offsets, **grid)
    two = bin_events(dataset.times, dataset.units, dataset.offsets, **grid)
    assert np.array_equal(one.steps, two.steps)


def test_float16_halves_the_precision_not_the_events(tmp_path):
    dataset = make_dataset(2)
    write_shd(tmp_path / "a.h5", dataset, time_dtype=np.float16)
    read = read_shd(tmp_path / "a.h5")
    assert np.array_equal(read.times, dataset.times.astype(np.float16).astype(np.float32))


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    write_shd(path, make_dataset())
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("surgrad.datasets.sources.hdf5._write_rows", fail)
    with pytest.raises(OSError, match="disk full"):
        write_shd(path, make_dataset(1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


def test_empty_samples_are_allowed_and_counted(tmp_path, caplog):
    dataset = EventDataset([0.1], [0], [0, 0, 1, 1], [0, 1, 0], 1, 2)
    write_shd(tmp_path / "a.h5", dataset)
    assert len(read_shd(tmp_path / "a.h5")) == 3
    assert "2 of 3 samples" in caplog.text


def test_numbers_of_units_and_classes_can_be_given(tmp_path):
    write_shd(tmp_path / "a.h5", make_dataset(nb_units=5))
    dataset = read_shd(tmp_path / "a.h5", nb_units=8, nb_classes=9)
    assert (dataset.nb_units, dataset.nb_classes) == (8, 9)


def edit(key, value):
    """Replaces or (None) removes an entry of the file."""

    def change(file):
        del file[key]
        if value is not None:
            file[key] = value

    return change


def set_row(key, row, value):
    def change(file):
        file[key][row] = np.asarray(value, file[key].dtype.metadata["vlen"])

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit("spikes/times", None), ["spikes/times", "labels"]),
        (edit("spikes", None), ["spikes/times"]),
        (edit("labels", None), ["labels"]),
        (edit("labels", [0, 1, 7, 0, 0, 0]), ["sample 2", "label 7", "0..4"]),
        (edit("labels", [0, -1, 0, 0, 0, 0]), ["labels[1] is -1"]),
        (edit("labels", [0, 1]), ["labels holds 2", "6"]),
        (edit("labels", [0.5] * 6), ["labels", "float64", "integers"]),
        (edit("extra/speaker", [0]), ["extra/speaker holds 1"]),
        (edit("spikes/times", np.zeros((6, 3))), ["spikes/times", "shape"]),
        (edit("spikes/units", np.zeros(6)), ["spikes/units", "integer"]),
        (set_row("spikes/units", 3, [1, 2]), ["sample 3", "2 spikes/units"]),
        (set_row("spikes/times", 2, [0.1, np.nan]), ["sample 2"]),
    ],
)
def test_wrong_content_is_one_line_that_names_it(tmp_path, change, words):
    path = tmp_path / "set.h5"
    write_shd(path, make_dataset())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(UserError) as caught:
        read_shd(path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in [str(path), *words]), message


@pytest.mark.parametrize("bad", [-0.25, np.nan, np.inf])
def test_impossible_times(tmp_path, bad):
    path = tmp_path / "set.h5"
    write_shd(path, EventDataset([0.1, 0.2, 0.3], [0, 0, 0], [0, 1, 3], [0, 0], 1, 1))
    with h5py.File(path, "r+") as file:
        file["spikes/times"][1] = np.array([0.2, bad], np.float32)
    with pytest.raises(UserError, match=r"sample 1 has a spike at"):
        read_shd(path)


def test_unit_out_of_range_names_sample_and_allowed(tmp_path):
    write_shd(tmp_path / "a.h5", EventDataset([0.1, 0.2], [0, 9], [0, 1, 2], [0, 0], 10, 1))
    with pytest.raises(UserError, match=r"sample 1 has unit 9, allowed are 0..4"):
        read_shd(tmp_path / "a.h5", nb_units=5)


def test_all_empty_is_an_error(tmp_path):
    write_shd(tmp_path / "a.h5", EventDataset([], np.zeros(0, int), [0, 0, 0], [0, 0], 3, 1))
    with pytest.raises(UserError, match="none of the 2 samples"):
        read_shd(tmp_path / "a.h5")


def test_missing_file_tells_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"shd_train.h5: no such file; .*download_data.py shd$"):
        read_shd(tmp_path / "shd_train.h5")
    with pytest.raises(UserError, match=r"mine.h5: no such file$"):
        read_shd(tmp_path / "mine.h5")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\x00" * 4096])
def test_not_hdf5(tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.h5: (empty|not an HDF5 file)$"):
        read_shd(path)
    with pytest.raises(UserError, match="folder"):
        read_shd(tmp_path)


def test_flipped_bytes_never_raise_anything_else(tmp_path):
    path = tmp_path / "a.h5"
    write_shd(path, make_dataset())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refusals = []
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, min(4000, len(whole)), 8)] = rng.integers(0, 256, 8)
        path.write_bytes(damaged.tobytes())
        try:
            read_shd(path)
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert not any("\n" in message for message in refusals)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.999])
def test_truncated_file(tmp_path, share):
    path = tmp_path / "a.h5"
    write_shd(path, make_dataset(nb_samples=60))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError) as caught:
        read_shd(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def external(file, path, key):
    """The column `key` lies in another file."""
    (path.parent / "other").write_bytes(bytes(64))
    del file[key]
    file.create_dataset(key, (6,), np.uint16, external=[(str(path.parent / "other"), 0, 12)])


def virtual(file, path, key):
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["labels"] = np.zeros(6, int)
    layout = h5py.VirtualLayout((6,), int)
    layout[:] = h5py.VirtualSource(path.parent / "other.h5", "labels", (6,))
    del file[key]
    file.create_virtual_dataset(key, layout)


def linked(link):
    def change(file, path, key):
        del file[key]
        file[key] = link

    return change


def declared(nb_entries, **packing):
    """Entries that were never written."""

    def change(file, path, key):
        dtype = file[key].dtype
        del file[key]
        file.create_dataset(key, (nb_entries,), dtype, **packing)

    return change


def value(content):
    def change(file, path, key):
        del file[key]
        file[key] = content

    return change


def nb_units(content):
    def change(file, path, key):
        file.attrs["nb_units"] = content

    return change


def units_above(limit):
    def change(file, path, key):
        rows = [np.asarray(row, np.uint64) for row in file[key]]
        rows[2][0] = limit
        del file[key], file.attrs["nb_units"]
        new = file.create_dataset(key, (6,), h5py.vlen_dtype(np.uint64))
        for k, row in enumerate(rows):
            new[k] = row

    return change


PACKED = {"chunks": (1 << 20,), "compression": "gzip"}


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("labels", external, "labels lies in other files"),
        ("labels", virtual, "labels lies in other files"),
        ("labels", linked(h5py.ExternalLink("other.h5", "labels")), "labels is a link to"),
        ("extra/speaker", linked(h5py.SoftLink("/labels")), "extra/speaker is a link to"),
        ("spikes", linked(h5py.ExternalLink("other.h5", "spikes")), "spikes is a link to"),
        ("labels", value([0, 1, 2**31, 0, 0, 0]), r"labels\[2\] is 2147483648, allowed are 0..1048575"),
        ("labels", value(np.zeros((6, 1), int)), r"labels has shape \(6, 1\)"),
        ("extra/speaker", value(np.zeros((6, 2), int)), r"extra/speaker has shape \(6, 2\)"),
        ("extra/speaker", value(np.zeros(6)), "extra/speaker has type float64"),
        ("extra/keys", value([1, 2, 3]), "extra/keys has type int64, need text"),
        ("extra/keys", value([b"\xff\xfe"] * 5), "not UTF-8"),
        ("spikes/times", declared(10**9), "spikes/times declares 1000000000 entries"),
        ("labels", declared(10**9), "labels declares 1000000000 entries"),
        ("labels", declared(10**9, **PACKED), "labels declares 1000000000 entries"),
        ("spikes/units", units_above(2**31), "has unit 2147483648, allowed are"),
        ("spikes/units", units_above(2**63), "has unit 9223372036854775808, allowed are"),
        *[
            ("nb_units", nb_units(content), "attribute nb_units is")
            for content in ("700", [700, 700], np.nan, 12.7, 2**40, 0, -3, np.inf)
        ],
    ],
)
def test_hostile_files_are_refused_before_anything_is_read(tmp_path, key, change, message):
    path = tmp_path / "set.h5"
    write_shd(path, make_dataset())
    with h5py.File(path, "r+") as file:
        change(file, path, key)
    with pytest.raises(UserError, match=message) as caught:
        read_shd(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("locking", [None, True, False])
def test_a_file_that_this_process_has_open_is_read(tmp_path, locking, mode):
    write_shd(tmp_path / "a.h5", make_dataset())
    with h5py.File(tmp_path / "a.h5", mode, locking=locking):
        assert_same(read_shd(tmp_path / "a.h5"), make_dataset())


def test_a_file_that_was_not_closed_after_writing_is_not_called_damaged(tmp_path):
    script = "import h5py, os, sys; f = h5py.File(sys.argv[1], 'w', libver='latest'); f.flush(); os._exit(0)"
    subprocess.run([sys.executable, "-c", script, tmp_path / "a.h5"], check=True)
    with pytest.raises(UserError, match="open for writing") as caught:
        read_shd(tmp_path / "a.h5")
    assert "damaged" not in str(caught.value)
