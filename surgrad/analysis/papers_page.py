"""The papers page: every claim beside what was measured, as Markdown and as HTML."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from surgrad.analysis.claims import KINDS, SOURCES, Claim, Paper, Papers
from surgrad.analysis.measured import UNKNOWN, Measured
from surgrad.analysis.verdicts import NOT_RUN, VERDICTS, Verdict, judge
from surgrad.runs.intervals import Interval, interval


class Row(NamedTuple):
    """A claim, what was measured, and the verdict."""

    claim: Claim
    measured: Measured | None
    verdict: Verdict

    @property
    def interval(self) -> Interval:
        """Mean and 95 % interval over seeds."""
        return interval([]) if self.measured is None else self.measured.interval


def rows(papers: Papers, measured: Mapping[str, Measured]) -> list[Row]:
    """Every claim beside what was measured for it."""
    return [_row(claim, measured.get(claim.id)) for claim in papers.claims]


def _row(claim: Claim, measured: Measured | None) -> Row:
    found = interval([]) if measured is None else measured.interval
    verdict = judge(found, claim.expect, claim.published, nb_asked=claim.seeds, exact=claim.kind == "recomputed")
    why = "; ".join(filter(None, [verdict.why, claim.note]))
    return Row(claim, measured, verdict._replace(why=why or ("no runs" if verdict.word == NOT_RUN else "")))


# ---------------------------------------------------------------- cells
def number(value: float, digits: int = 4) -> str:
    """A few significant digits."""
    return f"{value:.{digits}g}"


def published(claim: Claim) -> str:
    """The published value and its spread."""
    if claim.published is None:
        return "-"
    spread = "" if claim.spread is None else f" ± {number(claim.spread, 2)} (s.d.)"
    return f"{number(claim.published)}{spread}"


def here(row: Row) -> str:
    """The mean and half its 95 % interval."""
    found = row.interval
    if not found.n:
        return "-"
    spread = "" if found.n < 2 else f" ± {number(found.high - found.mean, 2)}"
    return f"{number(found.mean)}{spread}"


_WORDS = {
    "within": "within {} of it",
    "relative": "within {} of its size",
    "above": "above {}",
    "below": "below {}",
}


def asked(claim: Claim) -> str:
    """Where the whole interval must lie, in words."""
    return ", ".join(_WORDS[name].format(number(value)) for name, value in claim.expect.items()) or "-"


def tally(found: Sequence[Row]) -> str:
    """How many claims have each verdict, those without any left out."""
    words = [row.verdict.word for row in found]
    return ", ".join(f"{words.count(word)} {word}" for word in VERDICTS if word in words)


def _tallies(found: Sequence[Row]) -> list[list[str]]:
    """A line per kind of claim, and one for all: its verdicts counted, none across kinds lost."""
    parts = [(meaning, [row for row in found if row.claim.kind == kind]) for kind, meaning in KINDS.items()]
    lines = []
    for meaning, part in [*parts, ("all", list(found))]:
        words = [row.verdict.word for row in part]
        lines.append([meaning, *(str(words.count(word)) for word in VERDICTS), str(len(part))])
    return lines


TALLY_HEADS = ("held against", *VERDICTS, "claims")

INTRODUCTION = (
    "What the papers say, what the commands here gave, and whether that is the same. ± is half the 95 % Student "
    "interval of the mean over runs (here), or a standard deviation over runs where the paper prints one. "
    "**reproduced**: the whole interval lies where it was asked to; **undecided**: it reaches beyond, or there are "
    "fewer runs than were asked for; **not reproduced**: it lies outside. Every number is taken from the runs of the "
    "command below its table and of no other (`scripts/papers_table.py`, `docs/claims.yaml`); `docs/measured.csv` "
    "has every run's value, command, id, commit, day and machine. `make reproduce TIER=minutes` runs the commands "
    "that fit."
)

MARGINS = (
    "Why an interval may be as far from the published value as asked, and since when that number is written down. The "
    "reasons of those of 2026-11-22 were written on 2026-11-27, after the runs; the numbers were not changed then."
)


def by_paper(papers: Papers, found: Sequence[Row]) -> list[tuple[Paper, list[Row], list[Row]]]:
    """Papers with their claims on networks and, apart, those that were recomputed; in the order of the file."""
    parts = []
    for paper in papers.papers:
        mine = [row for row in found if row.claim.paper == paper.key]
        exact = [row for row in mine if row.claim.kind == "recomputed"]
        if mine:
            parts.append((paper, [row for row in mine if row not in exact], exact))
    return parts


def _commands(part: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(line for row in part for line in row.claim.lines))


# ---------------------------------------------------------------- Markdown
HEADS = ("claim", "published", "source", "here", "runs", "asked for", "verdict")


def markdown(papers: Papers, found: Sequence[Row]) -> str:
    """docs/papers.md."""
    introduction = INTRODUCTION.replace("`docs/claims.yaml`", "[docs/claims.yaml](claims.yaml)")
    introduction = introduction.replace("`docs/measured.csv`", "[docs/measured.csv](measured.csv)")
    lines = ["# Papers", "", introduction, "", "The same [as a page](papers.html) with figures. Published values: "]
    lines[-1] += "; ".join(f"*{key}*: {meaning}" for key, meaning in SOURCES.items()) + "."
    lines += ["", *_table(TALLY_HEADS, _tallies(found)), ""]
    for paper, networks, exact in by_paper(papers, found):
        lines += [f"## {paper.cite}", ""]
        if networks:
            lines += [*_table(HEADS, map(_cells, networks)), ""]
        if exact:
            summary = f"{len(exact)} numbers recomputed from published parameters: {tally(exact)}"
            lines += ["<details markdown>", f"<summary>{summary}</summary>", ""]
            lines += [*_table(HEADS, map(_cells, exact)), "", "</details>", ""]
        if commands := _commands([*networks, *exact]):
            lines += ["```", *commands, "```", ""]
        lines += [f"Tried before: {text}\n" for text in paper.tried]
    lines += ["## Margins", "", MARGINS, ""]
    lines += _table(("margin", "why", "since"), [(m.key, m.why, m.dated) for m in papers.margins])
    return "\n".join(lines).rstrip() + "\n"


def _cells(row: Row) -> list[str]:
    claim, _, verdict = row
    why = f": {verdict.why}" if verdict.why else ""
    margin = f" ({claim.margin})" if claim.margin else ""
    values = [claim.claim, published(claim), claim.source, here(row), str(row.interval.n), f"{asked(claim)}{margin}"]
    return [*values, f"**{verdict.word}**{why}"]


def _table(heads: Sequence[str], content: object) -> list[str]:
    body = [f"| {' | '.join(cells)} |" for cells in content]  # type: ignore[attr-defined]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *body]


# ---------------------------------------------------------------- HTML
PAGE_HEADS = ("claim", "published", "here", "runs", "asked for", "verdict")


def page(papers: Papers, found: Sequence[Row]) -> str:
    """docs/papers.html: one file, figures beside it."""
    parts = by_paper(papers, found)
    links = " ".join(f'<a href="#{html.escape(p.key)}">{html.escape(p.key)}</a>' for p, _, _ in parts)
    introduction = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(INTRODUCTION))
    introduction = re.sub(r"\*\*([^*]*)\*\*", r"<strong>\1</strong>", introduction)
    introduction = introduction.replace("<code>docs/measured.csv</code>", '<a href="measured.csv">measured.csv</a>')
    body = [f"<h1>Papers</h1><p>{introduction}</p>", _html_table(TALLY_HEADS, _tallies(found)), f"<nav>{links}</nav>"]
    body += [_section(paper, networks, exact) for paper, networks, exact in parts]
    margins = _html_table(("margin", "why", "since"), [(m.key, m.why, m.dated) for m in papers.margins])
    body += [f'<section id="margins"><h2>Margins</h2><p>{html.escape(MARGINS)}</p>{margins}</section>']
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        '<link rel="stylesheet" href="papers.css">\n<title>Papers, and what was reproduced</title>\n</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _html_table(heads: Sequence[str], content: Sequence[Sequence[str]]) -> str:
    """Plain cells."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    lines = "\n".join(
        "<tr>"
        + "".join(
            f'<td data-head="{html.escape(name)}">{html.escape(cell)}</td>'
            for name, cell in zip(heads, cells, strict=True)
        )
        + "</tr>"
        for cells in content
    )
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table>"


