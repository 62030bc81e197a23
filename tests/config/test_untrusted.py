"""Run folders from strangers: whatever one names or links to, nothing is executed and nothing is written outside."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from dense_suite import TINY, run_dense
from omegaconf import OmegaConf

from surgrad.config.build import MODULES, build
from surgrad.config.trust import REGISTRY, read_back
from surgrad.errors import UserError
from surgrad.experiments.trained import trained_network
from surgrad.neurons.surrogate import SuperSpike
from surgrad.runs import files, marker
from surgrad.runs.folder import open_run
from surgrad.runs.record import REPO, RunRecord, load_runs

CANARY = "canary"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of the dense suite on generated data."""
    folder = tmp_path_factory.mktemp("dense") / "run"
    run_dense(*TINY, f"hydra.run.dir={folder}")
    return folder


def renamed(folder: Path, change: Callable[[dict[str, Any]], None], text: str | None = None) -> None:
    """Another configuration, sealed again as an attacker would."""
    found = marker.read_marker(folder)
    config = json.loads(json.dumps(found.config))
    change(config)
    (folder / "config.yaml").write_text(text or OmegaConf.to_yaml(OmegaConf.create(config)))
    digest = marker.config_digest(folder / "config.yaml")
    marker.Marker(found.run_id, config, digest, found.data).write(folder)


def target(name: str, /, **arguments: Any) -> Callable[[Path, Path], None]:
    """A surrogate of another class."""

    def apply(folder: Path, outside: Path) -> None:
        given = {key: str(value).format(outside=outside) for key, value in arguments.items()}
        renamed(folder, lambda config: config.update(surrogate={"_target_": name} | given))

    return apply


def without_marker(text: str) -> Callable[[Path, Path], None]:
    """A config.yaml as earlier versions wrote it, with something in it that YAML can do."""

    def apply(folder: Path, outside: Path) -> None:
        (folder / marker.NAME).unlink()
        with (folder / "config.yaml").open("a") as file:
            file.write(text.format(outside=outside))

    return apply


class Payload:
    def __init__(self, outside: Path) -> None:
        self.outside = outside

    def __reduce__(self):
        return Path.touch, (self.outside / CANARY,)


def pickled(folder: Path, outside: Path) -> None:
    for name in ("checkpoint.pt", "checkpoint.prev.pt"):
        torch.save({"epoch": 1, "model": Payload(outside)}, folder / name)
        files.seal(folder / name, {"schema": 1, "run_id": marker.read_marker(folder).run_id})


def bare_pickle(folder: Path, outside: Path) -> None:
    (folder / marker.NAME).unlink()
    (folder / "checkpoint.pt").write_bytes(pickle.dumps(Payload(outside)))
    (folder / "checkpoint.prev.pt").unlink()


def environment(folder: Path, outside: Path) -> None:
    renamed(folder, lambda config: config.update(loss_type="${oc.env:HOME}"))


def linked(folder: Path, outside: Path) -> None:
    (outside / "bashrc").write_text("mine\n")
    for name in ("run.log", ".writer", "metrics.csv.tmp", "summary.json.tmp", "config.yaml.tmp", "checkpoint.pt.tmp"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / "bashrc")


def external(folder: Path, outside: Path) -> None:
    (outside / "secret").write_bytes(b"secret!!")
    (folder / marker.NAME).unlink()
    (folder / "state.h5").unlink(missing_ok=True)
    with h5py.File(folder / "state.h5", "w") as file:
        file.create_dataset("x", (8,), "u1", external=[(str(outside / "secret"), 0, 8)])
        file["link"] = h5py.ExternalLink(str(outside / "secret"), "/x")


def doubling(folder: Path, outside: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 40)]
    without_marker("\n".join([*lines, ""]))(folder, outside)


