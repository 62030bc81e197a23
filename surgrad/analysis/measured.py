"""Numbers taken from the runs of a claim's command, each with where it comes from, and the file that keeps them."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from surgrad.analysis.rows import started_from
from surgrad.errors import UserError
from surgrad.runs import files
from surgrad.runs.intervals import Interval, interval
from surgrad.runs.marker import read_marker
from surgrad.runs.record import REPO, RunRecord, identity, load_runs

#: What stands where a run did not say.
UNKNOWN = "not recorded"

#: The parts a value may be of: it stands for itself, it is one side of a difference, or a difference of two runs
#: whose sides were not kept.
VALUE, FIRST, SECOND, DIFFERENCE = "value", "first", "second", "difference"


# ---------------------------------------------------------------- a number of a run
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
    values = _column(run, key)
    return float(values.max()) if len(values) else math.nan


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


# ---------------------------------------------------------------- numbers of a claim
class Taken(NamedTuple):
    """A number of one run, and where it comes from."""

    part: str  # value, first, second or difference
    seed: int
    value: float
    command: str = UNKNOWN
    run: str = UNKNOWN  # its id
    commit: str = UNKNOWN  # with -dirty where files differed from it
    data: str = UNKNOWN  # fingerprint of the data
    ended: str = UNKNOWN
    machine: str = UNKNOWN
    torch: str = UNKNOWN
    unit: str = ""  # value of the claim's unit, where that is not the seed


class Measured(NamedTuple):
    """What the runs of a claim gave."""

    taken: tuple[Taken, ...]

    @property
    def values(self) -> dict[int | str, float]:
        """One value per seed, or the mean over seeds per unit; of a difference those that both sides have."""
        sides: dict[str, dict[tuple[str, int], float]] = {part: {} for part in (VALUE, DIFFERENCE, FIRST, SECOND)}
        for one in self.taken:
            sides[one.part][one.unit, one.seed] = one.value
        paired = {run: value - sides[SECOND][run] for run, value in sides[FIRST].items() if run in sides[SECOND]}
        by_unit: dict[int | str, list[float]] = {}
        for (unit, seed), value in sorted((sides[VALUE] | sides[DIFFERENCE] | paired).items()):
            by_unit.setdefault(unit or seed, []).append(value)
        return {unit: sum(values) / len(values) for unit, values in by_unit.items()}

    @property
    def interval(self) -> Interval:
        """Mean and 95 % interval over seeds, or over units."""
        return interval(self.values.values())

    @property
    def origin(self) -> str:
        """Days, machines, versions and commits of the runs, in one line."""
        days = " to ".join(sorted({one.ended[:10] for one in self.taken})[:: max(1, len(self.taken) - 1)][:2])
        commits = ", ".join(dict.fromkeys(one.commit for one in self.taken))
        machines = ", ".join(dict.fromkeys(f"{one.machine}, torch {one.torch}" for one in self.taken))
        return f"{days}; {machines}; commit {commits}"


class Job(Protocol):
    """A run that a command asks for (`surgrad.config.jobs`)."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """Of the command line."""

    @property
    def settings(self) -> dict[str, Any]:
        """The whole configuration."""

    def get(self, key: str) -> Any:
        """The option of a group, or a value of the configuration by its dotted key."""


#: Gives the runs that a line of a command asks for.
JobsOf = Callable[[str], Sequence[Job]]


class Question(Protocol):
    """What `measure` needs to know of a claim."""

    where: dict[str, Any]
    minus: dict[str, Any] | None
    metric: str
    key: str
    rows: int
    scale: float
    unit: str

    @property
    def lines(self) -> list[str]:
        """The lines of the command."""


class RunFolders:
    """Finished runs below some repositories (or copies of their run folders), each folder read once."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = roots
        self._found: dict[Path, list[tuple[RunRecord, dict[str, Any]]]] = {}

    def of(self, suite: str) -> list[tuple[RunRecord, dict[str, Any]]]:
        """The finished runs of a suite's folder with their identities, the one that ended last at the end."""
        return [run for root in self.roots for run in self._below(root, root / suite / "Runs")]

    def _below(self, root: Path, folder: Path) -> list[tuple[RunRecord, dict[str, Any]]]:
        if folder not in self._found:
            try:
                done = [run for run in load_runs(folder) if run.status == "done"]
            except FileNotFoundError:
                done = []
            done.sort(key=lambda run: str(run.summary.get("ended", "")))
            self._found[folder] = [(run, _identity(run.config, root)) for run in done]
        return self._found[folder]


