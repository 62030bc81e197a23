"""A search: what it may choose, what it makes of rows and failures, and that a kill changes nothing."""

import csv
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from classification_suite import TINY

optuna = pytest.importorskip("optuna", reason="the extra `sweep` is not installed")

from surgrad.errors import UserError  # noqa: E402
from surgrad.runs.record import REPO, RunRecord, load_runs  # noqa: E402
from surgrad.search import study as search  # noqa: E402
from surgrad.search.config import SearchConfig  # noqa: E402
from surgrad.search.space import Choice, Integer, Number, parse_space  # noqa: E402

SCRIPT = REPO / "scripts" / "search.py"
CONFIGS = sorted(path.stem for path in (REPO / "configs" / "search").glob("*.yaml"))

# A run folder as the suite's scripts leave it, within milliseconds: valid_acc rises to 1 - (x - 0.3)^2 over 8 epochs;
# a row a line, resumed from the rows that are there, interrupted by SIGTERM, locked while it runs.
STAND_IN = """
import fcntl, json, math, os, signal, sys, time
from pathlib import Path

given = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder, x = Path(given["hydra.run.dir"].strip('"')), float(given["x"])
if "wrong" in given:
    sys.exit("error: unknown key wrong; allowed: x")
folder.mkdir(parents=True, exist_ok=True)
lock = (folder / ".lock").open("a")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
(folder / "config.yaml").write_text(f"x: {x}")

def status(name):
    (folder / "summary.json").write_text(json.dumps({"status": name}))

def interrupted(number, frame):
    status("interrupted")
    os._exit(143)

signal.signal(signal.SIGTERM, interrupted)
table = folder / "metrics.csv"
if not table.exists():
    table.write_text("epoch,valid_acc\\n")
rows = table.read_text().count("\\n") - 1
if rows < 9:
    with (folder / "starts").open("a") as starts:
        starts.write(f"{rows}\\n")
status("running")
for epoch in range(rows, 9):
    if x > float(given.get("diverges_above", 2)) and epoch == 2:
        status("failed")
        sys.exit("error: the loss is nan")
    time.sleep(float(given.get("seconds", 0.01)))
    with table.open("a") as file:
        file.write(f"{epoch},{(1 - (x - 0.3) ** 2) * epoch / 8}\\n")
status("done")
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(STAND_IN))
    return path


@pytest.fixture
def cfg(script, tmp_path):
    def make(overrides=(), space=None, **keys):
        space = {"x": "interval(0, 1)"} if space is None else space
        keys = {"nb_trials": 6, "startup_trials": 2, "warmup_epochs": 3, "folder": str(tmp_path / "search")} | keys
        return SearchConfig(script=str(script), overrides=list(overrides), space=space, **keys)

    return make


def outcome(cfg) -> list[tuple]:
    """What a search found, without the folders' names."""
    with (cfg.search_folder / "trials.csv").open() as file:
        return [(row["trial"], row["state"], row["valid_acc"], row["x"]) for row in csv.DictReader(file)]


def starts(cfg) -> list[str]:
    """The first epoch of every start of every run."""
    return [line for path in cfg.search_folder.glob("*/starts") for line in path.read_text().split()]


def command_line(cfg, *more: str) -> list[str]:
    keys = [
        f"{key}={getattr(cfg, key)}" for key in ("script", "nb_trials", "startup_trials", "warmup_epochs", "folder")
    ]
    space = [f"space.{key}={value}" for key, value in cfg.space.items()]
    return [sys.executable, str(SCRIPT), *keys, *space, *more, "--", *cfg.overrides]


def load_search_script():
    spec = importlib.util.spec_from_file_location("search_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- what is asked for
def test_a_space_is_read_as_written():
    space = {"a": "log(1e-3, 1e-1)", "b": "interval(0,1)", "c": "int(1, 4)", "d": "logint(2,64)"}
    space |= {"e": "choice(x, [1,2], 'p,q')"}
    assert list(parse_space(space).values()) == [
        Number(1e-3, 1e-1, log=True),
        Number(0.0, 1.0),
        Integer(1, 4),
        Integer(2, 64, log=True),
        Choice(("x", "[1,2]", "'p,q'")),
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("log(0, 1)", "low must be positive"),
        ("interval(1, 1)", "low must be below high"),
        ("interval(1)", "wanted two ends"),
        ("int(1, 2.5)", "invalid literal"),
        ("choice(a, a)", "two or more different"),
        ("gauss(0, 1)", r"wanted one of log\(low,high\), interval"),
        ("0.5", "wanted one of"),
    ],
)
def test_an_entry_that_cannot_be_read_is_named(entry, said):
    with pytest.raises(UserError, match=rf"space\.method\.lr=.*{said}"):
        parse_space({"method.lr": entry})


