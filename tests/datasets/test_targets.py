"""Targets from pictures and event files."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from matplotlib.image import imsave

from surgrad.datasets.sources.targets import bin_events, image_target, load_target, with_silent_steps, write_spike_image
from surgrad.errors import UserError

REPO = Path(__file__).resolve().parents[2]
DATASET = REPO / "Spike_train_matching" / "dataset"


def write_rgba(path: Path, pixels) -> Path:
    imsave(path, np.asarray(pixels, dtype=np.float64))
    return path


def test_shipped_oxford_is_the_published_picture_but_for_nine_pixels():
    target = load_target(DATASET / "oxford.png", nb_outputs=200, nb_steps=189)
    published = np.load(REPO / "tests" / "reference" / "oxford_io_seed17.npz")["target"]
    assert (target.spikes.numpy() != published).sum() == 9
    assert target.rate == pytest.approx(274.3, abs=0.5)


def test_shipped_oxford_is_what_the_script_builds(tmp_path):
    command = [sys.executable, REPO / "scripts" / "build_oxford_target.py", "--folder", tmp_path]
    subprocess.run([*command, "--csv", tmp_path / "oxford.csv"], check=True, capture_output=True)
    shipped = load_target(DATASET / "oxford.png").spikes
    assert torch.equal(load_target(tmp_path / "oxford.png").spikes, shipped)
    events = load_target(tmp_path / "oxford.csv", bin_dt=10e-3, nb_outputs=200, nb_steps=189)
    assert torch.equal(events.spikes, shipped)


def test_drawn_target_is_what_the_script_draws(tmp_path):
    command = [sys.executable, REPO / "scripts" / "draw_target.py", "--out", tmp_path / "n.png"]
    subprocess.run(command, check=True, capture_output=True)
    drawn = load_target(tmp_path / "n.png").spikes
    assert torch.equal(drawn, load_target(DATASET / "neuron.png", nb_outputs=120, nb_steps=250).spikes)


def test_picture_and_spikes_are_inverse(tmp_path):
    spikes = (np.random.default_rng(0).random((31, 17)) < 0.3).astype(np.uint8)
    write_spike_image(tmp_path / "a.png", spikes)
    np.testing.assert_array_equal(image_target(tmp_path / "a.png"), spikes)
    np.testing.assert_array_equal(image_target(tmp_path / "a.png", polarity="light", out_prob=0.5), 1 - spikes)


def test_first_row_is_neuron_0_and_first_column_step_0(tmp_path):
    image = np.ones((3, 5))
    image[0, 4] = image[2, 0] = 0
    spikes = image_target(write_rgba(tmp_path / "a.png", np.stack([image] * 3, -1)))
    assert sorted(zip(*np.nonzero(spikes), strict=True)) == [(0, 2), (4, 0)]


def test_colour_counts_by_its_luma_and_transparent_is_white(tmp_path):
    red, green, blue, clear = [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]
    path = write_rgba(tmp_path / "a.png", [[red, green, blue, clear]])
    for threshold, expected in ((0.2, [0, 0, 1, 0]), (0.4, [1, 0, 1, 0]), (0.7, [1, 1, 1, 0])):
        assert image_target(path, out_prob=threshold)[:, 0].tolist() == expected


def test_duration_and_width_give_the_step():
    target = load_target(DATASET / "oxford.png", duration=0.378)
    assert target.dt == pytest.approx(2e-3)


def test_events_of_hdf5_and_csv_are_the_same(tmp_path):
    times, units = np.array([0.0, 0.0031, 0.0031, 0.0099], np.float16), np.array([2, 0, 1, 2], np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["times"], file["units"] = times, units
    lines = [f"{t},{u}" for t, u in zip(times.astype(float), units, strict=True)]
    (tmp_path / "a.csv").write_text("time,unit\n" + "\n".join(lines) + "\n")
    hdf5, text = (load_target(tmp_path / name, dt=1e-3, nb_steps=12).spikes for name in ("a.h5", "a.csv"))
    assert torch.equal(hdf5, text)
    assert hdf5.shape == (12, 3)
    assert hdf5.sum() == 4


def test_a_time_on_an_edge_opens_its_bin():
    steps = np.arange(1000)
    spikes = bin_events(steps * np.float64(1e-3), np.zeros(1000, np.int64), 1e-3)
    assert spikes.sum() == 1000


def test_spaced_target_has_no_successive_spikes():
    spikes = with_silent_steps(torch.ones(4, 3))
    assert spikes.shape == (8, 3)
    assert (spikes[1:] * spikes[:-1]).sum() == 0
    assert spikes.sum() == 12


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("none.png", None, {}, "there is no such file"),
        ("a.png", b"not a picture", {}, "cannot be read as a picture"),
        ("a.doc", b"x", {}, "unknown kind of file; allowed: .png"),
        ("a.h5", b"not hdf5", {}, "not an HDF5 file"),
        ("a.csv", b"time,unit\n0.1,1\n0.2;2\n", {}, "a.csv, line 3: wanted time,unit"),
        ("a.csv", b"time,unit\n", {"nb_outputs": 2, "nb_steps": 3}, "a target without a spike"),
        ("a.csv", b"-0.1,1\n", {}, "times must be finite and not negative"),
        ("a.csv", b"0.1,1.5\n", {}, "units must be integers"),
        ("a.csv", b"inf,1\n", {}, "event 0 has inf"),
        ("a.csv", b"0.1,inf\n", {}, "units must be integers in 0..67108863; event 0 has inf"),
        ("a.csv", b"0.1,1\n0.1,1e300\n", {}, "event 1 has 1e\\+300"),
        ("a.csv", b"0.1,nan\n", {}, "event 0 has nan"),
        ("a.csv", b"1e300,1\n", {}, "at most 67108864 bins of 0.001 s"),
        ("a.csv", b"1e9,1\n", {}, "lasts 1e\\+09 s, at most 67108864 bins .* are these ms or us"),
        ("a.csv", b"0.1,7\n1e4,9000\n", {}, "needs 1000000. steps of 9001 units, at most 67108864"),
        ("a.csv", b"0.1,7\n", {"nb_outputs": 5}, "units up to 7, but nb_outputs=5"),
        ("a.csv", b"0.1,7\n", {"nb_steps": 50}, "lasts 101 bins of 0.001 s, but nb_steps=50"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, settings, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_target(tmp_path / name, **settings)


def test_hdf5_without_units_says_what_it_holds(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["times"] = [0.1]
    with pytest.raises(UserError, match="has no data set 'units', only times"):
        load_target(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nb_outputs": 128}, "has 200 rows, but nb_outputs=128"),
        ({"nb_steps": 100}, "has 189 columns, but nb_steps=100"),
        ({"out_prob": 0.0}, "without a spike: no pixel passes out_prob=0.0 with polarity=dark"),
        ({"out_prob": 1.5}, "out_prob=1.5 must lie between 0"),
        ({"polarity": "grey"}, "polarity='grey' is unknown; allowed: dark, light"),
        ({"duration": -1.0}, "duration=-1.0 s must be positive"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        load_target(DATASET / "oxford.png", **settings)


def test_a_full_picture_is_refused(tmp_path):
    with pytest.raises(UserError, match="a spike in every step of every neuron"):
        load_target(write_rgba(tmp_path / "a.png", np.zeros((4, 6, 3))))


def png(width, height):
    """A picture that is not there: the header declares its size, the rows are missing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("size", [(9000, 9000), (30_000, 30_000), (100, 2**31 - 1)])