def _section(paper: Paper, networks: Sequence[Row], exact: Sequence[Row]) -> str:
    title = html.escape(paper.cite)
    if paper.link:
        title = f'<a href="{html.escape(paper.link)}">{title}</a>'
    tables = _rows(networks) if networks else ""
    if exact:
        summary = f"{len(exact)} numbers recomputed from published parameters: {tally(exact)}"
        tables += f"\n<details><summary>{summary}</summary>{_rows(exact)}</details>"
    names = dict.fromkeys(html.escape(row.claim.figure) for row in [*networks, *exact] if row.claim.figure)
    images = "".join(
        f'<figure><img loading="lazy" src="figures/{name}" alt="{title_of(name)}"></figure>' for name in names
    )
    commands = html.escape("\n".join(_commands([*networks, *exact])))
    folded = f"<details><summary>Commands</summary><pre>{commands}</pre></details>" if commands else ""
    items = [html.escape(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)) for text in paper.tried]  # links by their text
    tried = "".join(f"<li>{item}</li>" for item in items)
    tried = f"<details><summary>Tried before the runs that count</summary><ul>{tried}</ul></details>" if tried else ""
    return f'<section id="{html.escape(paper.key)}"><h2>{title}</h2>\n{tables}\n{folded}{tried}{images}</section>'


