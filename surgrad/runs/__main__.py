"""Run folders in a terminal: `python3 -m surgrad.runs list|show|compare|clean|repair`.

python3 -m surgrad.runs list Classification/Runs --status done --sort test_acc
python3 -m surgrad.runs show 2b686f9b
python3 -m surgrad.runs compare Classification/Runs/superspike --metrics train_loss,valid_acc --out curves.png
python3 -m surgrad.runs clean --status failed --yes
python3 -m surgrad.runs repair Classification/Runs

A damaged run is listed as such, with the reason, and takes part in nothing else; `clean` leaves it alone.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from surgrad.errors import UserError
from surgrad.paths import all_runs_folders
from surgrad.runs import files, tables
from surgrad.runs.files import Damaged
from surgrad.runs.find import find, find_one
from surgrad.runs.lock import FolderLock, is_locked
from surgrad.runs.marker import is_ours
from surgrad.runs.record import RunRecord
from surgrad.runs.repair import damages, repair

#: Columns of metrics.csv that `compare` draws by default, the first four that there are.
CURVES = ("train_loss", "valid_loss", "train_acc", "valid_acc", "van_rossum", "l2", "van_rossum_other", "l2_other")

#: A run that stopped writing less long ago may be written on another machine, whose lock is not seen here.
QUIET_SECONDS = 600


# ---------------------------------------------------------------- list
def list_runs(args: argparse.Namespace) -> Iterator[str]:
    """One table for each folder of runs."""
    records = [record for record in find(args.where) if not args.status or record.status in args.status]
    folders: dict[Path, list[RunRecord]] = {}
    for record in records:
        folders.setdefault(record.folder.parent, []).append(record)
    for folder, group in folders.items():
        yield f"{tables.here(folder)}: {_counted(group)}"
        yield _listed(group, args.metrics or tables.key_metrics(group), args.sort)
        yield from (f"damaged: {record.folder.name}: {record.damage}" for record in group if record.damage)
        yield ""
    yield _counted(records)
    if any(record.damage for record in records):
        yield "damaged runs are kept: `show` says what they hold, `repair` what of them can be saved"


def _listed(records: list[RunRecord], metrics: Sequence[str], sort: str) -> str:
    now = time.time()
    differing = dict(zip(records, map(_beside_name, records, tables.differences(records)), strict=True))
    keys = {
        "name": lambda record: tables.natural(record.folder.name),
        "age": lambda record: -tables.changed(record),
        "size": lambda record: -tables.size(record.folder),
        "status": lambda record: (record.status, tables.natural(record.folder.name)),
    }
    records = sorted(records, key=keys.get(sort, lambda record: _descending(tables.metric(record, sort))))
    rows = [
        [
            record.folder.name,
            record.status,
            *(tables.number(tables.metric(record, name)) for name in metrics),
            tables.age(record, now),
            tables.human(tables.size(record.folder)),
            differing[record],
        ]
        for record in records
    ]
    head = ["run", "status", *metrics, "age", "size", "differs in"]
    if not any(differing[record] for record in records):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return tables.render(head, rows, width=_width(), shrink=len(head) - 1)


def _beside_name(record: RunRecord, settings: dict[str, Any]) -> str:
    """The settings in which a run differs and that its folder's name does not say."""
    name = record.folder.name
    unsaid = {key: value for key, value in settings.items() if f"{key.rpartition('.')[2]}={value}" not in name}
    return tables.label(unsaid)


def _descending(value: Any) -> float:
    return -float(value) if isinstance(value, int | float) else float("inf")


def _counted(records: Sequence[RunRecord]) -> str:
    status = [record.status for record in records]
    counts = ", ".join(f"{status.count(one)} {one}" for one in dict.fromkeys(status))
    return f"{len(records)} run{'s' * (len(records) != 1)}" + (f": {counts}" if counts else "")


def _width() -> int:
    return max(tables.WIDTH, shutil.get_terminal_size((tables.WIDTH, 24)).columns)


# ---------------------------------------------------------------- show
def show_run(args: argparse.Namespace) -> Iterator[str]:
    """Everything about one run but its curves."""
    record = find_one(args.run)
    yield f"{tables.here(record.folder)}"
    yield f"status    {record.status}{': ' * bool(record.reason)}{record.reason}"
    for found in damages(record.folder):
        yield f"damaged   {found.path.name}: {found.why}"
    yield f"size      {tables.human(tables.size(record.folder))}: " + ", ".join(_files(record.folder))
    for part in (_summary, _last_row, _config):
        try:
            yield from list(part(record))
        except Damaged as error:
            yield f"\n{error}"
    path = record.folder / "traceback.txt"
    if path.is_file():
        yield "\n" + path.read_text(encoding="utf-8", errors="replace").rstrip()