@pytest.mark.parametrize("name", CONFIGS)
def test_every_search_configuration_composes(name):
    own = [] if name != "config" else ["script=Classification/deep_convSNN.py", "space.seed=int(1,3)"]
    cfg = load_search_script().configuration([f"--config-name={name}", *own])
    assert cfg.script_path.is_file()
    assert cfg.ranges()


def test_a_command_line_is_the_search_it_says():
    line = ["script=Classification/deep_convSNN.py", "space.method.lr=log(1e-3,1e-1)", "space.beta=choice(5,[a,b])"]
    cfg = load_search_script().configuration(
        [*line, "nb_trials=7", "--", "dataset=randman", "dataset.nb_filters=[4,4]"]
    )
    assert cfg.ranges() == {"method.lr": Number(1e-3, 1e-1, log=True), "beta": Choice(("5", "[a,b]"))}
    assert (cfg.nb_trials, cfg.overrides) == (7, ["dataset=randman", "dataset.nb_filters=[4,4]"])


def test_options_of_a_script_come_before_its_overrides(cfg):
    """An option between overrides would end their list for the script's parser."""
    assert cfg(["y=1", "--config-name=ladder/full", "z=2"]).overrides == ["--config-name=ladder/full", "y=1", "z=2"]


def test_what_makes_it_another_search(cfg):
    same, others = cfg(nb_trials=99, workers=3), [cfg(seed=1), cfg(["y=1"]), cfg(space={"x": "interval(0,2)"})]
    assert same.study_name == cfg().study_name
    assert len({c.study_name for c in (same, *others)}) == 4


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"metric": "test_acc"}, "the test set must not choose"),
        ({"direction": "up"}, "direction=up: unknown"),
        ({"pruner": "hyperband"}, "pruner=hyperband: unknown.*median, halving, none"),
        ({"workers": 0}, "workers=0: must be positive"),
        ({"space": {}}, "nothing to search"),
    ],
)
def test_mistakes_are_refused(cfg, keys, said):
    with pytest.raises(UserError, match=said):
        cfg(**keys)


# ---------------------------------------------------------------- what is done
def test_the_best_epoch_of_the_validation_set_is_the_worth_of_a_trial(cfg):
    c = cfg(pruner="none", workers=2)
    study = search.search(c)
    rows = search.table(study, c)
    assert [row["state"] for row in rows] == ["done"] * 6
    for row in rows:
        assert row["valid_acc"] == pytest.approx(1 - (row["x"] - 0.3) ** 2)
        assert row["best_epoch"] == 8
    assert rows == sorted(rows, key=lambda row: abs(row["x"] - 0.3))
    assert search.best_command(study, c).endswith(f"x={rows[0]['x']}")
    assert {record.status for record in load_runs(c.search_folder)} == {"done"}


def test_importance_tells_which_parameter_matters(cfg):
    c = cfg(space={"x": "interval(0, 1)", "y": "interval(0, 1)"}, nb_trials=12, pruner="none", workers=4)
    shares = search.importances(search.search(c), c)
    assert shares["x"] > shares["y"]
    assert sum(shares.values()) == pytest.approx(1)


def test_a_trial_is_pruned_by_its_rows_and_leaves_an_interrupted_run(cfg):
    c = cfg(["seconds=0.2"], sampler="random")
    rows = search.table(search.search(c), c)
    done, pruned = ([row for row in rows if row["state"] == state] for state in ("done", "pruned"))
    assert len(done) + len(pruned) == 6
    assert done
    assert pruned
    for row in pruned:
        assert row["best_epoch"] == 3  # the first after warmup_epochs
        record = RunRecord(c.search_folder / row["folder"])
        assert record.status == "interrupted"
        assert 3 <= record.metrics["epoch"][-1] < 8


def test_equal_trials_are_one_run(cfg):
    c = cfg(space={"x": "choice(0.3, 0.9)"}, pruner="none")
    search.search(c)
    assert [row[1] for row in outcome(c)] == ["done"] * 6
    assert starts(c) == ["0", "0"]


