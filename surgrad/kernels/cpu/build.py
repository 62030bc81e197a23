"""Compile the CPU kernels once, at first use, and load them.

The library is cached under the user's cache folder, by source, compiler, flags and CPU. Many processes may start at
once: each builds in a file of its own, one at a time, and moves it into place.
"""

import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from surgrad.errors import UserError

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "native"
SOURCE = FOLDER / "lif.cpp"
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffp-contract=off"),
)


def cache_folder() -> Path:
    """$SURGRAD_CACHE, or surgrad/ under the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "surgrad"
    return Path(os.environ.get("SURGRAD_CACHE", default))


def _compiler() -> str | None:
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _cpu() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or None (with one warning) where there is no C++ compiler or it fails."""
    compiler = _compiler()
    if compiler is None:
        logger.warning("no C++ compiler found: the slow reference kernel runs. Install g++ or clang++, or set CXX")
        return None
    try:
        return _load(_build(compiler, _target(compiler, SOURCE)))
    except (OSError, subprocess.CalledProcessError) as error:
        logger.warning("the CPU kernel could not be built (%s): the slow reference kernel runs", _reason(error))
        return None


@functools.cache
def compiled(name: str) -> ctypes.CDLL:
    """The library of kernels/<name>.cpp, for algorithms without a slow form. Raises: UserError if that fails."""
    compiler = _compiler()
    if compiler is None:
        raise UserError(
            f"{name} is compiled at first use, and no C++ compiler was found: install g++ or clang++, or set CXX"
        )
    source = FOLDER / f"{name}.cpp"
    try:
        return _open(_build(compiler, _target(compiler, source), source))
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{name} could not be compiled: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "stderr", None) or error).strip()[:500]


def _target(compiler: str, source: Path) -> Path:
    """Where the library of a source goes: the name holds everything that it depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    parts = [p.read_text() for p in sorted((source, *FOLDER.glob("*.h")))]
    key = hashlib.sha256("\0".join([*parts, version, *FLAGS, platform.machine(), _cpu()]).encode()).hexdigest()[:16]
    return cache_folder() / f"{source.stem}-{key}.so"


def _build(compiler: str, target: Path, source: Path = SOURCE) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            handle, name = tempfile.mkstemp(suffix=".so", dir=target.parent)
            os.close(handle)
            try:
                command = [compiler, *FLAGS, "-o", name, str(source)]
                subprocess.run(command, check=True, capture_output=True, text=True)
                os.replace(name, target)
            finally:
                Path(name).unlink(missing_ok=True)
    return target


@functools.cache
def _openmp_entry() -> ctypes.c_void_p | None:
    """GOMP_parallel of the OpenMP runtime that PyTorch has loaded; None if it is another one."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
        path = next(line.split()[-1] for line in lines if "libgomp" in line)
        return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, ctypes.c_void_p)
    except (OSError, StopIteration, AttributeError):
        return None


def _open(path: Path) -> ctypes.CDLL:
    """Load a library; its threads are PyTorch's where that is possible."""
    lib = ctypes.CDLL(str(path))
    if _openmp_entry() is not None and hasattr(lib, "surgrad_use_threads"):
        lib.surgrad_use_threads.argtypes, lib.surgrad_use_threads.restype = [ctypes.c_void_p], None
        lib.surgrad_use_threads(_openmp_entry())
    return lib


def _load(path: Path) -> ctypes.CDLL:
    lib = _open(path)
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    lib.surgrad_forward.argtypes = lib.surgrad_backward.argtypes = [pointer]
    lib.surgrad_forward.restype = lib.surgrad_backward.restype = None
    lib.surgrad_pack_events.argtypes = [pointer] * 4 + [integer] * 3 + [pointer]
    lib.surgrad_pack_events.restype = None
    lib.surgrad_pack_dense.argtypes = [pointer] * 2 + [integer] * 4 + [pointer]
    lib.surgrad_layer_size.restype = lib.surgrad_network_size.restype = integer
    return lib
