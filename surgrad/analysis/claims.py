"""Claims of the papers held against run folders: what was published, what was measured here, and the verdict.

A claim names a command, the runs that it leaves, a number to take from each of them and what that number should be.
Numbers come from run folders, or, where there are none, from a file in which earlier ones were recorded.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from surgrad.analysis.intervals import Interval, interval
from surgrad.errors import UserError
from surgrad.runs import files as run_files
from surgrad.runs.record import RunRecord, load_runs

TIERS = ("minutes", "hours", "gpu")

#: Where a published value is from.
SOURCES = {
    "printed": "printed output of the published code",
    "settings": "published configurations or source",
    "text": "text or table of the paper",
    "figure": "read off a published figure",
    "recomputed": "recomputed from the published parameters",
    "goal": "no published number: what this suite asks of itself",
}


def _summary(run: RunRecord, key: str, rows: int) -> float:
    value = run.summary.get(key)
    return math.nan if value is None else float(value)


def _column(run: RunRecord, key: str) -> np.ndarray:
    values = np.asarray(run.metrics.get(key, []), dtype=float)
    return values[~np.isnan(values)]


def _last(run: RunRecord, key: str, rows: int) -> float:
    values = _column(run, key)
    return float(values[-rows:].mean()) if len(values) else math.nan


def _best(run: RunRecord, key: str, rows: int) -> float:
    return float(_column(run, key).max(initial=-math.inf))


def _at(run: RunRecord, key: str, rows: int) -> float:
    column = run.metrics.get(key, np.array([]))
    found = column[run.metrics["epoch"] == rows] if len(column) else column
    return float(found[0]) if len(found) else math.nan


def _fall(run: RunRecord, key: str, rows: int) -> float:
    values = _column(run, key)
    return 1 - float(values[-rows:].mean()) / float(values[0]) if len(values) else math.nan


#: What is taken from a run: a final number; of a column of metrics.csv the mean of the last rows, the largest value,
#: the value at an epoch, or the share by which it fell from the first row to the last ones.
METRICS: dict[str, Callable[[RunRecord, str, int], float]] = {
    "summary": _summary,
    "last": _last,
    "best": _best,
    "at": _at,
    "fall": _fall,
}

#: Whether the measured interval is what was to be expected, given the published value and the number in the claim.
EXPECTATIONS: dict[str, Callable[[Interval, float, float], bool]] = {
    "within": lambda here, published, x: abs(here.mean - published) <= x,
    "relative": lambda here, published, x: abs(here.mean - published) <= x * abs(published),
    "at_least": lambda here, published, x: here.mean >= x,
    "at_most": lambda here, published, x: here.mean <= x,
    "above": lambda here, published, x: here.low > x,  # the whole interval
    "below": lambda here, published, x: here.high < x,
}


@dataclass
class Group:
    """Runs of a claim: a glob of their folders, and values of configuration keys that they have."""

    runs: str = MISSING
    where: dict[str, Any] = field(default_factory=dict)


@dataclass
class Claim:
    """One number of a paper. ``minus`` makes it a difference between two groups of runs, paired by seed."""

    id: str = MISSING
    paper: str = MISSING  # key of `Papers.papers`
    claim: str = MISSING
    published: float | None = None
    spread: float | None = None  # published ±
    source: str = MISSING  # one of SOURCES
    command: str = MISSING  # from the repository's root
    runs: str = MISSING
    where: dict[str, Any] = field(default_factory=dict)
    minus: Group | None = None
    metric: str = "summary"
    key: str = MISSING  # of the summary, or a column of metrics.csv
    rows: int = 1  # of metrics.csv; the epoch of metric: at
    scale: float = 1.0  # into the unit or convention of the published value
    expect: dict[str, float] = field(default_factory=dict)  # one of EXPECTATIONS: number
    seeds: int = 1  # runs that are asked for
    tier: str = "minutes"
    minutes: float = 1  # of the whole command on 2 cores
    figure: str | None = None  # of docs/figures
    note: str | None = None  # why it differs, why it was not run

    def __post_init__(self) -> None:
        for key, allowed in (("source", SOURCES), ("metric", METRICS), ("tier", TIERS)):
            value = getattr(self, key)
            if value != MISSING and value not in allowed:
                raise UserError(f"claim {self.id}: {key}={value} is unknown; allowed: {', '.join(allowed)}")
        unknown = [name for name in self.expect if name not in EXPECTATIONS]
        if unknown or len(self.expect) > 1:
            raise UserError(f"claim {self.id}: expect={self.expect}: one of {', '.join(EXPECTATIONS)}, with a number")
        if self.published is None and {"within", "relative"} & self.expect.keys():
            raise UserError(f"claim {self.id}: expect={self.expect} needs a published value")


@dataclass
class Paper:
    """How a paper is cited."""

    key: str = MISSING
    cite: str = MISSING
    link: str | None = None


@dataclass
class Papers:
    """The content of docs/claims.yaml."""

    papers: list[Paper] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)


def load_claims(path: str | Path) -> Papers:
    """Raises: UserError naming what is wrong: an unknown or missing key, two claims of one id, an unknown paper."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Papers), OmegaConf.load(path))
        papers = cast(Papers, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    known, seen = {paper.key for paper in papers.papers}, set()
    for claim in papers.claims:
        if claim.id in seen:
            raise UserError(f"{path}: two claims are called {claim.id}")
        if claim.paper not in known:
            raise UserError(f"{path}: claim {claim.id}: paper {claim.paper} is unknown; allowed: {', '.join(known)}")
        seen.add(claim.id)
    return papers


class Measured(NamedTuple):
    """One value per seed, and where they were measured."""

    values: dict[str, float]
    conditions: str = ""

    @property
    def interval(self) -> Interval:
        return interval(self.values.values())


class Shelf:
    """Finished runs below some repositories (or copies of their run folders), each folder read once."""

    def __init__(self, roots: Sequence[Path]):
        self.roots = roots
        self._found: dict[str, list[RunRecord]] = {}

    def runs(self, pattern: str) -> list[RunRecord]:
        """The finished runs whose folder matches, relative to a root, the one that ended last at the end."""
        if pattern not in self._found:
            places = [str(root / pattern) for root in self.roots if any(root.glob(pattern))]
            done = [run for place in places for run in load_runs(place) if run.status == "done"]
            self._found[pattern] = sorted(done, key=lambda run: str(run.summary.get("ended", "")))
        return self._found[pattern]


def measure(claim: Claim, shelf: Shelf) -> Measured | None:
    """The claim's number in every finished run that it means, by seed (of two the latest); None without any."""
    taken = _taken(claim, claim.runs, claim.where, shelf)
    if claim.minus is not None:
        others = _taken(claim, claim.minus.runs, claim.minus.where, shelf)
        taken = {seed: (run, value - others[seed][1]) for seed, (run, value) in taken.items() if seed in others}
    if not taken:
        return None
    conditions = sorted({_conditions(run) for run, _ in taken.values()})
    return Measured({seed: value for seed, (_, value) in sorted(taken.items())}, "; ".join(conditions))


def _taken(claim: Claim, runs: str, where: Mapping[str, Any], shelf: Shelf) -> dict[str, tuple[RunRecord, float]]:
    found: dict[str, tuple[RunRecord, float]] = {}
    for run in shelf.runs(runs):
        if all(run.get(key) == value for key, value in where.items()):
            value = claim.scale * METRICS[claim.metric](run, claim.key, claim.rows)
            if not math.isnan(value):
                found[str(run.get("seed", 0))] = (run, value)
    return found


def _conditions(run: RunRecord) -> str:
    summary = run.summary
    day, torch = str(summary.get("ended", ""))[:10], summary.get("versions", {}).get("torch", "?")
    return f"{day}, {summary.get('device', '?')}, torch {torch}, commit {str(summary.get('git_commit', '?'))[:7]}"


class Verdict(NamedTuple):
    """reproduced, not reproduced, reported (nothing was expected) or not run, and why."""

    word: str
    why: str = ""


def judge(claim: Claim, measured: Measured | None) -> Verdict:
    """What the measured values say of the claim. Too few runs are not held against it."""
    nb_runs = 0 if measured is None else len(measured.values)
    if nb_runs < claim.seeds:
        short = f"{nb_runs} of {claim.seeds} runs" if nb_runs else "no runs"
        return Verdict("not run", claim.note or short)
    if not claim.expect:
        return Verdict("reported", claim.note or "")
    ((name, number),) = claim.expect.items()
    published = math.nan if claim.published is None else claim.published
    assert measured is not None  # with runs enough
    holds = EXPECTATIONS[name](measured.interval, published, number)
    return Verdict("reproduced" if holds else "not reproduced", claim.note or "")


def load_measured(path: Path) -> dict[str, Measured]:
    """What `record` wrote, by id of the claim; nothing if there is no file."""
    if not path.exists():
        return {}
    return {name: Measured(**content) for name, content in json.loads(path.read_text()).items()}


def record(path: Path, measured: Mapping[str, Measured | None]) -> None:
    """Keep measured values in a file, next to those of other claims that are in it."""
    kept = load_measured(path) | {name: content for name, content in measured.items() if content is not None}
    content = {name: kept[name]._asdict() for name in sorted(kept)}
    run_files.write_text(path, json.dumps(content, indent=1) + "\n")
