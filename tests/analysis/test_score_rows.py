"""Rows of final numbers: kept in a file, chosen, grouped, compared pairwise."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from surgrad.analysis import rows as score_rows
from surgrad.analysis.intervals import interval
from surgrad.errors import UserError

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


def test_a_file_gives_back_the_rows(tmp_path):
    rows = [
        {"name": "sigmoid'", "on": True, "seed": 3, "acc": 1 / 3},
        {"name": "a, b", "on": False, "seed": 4, "acc": 1e-9},
    ]
    score_rows.write_rows(tmp_path / "rows.csv", rows)
    found = score_rows.read_rows(tmp_path / "rows.csv")
    assert [list(row) for row in found] == [list(row) for row in rows]
    for row, before in zip(found, rows, strict=True):
        assert row["acc"] == pytest.approx(before["acc"], rel=1e-5)
        assert {**row, "acc": None} == {**before, "acc": None}
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_points_are_means_over_runs_and_sorted_by_value():
    rows = score_rows.chosen(ROWS, dataset="a")
    found = score_rows.points(reversed(rows), "beta", "test_acc")
    assert list(found) == [1.0, 10.0]
    assert found[10.0][1] == interval([0.4, 0.6])
    assert sorted(found[1.0][0]) == [0.8, 0.9]
    assert set(score_rows.curves(ROWS, "dataset", "beta", "test_acc")) == {"a", "b"}


def test_a_setting_is_chosen_on_the_validation_set_whatever_the_test_says():
    best = score_rows.best_setting(score_rows.chosen(ROWS, dataset="a"), ["beta"])
    assert {row["beta"] for row in best} == {10.0}
    assert score_rows.column(best, "test_acc").mean() < 0.6


def test_differences_are_paired_by_seed():
    """Seeds that only one side has do not count; the interval is that of the differences."""
    first, second = (score_rows.chosen(ROWS, dataset="a", beta=beta) for beta in (10.0, 1.0))
    found = score_rows.paired_difference([*first, {"seed": 7, "test_acc": 0.0}], second, "test_acc")
    assert found == interval([0.4 - 0.9, 0.6 - 0.8])


def test_pairs_need_one_row_per_seed_and_a_seed_in_common():
    a = score_rows.chosen(ROWS, dataset="a")
    with pytest.raises(UserError, match="a seed occurs twice"):
        score_rows.paired_difference(a, a, "test_acc")
    with pytest.raises(UserError, match="no seed is in both"):
        score_rows.paired_difference(a[:1], a[1:2], "test_acc")


def test_the_data_set_of_most_rows_is_shown_unless_one_is_named():
    assert len(score_rows.only_data_set(ROWS)) == 4
    assert len(score_rows.only_data_set(ROWS, "b")) == 1
    with pytest.raises(UserError, match="'c'; there are: a, b"):
        score_rows.only_data_set(ROWS, "c")


def test_tables_show_shares_to_three_digits_and_counts_to_none():
    groups = {
        ("x", 1): [{"acc": 0.5, "spikes": 119.7}, {"acc": 0.5, "spikes": 121.1}],
        ("y", 2.0): [{"acc": 1.0, "spikes": 9.0}],
    }
    assert score_rows.rows_table(groups, {"test": "acc", "spikes": "spikes"}, "name").splitlines() == [
        "| name | runs | test | spikes |",
        "|---|---|---|---|",
        "| x, 1 | 2 | 0.500 ± 0.000 | 120 ± 9 |",
        "| y, 2 | 1 | 1.000 | 9.000 |",
    ]
    assert score_rows.shown(interval([math.nan])) == "-"
    assert score_rows.shown(interval([107264.0, 107264.0])) == "107264"


@dataclass
class Record:
    """A run folder as `rows_of` sees it."""

    folder: object
    status: str = "done"


def hydra_folder(path, name):
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "hydra.yaml").write_text(f"hydra: {{job: {{config_name: {name}}}}}\n")
    return path


def test_runs_count_by_the_configuration_they_started_from_and_a_file_stands_in(tmp_path, monkeypatch):
    published = tmp_path / "published.csv"
    score_rows.write_rows(published, ROWS)
    records = [Record(hydra_folder(tmp_path / name, name)) for name in ("mine", "other")]
    records.append(Record(hydra_folder(tmp_path / "failed", "mine"), status="failed"))
    records.append(Record(tmp_path / "started by hand"))
    monkeypatch.setattr(score_rows, "load_runs", lambda where: records)

    def rows(run):
        return [{"folder": run.folder.name}]

    found, source = score_rows.rows_of("anywhere", ["mine"], rows, published)
    assert found == [{"folder": "mine"}]
    assert source == "1 runs below anywhere"
    found, source = score_rows.rows_of("anywhere", ["nobody's"], rows, published)
    assert found == ROWS
    assert "published rows of published.csv" in source


def test_a_folder_without_runs_shows_what_is_published(tmp_path):
    published = tmp_path / "published.csv"
    score_rows.write_rows(published, ROWS)
    found, _ = score_rows.rows_of(tmp_path / "Runs", ["mine"], lambda run: [], published)
    assert np.array_equal(score_rows.column(found, "beta"), score_rows.column(ROWS, "beta"))
