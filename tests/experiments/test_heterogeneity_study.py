"""Stretched time, paired gains and learned distributions of the heterogeneity study."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dense_suite import TINY, run_dense
from matplotlib.figure import Figure
from torch import nn

from surgrad.datasets.events import EventDataset
from surgrad.experiments.dense import figures as figures_sweeps
from surgrad.experiments.dense import heterogeneity as study
from surgrad.experiments.dense.heterogeneity import Gamma
from surgrad.network.time_constants import BOUNDS
from surgrad.runs.intervals import interval
from surgrad.runs.record import load_runs
from surgrad.training.loop import BatchGrid, Compute, Objective
from surgrad.training.losses import build_loss


class Watcher(nn.Module):
    """In the place of a network: remembers the batches it is given and answers with class 0."""

    layers = ()

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, batch, **options):
        self.seen.append(batch)
        readout = torch.zeros(batch.nb_steps, len(batch), 2)
        readout[..., 0] = 1.0
        return SimpleNamespace(y=readout, counts=[torch.zeros(len(batch), 3)])


def dataset():
    times, units = np.array([0.0, 0.05, 0.099, 0.02]), np.array([0, 1, 2, 0])
    return EventDataset(times, units, np.array([0, 3, 4]), np.array([0, 1]), nb_units=3, nb_classes=2)


@pytest.mark.parametrize(("factor", "steps"), [(0.5, [0, 12, 24, 5]), (1.0, [0, 25, 49, 10]), (2.0, [0, 50, 99, 20])])
def test_stretching_moves_events_and_the_end_of_the_window_alike(factor, steps):
    network = Watcher()
    grid = BatchGrid(8, 2e-3, 50)
    accuracy = study.stretched_accuracy(network, dataset(), grid, Objective(build_loss("mot_ce")), factor, Compute())
    (batch,) = network.seen
    assert batch.nb_steps == round(50 * factor)
    assert batch.steps.tolist() == steps
    assert accuracy == 0.5


def row(condition="HomInit-StdTr", seed=1, **changes):
    scores = {"valid_acc": 0.8, "test_acc": 0.5, "spikes": 800.0, "chance": 0.1}
    speeds = {f"test_acc_x{factor:g}": 0.5 for factor in study.STRETCHES}
    sizes = {"nb_weights": 1000, "nb_taus": 0}
    return {"dataset": "d", "condition": condition, "seed": seed} | scores | speeds | sizes | changes


def test_gains_are_paired_by_seed_within_each_start_and_averaged_over_starts():
    values = {
        "HomInit-StdTr": [0.5, 0.6],
        "HomInit-HetTr": [0.6, 0.9],
        "HetInit-StdTr": [0.5, 0.5],
        "HetInit-HetTr": [0.4, 0.6],
    }
    rows = [row(name, seed, test_acc=acc) for name, accs in values.items() for seed, acc in enumerate(accs)]
    gains = study.gains(rows)
    assert gains["HomInit"] == interval([0.6 - 0.5, 0.9 - 0.6])
    assert gains["HetInit"] == interval([0.4 - 0.5, 0.6 - 0.5])
    assert gains["both"].mean == pytest.approx(0.1)
    assert gains["both"].n == 2
    starts = study.gains_of_start(rows)
    assert starts["StdTr"] == interval([0.5 - 0.5, 0.5 - 0.6])
    assert starts["HetTr"] == interval([0.4 - 0.6, 0.6 - 0.9])


def test_gains_need_both_halves_of_a_start():
    rows = [row("HomInit-StdTr"), row("HomInit-HetTr"), row("HetInit-HetTr")]
    assert list(study.gains(rows)) == ["HomInit"]


def neurons(values, condition="HomInit-HetTr"):
    return [
        {"dataset": "d", "condition": condition, "seed": 1, "layer": 0, "tau_mem": float(tau), "tau_syn": float(tau)}
        for tau in values
    ]


def test_values_on_a_bound_are_left_out_of_the_fits():
    tau = np.random.default_rng(0).gamma(6.0, 4e-3, 3000).clip(*BOUNDS)
    fit, _ = study.learned_fits(neurons([*tau, *[BOUNDS[1]] * 500]), "tau_mem", *BOUNDS)["Gamma"]
    assert isinstance(fit, Gamma)
    assert (fit.shape, fit.scale) == pytest.approx((6.0, 4e-3), rel=0.08)


def test_tables_and_figures_show_every_condition():
    conditions = [f"{start}-{training}" for start in ("HomInit", "HetInit") for training in ("StdTr", "HetTr")]
    rows = [row(condition, seed) for condition in conditions for seed in (1, 2)]
    taus = [one for condition in conditions for one in neurons(np.linspace(5e-3, 40e-3, 30), condition)]
    text = study.tables(rows, taus)
    assert all(condition in text for condition in conditions)
    figures = figures_sweeps.of_heterogeneity(rows, taus)
    assert set(figures) == {"accuracy", "stretch", "tau"}
    assert all(isinstance(figure, Figure) for figure in figures.values())
    assert len(figures["tau"].axes) == 4  # membranes and synapses of the two conditions that train them


def test_runs_become_rows(tmp_path):
    run_dense(
        "-m",
        "--config-name=heterogeneity",
        *TINY,
        "time_constants=homogeneous,gamma",
        "time_constants.trainable=true",
        "seed=1",
        f"hydra.sweep.dir={tmp_path}",
    )
    rows, source = study.load(tmp_path)
    assert source.startswith("2 runs")
    assert {one["condition"] for one in rows} == {"HomInit-HetTr", "HetInit-HetTr"}
    for one, record in zip(rows, load_runs(tmp_path), strict=True):
        assert one["nb_taus"] == 2 * (6 + 5)
        assert one["nb_weights"] == record.summary["nb_weights"]
        assert one["test_acc_x1"] == pytest.approx(record.summary["test_acc_best_valid"])
    taus = study.load_taus(tmp_path)
    assert len(taus) == 2 * (6 + 5)
    drawn = [one["tau_mem"] for one in taus if one["condition"] == "HetInit-HetTr"]
    assert len({round(tau, 9) for tau in drawn}) == len(drawn)


def test_published_rows_stand_in_for_missing_runs(tmp_path):
    rows, source = study.load(tmp_path)
    assert "published" in source
    assert {one["condition"] for one in rows} >= {"HomInit-StdTr", "HetInit-HetTr"}
    taus = study.load_taus(tmp_path)
    per_run = {(one["condition"], one["seed"]) for one in taus}
    assert per_run == {(one["condition"], one["seed"]) for one in rows}
    assert len(taus) == 128 * len(per_run)
