"""Which instructions the kernels are built for: `SURGRAD_ISA=native|baseline|avx2|avx512`.

`native` is everything that this processor has. A cluster of unlike machines that share a home folder keeps one library
per processor, or one for all with `SURGRAD_ISA=avx2`. Spikes are the same on every instruction set (simd.h).
"""

import os
import platform
from pathlib import Path

import torch

from surgrad.errors import UserError

NAMES = ("native", "baseline", "avx2", "avx512")
# of the processor, as torch.cpu.get_capabilities() names them; and of g++ and clang++, by which the compiler gets them
AVX2 = {"avx2": "avx2", "fma3": "fma", "bmi": "bmi", "bmi2": "bmi2", "lzcnt": "lzcnt", "popcnt": "popcnt"}
AVX512 = {**AVX2, **{f"avx512_{part}": f"avx512{part}" for part in ("f", "dq", "bw", "vl")}}
FEATURES = {"baseline": {}, "avx2": AVX2, "avx512": AVX512}


def machine() -> str:
    """x86_64 or aarch64, whatever the system calls it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def _capabilities() -> dict[str, bool]:
    if hasattr(torch.cpu, "get_capabilities"):
        return dict(torch.cpu.get_capabilities())
    known = FEATURES.get(torch.backends.cpu.get_cpu_capability().lower(), {})
    return dict.fromkeys(known, True)


def executable() -> list[str]:
    """The instruction sets that this machine can execute, the narrowest first; without `native`."""
    if machine() != "x86_64":
        return ["baseline"]
    has = _capabilities()
    return [name for name, needed in FEATURES.items() if all(has.get(feature) for feature in needed)]


def chosen() -> str:
    """The value of SURGRAD_ISA, `native` if it is not set.

    Raises: UserError for an unknown name, or instructions that this machine lacks.
    """
    name = os.environ.get("SURGRAD_ISA") or "native"
    if name not in NAMES:
        raise UserError(f"SURGRAD_ISA={name!r} is unknown; allowed: {', '.join(NAMES)}")
    if name != "native" and name not in executable():
        allowed = ", ".join(["native", *executable()])
        raise UserError(f"SURGRAD_ISA={name!r}: this machine ({machine()}) cannot execute it; allowed here: {allowed}")
    return name


def flags(name: str, zig: bool = False) -> list[str]:
    """What tells the compiler of an instruction set; on ARM all kernels need is in the baseline."""
    if machine() != "x86_64":
        return []
    if zig:  # builds for this processor by default
        names = {"native": "native", "baseline": "x86_64", "avx2": "x86_64_v3", "avx512": "x86_64_v4"}
        return [f"-mcpu={names[name]}"]
    if name == "native":
        return ["-march=native"]
    return [f"-m{feature}" for feature in FEATURES[name].values()]


def processor() -> str:
    """What `native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
