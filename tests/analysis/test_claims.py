"""The papers table: numbers from the runs of a claim's command, verdicts, and a committed page that says the same."""

import hashlib
import importlib.util
import math
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from surgrad.analysis import measured as measuring
from surgrad.analysis.claims import KINDS, Claim
from surgrad.analysis.measured import (
    UNKNOWN,
    Measured,
    RunFolders,
    Taken,
    is_run_of,
    jobs_where,
    read_measured,
    write_measured,
)
from surgrad.analysis.measured import (
    measure as measure_by,
)
from surgrad.analysis.papers_page import markdown, page, rows
from surgrad.analysis.verdicts import EXPECTATIONS, VERDICTS, allowed, decide, judge
from surgrad.config.jobs import jobs_of_command
from surgrad.errors import UserError
from surgrad.experiments.claims import load_claims
from surgrad.runs.folder import open_run
from surgrad.runs.intervals import Interval, interval
from surgrad.runs.record import REPO, RunRecord

PUBLISHED = load_claims(REPO / "docs" / "claims.yaml")
MEASURED = read_measured(REPO / "docs" / "measured.csv")
COMMAND = "python3 Spike_train_matching/run_superspike.py -m feedback=symmetric,random nb_epochs=3 seed=0,1,2"


def papers_table():
    spec = importlib.util.spec_from_file_location("papers_table", REPO / "scripts" / "papers_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(what, folders):
    return measure_by(what, folders, jobs_of_command)


def claim(**changes):
    content = {"id": "x", "paper": "A", "claim": "it learns", "kind": "goal", "source": "goal", "key": "acc"}
    return Claim(**content | {"command": COMMAND, "where": {"feedback": "symmetric"}} | changes)


# ---------------------------------------------------------------- verdicts
@pytest.mark.parametrize(
    ("expect", "published", "values", "word"),
    [
        ({"within": 0.1}, 1.0, [1.04, 1.05, 1.06], "reproduced"),
        ({"within": 0.1}, 1.0, [0.9, 1.0, 1.1], "undecided"),  # the mean is right, the interval is not
        ({"within": 0.1}, 1.0, [1.12, 1.2, 1.3], "undecided"),
        ({"within": 0.1}, 1.0, [1.29, 1.3, 1.31], "not reproduced"),
        ({"relative": 0.1}, -10.0, [-9.5, -9.6, -9.7], "reproduced"),
        ({"above": 0.0}, None, [1.0, 1.1, 1.2], "reproduced"),
        ({"above": 0.0}, None, [-1.0, 1.1, 1.2], "undecided"),
        ({"above": 0.0}, None, [-1.0, -1.1, -1.2], "not reproduced"),
        ({"below": 0.0}, None, [-1.0, -1.1, -1.2], "reproduced"),
        ({"above": 0.0}, None, [1.0], "undecided"),  # fewer than asked for
        ({}, None, [1.0, 2.0, 3.0], "reported"),
        ({"above": 0.0}, None, [], "not run"),
    ],
)
def test_the_whole_interval_decides(expect, published, values, word):
    assert judge(interval(values), expect, published, nb_asked=3, exact=False).word == word


def test_one_run_decides_only_what_has_no_randomness():
    one = interval([0.5])
    assert judge(one, {"above": 0.0}, None, nb_asked=1, exact=False) == ("undecided", "one run has no interval")
    assert judge(one, {"above": 0.0}, None, nb_asked=1, exact=True).word == "reproduced"
    assert judge(one, {"above": 0.6}, None, nb_asked=1, exact=True).word == "not reproduced"


ends = st.floats(-10, 10)


@given(st.sampled_from(sorted(EXPECTATIONS)), ends, st.floats(0, 5), ends, st.floats(0, 5))
def test_reproduced_lies_inside_and_not_reproduced_outside(name, published, x, mean, half):
    low, high = allowed({name: x}, published)
    found = Interval(mean, mean - half, mean + half, 5)
    word = decide(found, (low, high))
    overlap = min(found.high, high) - max(found.low, low)
    assert (word == "reproduced") == (low <= found.low and found.high <= high)
    assert (word == "not reproduced") == (overlap < 0)


@given(st.lists(ends, min_size=2, max_size=6), ends, st.floats(0.01, 5))
def test_more_of_the_same_runs_never_turn_a_verdict_into_its_opposite(values, published, x):
    words = {decide(interval(values * k), allowed({"within": x}, published)) for k in (1, 2, 8)}
    assert not {"reproduced", "not reproduced"} <= words


# ---------------------------------------------------------------- numbers of runs
def write(root, job, numbers, losses=(10.0, 4.0, 1.0)):
    """A finished run of a job, as its script would leave it."""
    folder = root / "Spike_train_matching/Runs" / "+".join(job.overrides)
    with open_run(folder, job.settings) as run:
        for epoch, loss in enumerate(losses):
            run.log({"epoch": epoch, "loss": loss})
        run.summary.update(numbers)


@pytest.fixture
def folders(tmp_path):
    """The runs of the command: the loss of seed s falls from 10 to s + 1 (symmetric) or s + 2 (random)."""
    for job in jobs_of_command(COMMAND):
        seed, last = job.settings["seed"], job.settings["seed"] + {"symmetric": 1.0, "random": 2.0}[job.get("feedback")]
        write(tmp_path, job, {"acc": 0.5 + 0.1 * seed}, (10.0, 4.0, last))
    return RunFolders([tmp_path])


@pytest.mark.parametrize(
    ("metric", "key", "nb_rows", "expected"),
    [
        ("summary", "acc", 1, [0.5, 0.6, 0.7]),
        ("last", "loss", 1, [1, 2, 3]),
        ("last", "loss", 2, [2.5, 3, 3.5]),
        ("best", "loss", 1, [10, 10, 10]),
        ("at", "loss", 1, [4, 4, 4]),
        ("fall", "loss", 1, [0.9, 0.8, 0.7]),
    ],
)
def test_a_number_is_taken_from_every_finished_run(folders, metric, key, nb_rows, expected):
    found = measure(claim(metric=metric, key=key, rows=nb_rows), folders)
    assert list(found.values) == [0, 1, 2]
    assert list(found.values.values()) == pytest.approx(expected)


def test_differences_are_paired_by_seed_and_both_sides_are_kept(folders):
    what = claim(where={"feedback": "random"}, minus={"feedback": "symmetric"}, metric="last", key="loss")
    found = measure(what, folders)
    assert found.values == {0: 1, 1: 1, 2: 1}
    assert [(one.part, one.value) for one in found.taken if one.seed == 1] == [("first", 3), ("second", 2)]


def test_runs_that_share_a_unit_count_once_and_only_with_all_their_seeds(tmp_path):
    """Over speakers, say, not over all runs: what comes from one speaker is not drawn anew for every seed."""
    jobs = jobs_of_command(COMMAND.replace("nb_epochs=3", "nb_epochs=2,3"))
    ahead = {2: 1.0, 3: 5.0}  # of random before symmetric, at each number of epochs
    values = [10.0 ** job.get("seed") + ahead[job.get("nb_epochs")] * (job.get("feedback") == "random") for job in jobs]
    what = claim(command=COMMAND.replace("nb_epochs=3", "nb_epochs=2,3"), where={"feedback": "random"})
    difference = claim(command=what.command, where=what.where, minus={"feedback": "symmetric"}, unit="nb_epochs")
    for job, value in zip(jobs[1:], values[1:], strict=True):
        write(tmp_path, job, {"acc": value})
    assert measure(difference, RunFolders([tmp_path])).values == {"3": pytest.approx(5)}
    write(tmp_path, jobs[0], {"acc": values[0]})
    found = measure(difference, RunFolders([tmp_path]))
    assert found.values == {"2": pytest.approx(1), "3": pytest.approx(5)}
    assert found.interval.n == 2
    write_measured(tmp_path / "measured.csv", {"x": found})
    assert read_measured(tmp_path / "measured.csv") == {"x": found}


def test_a_value_says_where_it_comes_from(folders):
    one = measure(claim(), folders).taken[0]
    assert len(one.run) == 8
    assert one.torch == __import__("torch").__version__
    assert one.ended.startswith("20")
    assert one.machine.endswith(" threads")
    assert one.command == UNKNOWN  # it was not started by a script


def test_a_value_names_the_files_that_it_was_computed_on(tmp_path):
    clips = tmp_path / "clips.h5"
    clips.write_bytes(b"clips")
    for name, settings in {"read": {"train_path": str(clips)}, "drawn": {}}.items():
        with open_run(tmp_path / name, {"seed": 0, **settings}):
            pass
    read, drawn = (RunRecord(tmp_path / name) for name in ("read", "drawn"))
    assert measuring.data_of(read) == f"train_path:{hashlib.sha256(b'clips').hexdigest()[:12]}"
    assert measuring.data_of(drawn) == UNKNOWN


@pytest.mark.parametrize("changed", ["nb_epochs=2", "lr_h=0.5", "dt=2e-3", "seed=3"])
def test_runs_of_another_command_do_not_count(folders, tmp_path, changed):
    (other,) = jobs_of_command(f"{COMMAND.replace('-m ', '').replace('symmetric,', '').replace('0,1,', '')} {changed}")
    before = measure(claim(where={"feedback": "random"}), folders)
    write(tmp_path, other, {"acc": 99.0})
    assert measure(claim(where={"feedback": "random"}), RunFolders([tmp_path])).values == before.values


def test_a_run_from_before_a_key_existed_counts_unless_the_command_sets_that_key():
    job = jobs_of_command(COMMAND)[0]
    run = measuring.identity(job.settings)
    assert is_run_of(run, job)
    assert is_run_of({key: value for key, value in run.items() if key != "gamma"}, job)
    assert not is_run_of({key: value for key, value in run.items() if key != "nb_epochs"}, job)
    assert not is_run_of(run | {"gamma": 0.5}, job)
    assert not is_run_of(run | {"a_key_that_is_gone": 1}, job)


def test_runs_that_are_not_there_give_nothing(folders, tmp_path):
    assert measure(claim(command=None), folders) is None
    assert measure(claim(key="no_such_number"), folders) is None
    assert measure(claim(), RunFolders([tmp_path / "elsewhere"])) is None


def test_what_was_recorded_comes_back(tmp_path):
    one = Measured((Taken("value", 0, 1 / 3, "a, b", "0123abcd"), Taken("value", 1, math.pi)))
    two = Measured((Taken("first", 0, 2.0), Taken("second", 0, 0.5)))
    write_measured(tmp_path / "measured.csv", {"one": one, "two": two})
    assert read_measured(tmp_path / "measured.csv") == {"one": one, "two": two}
    assert two.values == {0: 1.5}
    assert read_measured(tmp_path / "nothing.csv") == {}


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "measured.csv").write_text("claim,part,seed,value\none,value,0,high\n")
    with pytest.raises(UserError, match=r"measured.csv, line 2"):
        read_measured(tmp_path / "measured.csv")


