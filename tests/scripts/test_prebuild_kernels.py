"""Kernels that wheels carry: the same bytes wherever they are made, and right where there is no compiler."""

import functools
import importlib.util
import sys

import pytest
import torch

from surgrad import LIF, Dense, Network, Readout, SpikingLayer
from surgrad.kernels.cpu import build, cache, instruction_set
from surgrad.runs.record import REPO


def load_script():
    spec = importlib.util.spec_from_file_location("prebuild_kernels", REPO / "scripts" / "prebuild_kernels.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


prebuild = load_script()


def test_every_target_has_its_own_file():
    source = build.FOLDER / "lif.cpp"
    names = {prebuild.library(target, source, build.PREBUILT).name for target in prebuild.TARGETS}
    assert len(names) == len(prebuild.TARGETS)


def test_this_kind_of_machine_finds_its_file_by_name():
    mine = [t for t in prebuild.TARGETS if (t.system, t.machine) == (sys.platform, instruction_set.machine())]
    source = build.FOLDER / "lif.cpp"
    looked_up = [path.name for path, _ in build._compiled_before(source, "native", None)]
    for target in mine:
        if target.isa in instruction_set.executable():
            assert prebuild.library(target, source, build.PREBUILT).name in looked_up


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ziglang"), reason="pip install ziglang")
def test_libraries_are_the_same_bytes_and_run_without_a_compiler(tmp_path, monkeypatch):
    target = next(t for t in prebuild.TARGETS if t.system == sys.platform and t.isa in instruction_set.executable())
    for folder in ("a", "b/other"):
        (tmp_path / folder).mkdir(parents=True)
        source = build.FOLDER / "lif.cpp"  # all that a network of LIF neurons needs
        path = prebuild.library(target, source, tmp_path / folder)
        cache.keep(path, functools.partial(prebuild.compile_with_zig, target, source))
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()

    monkeypatch.setattr(build, "PREBUILT", path.parent)
    monkeypatch.setattr(build, "_compiler", lambda: None)
    monkeypatch.setattr(cache, "folders", list)
    monkeypatch.setattr(build.instruction_set, "chosen", lambda: target.isa)
    build.library.cache_clear()
    try:
        layer, readout = SpikingLayer(Dense(20, 30), LIF(), 20e-3, 10e-3), Readout(Dense(30, 3), 20e-3, 10e-3)
        network = Network([layer], readout, dt=1e-3)
        x = (torch.rand(50, 4, 20, generator=torch.Generator().manual_seed(0)) < 0.2).float()
        fast, slow = (network(x, kernel=kernel, record=True) for kernel in ("cpu", "reference"))
    finally:
        build.library.cache_clear()
    assert torch.equal(fast.spikes[0], slow.spikes[0])
    assert fast.spikes[0].sum() > 0
    torch.testing.assert_close(fast.readout, slow.readout)
