"""Intervals over runs, and the notebooks that show them, executed on a few tiny runs."""

import logging
import math
from dataclasses import dataclass, field

import notebooks
import numpy as np
import pytest
from classification_suite import TINY, load_script

from surgrad.runs.intervals import curve, interval
from surgrad.runs.record import REPO, load_runs

NOTEBOOKS = sorted((REPO / "Classification" / "analysis").glob("*.ipynb"))


@dataclass
class FakeRun:
    """A run as the functions of `study` see it."""

    config: dict
    metrics: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    status: str = "done"

    def get(self, key, default=None):
        return self.config.get(key, default)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    bands = [interval(rng.normal(3.0, 2.0, 4)) for _ in range(2000)]
    held = np.mean([band.low < 3.0 < band.high for band in bands])
    assert abs(held - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_the_interval_of_two_values_in_closed_form():
    mean, low, high, n = interval([1.0, 3.0, math.nan, None])
    assert (mean, n) == (2.0, 2)
    assert high - mean == pytest.approx(math.tan(0.475 * math.pi))  # t of one degree of freedom is Cauchy's
    assert mean - low == pytest.approx(high - mean)


def test_one_value_has_a_mean_and_no_interval():
    band = interval([0.5])
    assert band.mean == 0.5
    assert math.isnan(band.low)
    assert str(band) == "0.500"
    assert str(interval([])) == "-"


def test_a_curve_averages_the_runs_that_have_a_value_at_an_epoch():
    runs = [
        FakeRun({}, {"epoch": np.array([0, 1, 2]), "acc": np.array([np.nan, 0.2, 0.4])}),
        FakeRun({}, {"epoch": np.array([0, 1]), "acc": np.array([np.nan, 0.4])}),
    ]
    found = curve(runs, "acc")
    assert found.epochs.tolist() == [1, 2]
    assert found.mean == pytest.approx([0.3, 0.4])
    assert np.isnan(found.low).tolist() == [False, True]
    assert curve(runs, "absent").epochs.size == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two methods, two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    sweep = ["method=superspike,stochasticsuperspike", "seed=1,2", "method.target_sigma_u=3", "plot=none"]
    load_script().main(["-m", *TINY, *sweep, f"hydra.sweep.dir={folder}"])
    root.handlers[:], root.level = handlers, level
    assert len(load_runs(folder)) == 4
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_the_notebook_runs_and_shows_figures(path, runs, monkeypatch):
    monkeypatch.setenv("RUNS", str(runs))
    monkeypatch.setenv("QUICK", "1")
    shown = notebooks.execute(path)
    assert any("image/png" in output for output in shown)
    assert not any("stderr" in output for output in shown), shown
