"""The papers table: numbers from run folders, verdicts, and a committed page that says what its sources say."""

import importlib.util
import math
import shlex

import pytest
from omegaconf import OmegaConf

from surgrad.analysis.claims import Claim, Group, Measured, Shelf, judge, load_claims, load_measured, measure, record
from surgrad.errors import UserError
from surgrad.runs.folder import open_run
from surgrad.runs.record import REPO

PUBLISHED = load_claims(REPO / "docs" / "claims.yaml")


def papers_table():
    spec = importlib.util.spec_from_file_location("papers_table", REPO / "scripts" / "papers_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def claim(**changes):
    content = {"id": "x", "paper": "A", "claim": "it learns", "source": "goal", "command": "python3 a.py"}
    return Claim(**content | {"runs": "Suite/Runs/*/*", "key": "acc"} | changes)


@pytest.fixture
def shelf(tmp_path):
    """Two methods, three seeds: the loss of seed s falls from 10 to s + 1 (a) or s + 2 (b)."""
    for method, offset in (("a", 1.0), ("b", 2.0)):
        for seed in range(3):
            config = {"seed": seed, "method": {"name": method}}
            with open_run(tmp_path / f"Suite/Runs/{method}/seed={seed}", config) as run:
                for epoch, loss in enumerate((10.0, 4.0, seed + offset)):
                    run.log({"epoch": epoch, "loss": loss})
                run.summary["acc"] = 0.5 + 0.1 * seed
    with pytest.raises(RuntimeError), open_run(tmp_path / "Suite/Runs/a/broken", {"seed": 7, "method": {"name": "a"}}):
        raise RuntimeError("a run that failed has no say")
    return Shelf([tmp_path])


@pytest.mark.parametrize(
    ("metric", "key", "rows", "expected"),
    [
        ("summary", "acc", 1, [0.5, 0.6, 0.7]),
        ("last", "loss", 1, [1, 2, 3]),
        ("last", "loss", 2, [2.5, 3, 3.5]),
        ("best", "loss", 1, [10, 10, 10]),
        ("at", "loss", 1, [4, 4, 4]),
        ("fall", "loss", 1, [0.9, 0.8, 0.7]),
    ],
)
def test_a_number_is_taken_from_every_finished_run(shelf, metric, key, rows, expected):
    found = measure(claim(where={"method.name": "a"}, metric=metric, key=key, rows=rows), shelf)
    assert list(found.values) == ["0", "1", "2"]
    assert list(found.values.values()) == pytest.approx(expected)


def test_differences_are_paired_by_seed(shelf):
    found = measure(claim(runs="Suite/Runs/b/*", minus=Group("Suite/Runs/a/*"), metric="last", key="loss"), shelf)
    assert list(found.values.values()) == [1, 1, 1]


def test_runs_that_are_not_there_give_nothing(shelf):
    assert measure(claim(runs="Other/Runs/*"), shelf) is None
    assert measure(claim(where={"method.name": "c"}), shelf) is None
    assert measure(claim(key="no_such_number"), shelf) is None


@pytest.mark.parametrize(
    ("changes", "values", "verdict"),
    [
        ({"expect": {"within": 0.1}, "published": 1.0}, [1.05, 1.1], "reproduced"),
        ({"expect": {"within": 0.1}, "published": 1.0}, [1.2, 1.3], "not reproduced"),
        ({"expect": {"relative": 0.1}, "published": -10.0}, [-9.5, -9.7], "reproduced"),
        ({"expect": {"at_least": 0.5}}, [0.4, 0.7], "reproduced"),
        ({"expect": {"at_most": 0.5}}, [0.4, 0.7], "not reproduced"),
        ({"expect": {"above": 0.0}}, [1.0, 1.1, 1.2], "reproduced"),
        ({"expect": {"above": 0.0}}, [-1.0, 1.1, 1.2], "not reproduced"),
        ({"expect": {"below": 0.0}}, [-1.0, -1.1, -1.2], "reproduced"),
        ({"expect": {"above": 0.0}}, [1.0], "not reproduced"),  # one run has no interval
        ({}, [1.0], "reported"),
        ({"expect": {"at_least": 0.5}, "seeds": 3}, [0.6, 0.7], "not run"),
    ],
)
def test_verdicts(changes, values, verdict):
    assert judge(claim(**changes), Measured(dict(enumerate(values)))).word == verdict


def test_without_runs_the_verdict_says_why():
    assert judge(claim(), None) == ("not run", "no runs")
    assert judge(claim(note="no GPU"), None) == ("not run", "no GPU")


def test_what_was_recorded_comes_back_and_other_claims_stay(tmp_path):
    one, two = Measured({"0": 1 / 3, "1": math.pi}, "2026, cpu"), Measured({"0": 2.0})
    record(tmp_path / "measured.json", {"one": one})
    record(tmp_path / "measured.json", {"two": two, "three": None})
    assert load_measured(tmp_path / "measured.json") == {"one": one, "two": two}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"paper": "B"}, "paper B is unknown"),
        ({"id": "first"}, "two claims are called first"),
        ({"colour": "red"}, "colour"),
        ({"metric": "median"}, "metric=median"),
        ({"tier": "weeks"}, "tier=weeks"),
        ({"expect": {"near": 1}}, "near"),
        ({"expect": {"within": 1}}, "needs a published value"),
        ({"key": "???"}, "key"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, changes, says):
    first = {"id": "first", "paper": "A", "claim": "", "source": "goal", "command": "", "runs": "", "key": "acc"}
    content = {"papers": [{"key": "A", "cite": "A"}], "claims": [first, first | {"id": "x"} | changes]}
    OmegaConf.save(OmegaConf.create(content), tmp_path / "claims.yaml")
    with pytest.raises(UserError, match=says):
        load_claims(tmp_path / "claims.yaml")


@pytest.mark.parametrize("published", PUBLISHED.claims, ids=lambda c: c.id)
def test_every_claim_names_a_script_and_a_figure_that_exist(published):
    for command in filter(None, published.command.split("\n")):
        program, script, *_ = shlex.split(command)
        assert program == "python3"
        assert (REPO / script).is_file()
    assert published.figure is None or (REPO / "docs" / "figures" / published.figure).is_file()
    assert published.note or published.expect or published.source == "goal"


@pytest.mark.parametrize("name", ["papers.md", "papers.html"])
def test_the_pages_say_what_claims_and_measurements_say(name):
    """Run `python3 scripts/papers_table.py` after a change to either."""
    table = papers_table()
    found = table.rows(PUBLISHED, load_measured(REPO / "docs" / "measured.json"))
    text = {"papers.md": table.markdown, "papers.html": table.page}[name](PUBLISHED, found)
    assert (REPO / "docs" / name).read_text() == text