def _summary(record: RunRecord) -> Iterator[str]:
    summary = dict(record.summary)
    yield f"started   {summary.get('started', '-')}   ended {summary.get('ended', '-')}   {tables.age(record)} ago"
    yield f"took      {tables.number(summary.get('wall_seconds'))} s in {summary.get('attempts', 1)} attempt(s)"
    yield f"commit    {summary.get('git_commit') or '-'}"
    versions = summary.get("versions")
    yield "versions  " + " ".join(f"{k} {v}" for k, v in (versions if isinstance(versions, dict) else {}).items())
    yield f"overrides {' '.join(record.overrides) or '-'}"
    listed = {"status", "started", "ended", "wall_seconds", "attempts", "git_commit", "versions", "error", "metrics"}
    yield "\nsummary"
    yield from (f"  {name}: {tables.number(value)}" for name, value in summary.items() if name not in listed)


def _last_row(record: RunRecord) -> Iterator[str]:
    if record.metrics:
        yield "\nlast row of metrics.csv"
        yield from (f"  {name}: {tables.number(column.tolist()[-1])}" for name, column in _written(record))


def _config(record: RunRecord) -> Iterator[str]:
    yield "\nconfig"
    yield from ("  " + line for line in files.to_yaml(record.config).splitlines())


def _written(record: RunRecord) -> list[tuple[str, Any]]:
    return [(name, column) for name, column in record.metrics.items() if len(column)]


def _files(folder: Path) -> list[str]:
    return sorted(f"{path.name}{'/' * path.is_dir()}" for path in folder.iterdir() if not path.name.startswith("."))


# ---------------------------------------------------------------- compare
def compare_runs(args: argparse.Namespace) -> Iterator[str]:
    """The runs' settings and final numbers side by side, and their curves in a figure."""
    from surgrad.figures.runs import curves  # only here: tables do without matplotlib and scipy
    from surgrad.runs.intervals import curve

    found = sorted(find(args.where), key=lambda record: tables.natural(record.name))
    yield from (f"left out: {record.name}: damaged ({record.damage})" for record in found if record.damage)
    records = [record for record in found if not record.damage]
    if not records:
        raise UserError("every one of these runs is damaged")
    settings = tables.differences(records)
    names = [
        tables.short_label(one) or "all runs" if one else record.folder.name
        for one, record in zip(settings, records, strict=True)
    ]
    columns = args.metrics or [name for name in CURVES if any(name in record.metrics for record in records)][:4]
    drawn = [record for record in records if any(name in record.metrics for name in columns)]
    if not drawn:
        there = sorted({name for record in records for name in record.metrics})
        raise UserError(f"--metrics {','.join(columns)}: no run has such a column; there are: {', '.join(there)}")
    for name in dict.fromkeys(key for one in settings for key in one):
        values = dict.fromkeys(tables.number(one[name]) for one in settings)
        yield f"{name}: {', '.join(values)}"
    numbers = tables.key_metrics(records)
    rows = []
    for name, differs, record in zip(names, settings, records, strict=True):
        cells = [tables.number(tables.metric(record, number)) for number in numbers]
        own_id = record.folder.name.rpartition("-")[2]
        rows.append([name, tables.number(differs.get("seed")), record.status, *cells, own_id])
    yield tables.render(["run", "seed", "status", *numbers, "id"], rows, width=_width())
    groups = {name: [one for one, own in zip(records, names, strict=True) if own == name] for name in names}
    drawn_groups = {
        name: ([one.metrics for one in group], {column: curve(group, column) for column in columns})
        for name, group in groups.items()
    }
    figure = curves(drawn_groups, columns)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(out) as temporary:
        figure.savefig(temporary, format="png")
    yield f"curves of {', '.join(columns)}: {tables.here(out.absolute())}"