def test_fewer_runs_do_not_replace_more():
    many, few = (Measured(tuple(Taken("value", seed, 0.0) for seed in range(n))) for n in (3, 1))
    merged = papers_table().merged
    assert merged({"a": many}, {"a": few, "b": few}) == {"a": many, "b": few}
    assert merged({"a": few}, {"a": many}) == {"a": many}


def test_seeds_of_one_command_on_the_same_data_are_kept_together():
    def runs(seeds, beta=10, data="d"):
        command = "deep_convSNN.py beta={beta} seed={seed} nb_epochs=9"
        return Measured(tuple(Taken("value", k, k / 8, command.format(beta=beta, seed=k), data=data) for k in seeds))

    merged = papers_table().merged
    assert merged({"a": runs([1])}, {"a": runs([2, 3])}) == {"a": runs([1, 2, 3])}
    assert merged({"a": runs([1, 2, 3])}, {"a": runs([2])}) == {"a": runs([1, 2, 3])}
    for other in (runs([2, 3], beta=20), runs([2, 3], data="e")):
        assert merged({"a": runs([1])}, {"a": other}) == {"a": other}
    assert merged({"a": runs([1], data="not recorded")}, {"a": runs([2], data="not recorded")})["a"].values == {
        2: 2 / 8
    }


