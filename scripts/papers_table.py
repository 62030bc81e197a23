"""Holds every claim of docs/claims.yaml against the runs: writes docs/papers.md and docs/papers.html.

python3 scripts/papers_table.py                 # from the run folders that there are
python3 scripts/papers_table.py --run minutes   # first runs what is missing in a tier: minutes | hours | gpu

What run folders say is kept in docs/measured.json, so that the pages also show claims whose runs are elsewhere;
`git diff` then shows your numbers beside those that came with the repository.
"""

import argparse
import html
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from surgrad.analysis.claims import (
    SOURCES,
    TIERS,
    Claim,
    Measured,
    Paper,
    Papers,
    Shelf,
    Verdict,
    judge,
    load_claims,
    load_measured,
    measure,
    record,
)
from surgrad.errors import UserError
from surgrad.runs import files as run_files
from surgrad.runs.record import REPO

DOCS = REPO / "docs"


class Row(NamedTuple):
    """A claim, what was measured, and the verdict."""

    claim: Claim
    measured: Measured | None
    verdict: Verdict


def rows(papers: Papers, measured: dict[str, Measured]) -> list[Row]:
    """Every claim beside what was measured for it."""
    return [Row(claim, here := measured.get(claim.id), judge(claim, here)) for claim in papers.claims]


def number(value: float, digits: int = 4) -> str:
    """A few significant digits."""
    return f"{value:.{digits}g}"


def published(claim: Claim) -> str:
    if claim.published is None:
        return "-"
    spread = "" if claim.spread is None else f" ± {number(claim.spread, 2)}"
    return f"{number(claim.published)}{spread}"


def here(measured: Measured | None) -> str:
    if measured is None:
        return "-"
    found = measured.interval
    spread = "" if found.n < 2 else f" ± {number(found.high - found.mean, 2)}"
    return f"{number(found.mean)}{spread}"


WORDS = {
    "within": "within {} of it",
    "relative": "within {} of its size",
    "at_least": "at least {}",
    "at_most": "at most {}",
    "above": "interval above {}",
    "below": "interval below {}",
}


def asked(claim: Claim) -> str:
    """What the verdict asks for, in words."""
    return ", ".join(WORDS[name].format(number(value)) for name, value in claim.expect.items()) or "-"


def tally(found: Sequence[Row]) -> str:
    words = [row.verdict.word for row in found]
    kinds = ("reproduced", "not reproduced", "reported", "not run")
    return ", ".join(f"{words.count(kind)} {kind}" for kind in kinds if kind in words)


INTRODUCTION = (
    "What the papers say, what the commands here gave, and whether that is the same. ± is half the 95 % Student "
    "interval of the mean over runs (here), or what the paper prints. Every row is a number taken from run folders by "
    "`scripts/papers_table.py` as `docs/claims.yaml` tells; `make reproduce TIER=minutes` runs the commands that fit."
)


def markdown(papers: Papers, found: Sequence[Row]) -> str:
    """docs/papers.md."""
    lines = ["# Papers", "", INTRODUCTION.replace("`docs/claims.yaml`", "[docs/claims.yaml](claims.yaml)"), ""]
    lines += ["The same [as a page](papers.html) with figures. Published values: "]
    lines[-1] += "; ".join(f"*{key}*: {meaning}" for key, meaning in SOURCES.items()) + "."
    lines += ["", f"{len(found)} claims: {tally(found)}.", ""]
    for paper, part in by_paper(papers, found):
        lines += [f"## {paper.cite}", ""]
        lines += ["| claim | published | source | here | runs | asked for | verdict |", "|---|---|---|---|---|---|---|"]
        for claim, measured, verdict in part:
            nb_runs = 0 if measured is None else len(measured.values)
            why = f": {verdict.why}" if verdict.why else ""
            cells = [claim.claim, published(claim), claim.source, here(measured), str(nb_runs), asked(claim)]
            lines.append(f"| {' | '.join([*cells, f'**{verdict.word}**{why}'])} |")
        lines += ["", "```", *dict.fromkeys(row.claim.command for row in part), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def by_paper(papers: Papers, found: Sequence[Row]) -> list[tuple[Paper, list[Row]]]:
    """Papers that have claims, in the order of the file."""
    parts = [(paper, [row for row in found if row.claim.paper == paper.key]) for paper in papers.papers]
    return [(paper, part) for paper, part in parts if part]


HEADS = ("claim", "published", "here", "runs", "asked for", "verdict")


def page(papers: Papers, found: Sequence[Row]) -> str:
    """docs/papers.html: one file, figures beside it."""
    parts = by_paper(papers, found)
    links = " ".join(f'<a href="#{html.escape(paper.key)}">{html.escape(paper.key)}</a>' for paper, _ in parts)
    introduction = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(INTRODUCTION))
    body = [f"<h1>Papers</h1><p>{introduction}</p><p><strong>{len(found)} claims: {tally(found)}.</strong></p>"]
    body += [f"<nav>{links}</nav>"]
    body += [section(paper, part) for paper, part in parts]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        '<link rel="stylesheet" href="papers.css">\n<title>Papers, and what was reproduced</title>\n</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def section(paper: Paper, part: Sequence[Row]) -> str:
    title = html.escape(paper.cite)
    if paper.link:
        title = f'<a href="{html.escape(paper.link)}">{title}</a>'
    heads = "".join(f"<th>{head}</th>" for head in HEADS)
    lines = "\n".join(line(row) for row in part)
    names = dict.fromkeys(html.escape(row.claim.figure) for row in part if row.claim.figure)
    images = "".join(f'<figure><img src="figures/{name}" alt="{title_of(name)}"></figure>' for name in names)
    commands = html.escape("\n".join(dict.fromkeys(row.claim.command for row in part)))
    return (
        f'<section id="{html.escape(paper.key)}"><h2>{title}</h2>\n<table><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody></table>\n"
        f"<details><summary>Commands</summary><pre>{commands}</pre></details>{images}</section>"
    )