HOSTILE: dict[str, Callable[[Path, Path], None]] = {
    "compiles a file": target("surgrad.kernels.cpu.build.compiled", name="{outside}/evil"),
    "deletes folders": target("surgrad.runs.__main__.main", arguments="[clean,{outside},--yes]"),
    "writes a file": target("surgrad.runs.files.write_text", path="{outside}/canary", text="x"),
    "any module": target("os.system", command="touch {outside}/canary"),
    "imported name": target("surgrad.neurons.surrogate.dataclass"),
    "reads a file": target("surgrad.datasets.sources.hdf5.read_shd", path="{outside}/mine"),
    "saves by torch": target("torch.optim.optimizer.torch.save", obj="x", f="{outside}/canary"),
    "YAML tag": without_marker("x: !!python/object/apply:os.system ['touch {outside}/canary']\n"),
    "YAML aliases": doubling,
    "environment": environment,
    "pickle": pickled,
    "bare pickle": bare_pickle,
    "links": linked,
    "external storage": external,
}


def everything(folder: Path, outside: Path) -> None:
    """All that one does with a run folder; a refusal is a UserError in one line."""
    from surgrad.runs import __main__ as run_tools

    def network() -> None:
        record = RunRecord(folder)
        trained_network(record)

    def states() -> None:
        record = RunRecord(folder)
        for name in record.states:
            assert b"secret" not in bytes(record.state(name))

    def resume() -> None:
        with open_run(folder, RunRecord(folder).config) as run:
            run.load_checkpoint()
            run.log({"epoch": 3})
            run.state("x", torch.ones(2))
            run.checkpoint({"epoch": 3})

    commands = (["list"], ["show"], ["compare", "--out", str(folder / "x.png")], ["repair"], ["clean", "--yes"])
    for act in (network, states, lambda: load_runs(folder), resume):
        with suppress(FileNotFoundError):
            try:
                act()
            except UserError as error:
                assert "\n" not in str(error)  # noqa: PT017
    for name, *options in commands:
        with suppress(SystemExit):
            run_tools.main([name, str(folder), *options])


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_folder_is_read_without_executing_or_writing_anything(finished, tmp_path, hostile):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(finished, folder)
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (outside / "evil.cpp").write_text(f'#include <cstdio>\nstatic FILE* f = fopen("{outside}/{CANARY}", "w");')
    HOSTILE[hostile](folder, outside)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    everything(folder, outside)
    assert {path: path.read_bytes() for path in outside.iterdir()} == before
    (folder / "x.png").unlink(missing_ok=True)


@pytest.mark.parametrize("hostile", [name for name, make in HOSTILE.items() if "target" in make.__qualname__])
def test_a_refused_class_is_named_with_the_way_to_allow_it(finished, tmp_path, hostile):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    HOSTILE[hostile](folder, tmp_path)
    with pytest.raises(UserError, match=r"surrogate._target_=.*: named in a run folder.*--trust"):
        trained_network(RunRecord(folder))


def test_the_network_of_an_honest_folder_is_built(finished):
    assert len(trained_network(RunRecord(finished)).layers) == 2


def test_what_configurations_ship_is_in_the_registry():
    """Every class that a configuration of the suites names is built from a run folder too."""
    named = set()
    for path in (REPO / "configs").rglob("*.yaml"):
        for line in path.read_text().splitlines():
            name = line.partition("_target_:")[2].split("#")[0].strip()
            if name.startswith(("surgrad.", "torch.optim.")):
                named.add(name)
    assert len(named) > 20
    for name in named:
        with read_back():
            build({"_target_": name, "_partial_": True})


def test_trust_and_ones_own_command_line_build_what_they_name():
    node = {"_target_": "surgrad.runs.files.plain", "value": 3}
    assert build(node) == 3
    with read_back(trust=True):
        assert build(node) == 3
    with read_back(), pytest.raises(UserError, match="named in a run folder"):
        build(node)
    with read_back():
        assert build({"_target_": "surgrad.surrogate.SuperSpike", "beta": 5.0}) == SuperSpike(5.0)


def test_the_registry_lists_modules_that_are_there():
    """Modules of whole networks excepted: a network is made by a suite's configuration, not by a node of it."""
    short = {name for names in MODULES.values() for name in names}
    assert short - set(REGISTRY) == {"surgrad.network.network", "surgrad.network.dale"}


def test_export_takes_trust(finished, tmp_path):
    pytest.importorskip("nir")
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    HOSTILE["imported name"](folder, tmp_path)
    command = [sys.executable, REPO / "scripts" / "export_nir.py", folder, tmp_path / "x.nir"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: surrogate._target_=surgrad.neurons.surrogate.dataclass: named in a run")
    assert done.stderr.count("\n") == 1
