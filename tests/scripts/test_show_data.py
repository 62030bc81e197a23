"""The report on a data set: its numbers are those of the events, the figure is drawn, mistakes are one line."""

import importlib.util

import numpy as np
import pytest

from surgrad.datasets.events import EventDataset
from surgrad.datasets.report import report
from surgrad.datasets.sources.hdf5 import write_shd
from surgrad.errors import UserError
from surgrad.figures.data import overview
from surgrad.runs.record import REPO

DATA = EventDataset(
    times=[0.001, 0.0015, 0.021, 0.3, 0.005],
    units=[0, 0, 1, 2, 1],
    offsets=[0, 4, 5, 5],
    labels=[0, 1, 1],
    nb_units=4,
    nb_classes=2,
    speakers=[3, 3, 7],
)


def test_the_numbers_are_those_of_the_events():
    found = report(DATA, dt=0.01, nb_steps=10)
    assert (found.samples, found.speakers, found.per_class.tolist()) == (3, 2, [1, 2])
    assert found.events.tolist() == [4, 1, 0]
    np.testing.assert_allclose(found.lasting[:2], [0.3, 0.005], rtol=1e-6)
    assert np.isnan(found.lasting[2])
    assert found.outside == 1 / 5
    assert found.merged == 1 / 4  # two events of unit 0 in the first step
    np.testing.assert_allclose(found.unit_rates, np.array([1, 2, 0, 0]) / 0.3)
    assert found.silent_units == 0.5
    said = dict(found.lines(10, 0.01))
    assert said["samples"] == "3, 1 to 2 of each of 2 classes"
    assert said["outside the window"] == "20.00% of the events, beyond 0.1 s"


def test_the_figure_shows_the_samples():
    figure = overview([DATA[0][:2], DATA[1][:2]], ["a", "b"], np.array([4, 1, 0]), np.ones(4), 0.1)
    assert [len(ax.lines[0].get_xdata()) for ax in figure.axes[:2]] == [4, 1]
    assert figure.axes[0].get_title() == "a"


def test_the_command_reports_and_draws(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("show_data", REPO / "scripts" / "show_data.py")
    show_data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(show_data)
    rng = np.random.default_rng(0)
    times, units = rng.uniform(0, 0.1, 200), rng.integers(6, size=200)
    data = EventDataset(times, units, np.arange(21) * 10, np.arange(20) % 2, 6, 2)
    for name in ("a.h5", "b.h5"):
        write_shd(tmp_path / name, data)
    given = ["dataset=hdf5", f"dataset.train_path={tmp_path}/a.h5", f"dataset.test_path={tmp_path}/b.h5"]
    show_data.main([*given, "dataset.duration=0.1", "--out", str(tmp_path / "data.png")])
    said = capsys.readouterr().out
    assert "samples                 18, " in said
    assert "measured in training: 16" in said
    assert (tmp_path / "data.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(UserError, match=r"dataset.train_path=nowhere.h5: no such file"):
        show_data.main([given[0], "dataset.train_path=nowhere.h5", given[2]])
