"""Recorded arrays: parts while a run goes on, one file in the end, at a cost that grows little faster than they do."""

import math
import random

import h5py
import numpy as np
import pytest

from surgrad.runs import states
from surgrad.runs.files import Damaged

KIB = 1024


def arrays(*names, fill=0, size=16 * KIB):
    return {name: (np.full(size // 8, fill), {"units": "Hz", "none": None}) for name in names}


@pytest.fixture
def written(monkeypatch):
    """Bytes of every file that takes its place."""
    sizes = []

    def seen(temporary, facts):
        sizes.append(temporary.stat().st_size)
        seal(temporary, facts)

    seal = states.seal
    monkeypatch.setattr(states, "seal", seen)
    return sizes


def test_n_writes_of_one_size_copy_n_log_n_and_leave_few_files(tmp_path, written):
    n, size, most = 64, 16 * KIB, 0
    for k in range(n):
        states.write_states(tmp_path, arrays(f"epoch_{k}/w", fill=k, size=size))
        most = max(most, len(states.state_files(tmp_path)))
    assert most <= math.log2(n)
    assert states.join_states(tmp_path) == sorted(f"epoch_{k}/w" for k in range(n))
    assert [path.name for path in tmp_path.iterdir()] == ["state.h5"]
    assert sum(written) < 1.25 * size * n * (math.log2(n) + 1)  # to write it whole each time: size n^2 / 2
    assert all((states.read_state(tmp_path, f"epoch_{k}/w")[0] == k).all() for k in range(n))


@pytest.mark.parametrize("seed", range(4))
def test_of_equal_names_the_last_counts_whatever_parts_are_joined_when(tmp_path, seed):
    rng, expected = random.Random(seed), {}
    for k in range(30):
        names = rng.sample(["a", "b/c", "b/d", "e"], rng.randint(1, 3))
        states.write_states(tmp_path, arrays(*names, fill=k, size=2 ** rng.randint(3, 15)))
        expected |= dict.fromkeys(names, k)
        if rng.random() < 0.1:
            states.join_states(tmp_path)
        assert {name: int(states.read_state(tmp_path, name)[0][0]) for name in states.state_names(tmp_path)} == expected
    assert states.read_state(tmp_path, "a")[1] == {"units": "Hz"}


def test_a_part_that_comes_back_after_it_was_joined_counts_no_more(tmp_path):
    """As after a power cut: its name was removed, and that did not reach the disk."""
    states.write_states(tmp_path, arrays("a", "b", fill=1))
    (part,) = states.state_files(tmp_path)
    old = part.read_bytes()
    states.write_states(tmp_path, arrays("a", fill=2))
    part.write_bytes(old)
    assert states.read_state(tmp_path, "a")[0][0] == 2
    assert states.join_states(tmp_path) == ["a", "b"]
    assert states.read_state(tmp_path, "a")[0][0] == 2


def test_only_arrays_that_are_kept_remain(tmp_path):
    assert states.join_states(tmp_path, keep=["a"]) == []
    states.write_states(tmp_path, arrays("a", "b"))
    assert states.join_states(tmp_path, keep=["a"]) == ["a"]
    with pytest.raises(KeyError, match="it holds: a"):
        states.read_state(tmp_path, "b")


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    states.write_states(tmp_path, arrays("a", fill=1))

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(states, "seal", fail)
    for write in (lambda: states.write_states(tmp_path, arrays("a", fill=2)), lambda: states.join_states(tmp_path)):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert states.read_state(tmp_path, "a")[0][0] == 1


def test_every_part_is_held_to_its_checksum(tmp_path):
    states.write_states(tmp_path, arrays("a", size=64 * KIB))
    states.write_states(tmp_path, arrays("b", size=KIB))
    first, second = states.state_files(tmp_path)
    second.write_bytes(second.read_bytes().replace(b"Hz", b"ms"))
    with pytest.raises(Damaged, match="wrong checksum") as damaged:
        states.require_states(tmp_path, ["a"])
    assert damaged.value.path == second
    first.unlink()
    with pytest.raises(Damaged):
        states.read_state(tmp_path, "a")


def test_a_reader_finds_an_array_whose_part_is_just_being_joined(tmp_path, monkeypatch):
    states.write_states(tmp_path, arrays("a", fill=3))
    opened = states._opened

    def once(path):
        monkeypatch.setattr(states, "_opened", opened)
        states.join_states(tmp_path)
        return opened(path)

    monkeypatch.setattr(states, "_opened", once)
    assert states.read_state(tmp_path, "a")[0][0] == 3


def test_a_file_of_an_earlier_version_is_read_and_gone_on_from(tmp_path):
    with h5py.File(tmp_path / "state.h5", "w") as file:
        file["a"] = [1.0]
    states.write_states(tmp_path, arrays("b"))
    assert states.state_names(tmp_path) == ["a", "b"]
    assert states.join_states(tmp_path) == ["a", "b"]
