"""Holds every claim of docs/claims.yaml against the runs: writes docs/papers.md and docs/papers.html.

python3 scripts/papers_table.py                 # from the run folders that there are
python3 scripts/papers_table.py --run minutes   # first runs what is missing in a tier: minutes | hours | gpu
python3 scripts/papers_table.py --run minutes --dry   # only says what that would be, and how long it takes

What run folders say is kept in docs/measured.csv, a line per claim and run, so that the pages also show claims whose
runs are elsewhere; `git diff` then shows your numbers beside those that came with the repository.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from surgrad.analysis.claims import TIERS, Papers
from surgrad.analysis.measured import UNKNOWN, Measured, RunFolders, measure, read_measured, write_measured
from surgrad.analysis.papers_page import asked, here, markdown, page, published, rows, tally
from surgrad.analysis.verdicts import NOT_REPRODUCED, UNDECIDED
from surgrad.config.jobs import jobs_of_command
from surgrad.errors import UserError
from surgrad.experiments.claims import load_claims
from surgrad.runs import files
from surgrad.runs.record import REPO

DOCS = REPO / "docs"


def found_in(papers: Papers, folders: RunFolders) -> dict[str, Measured]:
    """What run folders say of each claim."""
    found = {claim.id: measure(claim, folders, jobs_of_command) for claim in papers.claims}
    return {name: measured for name, measured in found.items() if measured is not None}


def merged(kept: Mapping[str, Measured], found: Mapping[str, Measured]) -> dict[str, Measured]:
    """What was found beside what is kept: seeds of the same command on the same data together, else the more runs."""
    result = dict(kept)
    for name, new in found.items():
        old = kept.get(name)
        if (
            old is not None
            and _experiments(old) == _experiments(new)
            and UNKNOWN not in dict(_experiments(old)).values()
        ):
            by_seed = {(one.part, one.unit, one.seed): one for one in (*old.taken, *new.taken)}
            result[name] = Measured(tuple(by_seed[key] for key in sorted(by_seed)))
        elif old is None or len(new.values) >= len(old.values):
            result[name] = new
    return result


def _experiments(measured: Measured) -> set[tuple[str, str]]:
    """Commands without their seeds, and fingerprints of their data."""
    return {(re.sub(r" seed=\d+", "", one.command), one.data) for one in measured.taken}


def run_missing(papers: Papers, tier: str, *, dry: bool) -> list[str]:
    """Runs the commands of a tier whose runs are not all there, or only says which; returns those that failed."""
    found = found_in(papers, RunFolders([REPO]))
    missing = [
        claim
        for claim in papers.claims
        if claim.tier == tier and (claim.id not in found or len(found[claim.id].values) < claim.seeds)
    ]
    commands = {claim.command: claim.minutes for claim in missing if claim.command}
    for command, minutes in commands.items():
        first, *more = [line for line in command.splitlines() if line.strip()]
        print(f"{minutes:6.0f} min  {first}{f' (and {len(more)} more lines)' if more else ''}")
    print(f"{tier}: {len(commands)} commands to run, about {sum(commands.values()):.0f} minutes on 2 cores")
    if dry:
        return []
    failed = []
    for line in dict.fromkeys(line for claim in missing for line in claim.lines):
        print(f"$ {line}", flush=True)
        program, *arguments = shlex.split(line)
        python = sys.executable if program == "python3" else program
        if subprocess.run([python, *arguments], cwd=REPO, check=False).returncode:
            failed.append(line)
    return failed


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", choices=TIERS, help="run what is missing in this tier first")
    parser.add_argument("--dry", action="store_true", help="with --run: say what would run and for how long, and end")
    parser.add_argument("--root", type=Path, action="append", help="repository whose runs are read; may be repeated")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of claims.yaml, and of what is written")
    options = parser.parse_args(arguments)
    try:
        papers = load_claims(options.docs / "claims.yaml")
        failed = run_missing(papers, options.run, dry=options.dry) if options.run else []
        if options.dry:
            return
        kept = read_measured(options.docs / "measured.csv")
        measured = merged(kept, found_in(papers, RunFolders(options.root or [REPO])))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    write_measured(options.docs / "measured.csv", measured)
    found = rows(papers, measured)
    for name, text in (("papers.md", markdown(papers, found)), ("papers.html", page(papers, found))):
        files.write_text(options.docs / name, text)
    print(f"{len(found)} claims: {tally(found)}; wrote {options.docs / 'papers.md'} and papers.html")
    for row in found:
        if row.verdict.word in (NOT_REPRODUCED, UNDECIDED):
            claim = row.claim
            print(f"{row.verdict.word}: {claim.id}: {here(row)}, {asked(claim)} ({published(claim)})")
    if failed:
        raise SystemExit("failed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
