"""Runs and rows grouped, chosen, compared pairwise and tabulated; rows kept in a file; a number against a setting."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgrad.analysis import rows
from surgrad.analysis.plot import plot
from surgrad.errors import UserError
from surgrad.runs.intervals import interval

ROWS = [
    {"dataset": data, "beta": beta, "seed": seed, "valid_acc": valid, "test_acc": test}
    for data, beta, seed, valid, test in [
        ("a", 1.0, 1, 0.5, 0.9),
        ("a", 1.0, 2, 0.6, 0.8),
        ("a", 10.0, 1, 0.7, 0.4),
        ("a", 10.0, 2, 0.8, 0.6),
        ("b", 10.0, 1, 0.9, 0.1),
    ]
]


@dataclass(eq=False)
class Run:
    """A run folder as the functions of `rows` see it."""

    config: dict[str, Any]
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    status: str = "done"
    folder: Path = Path("somewhere")
    damage: str = ""

    def get(self, key, default=None):
        value = self.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value


def network(surrogate, beta, seed, acc, **others):
    config = {"surrogate": {"_target_": f"surgrad.surrogate.{surrogate}", "beta": beta}, "seed": seed, **others}
    return Run(config, {"test_acc": acc, "nb_classes": 10})


# ---------------------------------------------------------------- groups
def test_groups_are_in_the_order_of_their_numbers():
    found = rows.grouped([{"x": x} for x in (1, 10, 100, 4, 40)], "x")
    assert list(found) == [(1,), (4,), (10,), (40,), (100,)]


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)), max_size=9))
def test_any_settings_can_be_put_in_order(values):
    found = [key for (key,) in rows.grouped([{"x": value} for value in values], "x")]
    numbers = [key for key in found if isinstance(key, int | float) and not math.isnan(key)]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["[128,128]", "[128]", "[16]"], ["[16]", "[128]", "[128,128]"]), (["b10", "b9", "a"], ["a", "b9", "b10"])],
)
def test_numbers_in_texts_count_by_size(texts, expected):
    assert sorted(texts, key=rows.order) == expected


def test_the_data_set_of_most_items_is_shown_unless_one_is_named():
    assert len(rows.only_data_set(ROWS)) == 4
    assert len(rows.only_data_set(ROWS, "b")) == 1
    with pytest.raises(UserError, match="'c'; there are: a, b"):
        rows.only_data_set(ROWS, "c")
    runs = [Run({"dataset": {"name": name}}) for name in "xxy"]
    assert len(rows.only_data_set(runs, key="dataset.name")) == 2


def test_unfinished_runs_have_no_final_numbers():
    assert len(rows.finished([Run({}), Run({}, status="failed")])) == 1
    with pytest.raises(UserError, match="none of 1 runs is done: failed"):
        rows.finished([Run({}, status="failed")])


# ---------------------------------------------------------------- what differs
def test_unlike_runs_are_never_pooled_and_the_grouping_says_by_what():
    runs = [
        network(surrogate, 10.0, seed, 0.5, nb_epochs=nb)
        for surrogate in ("SuperSpike", "Esser")
        for nb in (3, 20)
        for seed in (1, 2, 3)
    ]
    keys, groups = rows.by_difference(runs)
    assert keys == ["surrogate._target_", "nb_epochs"]
    assert list(groups) == [f"{name}, nb_epochs={nb}" for name in ("Esser", "SuperSpike") for nb in (3, 20)]
    assert {len(group) for group in groups.values()} == {3}
    assert rows.grouping(keys, groups).startswith(
        "Runs grouped by surrogate._target_, nb_epochs (Esser, nb_epochs=3: 3"
    )


def test_what_only_follows_a_name_is_not_named():
    methods = {"superspike": 1.0, "stochasticsuperspike": 1.3}
    runs = [
        Run({"method": {"name": name, "sigma": sigma}, "seed": s}) for name, sigma in methods.items() for s in (1, 2)
    ]
    assert rows.by_difference(runs)[0] == ["method.name"]
    assert rows.by_difference(runs[:2], "method.name") == (["method.name"], {"superspike": runs[:2]})
    assert rows.by_difference(runs[:2], "no.such.key") == ([], {"all runs": runs[:2]})


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=8))
def test_groups_by_difference_are_those_of_all_keys(settings):
    runs = [Run({"a": a, "b": {"c": c}, "d": {"name": d}, "seed": k}) for k, (a, c, d) in enumerate(settings)]
    _, groups = rows.by_difference(runs)
    found = {tuple(sorted(run.get("seed") for run in group)) for group in groups.values()}
    expected = {tuple(k for k, other in enumerate(settings) if other == one) for one in settings}
    assert found == expected


# ---------------------------------------------------------------- numbers
def test_a_number_is_a_final_one_or_the_last_of_its_column_or_missing():
    run = Run({}, {"acc": 0.5}, {"epoch": np.arange(3), "loss": np.array([3.0, 2.0, math.nan])})
    assert rows.number(run, "acc") == 0.5
    assert rows.number(run, "loss") == 2.0
    assert math.isnan(rows.number(run, "absent"))
    assert rows.number({"acc": 1}, "acc") == 1.0
    assert rows.column([run, Run({})], lambda run: run.summary.get("acc")) == pytest.approx(
        [0.5, math.nan], nan_ok=True
    )


def test_points_are_means_over_runs_and_sorted_by_value():
    found = rows.points(reversed(rows.chosen(ROWS, dataset="a")), "beta", "test_acc")
    assert list(found) == [1.0, 10.0]
    assert found[10.0][1] == interval([0.4, 0.6])
    assert sorted(found[1.0][0]) == [0.8, 0.9]
    assert set(rows.curves(ROWS, "dataset", "beta", "test_acc")) == {"a", "b"}


def test_a_setting_is_chosen_on_the_validation_set_whatever_the_test_says():
    best = rows.best_setting(rows.chosen(ROWS, dataset="a"), ["beta"])
    assert {row["beta"] for row in best} == {10.0}
    assert rows.column(best, "test_acc").mean() < 0.6


def test_differences_are_paired_by_seed():
    """Seeds that only one side has do not count; the interval is that of the differences."""
    first, second = (rows.chosen(ROWS, dataset="a", beta=beta) for beta in (10.0, 1.0))
    found = rows.paired_difference([*first, {"seed": 7, "test_acc": 0.0}], second, "test_acc")
    assert found == interval([0.4 - 0.9, 0.6 - 0.8])


def test_pairs_need_one_item_per_seed_and_a_seed_in_common():
    a = rows.chosen(ROWS, dataset="a")
    with pytest.raises(UserError, match="a seed occurs twice"):
        rows.paired_difference(a, a, "test_acc")
    with pytest.raises(UserError, match="no seed is in both"):
        rows.paired_difference(a[:1], a[1:2], "test_acc")


# ---------------------------------------------------------------- tables
def test_tables_show_shares_to_three_digits_counts_to_none_and_gaps():
    groups = {
        ("x", 1): [{"acc": 0.5, "spikes": 119.7}, {"acc": 0.5, "spikes": 121.1}],
        "y": [{"acc": 1.0}],
    }
    assert rows.table(groups, {"test": "acc", "spikes": "spikes"}, "name").splitlines() == [
        "| name | runs | test | spikes |",
        "|---|---|---|---|",
        "| x, 1 | 2 | 0.500 ± 0.000 | 120 ± 9 |",
        "| y | 1 | 1.000 | - |",
    ]
    assert rows.shown(interval([math.nan])) == "-"
    assert rows.shown(interval([107264.0, 107264.0])) == "107264"


# ---------------------------------------------------------------- a number against a setting
RUNS = [
    network(surrogate, beta, seed, 0.1 * seed + (0.2 if beta == 10 else 0.0))
    for surrogate in ("SuperSpike", "Esser")
    for beta in (1, 10, 100)
    for seed in (1, 2, 3)
]


def test_a_plot_has_a_line_for_each_value_of_by_and_says_mean_interval_and_n():
    figure, text = plot(RUNS, "surrogate.beta", "test_acc", by="surrogate")
    (ax,) = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Esser", "SuperSpike"]
    assert ax.get_xscale() == "log"
    assert ax.get_ylabel() == "test_acc\n(mean, 95 % interval, n = 3)"
    found = interval([0.3, 0.4, 0.5])
    assert f"| Esser | 10 | {found.mean:.4g} | {found.low:.4g} to {found.high:.4g} | 3 |" in text.splitlines()
    assert len(text.splitlines()) == 4 + 6


def test_a_plot_pools_nothing_that_differs():
    longer = [network("Esser", beta, 1, 0.9, nb_epochs=50) for beta in (1, 10)]
    figure, text = plot([*RUNS, *longer], "surrogate.beta", "test_acc", by="surrogate")
    assert len(figure.legends[0].get_texts()) == 3
    assert "nb_epochs" in text.splitlines()[0]


def test_settings_that_are_no_numbers_become_categories():
    figure, _ = plot(RUNS, "surrogate._target_", "test_acc", by="surrogate.beta")
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["Esser", "SuperSpike"]


@pytest.mark.parametrize(
    ("x", "y", "by", "says"),
    [
        (
            "beta",
            "test_acc",
            None,
            "beta: no run has this key; keys that differ between these runs: surrogate._target_",
        ),
        ("surrogate.beta", "test_acc", "colour", "colour: no run has this key"),
        ("surrogate.beta", "accuracy", None, "accuracy: no run has this number; there are: test_acc"),
    ],
)
def test_mistakes_are_named_with_what_there_is(x, y, by, says):
    with pytest.raises(UserError, match=says):
        plot(RUNS, x, y, by=by)


# ---------------------------------------------------------------- files
def test_a_file_gives_back_the_rows(tmp_path):
    some = [
        {"name": "sigmoid'", "on": True, "seed": 3, "acc": 1 / 3},
        {"name": "a, b", "on": False, "seed": 4, "acc": 1e-9},
    ]
    rows.write_rows(tmp_path / "rows.csv", some)
    found = rows.read_rows(tmp_path / "rows.csv")
    assert [list(row) for row in found] == [list(row) for row in some]
    for row, before in zip(found, some, strict=True):
        assert row["acc"] == pytest.approx(before["acc"], rel=1e-5)
        assert {**row, "acc": None} == {**before, "acc": None}
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def hydra_folder(path, name):
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "hydra.yaml").write_text(f"hydra: {{job: {{config_name: {name}}}}}\n")
    return path


def test_runs_count_by_the_configuration_they_started_from_and_a_file_stands_in(tmp_path, monkeypatch):
    published = tmp_path / "published.csv"
    rows.write_rows(published, ROWS)
    records = [Run({}, folder=hydra_folder(tmp_path / name, name)) for name in ("mine", "other")]
    records.append(Run({}, folder=hydra_folder(tmp_path / "failed", "mine"), status="failed"))
    records.append(Run({}, folder=tmp_path / "started by hand"))
    monkeypatch.setattr(rows, "load_runs", lambda where: records)

    def of(run):
        return [{"folder": run.folder.name}]

    found, source = rows.rows_of("anywhere", ["mine"], of, published)
    assert found == [{"folder": "mine"}]
    assert source == "1 runs below anywhere"
    found, source = rows.rows_of("anywhere", ["nobody's"], of, published)
    assert found == ROWS
    assert "published rows of published.csv" in source


def test_a_folder_without_runs_shows_what_is_published(tmp_path):
    published = tmp_path / "published.csv"
    rows.write_rows(published, ROWS)
    found, _ = rows.rows_of(tmp_path / "Runs", ["mine"], lambda run: [], published)
    assert np.array_equal(rows.column(found, "beta"), rows.column(ROWS, "beta"))
