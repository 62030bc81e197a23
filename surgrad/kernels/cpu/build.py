"""Compile the CPU kernels once, at first use, and load them.

A library is named after all that it depends on: its sources, the flags, the instruction set (`instruction_set.py`) and
the compiler. It holds that name as a symbol, so a library that is not what its name says is never used. Where it is
kept: `cache.py`. Without a compiler, one that was compiled before or came with the package is used.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from surgrad.errors import UserError, known
from surgrad.kernels.cpu import cache, instruction_set

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "native"
PREBUILT = Path(__file__).parent / "prebuilt"
FLAGS = (
    *("-O3", "-std=c++17", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
    "-ffp-contract=off",  # every operation is rounded: the same spikes on every instruction set
)
INTERPRETER = ("PyEval_SaveThread", "PyEval_RestoreThread", "PyErr_CheckSignals")  # what a library calls of Python
SUFFIXES = {"win32": ".dll", "darwin": ".dylib"}
SUFFIX = SUFFIXES.get(sys.platform, ".so")
HOW = 'install g++ or clang++, or `pip install "surgrad[compiler]"`, or set CXX'


def _compiler() -> tuple[str, ...] | None:
    """The command of the C++ compiler: $CXX, the system's, or ziglang's; None if there is none.

    Raises: UserError if $CXX names none.
    """
    if named := shlex.split(os.environ.get("CXX", "")):
        path = shutil.which(named[0])
        if path is None:
            raise UserError(f"CXX={os.environ['CXX']!r} is not a command; allowed: a C++ compiler; or unset it")
        return (path, *named[1:])
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found:
        return (found,)
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "c++")
    return None


def _is_zig(compiler: tuple[str, ...]) -> bool:
    return "ziglang" in compiler


def _version(compiler: tuple[str, ...]) -> str:
    if _is_zig(compiler):
        return "ziglang " + importlib.metadata.version("ziglang")
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def key(source: Path, isa: str, machine: str | None = None) -> str:
    """What a library of this source is, whichever compiler makes it; for the processors of this machine or another."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((source, *FOLDER.glob("*.h")))]
    processor = instruction_set.processor() if isa == "native" else ""
    return _hash(source.stem, *texts, *FLAGS, machine or instruction_set.machine(), isa, processor)


def command(compiler: tuple[str, ...], source: Path, isa: str, target: Path) -> list[str]:
    """The command that compiles ``source`` into the library ``target``."""
    position_independent = [] if sys.platform == "win32" else ["-fPIC"]
    flags = [*FLAGS, *position_independent, *instruction_set.flags(isa, _is_zig(compiler))]
    return [*compiler, *flags, f"-DSURGRAD_KEY={key(source, isa)}", "-o", str(target), str(source)]


def _compile(compiler: tuple[str, ...], source: Path, isa: str, target: Path) -> None:
    subprocess.run(command(compiler, source, isa, target), check=True, capture_output=True, text=True)


