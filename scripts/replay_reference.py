"""Replay golden traces through the library: one JSON line per file; exit status 1 if any of them fails.

Example: python scripts/replay_reference.py tests/reference/*.npz tests/reference/*.json --precision float64
"""

import argparse
import json
import sys

from surgrad.errors import UserError
from surgrad.traces.replay import PRECISIONS, replay


def main(arguments: list[str] | None = None) -> int:
    """Replays the files that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="golden trace, .npz or .json")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="float32")
    parser.add_argument("--kernel", choices=("auto", "reference", "cpu"), default="auto")
    options = parser.parse_args(arguments)
    passed = True
    for file in options.files:
        try:
            line = replay(file, options.precision, options.kernel)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            line = {"file": file, "error": str(error), "pass": False}
        print(json.dumps(line), flush=True)
        passed &= line["pass"]
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
