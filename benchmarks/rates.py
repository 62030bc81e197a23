"""What the machine can do at most, measured on the spot: operations and bytes per second."""

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from surgrad.kernels.cpu.instruction_set import flags

ROUNDS = 200_000  # of 12 vectors of fused multiply-adds


@dataclass(frozen=True)
class Rates:
    """flops: single-precision operations per second. bytes: read and written per second by a large copy."""

    flops: float
    bytes: float


def _best(f, seconds: float = 0.5) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - start)
    return best


def _registers(threads: int, isa: str) -> float | None:
    """Fused multiply-adds per second x 2 on ``threads`` cores; None without a C compiler."""
    compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fma.so"
        command = [compiler, "-O3", *flags(isa), "-shared", "-fPIC", "-o", target, Path(__file__).parent / "fma.c"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        library = ctypes.CDLL(str(target))
    library.fma_seconds.restype, library.fma_seconds.argtypes = ctypes.c_double, [ctypes.c_long]
    with ThreadPoolExecutor(threads) as pool:
        tries = [sum(pool.map(lambda _: ROUNDS / library.fma_seconds(ROUNDS), range(threads))) for _ in range(40)]
    return max(tries) * 12 * library.fma_lanes() * 2


def _products(device: str) -> float:
    """Operations per second of a large matrix product."""
    n = 4096 if device == "cuda" else 1024
    x, out = torch.randn(n, n, device=device), torch.empty(n, n, device=device)

    def f() -> None:
        torch.mm(x, x, out=out)
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * n**3 / _best(f)


def _copy(device: str) -> float:
    x = torch.ones(2**26, device=device)  # 256 MiB
    y = torch.ones_like(x)

    def f() -> None:
        y.copy_(x)
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * x.nbytes / _best(f)


def measure(device: str, threads: int, isa: str = "native") -> Rates:
    """Rates of ``threads`` cores of the CPU, or of the GPU."""
    torch.set_num_threads(threads)
    flops = _registers(threads, isa) if device == "cpu" else None
    return Rates(flops or _products(device), _copy(device))
