"""The kernels where this machine is not: another processor in an emulator, other systems' compilers, sanitizers."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from surgrad.kernels.cpu import build, instruction_set

pytestmark = pytest.mark.slow

REPLAY = Path(__file__).parents[1] / "native" / "replay.cpp"
SOURCES = sorted(build.FOLDER.glob("*.cpp"))
FLAGS = [flag for flag in build.FLAGS if flag != "-shared"]
AARCH64 = "aarch64-linux-gnu-g++"


def needs(command, package):
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"{command} is missing: apt-get install {package}")


needs_compiler = needs("g++", "g++")
needs_cross_compiler = needs(AARCH64, "g++-aarch64-linux-gnu")
needs_emulator = needs("qemu-aarch64", "qemu-user")
needs_zig = pytest.mark.skipif(not importlib.util.find_spec("ziglang"), reason="pip install ziglang")


def replay(folder, compiler, *flags, run=()):
    """Spikes and numbers of every kernel on the networks of replay.cpp, as this compiler's build computes them."""
    program = folder / "replay"
    command = [compiler, *FLAGS, *flags, f"-I{build.FOLDER}", "-o", program, REPLAY]
    subprocess.run(command, check=True)
    output = subprocess.run([*run, program], check=True, capture_output=True).stdout
    words = int(np.frombuffer(output, np.int64, 1)[0])
    return np.frombuffer(output, np.uint64, words, 8), np.frombuffer(output, np.float32, offset=8 * (1 + words))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    spikes, numbers = replay(tmp_path_factory.mktemp("here"), "g++", *instruction_set.flags("baseline"))
    assert np.isfinite(numbers).all()
    assert np.bitwise_count(spikes).sum() > 1000
    return spikes, numbers


def assert_same(got, expected):
    assert np.array_equal(got[0], expected[0])
    assert np.allclose(got[1], expected[1], rtol=1e-3, atol=1e-5 * np.abs(expected[1]).max())


@needs_compiler
@pytest.mark.parametrize("isa", instruction_set.executable()[1:])
def test_instruction_sets_compute_the_same(isa, expected, tmp_path):
    assert_same(replay(tmp_path, "g++", *instruction_set.flags(isa)), expected)


@needs_compiler
@needs("clang++", "clang")
def test_compilers_compute_the_same(expected, tmp_path):
    assert_same(replay(tmp_path, "clang++", *instruction_set.flags(instruction_set.executable()[-1])), expected)


@needs_compiler
@needs_cross_compiler
@needs_emulator
def test_64_bit_arm_computes_the_same(expected, tmp_path):
    assert_same(replay(tmp_path, AARCH64, "-static", run=["qemu-aarch64"]), expected)


@needs_cross_compiler
def test_the_inner_loops_on_arm_are_vectors(tmp_path):
    """No row of neurons and no block of a product is computed one float at a time."""
    target = tmp_path / "lif.o"
    subprocess.run([AARCH64, *FLAGS, "-fPIC", "-c", "-o", target, build.FOLDER / "lif.cpp"], check=True)
    command = ["aarch64-linux-gnu-objdump", "-d", "--demangle", "--no-show-raw-insn", target]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    functions = dict(re.findall(r"^[0-9a-f]+ <(.*)>:\n((?:.+\n)*)", listing, re.MULTILINE))
    inner = {n: code for n, code in functions.items() if re.search(r"\b(\w+_row|block|few_rows|add_columns)<", n)}
    assert len(inner) > 20
    scalar = {n: re.findall(r"\sf\w*(?:add|sub|mul|div)\w*\s+s\d.*", code) for n, code in inner.items()}
    assert not {n: found for n, found in scalar.items() if found}


@needs_zig
@pytest.mark.parametrize("target", ["aarch64-macos", "x86_64-macos", "x86_64-windows-gnu", "aarch64-linux-gnu"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_kernel_compiles_for(target, source, tmp_path):
    flags = [*build.FLAGS, "-O1", "-target", target]
    command = [sys.executable, "-m", "ziglang", "c++", *flags, "-o", tmp_path / "library", source]
    subprocess.run(command, check=True)


SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g"


@needs_compiler
def test_memory_and_arithmetic_are_clean(tmp_path):
    replay(tmp_path, "g++", *SANITIZERS.split(), "-O1", *instruction_set.flags(instruction_set.executable()[-1]))


@needs_compiler
def test_the_kernels_tests_are_clean(tmp_path):
    """The kernels' own tests on libraries with sanitizers, whose runtime is loaded before Python."""
    libraries = ("libasan.so", "libstdc++.so.6")  # the second, for the first looks for its exceptions when it is loaded
    found = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in libraries]
    environment = {
        **os.environ,
        "CXX": f"g++ {SANITIZERS}",
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",
        "SURGRAD_CACHE": str(tmp_path),
    }
    here = Path(__file__).parent
    names = ("kernel_cpu", "kernel_stream", "kernel_layerwise", "kernel_adaptive", "gradients", "conformance")
    tests = [here / f"test_{name}.py" for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
