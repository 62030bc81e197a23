"""The claims of the papers: what was published, the command that tests it, and what the measured interval must be.

docs/claims.yaml holds them, `surgrad.experiments.claims` reads it. A claim names a command, which of its runs count, a
number to take from each of them and the values that number may have. Numbers from runs: `surgrad.analysis.measured`;
verdicts: `surgrad.analysis.verdicts`.
"""

from dataclasses import dataclass, field
from typing import Any

from surgrad.analysis.measured import METRICS
from surgrad.analysis.verdicts import EXPECTATIONS
from surgrad.errors import UserError

TIERS = ("minutes", "hours", "gpu")

#: What a measured number is held against; verdicts are counted by it.
KINDS = {
    "published": "compared with a number that others published",
    "recomputed": "recomputed from published parameters, without randomness",
    "qualitative": "a statement without a number",
    "goal": "what this suite asks of itself",
}

#: Where a published value is from.
SOURCES = {
    "printed": "printed output of the published code",
    "text": "text or table of the paper",
    "figure": "read off a published figure",
    "recomputed": "recomputed from the published parameters",
    "goal": "no published value",
}


@dataclass(kw_only=True)
class Claim:
    """One number of a paper. ``minus`` makes it a difference between two groups of runs, paired by unit and seed."""

    id: str
    paper: str  # key of `Papers.papers`
    claim: str
    kind: str  # one of KINDS
    published: float | None = None
    spread: float | None = None  # published ±, a standard deviation over runs
    source: str  # one of SOURCES
    command: str | None = None  # from the repository's root, one or more lines; none: nothing here can run it yet
    where: dict[str, Any] = field(default_factory=dict)  # which runs of the command: values of configuration keys
    minus: dict[str, Any] | None = None  # which other runs of the command are subtracted
    metric: str = "summary"
    key: str  # of the summary, or a column of metrics.csv
    rows: int = 1  # of metrics.csv; the epoch of metric: at
    scale: float = 1.0  # into the unit or convention of the published value
    expect: dict[str, float] = field(default_factory=dict)  # one of EXPECTATIONS: number
    margin: str | None = None  # key of `Papers.margins`: why that number
    unit: str = "seed"  # key whose values are the independent ones: runs that share one count once, with their mean
    seeds: int = 1  # runs of the command, of each group; with another unit than the seed: values of that
    tier: str = "minutes"
    minutes: float = 1  # of the whole command on 2 cores
    figure: str | None = None  # of docs/figures
    note: str | None = None  # why it differs, why it was not run

    def __post_init__(self) -> None:
        for key, allowed in (("kind", KINDS), ("source", SOURCES), ("metric", METRICS), ("tier", TIERS)):
            value = getattr(self, key)
            if value not in allowed:
                raise UserError(f"claim {self.id}: {key}={value} is unknown; allowed: {', '.join(allowed)}")
        unknown = [name for name in self.expect if name not in EXPECTATIONS]
        if unknown or len(self.expect) > 1:
            raise UserError(f"claim {self.id}: expect={self.expect}: one of {', '.join(EXPECTATIONS)}, with a number")
        if self.published is None and {"within", "relative"} & self.expect.keys():
            raise UserError(f"claim {self.id}: expect={self.expect} needs a published value")
        if self.expect and self.margin is None:
            raise UserError(f"claim {self.id}: expect={self.expect} needs a margin that says why that number")

    @property
    def lines(self) -> list[str]:
        """The lines of the command."""
        return [line for line in (self.command or "").split("\n") if line]


@dataclass(kw_only=True)
class Margin:
    """Why an interval may be as far from the published value as a claim says, and since when that is written down."""

    key: str
    why: str
    dated: str  # YYYY-MM-DD


@dataclass(kw_only=True)
class Paper:
    """How a paper is cited, and what was tried before the runs that count (learning rates, epochs, settings)."""

    key: str
    cite: str
    link: str | None = None
    tried: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Papers:
    """The content of docs/claims.yaml."""

    papers: list[Paper] = field(default_factory=list)
    margins: list[Margin] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