def test_a_failure_is_a_failed_trial_but_a_mistake_ends_the_search(cfg):
    c = cfg(["diverges_above=0.5"], pruner="none")
    states = {row["x"] > 0.5: row["state"] for row in search.table(search.search(c), c)}
    assert states == {False: "done", True: "failed"}
    with pytest.raises(UserError, match="trial 0 failed before its first epoch: unknown key wrong"):
        search.search(cfg(["wrong=1"], folder=c.folder + "2"))
    with pytest.raises(UserError, match=r"metric=valid_loss: .* its columns: epoch, valid_acc"):
        search.search(cfg(metric="valid_loss", folder=c.folder + "3"))


def test_a_study_of_that_name_that_is_another_search_is_refused(cfg):
    search.search(cfg(study="mine", nb_trials=1))
    with pytest.raises(UserError, match=r"study=mine .* is another search"):
        search.search(cfg(study="mine", space={"x": "interval(0, 2)"}))


def test_more_trials_go_on_where_the_search_ended(cfg):
    c = cfg(nb_trials=3)
    search.search(c)
    before = outcome(c)
    search.search(cfg(nb_trials=6))
    assert {row for row in before if row[1] == "done"} <= set(outcome(c))
    assert len(outcome(c)) == 6


@pytest.mark.slow
def test_killed_anywhere_a_search_ends_as_if_it_had_not_been(cfg, tmp_path):
    undisturbed, killed = cfg(["seconds=0.05"], folder=str(tmp_path / "a")), cfg(["seconds=0.05"])
    search.search(undisturbed)
    for _ in range(2):
        process = subprocess.Popen(command_line(killed), start_new_session=True, stdout=subprocess.DEVNULL)
        seen = len(starts(killed))
        while process.poll() is None and len(starts(killed)) < seen + 2:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)  # the search and its runs
        process.wait()
    done = subprocess.run(command_line(killed), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert outcome(killed) == outcome(undisturbed)
    assert "best: python3" in done.stdout
    assert len(starts(killed)) <= len(starts(undisturbed)) + 2  # only what a kill had cut was started again


def test_a_run_that_outlived_its_search_is_waited_for(cfg):
    c = cfg(["seconds=0.3"], nb_trials=1, pruner="none")
    process = subprocess.Popen(command_line(c, "pruner=none"), stdout=subprocess.DEVNULL)
    while not starts(c):
        time.sleep(0.02)
    process.kill()  # the run goes on
    process.wait()
    search.search(c)
    assert starts(c) == ["0"]
    assert [row[1] for row in outcome(c)] == ["done"]


@pytest.mark.slow
def test_two_searches_at_once_share_the_trials(cfg):
    c = cfg(["seconds=0.05"])
    both = [subprocess.Popen(command_line(c, "workers=2"), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(row[0] for row in outcome(c)) == [str(k) for k in range(6)]
    assert starts(c) == ["0"] * 6


@pytest.mark.slow
def test_ctrl_c_stops_the_runs_and_the_same_command_goes_on(cfg):
    c = cfg(["seconds=0.2"], nb_trials=2, pruner="none")
    process = subprocess.Popen(
        command_line(c, "pruner=none"),
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run in the background
    )
    while not starts(c):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert load_runs(c.search_folder)[0].status == "interrupted"
    search.search(c)
    assert [row[1] for row in outcome(c)] == ["done", "done"]


@pytest.mark.slow
def test_the_deep_convolutional_network_is_searched_by_its_own_command(tmp_path):
    folder = tmp_path / "search"
    tiny = [*TINY, "plot=none", "fano.evaluate=false"]
    own = ["script=Classification/deep_convSNN.py", "space.method.lr=log(1e-3,1e-1)", f"folder={folder}", "nb_trials=2"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *own, "workers=2", "--", *tiny], capture_output=True, text=True, cwd=Path(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    records = load_runs(folder)
    rates = {record.get("method.lr") for record in records}
    assert [record.status for record in records] == ["done", "done"]
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {float(row["method.lr"]) for row in rows} == rates
    for row in rows:
        assert float(row["valid_acc"]) == max(RunRecord(folder / row["folder"]).metrics["valid_acc"])
    assert f"method.lr={rows[0]['method.lr']}" in done.stdout