def _identity(config: Mapping[str, Any], root: Path = REPO) -> dict[str, Any]:
    """As `identity`, with paths below another repository relative to that."""
    return {k: v.replace(f"{root}/", "") if isinstance(v, str) else v for k, v in identity(config).items()}


def is_run_of(run: Mapping[str, Any], job: Job) -> bool:
    """Whether a run is the one that a job stands for.

    Every key that the run has must have the job's value. A key that the run lacks is one that did not exist then; it
    does not matter unless the job overrides it.

    Args:
        run: `identity` of the run.
        job: a job.
    """
    asked = _identity(job.settings)
    named = {override.partition("=")[0].lstrip("+") for override in job.overrides}
    return all(key in asked and asked[key] == value for key, value in run.items()) and not any(
        key not in run and key in named for key in asked
    )


def jobs_where(lines: Iterable[str], where: Mapping[str, Any], jobs_of: JobsOf) -> list[Job]:
    """The runs of a command, one or more lines, that have these values of configuration keys."""
    jobs = [job for line in lines for job in jobs_of(line)]
    return [job for job in jobs if all(job.get(key) == value for key, value in where.items())]


def measure(claim: Question, folders: RunFolders, jobs_of: JobsOf) -> Measured | None:
    """The claim's number in every finished run of its command, by seed (of two the latest); None without any.

    Of a claim with a unit of its own only the units count whose runs are all there.
    """
    parts = {VALUE: claim.where} if claim.minus is None else {FIRST: claim.where, SECOND: claim.minus}
    taken = [one for part, where in parts.items() for one in _taken(claim, where, part, folders, jobs_of)]
    found = Measured(tuple(taken))
    return found if found.values else None


def _taken(claim: Question, where: Mapping[str, Any], part: str, folders: RunFolders, jobs_of: JobsOf) -> list[Taken]:
    suites = dict.fromkeys(line.split()[1].partition("/")[0] for line in claim.lines if "scripts/" not in line)
    there = [run for suite in suites for run in folders.of(suite)]
    found: dict[tuple[str, int], Taken] = {}
    missing: set[str] = set()
    for job in jobs_where(claim.lines, where, jobs_of) if there else ():
        unit, seed = "" if claim.unit == "seed" else str(job.get(claim.unit)), int(job.get("seed") or 0)
        for run, what in there:
            if is_run_of(what, job):
                value = claim.scale * METRICS[claim.metric](run, claim.key, claim.rows)
                if not math.isnan(value):
                    found[unit, seed] = Taken(part, seed, value, *_origin(run))._replace(unit=unit)
        if unit and (unit, seed) not in found:
            missing.add(unit)
    return [found[key] for key in sorted(found) if key[0] not in missing]


def _origin(run: RunRecord) -> tuple[str, ...]:
    summary = run.summary
    return (
        _command(run),
        str(summary.get("run_id", UNKNOWN)),
        str(summary.get("git_commit") or UNKNOWN),
        data_of(run),
        str(summary.get("ended", UNKNOWN)),
        str(summary.get("machine") or summary.get("device", UNKNOWN)),
        str(summary.get("versions", {}).get("torch", UNKNOWN)),
    )


def data_of(run: RunRecord) -> str:
    """Files that the run read, by the key that names each, with the start of its SHA-256 (data/SHA256SUMS)."""
    found = read_marker(run.folder)
    files_read = {} if found is None else found.data
    return " ".join(f"{key}:{one['sha256'][:12]}" for key, one in sorted(files_read.items())) or UNKNOWN


def _command(run: RunRecord) -> str:
    """Script, primary configuration and overrides that started a run."""
    script, config = started_from(run)
    return " ".join([f"{script}.py", f"--config-name={config}", *run.overrides]) if script else UNKNOWN


# ---------------------------------------------------------------- the file
def read_measured(path: Path) -> dict[str, Measured]:
    """What `write_measured` wrote, by id of the claim; nothing if there is no file.

    Raises:
        UserError: naming a line that is not one of such a file.
    """
    if not path.exists():
        return {}
    found: dict[str, list[Taken]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                claim = row.pop("claim")
                fields: dict[str, Any] = {**row, "seed": int(row["seed"]), "value": float(row["value"])}
                taken = Taken(**fields)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}, line {number}: not a measured value: {error}") from error
            found.setdefault(claim, []).append(taken)
    return {name: Measured(tuple(taken)) for name, taken in found.items()}


def write_measured(path: Path, measured: Mapping[str, Measured]) -> None:
    """Keep measured values: a line per claim and run."""
    with files.replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["claim", *Taken._fields])
        for name in sorted(measured):
            writer.writerows([name, *one] for one in measured[name].taken)