# ---------------------------------------------------------------- clean
def clean_runs(args: argparse.Namespace) -> Iterator[str]:
    """List what would go; with --yes, remove it. A run that is being written, or may be, stays."""
    roots = [Path(place).absolute() for place in args.where] or all_runs_folders()
    removable: list[tuple[Path, str, str]] = []
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder")
        removable += _removable(root, args.status or ["failed", "interrupted"])
    if not removable:
        yield "nothing to remove"
        return
    rows = [[tables.here(folder), status, tables.human(tables.size(folder)), why] for folder, status, why in removable]
    yield tables.render(["folder", "status", "size", "why"], rows, width=_width(), shrink=3)
    total = tables.human(sum(tables.size(folder) for folder, _, _ in removable))
    if not args.yes:
        yield f"{len(removable)} folders, {total}; nothing is removed without --yes"
        return
    for folder, _, _ in removable:
        _remove(folder, roots)
    yield f"removed {len(removable)} folders, {total}"


def _removable(root: Path, kinds: Sequence[str]) -> list[tuple[Path, str, str]]:
    found = []
    for folder in sorted(_run_folders(root)):
        record = RunRecord(folder)
        if record.status not in kinds or record.damage or is_locked(folder):
            continue
        closed = record.summary.get("status") in ("done", "failed", "interrupted")
        written = max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
        if closed or time.time() - written > QUIET_SECONDS:
            found.append((folder, record.status, record.reason))
    return found


def _run_folders(folder: Path) -> Iterator[Path]:
    """Run folders at or below a folder, known by their marker: not those that are hidden, linked or inside a run."""
    if is_ours(folder):
        yield folder
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _run_folders(entry)


def _remove(folder: Path, roots: Sequence[Path]) -> None:
    """Remove a run folder, holding its lock, and the folders above it that are empty then."""
    lock = FolderLock(folder)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be removed ({error.strerror})") from error
    finally:
        lock.release()
    for above in folder.parents:
        if above in roots or any(above.iterdir()):
            return
        above.rmdir()


# ---------------------------------------------------------------- repair
def repair_runs(args: argparse.Namespace) -> Iterator[str]:
    """Make damaged runs ones that their command goes on with; what is damaged is kept in their .old/."""
    repaired = 0
    for record in find(args.where):
        lines = list(repair(record.folder))
        repaired += bool(lines)
        yield from (f"{tables.here(record.folder)}: {line}" for line in lines)
    yield f"{repaired} runs repaired" if repaired else "nothing to repair"


# ---------------------------------------------------------------- the command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command; mistakes are one line and exit code 1."""
    args = _parser().parse_args(arguments)
    try:
        for line in args.command(args):
            sys.stdout.write(line + "\n")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None
    except BrokenPipeError:  # the reader, e.g. `head`, has seen enough
        sys.stderr.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m surgrad.runs", description="Look at run folders, and tidy them.")
    commands = parser.add_subparsers(required=True, metavar="list|show|compare|clean|repair")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    words: dict[str, Any] = {"type": lambda text: text.split(","), "default": []}
    where: dict[str, Any] = {
        "nargs": "*",
        "metavar": "WHERE",
        "help": "folders, globs or run ids; default: the Runs of all suites",
    }
    listing = command("list", list_runs, "tables of runs: status, final numbers, age, size, what differs")
    listing.add_argument("where", **where)
    listing.add_argument("--status", **words, help="only these, e.g. failed,interrupted")
    listing.add_argument("--metrics", **words, help="columns, from summary.json or metrics.csv")
    listing.add_argument("--sort", default="name", help="name, age, size, status or a metric, largest first")
    showing = command("show", show_run, "everything about one run")
    showing.add_argument("run", help="its folder or id")
    comparing = command("compare", compare_runs, "what differs between runs, and their curves as PNG")
    comparing.add_argument("where", **(where | {"nargs": "+"}))
    comparing.add_argument("--metrics", **words, help="columns of metrics.csv to draw")
    comparing.add_argument("--out", default="compare.png", help="the figure; default: compare.png")
    cleaning = command("clean", clean_runs, "remove failed and interrupted runs; without --yes only list them")
    cleaning.add_argument("where", **where | {"help": "folders; default: the Runs of all suites"})
    cleaning.add_argument("--status", **words, help="only these of failed,interrupted")
    cleaning.add_argument("--yes", action="store_true", help="really remove them")
    repairing = command("repair", repair_runs, "check every file of runs; have damaged ones go on with what is whole")
    repairing.add_argument("where", **where)
    return parser


if __name__ == "__main__":
    main()
