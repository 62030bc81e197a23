"""Files of event cameras: every format gives the events that were written, damage is one line, a network learns."""

import logging
import struct

import h5py
import numpy as np
import pytest
import torch
from classification_suite import SHORT, load_script
from torch.utils.data import DataLoader, Subset

from surgrad.datasets.collate import Collate
from surgrad.datasets.sources import camera_files
from surgrad.datasets.sources.camera_files import CameraEvents, read_camera
from surgrad.datasets.sources.cameras import GESTURES, Sensor, read_class_folders, read_dvs_gesture
from surgrad.errors import UserError
from surgrad.runs.record import RunRecord


def write_bin(path, events):
    """The file of a recording of N-MNIST; x and y below 240, times below 2^23 µs."""
    columns = np.stack(
        [events.x, events.y, events.p.astype(np.int64) << 7 | events.t >> 16, events.t >> 8 & 0xFF, events.t & 0xFF], 1
    )
    path.write_bytes(columns.astype(np.uint8).tobytes())


def drawn(nb_events=50, size=34, seed=0, duration=300_000):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(duration, size=nb_events))
    return CameraEvents(t, *(rng.integers(size, size=nb_events) for _ in "xy"), rng.random(nb_events) < 0.5)


def aedat3(events, *, overflow=0, invalid=0, chunk=20):
    """Packets of polarity events, one of another kind between them, the last events marked as not valid."""
    parts = [b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"]
    parts.append(struct.pack("<hhiiiiii", 0, 1, 8, 4, 0, 1, 1, 1) + bytes(8))
    valid = np.arange(len(events.t)) < len(events.t) - invalid
    for k in range(0, len(events.t), chunk):
        t, x, y, p = (column[k : k + chunk] for column in events)
        data = x << 17 | y << 2 | p.astype(np.int64) << 1 | valid[k : k + chunk]
        parts.append(struct.pack("<hhiiiiii", 1, 1, 8, 4, overflow, len(t), len(t), len(t)))
        parts.append(np.stack([data, t], 1).astype("<u4").tobytes())
    return b"".join(parts)


def flat_table(field, identifier):
    """A FlatBuffer whose root table has one field: root, identifier, vtable, table, then the field's content."""
    start = struct.pack("<I", 16) + identifier + struct.pack("<HHHH", 6, 8, 4, 0)
    return start + struct.pack("<i", 8) + field


def aedat4(events):
    vector = struct.pack("<II", 4, len(events.t))
    body = b"".join(struct.pack("<qhh?3x", *row) for row in zip(*(c.tolist() for c in events), strict=True))
    packet = flat_table(vector + body, b"EVTS")
    header = flat_table(struct.pack("<i", 0), b"IOHE")
    sized = [struct.pack("<I", len(part)) + part for part in (header, packet)]
    return b"#!AER-DAT4.0\r\n" + sized[0] + struct.pack("<ii", 0, len(sized[1])) + sized[1]


def written(folder, form, events):
    path = folder / f"recording.{form.split()[0]}"
    records = np.empty(len(events.t), [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")])
    for name in "txyp":
        records[name] = getattr(events, name)
    if form == "bin":
        write_bin(path, events)
    elif form == "aedat":
        path.write_bytes(aedat3(events))
    elif form == "aedat4":
        path.write_bytes(aedat4(events))
    elif form == "npy":
        np.save(path, records)
    elif form == "npz columns":
        np.savez_compressed(path, x=events.x, y=events.y, timestamps=events.t, polarity=events.p)
    elif form == "npz":
        np.savez(path, events=records)
    elif form.startswith("h5"):
        with h5py.File(path, "w") as file:
            if form == "h5":
                file["events"] = records
            for name in "txyp" if form == "h5 columns" else "":
                file[f"events/{name}"] = records[name]
    else:
        rows = "".join(f"{x},{y},{p:d},{t}\n" for t, x, y, p in zip(*events, strict=True))
        path.write_text(f"x,y,polarity,timestamp\n{rows}")
    return path


FORMS = ["bin", "aedat", "aedat4", "npy", "npz", "npz columns", "h5", "h5 columns", "csv"]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_events_that_were_written(tmp_path, form):
    events = drawn()
    first = 0 if form in ("bin", "aedat", "aedat4") else events.t[0]
    found = read_camera(written(tmp_path, form, events))
    for expected, got in zip(events._replace(t=events.t - first), found, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_clocks_go_on_where_they_overflow_and_events_that_are_not_valid_are_left_out(tmp_path):
    events = drawn(6)
    events.y[:] = [1, 2, 240, 3, 240, 4]
    write_bin(tmp_path / "a.bin", events)
    found = read_camera(tmp_path / "a.bin")
    np.testing.assert_array_equal(found.t, events.t[[0, 1, 3, 5]] + 8192 * np.array([0, 0, 1, 2]))
    (tmp_path / "a.aedat").write_bytes(aedat3(events, overflow=1, invalid=2))
    np.testing.assert_array_equal(read_camera(tmp_path / "a.aedat").t, events.t[:4] + 2**31)


def test_times_of_arrays_have_a_unit(tmp_path):
    records = np.array([(1.0, 2, 3, 1), (1.5, 2, 3, -1)], [("t", "f8"), ("x", "i4"), ("y", "i4"), ("p", "i4")])
    np.save(tmp_path / "a.npy", records)
    found = read_camera(tmp_path / "a.npy", time_unit=1.0)
    assert found.t.tolist() == [0, 500_000]
    assert found.p.tolist() == [True, False]


def changed(position, value):
    return lambda content: content[:position] + value + content[position + len(value) :]


DAMAGE = [
    ("bin", lambda c: c[:-1], "no whole number of events of 5 bytes"),
    ("aedat", lambda c: c.replace(b"3.1", b"2.0"), "not with #!AER-DAT3.1"),
    ("aedat", lambda c: c.replace(b"RAW", b"ZIP"), "only RAW is read"),
    ("aedat", lambda c: c.replace(b"#!END", b"#!fin"), "its header has no end|declares"),
    ("aedat", lambda c: c[:-4], "declares"),
    ("aedat", lambda c: c.replace(struct.pack("<iii", 20, 20, 20), struct.pack("<iii", 20, 2**31 - 1, 20)), "declares"),
    ("aedat4", lambda c: c.replace(b"4.0", b"3.0"), "not with #!AER-DAT4.0"),
    ("aedat4", lambda c: c[:-20], "the packet at byte .* declares"),
    ("aedat4", changed(14 + 4 + 20, b"\x03"), "packed by Zstandard"),
    ("aedat4", lambda c: c.replace(struct.pack("<II", 4, 50), struct.pack("<II", 4, 2**31)), "declares 2147483648 ev"),
    ("aedat4", lambda c: c.replace(struct.pack("<II", 4, 50), struct.pack("<II", 2**31, 50)), "an offset leads out"),
    ("npy", lambda c: c[:-3], "it declares 50 entries"),
    ("npy", lambda c: c.replace(b"(50,)", b"(9**9,)"), "not a NumPy array|declares"),
    ("npy", lambda c: c.replace(b"'t'", b"'q'"), "has no column t, only x, y, q, p"),
    ("npz", lambda c: c[: len(c) // 2], "not a .npz file, or damaged"),
    ("csv", lambda c: c.replace(b"timestamp", b"thyme"), "has no column t"),
    ("csv", lambda c: c + b"1,2,3\n", "number of columns changed|columns"),
    ("csv", lambda c: c + b"1,2,3,nan\n", "no finite number"),
    ("h5", lambda c: c[:100], "damaged or truncated HDF5|not an HDF5 file"),
]


@pytest.mark.parametrize(("form", "damage", "said"), DAMAGE)
def test_damage_is_one_line_that_names_the_file(tmp_path, form, damage, said):
    path = written(tmp_path, form, drawn())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=said) as refused:
        read_camera(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_are_measured_before_they_are_read(tmp_path, monkeypatch):
    path = written(tmp_path, "bin", drawn())
    monkeypatch.setattr(camera_files, "MOST_BYTES", 200)
    with pytest.raises(UserError, match="holds 250 bytes, at most 200 are read"):
        read_camera(path)
    with pytest.raises(UserError, match=r"from \.txt files; there are \.bin"):
        read_camera(tmp_path / "a.txt")


def folders(root, nb_samples, size=34, seed=0):
    """Bars in three places that flicker, in the files and folders of N-MNIST."""
    rng = np.random.default_rng(seed)
    for label, row in enumerate((4, 16, 28)):
        (root / str(label)).mkdir(parents=True)
        for k in range(nb_samples):
            nb = 300
            y = np.clip(row + rng.integers(-2, 3, nb), 0, size - 1)
            t = np.sort(rng.integers(100_000, size=nb))
            write_bin(root / str(label) / f"{k:05d}.bin", CameraEvents(t, rng.integers(size, size=nb), y, y % 2 == 0))
    return root


def test_units_are_pixels_of_one_polarity(tmp_path):
    sensor = Sensor(6, 7, 2)
    assert sensor.unit_shape == (2, 3, 4)
    x, y = np.array([0, 6, 3]), np.array([5, 0, 3])
    events = CameraEvents(np.zeros(3, np.int64), x, y, np.array([True, False, True]))
    assert sensor.units(events, tmp_path).tolist() == [12 + 2 * 4, 3, 12 + 4 + 1]
    with pytest.raises(UserError, match=r"an event at x=6 on a sensor of 6 x 6 pixels; give dataset.width"):
        Sensor(6, 6).units(events, tmp_path)


def test_folders_of_classes_become_a_data_set(tmp_path):
    data = read_class_folders(folders(tmp_path / "Train", 3), Sensor(34, 34), limit=2)
    assert (len(data), data.nb_units, data.class_names) == (6, 2 * 34 * 34, ("0", "1", "2"))
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.duration < 0.1
    (tmp_path / "Train" / "3").mkdir()
    with pytest.raises(UserError, match="holds no recording"):
        read_class_folders(tmp_path / "Train", Sensor(34, 34))
    with pytest.raises(UserError, match="a class '2', which is not among those of training: 0, 1"):
        read_class_folders(folders(tmp_path / "Test", 1), Sensor(34, 34), classes=("0", "1"))
    with pytest.raises(UserError, match="no such folder"):
        read_class_folders(tmp_path / "Nowhere", Sensor(34, 34))


def test_gestures_are_cut_by_their_tables_and_parted_as_published(tmp_path):
    events = drawn(400, size=128, duration=4_000_000)
    for user, part in (("user01", "train"), ("user24", "test")):
        name = f"{user}_fluorescent.aedat"
        (tmp_path / name).write_bytes(aedat3(events))
        rows = "class,startTime_usec,endTime_usec\n1,500000,1500000\n11,2000000,3000000\n"
        (tmp_path / name.replace(".aedat", "_labels.csv")).write_text(rows)
        (tmp_path / f"trials_to_{part}.txt").write_text(f"{name}\n\n")
    train, test = (read_dvs_gesture(tmp_path, part, Sensor(128, 128, 4)) for part in ("train", "test"))
    assert (train.labels.tolist(), train.nb_classes, train.speakers.tolist()) == ([0, 10], len(GESTURES), [1, 1])
    assert test.speakers.tolist() == [24, 24]
    inside = (events.t >= 500_000) & (events.t < 1_500_000)
    np.testing.assert_allclose(train[0][0], (events.t[inside] - 500_000) * 1e-6, rtol=1e-6)
    (tmp_path / "user01_fluorescent_labels.csv").write_text("class,startTime_usec,endTime_usec\n12,0,1\n")
    with pytest.raises(UserError, match="class 12 from 0 to 1 us; classes are 1 to 11"):
        read_dvs_gesture(tmp_path, "train", Sensor(128, 128))
    (tmp_path / "trials_to_train.txt").write_text("../other.aedat\n")
    with pytest.raises(UserError, match="is not the name of a recording"):
        read_dvs_gesture(tmp_path, "train", Sensor(128, 128))


@pytest.fixture
def main():
    """The command of deep_convSNN.py; the loggers are left as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield load_script().main
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize(
    "layers",
    [
        ["dataset.nb_hidden_layers=1"],
        [
            "dataset.nb_hidden_layers=2",
            "dataset.pool_size=[2,1]",
            "dataset.pool_kind=average",
            "dataset.residual=[[0,1]]",
        ],
    ],
    ids=["one", "pooled"],
)
def test_a_network_learns_from_files_as_of_nmnist(main, tmp_path, layers):
    for part, nb_samples in (("Train", 12), ("Test", 6)):
        folders(tmp_path / part, nb_samples, seed=nb_samples)
    given = [
        "dataset=nmnist",
        f"dataset.folder={tmp_path}",
        "dataset.pool=2",
        "dataset.duration=0.1",
        "method=superspike",
    ]
    given += [*SHORT, *layers, "plotting.idx_layer=0", "dataset.nu=2", "nb_epochs=6"]
    given += ["fano.evaluate=false", "plot=none"]
    main([*given, f"hydra.run.dir={tmp_path / 'run'}"])
    record = RunRecord(tmp_path / "run")
    assert record.summary["test_acc"] > 0.6  # chance: 1/3; rows of pixels tell the classes apart
    assert record.get("dataset.kernel_size")[0] == 5


def test_missing_folders_are_named_before_a_run(main, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["dataset=nmnist", f"dataset.folder={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}"])
    assert "dataset.folder, dataset.train" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_loader_of_pytorch_gives_the_batches_of_the_data_set(tmp_path):
    data = read_class_folders(folders(tmp_path / "Train", 3), Sensor(34, 34))
    grid = {"dt": 5e-3, "nb_steps": 20, "unit_shape": (2, 34, 34)}
    own = list(data.batches(4, **grid))
    loader = DataLoader(data, batch_size=4, collate_fn=Collate(**grid))
    for expected, found in zip(own, loader, strict=True):
        torch.testing.assert_close(found.dense(), expected.dense())
        assert found.labels.tolist() == expected.labels.tolist()
    (batch,) = DataLoader(Subset(data, [8, 0]), batch_size=2, collate_fn=Collate(**grid))
    assert batch.labels.tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"are not all in unit_shape \(2, 3\)"):
        Collate(dt=5e-3, nb_steps=20, unit_shape=(2, 3))([data[0]])
