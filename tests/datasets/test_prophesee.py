"""Recordings in EVT 2.0, EVT 3.0 and .dat give the events that were written, across every turn of their clocks."""

import itertools

import numpy as np
import pytest

from surgrad.datasets.sources.camera_files import CameraEvents, read_camera
from surgrad.errors import UserError

HEADER = b"% Date 2026-01-01 00:00:00\n% evt VERSION\n% geometry 1280x720\n"
WORDS = {"2.0": "<u4", "3.0": "<u2"}


def drawn(nb=400, duration=40_000_000, start=5_000_000):
    """Single pixels, and runs of neighbours in one row at one time."""
    rng = np.random.default_rng(1)
    rows = []
    for t in np.sort(rng.integers(start, start + duration, nb)):
        y, p, x = int(rng.integers(720)), int(rng.integers(2)), int(rng.integers(1200))
        pixels = x + np.flatnonzero(rng.random(32) < 0.4) if rng.random() < 0.3 else [x]
        rows += [(int(t), int(pixel), y, p) for pixel in pixels]
    t, x, y, p = np.array(rows).T
    return CameraEvents(t, x, y, p.astype(bool))


def evt2(events):
    """A word for the high time, of 28 bits, wherever it changes."""
    words, high = [], None
    for t, x, y, p in zip(*(column.tolist() for column in events), strict=True):
        if t >> 6 != high:
            high = t >> 6
            words.append(0x8 << 28 | high & 0xFFFFFFF)
        words.append(int(p) << 28 | (t & 0x3F) << 22 | x << 11 | y)
    return words


def evt3(events):
    """Each time and row once; a pixel alone, or runs of up to 12 + 12 + 8 pixels."""
    words, high, row = [0x2 << 12 | 5], None, None  # the first word, a pixel, is of a row and a time not yet known
    rows = zip(*(column.tolist() for column in events), strict=True)
    for (t, y, p), group in itertools.groupby(rows, key=lambda event: (event[0], event[2], event[3])):
        xs = [event[1] for event in group]
        if t >> 12 != high:
            high = t >> 12
            words.append(0x8 << 12 | high & 0xFFF)
        words.append(0x6 << 12 | t & 0xFFF)
        if y != row:
            row = y
            words.append(y)
        if len(xs) == 1:
            words.append(0x2 << 12 | int(p) << 11 | xs[0])
            continue
        valid = sum(1 << x - xs[0] for x in xs)
        words += [0x3 << 12 | int(p) << 11 | xs[0], 0x4 << 12 | valid & 0xFFF, 0x4 << 12 | valid >> 12 & 0xFFF]
        words += [0x5 << 12 | valid >> 24, 0xA << 12]  # and a trigger, which is no pixel
    return words


def written(folder, form, events):
    if form == "dat":
        rows = zip(*(column.tolist() for column in events), strict=True)
        words = [word for t, x, y, p in rows for word in (t % 2**32, int(p) << 28 | y << 14 | x)]
        content = b"% Data file containing CD events.\n% Version 2\n" + b"\x0c\x08" + np.array(words, "<u4").tobytes()
    else:
        words = np.array({"2.0": evt2, "3.0": evt3}[form](events), np.int64)
        content = HEADER.replace(b"VERSION", form.encode()) + words.astype(WORDS[form]).tobytes()
    path = folder / ("recording.dat" if form == "dat" else "recording.raw")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("form", "start"), [("2.0", 0), ("2.0", 2**34 - 20_000_000), ("3.0", 0), ("dat", 0), ("dat", 2**32 - 20_000_000)]
)
def test_the_events_that_were_written_from_the_first_one_on(tmp_path, form, start):
    """40 s: EVT 3.0 counts to 16.8 s, EVT 2.0 to 4.8 h, .dat to 71 min, and begin anew."""
    events = drawn(start=start)
    found = read_camera(written(tmp_path, form, events))
    for expected, got in zip(events._replace(t=events.t - events.t[0]), found, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("name", "form"),
    [(b"% format EVT3;height=720;width=1280\n% end\n", "3.0"), (b"% format EVT2\n% camera gen4\n", "2.0")],
)
def test_newer_headers_name_the_format_in_another_way(tmp_path, name, form):
    path = written(tmp_path, form, drawn(20))
    path.write_bytes(path.read_bytes().replace(HEADER.replace(b"VERSION", form.encode()), name))
    np.testing.assert_array_equal(read_camera(path).x, drawn(20).x)


@pytest.mark.parametrize(
    ("form", "damage", "said"),
    [
        ("2.0", lambda c: c[:-1], "its last word has 3 of 4 bytes"),
        ("3.0", lambda c: c[:-1], "its last word has 1 of 2 bytes"),
        ("3.0", lambda c: c.replace(b"evt 3.0", b"evt 2.1"), "its header names evt 2.1; EVT 2.0 and EVT 3.0 are read"),
        ("3.0", lambda c: c[c.index(b"% geo") :], "its header names no format"),
        ("dat", lambda c: c[:-3], "its last word has 5 of 8 bytes"),
        ("dat", lambda c: c.replace(b"\x0c\x08", b"\x0e\x08", 1), "events of type 14 and 8 bytes"),
        ("dat", lambda c: c[: c.index(b"\x0c\x08")], "ends before its first event"),
    ],
)
def test_damage_is_one_line_that_names_the_file(tmp_path, form, damage, said):
    path = written(tmp_path, form, drawn(20))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=said) as refused:
        read_camera(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("form", ["2.0", "3.0", "dat"])
def test_any_words_are_events_on_a_sensor_that_can_be_addressed_or_a_refusal(tmp_path, form):
    path = written(tmp_path, form, drawn(20))
    rng, content = np.random.default_rng(2), path.read_bytes()
    for _ in range(50):
        damaged = bytearray(content)
        for position in rng.integers(len(content), size=8):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            found = read_camera(path)
        except UserError:
            continue
        assert all(len(column) == len(found.t) for column in found)
        assert all(bool((column >= 0).all()) for column in (found.t, found.x, found.y))
