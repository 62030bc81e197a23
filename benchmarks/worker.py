"""One framework, one problem, in a process of its own: answers each line on stdin with one line of JSON on stdout.

{"item": "linear_lif", "framework": "snntorch", "path": null, "problem": {...}}   -> {"ready": true, ...}
{"repeat": 3}                                                                    -> {"wall": s, "cpu": s, ...}
"""

import contextlib
import importlib
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from benchmarks import problems

PROBLEMS = {
    "linear_lif": problems.LinearLIF,
    "lif_scan": problems.LIFScan,
    "recurrent": problems.Recurrent,
    "convsnn_step": problems.ConvSNNStep,
    "spike_train_matching": problems.Matching,
}


def adapter(framework: str, path: str | None) -> ModuleType:
    """The module that writes the items in one framework: of this package, or a file given by the user."""
    if path is None:
        return importlib.import_module(f"benchmarks.frameworks.{framework}")
    spec = importlib.util.spec_from_file_location(framework, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Memory:
    """Peak memory over what the process held when this was made, in MiB."""

    def __init__(self, device: str):
        self.cuda = None
        if device == "cuda":
            import torch

            self.cuda = torch.cuda
            self.cuda.reset_peak_memory_stats()
            self.base = self.cuda.memory_allocated() / 2**20
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the preparations
            self.base = self._status("VmRSS")

    @staticmethod
    def _status(key: str) -> float:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))

    def peak(self) -> float:
        now = self.cuda.max_memory_allocated() / 2**20 if self.cuda else self._status("VmHWM")
        return max(0.0, now - self.base)


def _threads(n: int) -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n)
    if hasattr(os, "sched_setaffinity"):  # XLA takes as many threads as it may use cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n])


def _synchronise(device: str) -> Callable[[], None]:
    if device != "cuda":
        return lambda: None
    import torch

    return torch.cuda.synchronize


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a framework prints does not mix with the answers
    order = json.loads(sys.stdin.readline())
    problem = PROBLEMS[order["item"]](**order["problem"])
    _threads(problem.threads)
    module = adapter(order["framework"], order["path"])
    build = getattr(module, order["item"], None)
    if build is None:
        print(json.dumps({"skipped": f"no {order['item']} written for it"}), file=answers)
        return
    step = build(problem)
    finish = _synchronise(problem.device)
    memory = Memory(problem.device)
    print(json.dumps({"ready": True, "version": str(module.version()), "model": module.MODEL}), file=answers)
    for line in sys.stdin:
        repeat = json.loads(line)["repeat"]
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeat):
            step()
        finish()
        seconds = {"wall": (time.perf_counter() - wall) / repeat, "cpu": (time.process_time() - cpu) / repeat}
        activity = {"activity": list(step.activity)} if hasattr(step, "activity") else {}
        print(json.dumps({**seconds, "peak_mib": memory.peak(), **activity}), file=answers)


if __name__ == "__main__":
    try:
        main()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "benchmarks":
            raise
        sys.exit(f"{error.name} is not installed")
