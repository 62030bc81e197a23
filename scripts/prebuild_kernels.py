"""Compiles the CPU kernels for the machines that people own, into surgrad/kernels/cpu/prebuilt: wheels carry them.

    python3 scripts/prebuild_kernels.py                      # all targets: needs ziglang, no other compiler
    python3 scripts/prebuild_kernels.py --only linux-x86_64  # those whose name starts so

The same sources and the same ziglang give the same bytes, on every machine. What is chosen at run time: build.py.
"""

import argparse
import concurrent.futures
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from surgrad.kernels.cpu import build, cache


class Target(NamedTuple):
    """A kind of machine: its processor and instruction set as `instruction_set.py` names them, and ziglang's names."""

    system: str
    machine: str
    isa: str
    triple: str
    processor: str

    @property
    def name(self) -> str:
        return f"{self.system}-{self.machine}-{self.isa}"


# glibc 2.28 is what PyTorch's own wheels need
TARGETS = (
    Target("linux", "x86_64", "avx2", "x86_64-linux-gnu.2.28", "x86_64_v3"),
    Target("linux", "x86_64", "avx512", "x86_64-linux-gnu.2.28", "x86_64_v4"),
    Target("linux", "aarch64", "baseline", "aarch64-linux-gnu.2.28", "generic"),
    Target("darwin", "x86_64", "avx2", "x86_64-macos.11.0", "x86_64_v3"),
    Target("darwin", "aarch64", "baseline", "aarch64-macos.11.0", "apple_m1"),
)


def library(target: Target, source: Path, folder: Path) -> Path:
    """Where the library of a source for a target lies."""
    return folder / build.shipped_name(source, target.isa, target.machine, target.system)


def compile_with_zig(target: Target, source: Path, path: Path) -> None:
    """Compile a source for a target into the library `path`. Raises: CalledProcessError."""
    # the name of the library is written into it on some systems: it must not depend on where it is built
    made = path.with_name(f"lib{source.stem}{path.suffix}")
    flags = [*build.FLAGS, "-fPIC", "-s", "-target", target.triple, f"-mcpu={target.processor}"]
    flags += [f"-ffile-prefix-map={build.FOLDER}=.", f"-DSURGRAD_KEY={build.key(source, target.isa, target.machine)}"]
    command = [sys.executable, "-m", "ziglang", "c++", *flags, "-o", made.name, str(source)]
    folder = path.parent / f"{path.stem}.build"
    folder.mkdir()
    try:
        subprocess.run(command, check=True, cwd=folder)
        os.replace(folder / made.name, path)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=build.PREBUILT)
    parser.add_argument("--only", default="", metavar="NAME", help=f"of {', '.join(t.name for t in TARGETS)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    args = parser.parse_args()
    targets = [target for target in TARGETS if target.name.startswith(args.only)]
    if not targets:
        parser.error(f"--only {args.only}: no such target; there are {', '.join(t.name for t in TARGETS)}")
    args.folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(build.FOLDER.glob("*.cpp"))
    wanted = {library(target, source, args.folder): (target, source) for target in targets for source in sources}
    for old in args.folder.iterdir():  # of other sources, or of other flags
        if not args.only and not any(old.name.startswith(path.name) for path in wanted):
            old.unlink()

    def built(path: Path) -> Path:
        return cache.keep(path, functools.partial(compile_with_zig, *wanted[path]))

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for path in pool.map(built, wanted):
            target, source = wanted[path]
            path.with_suffix(".lock").unlink(missing_ok=True)
            print(f"{target.name} {source.stem}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
