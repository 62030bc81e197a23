"""The converter between SHD's format and the compact one: nothing is lost either way."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from surgrad.datasets.binning import bin_events, time_to_step
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.hdf5 import read_shd, write_shd
from surgrad.errors import UserError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "convert_events.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("convert_events", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def convert(script):
    return lambda *arguments: script.main([*map(str, arguments)])


@pytest.fixture
def original(tmp_path):
    rng = np.random.default_rng(0)
    lengths = np.array([30, 0, 17, 50])
    times, units = rng.uniform(0, 1.2, lengths.sum()).astype(np.float16), rng.integers(0, 9, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    dataset = EventDataset(
        times, units, offsets, [2, 0, 1, 2], 9, 3, speakers=[5, 1, 1, 8], class_names=("a", "b", "c")
    )
    write_shd(tmp_path / "shd.h5", dataset, time_dtype=np.float16)
    return dataset


@pytest.mark.parametrize("resolution", [0.5e-3, 2e-3])
def test_there_and_back_gives_the_same_events(convert, original, tmp_path, resolution, capsys):
    convert("compact", tmp_path / "shd.h5", tmp_path / "compact.h5", "--resolution", resolution)
    convert("shd", tmp_path / "compact.h5", tmp_path / "back.h5")
    convert("compact", tmp_path / "back.h5", tmp_path / "again.h5", "--resolution", resolution)
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "compact.h5").read_bytes()
    back = read_shd(tmp_path / "back.h5")
    for name in ("offsets", "labels", "speakers", "class_names", "nb_units"):
        np.testing.assert_array_equal(getattr(back, name), getattr(original, name))
    for k in range(len(back)):
        (times, units, _), (before, units_before, _) = back[k], original[k]
        assert (np.diff(times) >= 0).all()
        pairs = sorted(zip(time_to_step(before, resolution), units_before, strict=True))
        assert sorted(zip(time_to_step(times, resolution), units, strict=True)) == pairs
    grid = {"dt": 2e-3, "nb_steps": 500, "nb_units": 9}
    one, two = (bin_events(d.times, d.units, d.offsets, **grid) for d in (back, original))
    np.testing.assert_array_equal(one.steps, two.steps)
    np.testing.assert_array_equal(one.units, two.units)
    assert "4 samples, 97 events" in capsys.readouterr().out


def test_a_file_that_does_not_hold_what_was_written_is_found(convert, script, original, tmp_path, monkeypatch):
    write = script.write_compact
    monkeypatch.setattr(script, "write_compact", lambda path, dataset, **_: write(path, dataset, resolution=0.1))
    with pytest.raises(UserError, match=r"compact.h5: times differ from the original"):
        convert("compact", tmp_path / "shd.h5", tmp_path / "compact.h5")
