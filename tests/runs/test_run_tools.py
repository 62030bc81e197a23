"""Looking at run folders in a terminal: tables that fit, numbers that are the runs', and nothing removed by mistake."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from surgrad.runs import __main__ as run_tools
from surgrad.runs import files, tables
from surgrad.runs.find import find_one
from surgrad.runs.folder import open_run
from surgrad.runs.record import RunRecord, load_runs
from surgrad.runs.wandb import WandbConfig

DISABLED = WandbConfig(mode="disabled")


def make(folder: Path, epochs: int = 3, error: type[BaseException] | None = None, **settings) -> RunRecord:
    """A run of a seed and a slope whose accuracy after epoch k is seed / 10 + k / 100."""
    config = {"seed": 1, "method": {"name": "superspike", "beta": 10.0}, "nb_epochs": epochs} | settings
    try:
        with open_run(folder, config, DISABLED) as run:
            for epoch in range(epochs):
                accuracy = config["seed"] / 10 + epoch / 100
                run.log({"epoch": epoch, "train_loss": 1 / (epoch + 1), "valid_acc": accuracy})
                run.checkpoint({"epoch": epoch, "w": torch.zeros(1)})
            if error:
                raise error("the loss\nis nan")
            run.summary["test_acc"] = accuracy
    except (RuntimeError, KeyboardInterrupt):
        pass
    return RunRecord(folder)


def abandoned(folder: Path, minutes_ago: float, **settings) -> Path:
    """A run whose process was killed a while ago."""
    make(folder, error=KeyboardInterrupt, **settings)
    summary = folder / "summary.json"
    files.write_json(summary, files.read_json(summary) | {"status": "running"})
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - 60 * minutes_ago,) * 2)
    return folder


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Three seeds done, one failed, one interrupted, one with another slope."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2, 10):
        make(tmp_path / f"Runs/superspike/seed={seed}-{seed:08x}", seed=seed)
    make(tmp_path / "Runs/superspike/seed=3-aaaaaaaa", error=RuntimeError, seed=3)
    make(tmp_path / "Runs/superspike/seed=4-bbbbbbbb", error=KeyboardInterrupt, seed=4)
    make(tmp_path / "Runs/superspike/seed=1-cccccccc", seed=1, method={"name": "superspike", "beta": 5.0})
    return tmp_path / "Runs"


def said(capsys, *arguments) -> list[str]:
    capsys.readouterr()  # what was logged while the runs were made
    run_tools.main([*map(str, arguments)])
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        run_tools.main([*map(str, arguments)])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


# ---------------------------------------------------------------- list
def test_list_says_what_came_of_the_runs_and_how_they_differ(study, capsys):
    lines = said(capsys, "list", study)
    assert lines[0] == "Runs/superspike: 6 runs: 4 done, 1 failed, 1 interrupted"
    assert lines[1].split() == ["run", "status", "test_acc", "age", "size", "differs", "in"]
    names = [line.split()[0] for line in lines[2:8]]
    assert names == [f"seed={n}" for n in ("1-00000001", "1-cccccccc", "2-00000002", "3-aaaaaaaa")] + [
        "seed=4-bbbbbbbb",
        "seed=10-0000000a",
    ]
    beta = {line.split()[0]: line.split()[-1] for line in lines[2:8]}
    assert beta["seed=1-cccccccc"] == "method.beta=5"
    assert {beta[name] for name in names if name != "seed=1-cccccccc"} == {"method.beta=10"}
    assert max(map(len, lines)) <= 100


def test_list_filters_sorts_and_takes_columns_from_metrics(study, capsys):
    lines = said(capsys, "list", study, "--status", "failed,interrupted", "--metrics", "valid_acc,train_loss")
    assert lines[1].split()[:4] == ["run", "status", "valid_acc", "train_loss"]
    assert [line.split()[1:4] for line in lines[2:4]] == [
        ["failed", "0.32", "0.3333"],
        ["interrupted", "0.42", "0.3333"],
    ]
    lines = said(capsys, "list", study, "--sort", "test_acc")
    assert [line.split()[2] for line in lines[2:8]] == ["1.02", "0.22", "0.12", "0.12", "-", "-"]
    assert said(capsys, "list", study, "--sort", "size")[-1].startswith("6 runs")


def test_list_names_a_place_without_runs(study, tmp_path, capsys):
    assert "no run folder matches" in refused(capsys, "list", study, tmp_path / "nowhere")


def test_list_of_runs_that_differ_in_more_than_fits_stays_within_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        make(tmp_path / f"Runs/a/seed={seed}", seed=seed, **{f"a_long_name_{k}": seed * k for k in range(20)})
    lines = said(capsys, "list", "Runs")
    assert max(map(len, lines)) <= 100
    assert lines[2].endswith("…")


# ---------------------------------------------------------------- show
def test_show_holds_configuration_numbers_and_the_traceback(study, capsys):
    text = "\n".join(said(capsys, "show", study / "superspike/seed=3-aaaaaaaa"))
    assert "status    failed: RuntimeError: the loss is nan" in text
    assert "  beta: 10.0" in text
    assert "  valid_acc: 0.32" in text
    assert 'raise error("the loss' in text
    assert "1 attempt" in text


def test_a_run_is_found_by_its_id(study, monkeypatch, capsys):
    monkeypatch.setattr("surgrad.runs.find.all_runs_folders", lambda: [study])
    assert said(capsys, "show", "aaaaaaaa")[0] == "Runs/superspike/seed=3-aaaaaaaa"
    assert "deadbeef: no run of this id below Runs" in refused(capsys, "show", "deadbeef")
    assert "6 runs; give one of" in refused(capsys, "show", study)
    assert find_one("superspike/seed=3-aaaaaaaa").folder == find_one("aaaaaaaa").folder


def test_the_last_lines_of_a_run_say_where_to_look_and_how_it_goes_on(study):
    folder = study / "superspike/seed=1-cccccccc"
    (folder / "Plots").mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png"):
        (folder / "Plots" / name).touch()
    where = "Runs/superspike/seed=1-cccccccc"
    assert tables.next_steps(folder, 20).splitlines() == [
        f"figures: {where}/Plots: a.png, b.png, c.png, …",
        f'look: surgrad.load_run("{where}") in Python, or: surgrad runs show cccccccc',
        "longer: the same command with nb_epochs=40 goes on from here",
    ]
    assert (
        tables.next_steps(study / "mine")
        == 'look: surgrad.load_run("Runs/mine") in Python, or: surgrad runs show "Runs/mine"'
    )


# ---------------------------------------------------------------- compare
def test_compare_draws_the_curves_and_names_the_differences(study, tmp_path, capsys):
    out = tmp_path / "figures/curves.png"
    lines = said(capsys, "compare", study / "superspike", "--metrics", "valid_acc", "--out", out)
    assert out.read_bytes()[1:4] == b"PNG"
    assert "method.beta: 10, 5" in lines
    assert "seed: 1, 2, 3, 4, 10" in lines
    assert lines[-1] == "curves of valid_acc: figures/curves.png"
    assert "--metrics nothing: no run has such a column; there are: epoch, train_loss" in refused(
        capsys, "compare", study, "--metrics", "nothing"
    )


def test_curves_are_the_rows_of_the_runs(study):
    from surgrad.figures.runs import curves

    records = load_runs(study)
    figure = curves({record.name: ([record.metrics], {}) for record in records}, ["train_loss", "valid_acc"])
    for axes, column in zip(figure.axes, ("train_loss", "valid_acc"), strict=True):
        drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()}
        assert drawn == {record.name: record.metrics[column].tolist() for record in records}


def test_seeds_of_a_setting_are_drawn_as_their_mean_with_the_interval_of_student_s_t(study, monkeypatch):
    from scipy.stats import ttest_1samp

    from surgrad.figures import runs

    drawn, curves = [], runs.curves
    monkeypatch.setattr(runs, "curves", lambda *arguments: drawn.append(curves(*arguments)) or drawn[0])
    list(run_tools.compare_runs(run_tools._parser().parse_args(["compare", str(study), "--metrics", "valid_acc"])))
    (axes,), (legend,) = drawn[0].axes, drawn[0].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["beta=10 (n = 5)", "beta=5"]
    seeds = np.array([[seed / 10 + epoch / 100 for epoch in range(3)] for seed in (1, 2, 3, 4, 10)])
    (mean,) = (line for line in axes.get_lines() if line.get_label() == "beta=10 (n = 5)")
    assert mean.get_ydata() == pytest.approx(seeds.mean(0))
    (band,) = axes.collections
    low, high = (np.clip(end, 0, 1) for end in ttest_1samp(seeds, 0).confidence_interval())
    ends = band.get_paths()[0].vertices[:, 1]
    assert (ends.min(), ends.max()) == pytest.approx((low.min(), high.max()))
    whole, box = drawn[0].bbox, legend.get_window_extent()
    assert whole.x0 <= box.x0
    assert box.x1 <= whole.x1


# ---------------------------------------------------------------- clean
def test_clean_lists_first_and_removes_only_what_it_listed(study, capsys):
    before = sorted(study.rglob("*"))
    lines = said(capsys, "clean", study)
    listed = [line.split()[:2] for line in lines[1:-1]]
    assert listed == [
        ["Runs/superspike/seed=3-aaaaaaaa", "failed"],
        ["Runs/superspike/seed=4-bbbbbbbb", "interrupted"],
    ]
    assert "nothing is removed without --yes" in lines[-1]
    assert sorted(study.rglob("*")) == before
    assert said(capsys, "clean", study, "--yes", "--status", "failed")[-1].startswith("removed 1 folders")
    assert not (study / "superspike/seed=3-aaaaaaaa").exists()
    assert said(capsys, "clean", study, "--yes")[-1].startswith("removed 1 folders")
    assert sorted(path.name for path in study.iterdir()) == ["superspike"]
    assert [record.status for record in load_runs(study)] == ["done"] * 4
    assert said(capsys, "clean", study) == ["nothing to remove"]


def test_clean_leaves_what_is_or_may_be_running(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recent = abandoned(tmp_path / "Runs/recent", minutes_ago=5)
    long_ago = abandoned(tmp_path / "Runs/long_ago", minutes_ago=15, seed=2)
    with open_run(tmp_path / "Runs/locked", {"seed": 3}, DISABLED) as run:
        for path in (*run.folder.iterdir(), run.folder):
            os.utime(path, (0, 0))
        assert said(capsys, "clean", "Runs", "--yes")[-1].startswith("removed 1 folders")
        assert run.folder.exists()
    assert recent.exists()
    assert not long_ago.exists()


# ---------------------------------------------------------------- tables
def test_tables_line_up_and_one_column_gives_way():
    text = tables.render(
        ["run", "status", "valid_acc_best_valid"], [["a" * 50, "done", "0.5"], ["b", "-", "12.25"]], width=40
    )
    first, second, *rows = text.splitlines()
    assert first.split() == ["run", "status", "valid_acc_"]
    assert second.split() == ["best_valid"]
    assert rows[0].split()[0] == "a" * (len(rows[0].split()[0]) - 1) + "…"
    assert {len(line) for line in (first, second, *rows)} == {40}  # numbers end where their column's name ends


def test_ages_and_sizes(tmp_path):
    record = make(tmp_path / "run")
    written = tables.changed(record)
    assert [tables.age(record, written + s) for s in (3, 100, 7300, 200_000)] == ["3 s", "2 min", "2 h", "2 d"]
    assert [tables.human(n) for n in (12, 1234, 5_600_000, 7.8e9)] == ["12 B", "1.23 kB", "5.6 MB", "7.8 GB"]
    assert tables.size(record.folder) == sum(path.stat().st_size for path in record.folder.rglob("*") if path.is_file())


def test_the_command(study, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "surgrad.runs", "list", study],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("6 runs: 4 done, 1 failed, 1 interrupted\n")