def title_of(figure: str) -> str:
    """What a figure is called to those who cannot see it."""
    return Path(figure).stem.replace("_", " ")


def _rows(part: Sequence[Row]) -> str:
    heads = "".join(f"<th>{head}</th>" for head in PAGE_HEADS)
    lines = "\n".join(_line(row) for row in part)
    return f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}\n</tbody></table>"


def _line(row: Row) -> str:
    claim, measured, verdict = row
    kind = verdict.word.replace(" ", "-")
    why = f'<span class="why">{html.escape(verdict.why)}</span>' if verdict.why else ""
    verdict_cell = f'<span><span class="verdict {kind}">{verdict.word}</span>{why}</span>'
    source = "" if claim.published is None else f' <span class="soft">({claim.source})</span>'
    margin = f' <a class="soft" href="#margins">({html.escape(claim.margin)})</a>' if claim.margin else ""
    cells = (
        ("", html.escape(claim.claim)),
        (' class="n"', f"<span>{published(claim)}{source}</span>"),
        (f' class="n" title="{html.escape(_origin(measured))}"', here(row)),
        (' class="n"', str(row.interval.n)),
        ("", f"<span>{html.escape(asked(claim))}{margin}</span>"),
        ("", verdict_cell),
    )
    return (
        "<tr>"
        + "".join(f'<td{a} data-head="{h}">{c}</td>' for (a, c), h in zip(cells, PAGE_HEADS, strict=True))
        + "</tr>"
    )


def _origin(measured: Measured | None) -> str:
    if measured is None:
        return ""
    named = {unit: f"seed {unit}" if isinstance(unit, int) else unit for unit in measured.values}
    seeds = ", ".join(f"{named[unit]}: {number(value)}" for unit, value in measured.values.items())
    runs = [one.run for one in measured.taken if one.run != UNKNOWN]
    return f"{seeds} ({measured.origin}; runs {', '.join(runs) or UNKNOWN})"
