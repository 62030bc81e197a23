"""Verifies and measures the kernels of surgrad on the GPU at hand, in under eight minutes; from the repository:

python3 -m scripts.gpu_check                        # every part; writes gpu_check.json and gpu_check.md
python3 -m scripts.gpu_check strict adversarial     # some parts
DRY=1 python3 -m scripts.gpu_check                  # a rehearsal on a CPU in Triton's interpreter, at tiny sizes

Every part runs in a process of its own, with a limit of time, since a fault on a GPU spoils the process it happens in.
"""

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Parts in their order, the module that has each, and seconds that it may take.
PARTS = {
    "environment": ("measure", 30),
    "smoke": ("verify", 60),
    "strict": ("verify", 110),
    "adversarial": ("verify", 70),
    "products": ("measure", 30),
    "step": ("measure", 70),
    "items": ("measure", 100),
    "epoch": ("measure", 60),
    "captured": ("measure", 60),
    "tests": ("verify", 110),
    "memcheck": ("verify", 60),
}
Row = dict[str, Any]


def run_part(name: str, limit: float) -> list[Row]:
    """The results of one part, run in its own process."""
    start, command = time.perf_counter(), [sys.executable, "-m", "scripts.gpu_check", "--inside", name]
    environment = {**os.environ, "GPU_CHECK_LIMIT": str(limit)}
    if os.environ.get("DRY") == "1":
        environment["TRITON_INTERPRET"] = "1"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            errors = f"stopped after {limit:g} s\n{errors}"
    rows = [{"part": name, **json.loads(line)} for line in output.splitlines() if line.startswith("{")]
    if process.returncode:
        last = [line for line in errors.strip().splitlines() if line.strip()][-1:]
        reason = errors.splitlines()[0] if errors.startswith("stopped") else " ".join(last)
        rows.append({"part": name, "what": "the whole part", "ok": False, "error": reason[:400]})
    seconds = time.perf_counter() - start
    failed = [row for row in rows if row.get("ok") is False]
    print(f"{name}: {len(rows)} results, {len(failed)} wrong, {seconds:.0f} s", flush=True)
    for row in failed:
        print("   ", json.dumps(row)[:400], flush=True)
    return [*rows, {"part": name, "what": "the whole part", "seconds": seconds}]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One table for each part, its columns in the order in which they appear."""
    lines = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        columns = [key for key in dict.fromkeys(key for row in own for key in row) if key != "part"]
        lines += ["", f"## {part}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        for row in own:
            lines.append("| " + " | ".join(_cell(row.get(key)) for key in columns) + " |")
    return "# GPU check\n" + "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")


def main() -> int:
    """The exit status: 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; default: all")
    patience = 4 if os.environ.get("DRY") == "1" else 1  # of a CPU that may be busy
    parser.add_argument("--budget", type=float, default=455.0 * patience, help="s for everything")
    parser.add_argument("--limit", type=float, default=math.inf, help="s for each part, if shorter than its own")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of gpu_check.json and gpu_check.md")
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        module = importlib.import_module(f"scripts.gpu_check.{PARTS[args.inside][0]}")
        for row in getattr(module, args.inside)():
            print(json.dumps(row), flush=True)
        return 0
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    start, rows = time.perf_counter(), []
    for name in args.parts or PARTS:
        left = args.budget - (time.perf_counter() - start)
        if left < 10:
            rows.append({"part": name, "what": "the whole part", "error": "no time left"})
            continue
        rows += run_part(name, min(PARTS[name][1] * patience, args.limit, left))
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "gpu_check.json").write_text(json.dumps(rows, indent=1) + "\n")
        (args.out / "gpu_check.md").write_text(markdown(rows))
    return int(any(row.get("ok") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
