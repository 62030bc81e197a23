"""Runs by what one knows of them: a folder, a glob, a name or an id."""

from collections.abc import Iterable
from pathlib import Path

from surgrad.errors import UserError
from surgrad.paths import ROOT, all_runs_folders
from surgrad.runs import tables
from surgrad.runs.record import RunRecord, load_runs


def find(where: Iterable[str]) -> list[RunRecord]:
    """The runs that folders, globs, names or run ids name, damaged ones among them.

    Args:
        where: what names the runs; the runs of all suites if empty.

    Raises:
        UserError: nothing is named so.
    """
    found: dict[Path, RunRecord] = {}
    for place in list(where) or list(map(str, all_runs_folders())):
        try:
            records = load_runs(_known(place) or place, damaged=True)
        except FileNotFoundError as error:
            raise UserError(str(error)) from error
        found |= {record.folder: record for record in records}
    if not found:
        raise UserError("there are no runs yet")
    return list(found.values())


def find_one(where: str) -> RunRecord:
    """One run, read only.

    Args:
        where: its folder, its name (the path below Runs), its id (at least four digits of those at the name's end), or
            "pretrained:<name>" for one that ships with the package (data/pretrained).

    Raises:
        UserError: no run, or more than one, is named so.
    """
    records = find([where])
    if len(records) > 1:
        raise UserError(f"{where}: {len(records)} runs; give one of {', '.join(r.folder.name for r in records[:5])}, …")
    return records[0]


def pretrained() -> dict[str, Path]:
    """Run folders that ship with the package, by name."""
    return {folder.name: folder for folder in sorted((ROOT / "data" / "pretrained").glob("*/"))}


def _known(place: str) -> list[str]:
    """The run folders of a name or an id; none for anything else."""
    kind, colon, name = place.partition(":")
    if kind == "pretrained" and colon:
        there = pretrained()
        if name not in there:
            raise UserError(f"{place}: unknown; there are {', '.join(f'pretrained:{known}' for known in there)}")
        return [str(there[name])]
    if Path(place).exists():
        return []
    folders = all_runs_folders()
    found = [str(folder / place) for folder in folders if (folder / place).is_dir()]
    if found or not (4 <= len(place) <= 8 and not set(place) - set("0123456789abcdef")):
        return found
    found = [str(path) for folder in folders for path in folder.rglob(f"*-{place}*") if path.is_dir()]
    if not found:
        raise UserError(f"{place}: no run of this id below {', '.join(map(tables.here, folders))}; give its path")
    return found
