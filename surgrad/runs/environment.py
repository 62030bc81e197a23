"""What a run ran in: versions, commit, memory, time, signals."""

import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch

from surgrad.runs.record import REPO


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """SIGTERM raises SystemExit(143), so that files are closed and the status is written; a second is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _peak_memory(before: Mapping[str, Any]) -> dict[str, float]:
    """Largest memory seen over all attempts, MiB."""
    now: dict[str, float] = {}
    try:
        import resource  # absent on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        now["peak_memory_mib"] = peak / 2**20 if sys.platform == "darwin" else peak / 2**10
    except ImportError:
        pass
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        now["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return {name: round(max(value, float(before.get(name) or 0.0)), 1) for name, value in now.items()}


def _versions() -> dict[str, str]:
    names = ("surgrad", "torch", "numpy", "h5py", "hydra-core", "wandb")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    return versions


def _git_commit() -> str | None:
    """Commit of the library's checkout, "-dirty" if tracked files differ from it; None outside a checkout."""
    if shutil.which("git") is None or not (REPO / ".git").exists():
        return None
    command = ["git", "-C", str(REPO), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