@functools.cache
def _openmp_entry() -> ctypes.c_void_p | None:
    """GOMP_parallel of the OpenMP runtime that PyTorch has loaded; None if it is another one."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
        path = next(line.split()[-1] for line in lines if "libgomp" in line)
        return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, ctypes.c_void_p)
    except (OSError, StopIteration, AttributeError):
        return None


def _open(path: Path, expected: str) -> ctypes.CDLL:
    """Load a library; its threads are PyTorch's where that is possible, and handlers of signals run during its calls.

    Raises: OSError if it cannot be loaded or is not the one that was asked for.
    """
    lib = ctypes.PyDLL(str(path))  # it releases the interpreter itself (interrupt.h)
    try:
        lib.surgrad_key.restype = ctypes.c_char_p
        found = lib.surgrad_key().decode()
    except AttributeError:
        found = "none"
    if found != expected:
        raise OSError(f"{path} is another library: its key is {found}, not {expected}")
    if hasattr(lib, "surgrad_use_python"):
        listen(lib)
    if _openmp_entry() is not None and hasattr(lib, "surgrad_use_threads"):
        lib.surgrad_use_threads.argtypes, lib.surgrad_use_threads.restype = [ctypes.c_void_p], None
        lib.surgrad_use_threads(_openmp_entry())
    return lib


def listen(lib: ctypes.CDLL, milliseconds: int = 50) -> None:
    """Have the calls of a library run the handlers of pending signals, this often."""
    functions = (ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p) for name in INTERPRETER)
    lib.surgrad_use_python.argtypes, lib.surgrad_use_python.restype = [*[ctypes.c_void_p] * 3, ctypes.c_int64], None
    lib.surgrad_use_python(*functions, milliseconds)


def _name(source: Path, isa: str, compiler: tuple[str, ...] | None) -> str:
    """The file of a library, a pattern if any compiler will do."""
    by = "*" if compiler is None else _hash(*compiler, _version(compiler))
    return f"{source.stem}-{key(source, isa)}-{by}{SUFFIX}"


def shipped_name(source: Path, isa: str, machine: str | None = None, system: str = sys.platform) -> str:
    """The file, below PREBUILT, of a library that comes with the package (scripts/prebuild_kernels.py)."""
    return f"{source.stem}-{key(source, isa, machine)}{SUFFIXES.get(system, '.so')}"


def _compiled_before(source: Path, isa: str, compiler: tuple[str, ...] | None) -> Iterator[tuple[Path, str]]:
    """Libraries of this source that need not be compiled, with their keys: in the caches, then those of the package."""
    for folder in cache.folders():
        yield from ((path, key(source, isa)) for path in sorted(folder.glob(_name(source, isa, compiler))))
    for name in reversed(instruction_set.executable()) if isa == "native" else [isa]:
        yield PREBUILT / shipped_name(source, name), key(source, name)


def _load(source: Path) -> ctypes.CDLL | None:
    """The library of a source: as this compiler builds it, without one as it was built before, or None.

    Raises: UserError for a wrong SURGRAD_ISA, CXX or SURGRAD_CACHE. OSError, CalledProcessError if a build fails.
    """
    isa, compiler = instruction_set.chosen(), _compiler()
    # ziglang is the last resort: what another compiler has made is as good, and there already
    same = None if compiler is None or _is_zig(compiler) else compiler
    for path, expected in _compiled_before(source, isa, same):
        if cache.is_whole(path):
            try:
                return _open(path, expected)
            except OSError as error:
                logger.info("%s is not used: %s", path, error)
    if compiler is None:
        return None
    target = cache.folder_to_build_in() / _name(source, isa, compiler)
    build = functools.partial(_compile, compiler, source, isa)
    try:
        return _open(cache.keep(target, build), key(source, isa))
    except OSError:  # whole, and yet not what its name says
        return _open(cache.keep(target, build, fresh=True), key(source, isa))


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or None (with one warning) where there is no C++ compiler or it fails."""
    try:
        lib = _load(FOLDER / "lif.cpp")
    except (OSError, subprocess.CalledProcessError) as error:
        logger.warning("the CPU kernel could not be built (%s): the slow reference kernel runs", _reason(error))
        return None
    if lib is None:
        logger.warning("no C++ compiler found: the slow reference kernel runs. To be faster: %s", HOW)
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    lib.surgrad_forward.argtypes = lib.surgrad_backward.argtypes = [pointer]
    lib.surgrad_forward.restype = lib.surgrad_backward.restype = None
    lib.surgrad_pack_events.argtypes = [pointer] * 4 + [integer] * 3 + [pointer]
    lib.surgrad_pack_events.restype = None
    lib.surgrad_pack_dense.argtypes = [pointer] * 2 + [integer] * 4 + [pointer]
    lib.surgrad_is_finite.argtypes = [pointer] + [integer] * 3
    lib.surgrad_layer_size.restype = lib.surgrad_network_size.restype = integer
    return lib


def loaded() -> ctypes.CDLL | None:
    """`library` if it has been asked for before, else None: nothing is compiled only to look at numbers."""
    return library() if library.cache_info().currsize else None


def built_library() -> ctypes.CDLL:
    """`library` where it is known to have been built. Raises: UserError if it was not."""
    return known("the compiled CPU kernel", library())


@functools.cache
def compiled(name: str) -> ctypes.CDLL:
    """The library of native/<name>.cpp, for algorithms without a slow form. Raises: UserError if that fails."""
    try:
        lib = _load(FOLDER / f"{name}.cpp")
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{name} could not be compiled: {_reason(error)}") from error
    if lib is None:
        raise UserError(f"{name} is compiled at first use, and no C++ compiler was found: {HOW}")
    return lib


def _reason(error: Exception) -> str:
    return str(getattr(error, "stderr", None) or error).strip()[:500]