def test_pictures_are_measured_before_they_are_decoded(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png(*size))
    with pytest.raises(UserError, match="pixels, at most 67108864"):
        load_target(tmp_path / "a.png")


def damaged(whole, seed, nb_files):
    """Copies with flipped bits, zeroed blocks and missing ends, a third each."""
    rng = np.random.default_rng(seed)
    for k in range(nb_files):
        content = np.frombuffer(whole, np.uint8).copy()
        place = int(rng.integers(len(content)))
        if k % 3 == 0:
            content[place] ^= 1 << rng.integers(8)
        elif k % 3 == 1:
            content[place : place + 64] = 0
        yield content[: place if k % 3 == 2 else None].tobytes()


def refusal(path, **settings):
    """The message of a refused file; None if it is read. Anything else is a fault."""
    try:
        load_target(path, **settings)
    except UserError as error:
        return str(error)
    return None


def event_file(path):
    with h5py.File(path, "w") as file:
        file["times"], file["units"] = np.linspace(0, 0.1, 50), np.arange(50) % 7


def picture_file(path):
    write_spike_image(path, np.random.default_rng(0).random((30, 20)) < 0.2)


@pytest.mark.parametrize(("name", "make", "nb_files"), [("a.h5", event_file, 150), ("a.png", picture_file, 120)])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, name, make, nb_files):
    path = tmp_path / name
    make(path)
    whole, refused = path.read_bytes(), 0
    for content in damaged(whole, 0, nb_files):
        path.write_bytes(content)
        message = refusal(path, nb_steps=101 if name == "a.h5" else None)
        if message is not None:
            refused += 1
            assert "\n" not in message
            assert str(path) in message
    assert refused > nb_files // 4
