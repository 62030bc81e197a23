"""Where compiled kernels are kept: whatever the environment looks like, a whole and right library is used."""

import errno
import logging
import multiprocessing
import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from surgrad.errors import UserError
from surgrad.kernels.cpu import build, cache, instruction_set

if build._compiler() is None:
    pytest.skip("no C++ compiler: install g++ or clang++, or pip install ziglang", allow_module_level=True)

ANSWER = 42


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A kernel that compiles fast, without any setting; HOME, the temporary and working folder are new."""
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "identity.h").write_text((build.FOLDER / "identity.h").read_text())
    path = folder / "tiny.cpp"
    path.write_text(f'#include "identity.h"\nextern "C" int answer() {{ return {ANSWER}; }}\n')
    monkeypatch.setattr(build, "FOLDER", folder)
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "prebuilt")
    for name in ("SURGRAD_CACHE", "XDG_CACHE_HOME", "SURGRAD_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name in ("home", "tmp", "here"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path / "here")
    return path


def loaded_from(source):
    """The folder that the library came from; it gives the right answer and left the working folder alone."""
    library = build._load(source)
    assert library.answer() == ANSWER
    assert not os.listdir(".")
    return Path(library._name).parent


def home(tmp_path):
    return tmp_path / "home" / ".cache" / "surgrad"


def private(tmp_path):
    return next((tmp_path / "tmp").iterdir())


def no_home(monkeypatch, tmp_path):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)


def read_only_home(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # nothing can be made there, by root neither


def writable_by(mode):
    def situation(monkeypatch, tmp_path):
        home(tmp_path).mkdir(parents=True)
        home(tmp_path).chmod(mode)

    return situation


def of_another_user(monkeypatch, tmp_path):
    home(tmp_path).mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(home(tmp_path), 4242, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)


def variable(name, value):
    return lambda monkeypatch, tmp_path: monkeypatch.setenv(name, value.replace("TMP", str(tmp_path)))


def without_locks(monkeypatch, tmp_path):
    fcntl = pytest.importorskip("fcntl")

    def flock(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (lambda monkeypatch, tmp_path: None, home),
        (no_home, private),
        (read_only_home, private),
        (writable_by(0o777), private),
        (writable_by(0o770), private),
        (of_another_user, private),
        (variable("XDG_CACHE_HOME", ""), home),
        (variable("XDG_CACHE_HOME", "relative"), home),
        (variable("XDG_CACHE_HOME", "TMP/base"), lambda tmp_path: tmp_path / "base" / "surgrad"),
        (variable("SURGRAD_CACHE", ""), home),
        (variable("SURGRAD_CACHE", "TMP/ünï cöde sp ace"), lambda tmp_path: tmp_path / "ünï cöde sp ace"),
        (variable("SURGRAD_CACHE", "~/kernels"), lambda tmp_path: tmp_path / "home" / "kernels"),
        (without_locks, home),
    ],
)
def test_a_folder_that_can_be_used_and_trusted_is_found(situation, expected, source, tmp_path, monkeypatch, caplog):
    situation(monkeypatch, tmp_path)
    with caplog.at_level(logging.WARNING):
        folder = loaded_from(source)
    assert folder == expected(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) & 0o022 == 0
    warned = ["SURGRAD_CACHE" in record.getMessage() for record in caplog.records]
    assert warned == ([True] if expected is private else [])
    assert loaded_from(source) == folder


def test_a_relative_folder_is_refused(source, monkeypatch):
    monkeypatch.setenv("SURGRAD_CACHE", "kernels")
    with pytest.raises(UserError, match="'kernels' is relative; give an absolute path"):
        build._load(source)


def test_a_private_folder_that_somebody_else_made_is_refused(source, tmp_path, monkeypatch):
    no_home(monkeypatch, tmp_path)
    (tmp_path / "other").mkdir(mode=0o700)
    cache._temporary_folder().symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="it is not a folder"):
        build._load(source)


def truncated(library):
    whole = library.read_bytes()
    library.unlink()  # this process has it mapped
    library.write_bytes(whole[:1000])


def without_checksum(library):
    cache._seal(library).unlink()


def of_another_source(library):
    """Loads, has a right checksum, and is not what its name says."""
    other = library.parent.parent / "other.cpp"
    (library.parent.parent / "identity.h").write_text((build.FOLDER / "identity.h").read_text())
    other.write_text('#include "identity.h"\nextern "C" int answer() { return 0; }\n')
    cache.keep(library, lambda path: build._compile(build._compiler(), other, "native", path), fresh=True)


def of_an_old_version(library):
    """Loads, has a right checksum, and no key."""
    other = library.parent.parent / "old.c"
    other.write_text('extern "C" int answer() { return 0; }\n')
    cache.keep(library, lambda path: build._compile(build._compiler(), other, "native", path), fresh=True)


@pytest.mark.parametrize("damage", [truncated, without_checksum, of_another_source, of_an_old_version])
def test_a_damaged_or_wrong_library_is_built_again(damage, source, tmp_path):
    (library,) = [path for path in loaded_from(source).iterdir() if path.suffix == build.SUFFIX]
    damage(library)
    assert loaded_from(source) == home(tmp_path)
    assert cache.is_whole(library)


def test_without_a_compiler_what_was_compiled_before_is_used(source, tmp_path, monkeypatch):
    assert build._compiler() is not None
    loaded_from(source)
    monkeypatch.setattr(build, "_compiler", lambda: None)
    assert loaded_from(source) == home(tmp_path)
    source.write_text(source.read_text() + "\n")
    assert build._load(source) is None


def test_with_ziglang_alone_what_another_compiler_made_is_used(source, tmp_path, monkeypatch):
    loaded_from(source)
    monkeypatch.setattr(build, "_compiler", lambda: (sys.executable, "-m", "ziglang", "c++"))
    monkeypatch.setattr(build, "_compile", None)
    assert loaded_from(source) == home(tmp_path)


def test_a_named_cache_is_the_only_one_looked_in(source, tmp_path, monkeypatch):
    with monkeypatch.context() as elsewhere:
        no_home(elsewhere, tmp_path)
        assert loaded_from(source) == private(tmp_path)
    monkeypatch.setenv("SURGRAD_CACHE", str(tmp_path / "named"))
    assert loaded_from(source) == tmp_path / "named"


def test_without_a_compiler_what_the_package_brings_is_used(source, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_compiler", lambda: None)
    build.PREBUILT.mkdir()
    assert build._load(source) is None
    compiler = ("c++",)
    shipped = build.PREBUILT / build.shipped_name(source, "baseline")
    cache.keep(shipped, lambda path: build._compile(compiler, source, "baseline", path))
    assert loaded_from(source) == build.PREBUILT


def test_a_library_is_on_disk_before_it_is_moved_into_place(source, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (order.append(name), real(*a))[1])
    loaded_from(source)
    assert order == ["fsync", "replace", "fsync", "replace", "fsync"]  # library, checksum, folder


def _answer(source, queue):
    queue.put(build._load(source).answer())


def test_many_processes_may_build_at_once(source, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_answer, args=(source, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [queue.get() for _ in processes] == [ANSWER] * 3
    assert sorted(p.suffix for p in home(tmp_path).iterdir()) == [".lock", ".sha256", build.SUFFIX]


def test_a_failed_build_leaves_nothing_behind(source, tmp_path):
    source.write_text("no C++")
    with pytest.raises(build.subprocess.CalledProcessError):
        build._load(source)
    assert [p.suffix for p in home(tmp_path).iterdir() if p.suffix != ".lock"] == []


def test_ziglang_is_the_compiler_where_there_is_no_other(monkeypatch):
    pytest.importorskip("ziglang")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert build._compiler()[1:] == ("-m", "ziglang", "c++")


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(UserError, match="CXX='no-such-compiler -O1' is not a command"):
        build._compiler()


@pytest.mark.parametrize(
    ("name", "can", "message"),
    [
        ("sse9", {}, "SURGRAD_ISA='sse9' is unknown; allowed: native, baseline, avx2, avx512"),
        ("avx2", {}, r"SURGRAD_ISA='avx2': .* cannot execute it; allowed here: native, baseline"),
        ("avx512", instruction_set.AVX2, r"SURGRAD_ISA='avx512': .*; allowed here: native, baseline, avx2"),
    ],
)
def test_instructions_that_the_machine_lacks_are_refused_by_name(name, can, message, monkeypatch):
    monkeypatch.setenv("SURGRAD_ISA", name)
    monkeypatch.setattr(instruction_set, "machine", lambda: "x86_64")
    monkeypatch.setattr(instruction_set, "_capabilities", lambda: dict.fromkeys(can, True))
    with pytest.raises(UserError, match=message):
        instruction_set.chosen()


def test_every_instruction_set_has_a_library_of_its_own(source, monkeypatch):
    names = ["native", *instruction_set.executable()]
    assert len({build.key(source, name) for name in names}) == len(names)
    for name in names:
        monkeypatch.setenv("SURGRAD_ISA", name)
        loaded_from(source)
