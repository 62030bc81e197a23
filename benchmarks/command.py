"""Command line of every item: starts the workers, times them in turn, prints one JSON line per framework."""

import argparse
import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.problems import Problem
from benchmarks.rates import Rates, measure

ROOT = Path(__file__).parent.parent
OURS = "surgrad"
FRAMEWORKS = (OURS, "torch_loop", "spyx", "norse", "snntorch", "spikingjelly", "sinabs")
HERE = (OURS, "surgrad_dense", "torch_loop", "torch_explicit")  # run by this interpreter, whatever --python says
# What holds every framework to an instruction set, so that a machine that has more can stand for one that has less.
LIMITS = {
    "native": {},
    "baseline": {
        "SURGRAD_ISA": "baseline",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2",
    },
    "avx2": {
        "SURGRAD_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
    "avx512": {
        "SURGRAD_ISA": "avx512",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX512",
    },
}
SHORTEST = 0.2  # s; shorter steps are repeated within one round


class Skipped(Exception):
    """A framework that cannot run this problem, and why."""


class Worker:
    """A framework in a process of its own.

    Args:
        item: what is timed.
        problem: its sizes.
        framework: name of the adapter.
        args: of the command line: limits (s), interpreter, paths of adapters.
    """

    def __init__(self, item: str, problem: Problem, framework: str, args: argparse.Namespace):
        self.framework, self.limit = framework, args.limit
        adapters = dict(entry.split("=", 1) for entry in args.path)
        python = sys.executable if framework in HERE or not args.python else args.python
        environment = {**os.environ, **LIMITS[args.isa], "PYTHONPATH": str(ROOT)}
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not args.verbose else None,
            env=environment,
            text=True,
        )
        self.rounds: list[dict] = []
        order = {"item": item, "framework": framework, "path": adapters.get(framework), "problem": asdict(problem)}
        try:
            self.about = self._ask(order, args.warm_up_limit)
            self.repeat = self._warm_up(args.warm_up_limit)
        except Skipped:
            self.close(kill=True)
            raise

    def _warm_up(self, limit: float) -> int:
        """Run two steps; how many steps make up one round."""
        self._ask({"repeat": 1}, limit)  # compiles, where a framework compiles
        seconds = self._ask({"repeat": 1}, limit)["wall"]
        if seconds > self.limit:
            raise Skipped(f"one step took {seconds:.0f} s, over --limit")
        return max(1, round(SHORTEST / max(seconds, 1e-6)))

    def _ask(self, order: dict, limit: float) -> dict:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        readable, _, _ = select.select([self.process.stdout], [], [], limit)
        if not readable:
            raise Skipped(f"no answer within {limit:g} s")
        line = self.process.stdout.readline()
        if not line:
            errors = self.process.stderr.read().strip().splitlines() if self.process.stderr else []
            named = [line for line in errors if "Error" in line.split(":")[0]]
            raise Skipped((named or errors or [f"ended with status {self.process.wait()}"])[-1][:200])
        answer = json.loads(line)
        if "skipped" in answer:
            raise Skipped(answer["skipped"])
        return answer

    def round(self) -> None:
        self.rounds.append(self._ask({"repeat": self.repeat}, self.limit * self.repeat + 60))

    def close(self, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def parser(description: str, *, batch: Sequence[int], steps: int) -> argparse.ArgumentParser:
    """The options that all items share."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--batch", type=int, nargs="+", default=list(batch))
    p.add_argument("--steps", type=int, default=steps, help="time steps T")
    p.add_argument("--repeats", type=int, default=5, help="timed rounds after two warm-up steps")
    p.add_argument("--frameworks", nargs="+", default=list(FRAMEWORKS), help="which, in this order; absent: skipped")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--isa", choices=list(LIMITS), default="native", help="instruction set that all are held to")
    p.add_argument("--python", default=os.environ.get("PEERS_PYTHON"), help="interpreter of the peers ($PEERS_PYTHON)")
    p.add_argument("--path", nargs="*", default=[], metavar="NAME=FILE", help="adapters of your own, as in frameworks/")
    p.add_argument("--limit", type=float, default=60.0, help="s; slower frameworks are skipped")
    p.add_argument("--warm-up-limit", type=float, default=400.0, help="s; imports and compilation")
    p.add_argument("--verbose", action="store_true", help="let the frameworks print to stderr")
    return p


def floor(problem: Problem, rates: Rates) -> dict[str, float]:
    """The shortest time in s with every product dense, and with products of spikes for free."""
    work = problem.work()
    memory = work.bytes / rates.bytes
    dense = (work.dense_flops + work.spike_flops) / rates.flops + memory
    return {"floor_s": dense, "floor_event_s": work.dense_flops / rates.flops + memory}


def _summary(worker: Worker, ours: Worker | None, floors: dict[str, float]) -> dict:
    wall = [r["wall"] for r in worker.rounds]
    result = {
        "framework": worker.framework,
        "version": worker.about["version"],
        "model": worker.about["model"],
        "median_s": statistics.median(wall),
        "best_s": min(wall),
        "spread": max(wall) / min(wall),
        "cpu_s": statistics.median(r["cpu"] for r in worker.rounds),
        "peak_mib": round(max(r["peak_mib"] for r in worker.rounds), 1),
    }
    if "activity" in worker.rounds[-1]:  # spikes per neuron and step, by layer
        result["activity"] = [round(rate, 4) for rate in worker.rounds[-1]["activity"]]
    if ours is not None:  # round by round, so that a load on the machine cancels
        pairs = list(zip(worker.rounds, ours.rounds, strict=True))
        result["ratio_to_ours"] = statistics.median(a["wall"] / b["wall"] for a, b in pairs)
        result["cpu_ratio_to_ours"] = statistics.median(a["cpu"] / b["cpu"] for a, b in pairs)
    return {**result, "ratio_to_floor": result["median_s"] / floors["floor_s"], **floors}


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def compare(item: str, problems: Iterable[Problem], args: argparse.Namespace) -> list[dict]:
    """Time every framework on every problem; print and return one result per pair."""
    rates = measure(args.device, args.threads, args.isa)
    results = []
    for problem in problems:
        workers, floors = [], floor(problem, rates)
        about = {"item": item, "isa": args.isa, **problem.describe()}
        for name in args.frameworks:
            try:
                workers.append(Worker(item, problem, name, args))
            except Skipped as reason:
                results.append({**about, "framework": name, "skipped": str(reason)})
                print(json.dumps(results[-1]), flush=True)
        try:
            for _ in range(args.repeats):
                for worker in workers:
                    worker.round()
        finally:
            for worker in workers:
                worker.close()
        ours = next((w for w in workers if w.framework == OURS), None)
        load = round(os.getloadavg()[0], 2)
        for worker in workers:
            line = {**about, **_summary(worker, ours, floors), "rounds": args.repeats, "load": load}
            line |= {"gflops": rates.flops / 1e9, "gbytes": rates.bytes / 1e9, "date": time.strftime("%Y-%m-%d %H:%M")}
            results.append({key: _rounded(value) for key, value in line.items()})
            print(json.dumps(results[-1]), flush=True)
    return results
