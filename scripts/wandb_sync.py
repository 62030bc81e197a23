"""Uploads the wandb logs of run folders: a whole sweep, later, from a machine with a network. docs/wandb.md

python3 scripts/wandb_sync.py "Classification/Runs/**" --dry-run
python3 scripts/wandb_sync.py Classification/Runs/search/deep_convSNN-1a2b3c4d --project=lr-search
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from surgrad.runs.record import RunRecord, load_runs

WANDB = (str(Path(sys.executable).with_name("wandb")), "sync")


def unsynced(record: RunRecord) -> list[Path]:
    """Logs that wandb has not uploaded yet, one for each attempt at the run, the oldest first."""
    logs = sorted(record.folder.glob("wandb/offline-run-*/run-*.wandb"))
    return [log.parent for log in logs if not log.with_suffix(".wandb.synced").exists()]


def sync(record: RunRecord, command: Sequence[str]) -> str | None:
    """Upload the logs of one run, all attempts as one wandb run; why that failed, or None."""
    done = subprocess.run([*command, *map(str, unsynced(record))], capture_output=True, text=True, check=False)
    if not unsynced(record):  # wandb marks each log that it has uploaded; its exit code is 0 for some failures
        return None
    said = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
    return said[-1].removeprefix("wandb: ")


def main(arguments: Sequence[str], wandb: Sequence[str] = WANDB) -> int:
    """Upload what is not uploaded yet; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="run folders, folders of such, or globs in quotes")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be uploaded")
    parser.add_argument("--project", help="instead of the one in the configuration")
    parser.add_argument("--entity", help="instead of the one in the configuration")
    given = parser.parse_args(arguments)
    options = [f"--{name}={value}" for name in ("project", "entity") if (value := getattr(given, name))]
    counts = dict.fromkeys(("uploaded", "to upload", "synced before", "without a log", "still running", "failed"), 0)
    for record in load_runs(given.runs):
        outcome, reason = "uploaded", None
        if record.status == "running":
            outcome = "still running"
        elif not list(record.folder.glob("wandb/offline-run-*")):
            outcome = "without a log"  # wandb was disabled, or online
        elif not unsynced(record):
            outcome = "synced before"
        elif given.dry_run:
            outcome = "to upload"
        elif (reason := sync(record, [*wandb, *options])) is not None:
            outcome = "failed"
        counts[outcome] += 1
        print(f"{outcome}: {record.name}" + (f" ({reason})" if reason else ""), flush=True)
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
