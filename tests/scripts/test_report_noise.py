"""Curves with and without noise: what is kept of runs, and the figure that is drawn of it."""

import importlib.util

import numpy as np

from surgrad.runs.folder import open_run
from surgrad.runs.record import REPO


def report_noise():
    spec = importlib.util.spec_from_file_location("report_noise", REPO / "scripts" / "report_noise.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_curves_of_runs_are_kept_and_newer_ones_replace_older(tmp_path):
    script = report_noise()
    with open_run(tmp_path / "runs" / "one", {"seed": 3, "method": {"name": "superspike"}}) as run:
        for epoch, accuracy in enumerate((0.05, np.nan, 0.25)):
            run.log({"epoch": epoch, "valid_acc": accuracy})
    lines = script.of_runs([str(tmp_path / "runs")])
    assert lines == [("superspike", 3, 0, 0.05), ("superspike", 3, 2, 0.25)]
    old = ("stochasticsuperspike", 1, 0, 0.1), ("superspike", 3, 2, 0.9)
    script.keep(tmp_path / "curves.csv", [*old, *lines])
    assert script.kept(tmp_path / "curves.csv") == [old[0], *lines]
    assert script.kept(tmp_path / "nothing.csv") == []


def test_the_figure_has_a_line_for_every_run_and_a_mark_for_every_slope(tmp_path, monkeypatch):
    script = report_noise()
    drawn = []
    monkeypatch.setattr(script, "FIGURE", tmp_path / "figure.png")
    monkeypatch.setattr(script, "updates_and_slope", lambda *a, **k: drawn.append(a) or original(*a, **k))
    original = report_noise().updates_and_slope
    script.main([])
    ((curves, by_slope, without),) = drawn
    assert (tmp_path / "figure.png").stat().st_size > 0
    assert set(curves) == {"stochasticsuperspike", "superspike"}
    assert all(len(updates) == len(accuracy) > 1 for runs in curves.values() for updates, accuracy in runs)
    assert all(len(scores) == len(without[0]) == 3 for scores, _ in by_slope.values())
