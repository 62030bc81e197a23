"""What the robustness study makes of its rows, and the rows it makes of runs."""

from itertools import product

import pytest
from dense_suite import TINY, run_dense
from matplotlib.figure import Figure

from surgrad.analysis.rows import chosen, column
from surgrad.errors import UserError
from surgrad.experiments.dense import figures as figures_sweeps
from surgrad.experiments.dense import robustness
from surgrad.runs.record import load_runs


def row(sweep="robustness", **changes):
    return {
        "sweep": sweep,
        "dataset": "randman",
        "surrogate": "SuperSpike",
        "beta": 10.0,
        "lr": 0.05,
        "path": "neither",
        "nb_layers": 1,
        "upper_bound": 4.0,
        "seed": 1,
        "valid_acc": 0.9,
        "test_acc": 0.8,
        "train_acc": 1.0,
        "spikes": 200.0,
        "chance": 0.1,
    } | changes


def test_each_surrogate_is_tuned_on_its_own_validation_scores():
    best = {"SuperSpike": 10.0, "Esser": 1.0}
    rows = [
        row(surrogate=name, beta=beta, seed=seed, valid_acc=0.9 if beta == best[name] else 0.5, test_acc=beta / 100)
        for name, beta, seed in product(best, (1.0, 10.0), (1, 2))
    ]
    tuned = robustness.tuned(rows)
    assert {name: one.beta for name, one in tuned.items()} == best
    assert tuned["Esser"].accuracy.mean == pytest.approx(0.01)
    assert robustness.spread_of_shapes(rows) == pytest.approx(0.09)


def test_asymptotic_surrogates_do_not_count_among_the_shapes():
    rows = [row(), row(surrogate="asymptotic SuperSpike", test_acc=0.1)]
    assert robustness.spread_of_shapes(rows) == 0


def test_paths_are_shown_in_order_and_their_cost_is_paired():
    rows = [
        row("robustness_reset", path=path, seed=seed, test_acc=0.9 - 0.1 * seed - cost)
        for (path, cost), seed in product({"both": 0.4, "neither": 0.0, "reset": 0.25}.items(), (1, 2, 3))
    ]
    assert list(robustness.by_path(rows)["SuperSpike, beta = 10"]) == ["neither", "reset", "both"]
    costs = robustness.cost_of_paths(rows)
    assert {path: cost.mean for (_, path), cost in costs.items()} == pytest.approx({"reset": -0.25, "both": -0.4})
    assert all(cost.high - cost.low < 1e-9 for cost in costs.values())  # the seeds' own differences cancel


def test_sparse_networks_are_ordered_by_spikes_and_the_sparsest_good_ones_found():
    rows = [
        row("robustness_sparse", upper_bound=bound, spikes=spikes, test_acc=accuracy)
        for bound, spikes, accuracy in [(0.1, 13.0, 0.80), (2.0, 220.0, 0.84), (0.02, 3.0, 0.4)]
    ]
    assert [sparse.bound for sparse in robustness.by_spikes(rows)] == [2.0, 0.1, 0.02]
    assert robustness.fewest_spikes(rows, loss=0.05) == 13.0
    assert robustness.fewest_spikes(rows, loss=0.01) == 220.0


def test_every_sweep_has_a_figure_and_its_rows_in_the_tables():
    rows = [row(sweep, seed=seed) for sweep, seed in product(robustness.VARIED, (1, 2))]
    figures = figures_sweeps.of_robustness(rows)
    assert set(figures) == {name for name, _ in figures_sweeps.ROBUSTNESS.values()}
    assert all(isinstance(figure, Figure) for figure in figures.values())
    text = robustness.tables(rows)
    assert all(f"**{sweep}**" in text for sweep in robustness.VARIED)
    assert set(figures_sweeps.of_robustness(chosen(rows, sweep="robustness_lr"))) == {"lr"}


def test_runs_become_rows(tmp_path):
    run_dense(
        "-m",
        "--config-name=robustness_reset",
        *(key for key in TINY if not key.startswith("hidden")),
        "hidden=[6]",
        "surrogate=asymptotic_superspike",
        "surrogate.beta=20",
        "neuron.diff_reset=true",
        "recurrent=false,true",
        "seed=1",
        f"hydra.sweep.dir={tmp_path}",
    )
    rows, source = robustness.load(tmp_path)
    assert source.startswith("2 runs")
    assert {one["path"] for one in rows} == {"reset", "both"}
    for one, record in zip(rows, load_runs(tmp_path), strict=True):
        assert (one["sweep"], one["surrogate"], one["beta"]) == ("robustness_reset", "asymptotic SuperSpike", 20.0)
        assert one["test_acc"] == record.summary["test_acc_best_valid"]
    with pytest.raises(UserError, match="no run on the data set 'shd'"):
        robustness.load(tmp_path, "shd")


def test_the_published_rows_say_what_the_page_says(tmp_path):
    """Shapes alike at their tuned slopes; a peak that grows with beta fails through reset or recurrence alone."""
    rows, source = robustness.load(tmp_path)
    assert "published" in source
    assert robustness.spread_of_shapes(rows) < 0.03
    costs = robustness.cost_of_paths(rows)
    for path in ("reset", "recurrence", "both"):
        assert costs["asymptotic SuperSpike, beta = 10", path].high < -0.2
        assert costs["SuperSpike, beta = 10", path].low > -0.15
    assert len(set(column(chosen(rows, sweep="robustness_reset"), "seed"))) == 5