# ---------------------------------------------------------------- the file
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"paper": "B"}, "paper B is unknown"),
        ({"id": "first"}, "two claims are called first"),
        ({"colour": "red"}, "colour"),
        ({"metric": "median"}, "metric=median"),
        ({"tier": "weeks"}, "tier=weeks"),
        ({"kind": "rumour"}, "kind=rumour"),
        ({"expect": {"near": 1}, "margin": "m"}, "near"),
        ({"expect": {"within": 1}, "margin": "m"}, "needs a published value"),
        ({"expect": {"above": 1}}, "needs a margin"),
        ({"expect": {"above": 1}, "margin": "n"}, "margin n is unknown"),
        ({"key": "???"}, "key"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, changes, says):
    first = {"id": "first", "paper": "A", "claim": "", "kind": "goal", "source": "goal", "key": "acc"}
    content = {
        "papers": [{"key": "A", "cite": "A"}],
        "margins": [{"key": "m", "why": "it matters", "dated": "2026-11-22"}],
        "claims": [first, first | {"id": "x"} | changes],
    }
    OmegaConf.save(OmegaConf.create(content), tmp_path / "claims.yaml")
    with pytest.raises(UserError, match=says):
        load_claims(tmp_path / "claims.yaml")


CLAIMS = pytest.mark.parametrize("published", PUBLISHED.claims, ids=lambda c: c.id)


