"""What a run ran in: versions, commit, memory, time."""

import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from surgrad.runs.record import REPO


def peak_memory(before: Mapping[str, Any]) -> dict[str, float]:
    """Largest memory seen over all attempts, MiB."""
    found: dict[str, float] = {}
    try:
        import resource  # absent on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["peak_memory_mib"] = peak / 2**20 if sys.platform == "darwin" else peak / 2**10
    except ImportError:
        pass
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return {name: round(max(value, number(before.get(name))), 1) for name, value in found.items()}


def number(value: Any) -> float:
    """A number that a summary should hold; 0 for anything else that it does."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide what a run computes."""
    names = ("surgrad", "torch", "numpy", "h5py", "hydra-core", "wandb")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def machine() -> str:
    """Processor and how many of its threads this process may use, as in "Intel(R) Xeon(R) CPU, 2 threads"."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux; elsewhere the name above
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {threads} threads"


def git_commit() -> str | None:
    """Commit of the library's checkout, "-dirty" if tracked files differ from it; None outside a checkout."""
    if shutil.which("git") is None or not (REPO / ".git").exists():
        return None
    command = ["git", "-C", str(REPO), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def now() -> str:
    """The time, to the second, with the zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