def title_of(figure: str) -> str:
    """What a figure is called to those who cannot see it."""
    return Path(figure).stem.replace("_", " ")


def line(row: Row) -> str:
    claim, measured, verdict = row
    kind = verdict.word.replace(" ", "-")
    why = f'<span class="why">{html.escape(verdict.why)}</span>' if verdict.why else ""
    told = f'<span><span class="verdict {kind}">{verdict.word}</span>{why}</span>'
    seeds = "" if measured is None else ", ".join(f"seed {seed}: {number(v)}" for seed, v in measured.values.items())
    conditions = "" if measured is None else f"{seeds} ({measured.conditions})"
    source = "" if claim.published is None else f' <span class="soft">({claim.source})</span>'
    cells = (
        ("", html.escape(claim.claim)),
        (' class="n"', f"<span>{published(claim)}{source}</span>"),
        (f' class="n" title="{html.escape(conditions)}"', here(measured)),
        (' class="n"', str(0 if measured is None else len(measured.values))),
        ("", html.escape(asked(claim))),
        ("", told),
    )
    return (
        "<tr>" + "".join(f'<td{a} data-head="{h}">{c}</td>' for (a, c), h in zip(cells, HEADS, strict=True)) + "</tr>"
    )


def complete(claim: Claim, shelf: Shelf) -> Measured | None:
    """What the runs say of a claim, None unless there are as many as it asks for."""
    found = measure(claim, shelf)
    return None if found is None or len(found.values) < claim.seeds else found


def run_missing(papers: Papers, tier: str) -> list[str]:
    """Runs the commands of a tier whose runs are not all there; returns those that failed."""
    claims = [claim for claim in papers.claims if claim.tier == tier]
    shelf = Shelf([REPO])
    commands = {claim.command: claim.minutes for claim in claims if complete(claim, shelf) is None}
    print(f"{tier}: {len(commands)} commands to run, about {sum(commands.values()):.0f} minutes on 2 cores")
    failed = []
    for command in commands:
        for single in filter(None, command.split("\n")):
            print(f"$ {single}", flush=True)
            program, *arguments = shlex.split(single)
            python = sys.executable if program == "python3" else program
            if subprocess.run([python, *arguments], cwd=REPO, check=False).returncode:
                failed.append(single)
    return failed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", choices=TIERS, help="run what is missing in this tier first")
    parser.add_argument("--root", type=Path, action="append", help="repository whose runs are read; may be repeated")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of claims.yaml, and of what is written")
    options = parser.parse_args(arguments)
    try:
        papers = load_claims(options.docs / "claims.yaml")
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    failed = run_missing(papers, options.run) if options.run else []
    shelf = Shelf(options.root or [REPO])
    measured = options.docs / "measured.json"
    record(measured, {claim.id: content for claim in papers.claims if (content := complete(claim, shelf))})
    found = rows(papers, load_measured(measured))
    for name, text in (("papers.md", markdown(papers, found)), ("papers.html", page(papers, found))):
        run_files.write_text(options.docs / name, text)
    print(f"{len(found)} claims: {tally(found)}; wrote {options.docs / 'papers.md'} and papers.html")
    for row in found:
        if row.verdict.word == "not reproduced":
            print(f"not reproduced: {row.claim.id}: {here(row.measured)}, {asked(row.claim)} ({published(row.claim)})")
    if failed:
        raise SystemExit("failed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