@CLAIMS
def test_every_claim_names_a_script_and_a_figure_that_exist(published):
    for line in published.lines:
        program, script, *_ = shlex.split(line)
        assert program == "python3"
        assert (REPO / script).is_file()
    assert published.lines or published.note
    assert published.figure is None or (REPO / "docs" / "figures" / published.figure).is_file()
    assert published.note or published.expect or published.kind == "goal"


@CLAIMS
def test_a_claim_takes_the_runs_of_its_command_and_holds_no_others(published):
    """Seeds that are held are those that the command makes; recorded commands set what the claim's command sets."""
    held = MEASURED.get(published.id)
    groups = {"first": published.where, "second": published.minus}
    seeds = {}
    for part, where in groups.items():
        jobs = [] if where is None else jobs_where(published.lines, where, jobs_of_command)
        asked = [(str(job.get(published.unit)), job.get("seed")) for job in jobs]
        assert len(set(asked)) == len(asked), f"{part}: runs of one seed differ in something else: say it in `where`"
        assert where is None or not published.lines or len({unit for unit, _ in asked}) == published.seeds
        seeds[part] = {seed for _, seed in asked}
        for taken in held.taken if held else ():
            if taken.part in (part, "value") and taken.command != UNKNOWN and where is not None:
                overrides = {frozenset(taken.command.split()[2:])}
                assert any(set(job.overrides) <= set(*overrides) for job in jobs)
    for taken in held.taken if held else ():
        allowed_seeds = seeds["second"] if taken.part == "second" else seeds["first"]
        assert taken.seed in allowed_seeds


@pytest.mark.parametrize("row", rows(PUBLISHED, MEASURED), ids=lambda row: row.claim.id)
def test_nothing_is_called_reproduced_whose_interval_leaves_its_tolerance(row):
    if row.verdict.word == "reproduced":
        low, high = allowed(row.claim.expect, row.claim.published)
        found = row.interval
        assert found.n >= row.claim.seeds
        if row.claim.kind == "recomputed":
            assert low <= found.mean <= high
        else:
            assert low <= found.low <= found.high <= high
    assert row.verdict.word != "not run" or row.verdict.why


def test_every_recorded_value_is_of_a_claim():
    assert MEASURED.keys() <= {claim.id for claim in PUBLISHED.claims}


def test_the_tally_keeps_kinds_apart_and_loses_none():
    found = rows(PUBLISHED, MEASURED)
    text = markdown(PUBLISHED, found)
    total = 0
    for kind, meaning in KINDS.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {meaning} |"))
        *counts, claims = (int(cell) for cell in line.strip("| ").split(" | ")[1:])
        assert sum(counts) == claims == sum(row.claim.kind == kind for row in found)
        assert len(counts) == len(VERDICTS)
        total += claims
    assert total == len(PUBLISHED.claims)


@pytest.mark.parametrize("name", ["papers.md", "papers.html"])
def test_the_pages_say_what_claims_and_measurements_say(name):
    """Run `python3 scripts/papers_table.py` after a change to either."""
    found = rows(PUBLISHED, MEASURED)
    assert (REPO / "docs" / name).read_text() == {"papers.md": markdown, "papers.html": page}[name](PUBLISHED, found)
