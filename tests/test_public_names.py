"""The public front: its names, what importing it costs, and that its modules are short names of the library's."""

import importlib
import inspect
import re
import subprocess
import sys

import pytest

import surgrad
from surgrad.paths import ROOT

FRONTS = {
    "surgrad.surrogate": "surgrad.neurons.surrogate",
    "surgrad.escape_noise": "surgrad.neurons.escape_noise",
    "surgrad.losses": "surgrad.training.losses",
    "surgrad.initializers": "surgrad.network.initializers",
}


@pytest.mark.parametrize("name", surgrad.__all__)
def test_every_public_name_is_there(name):
    assert getattr(surgrad, name) is not None
    assert name in dir(surgrad)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'surgrad' has no attribute 'Dens'"):
        _ = surgrad.Dens


@pytest.mark.parametrize("code", ["import surgrad", "import surgrad.cli"])
def test_heavy_libraries_are_imported_when_needed(code):
    heavy = {"torch", "matplotlib", "hydra", "omegaconf", "wandb", "scipy"}
    if code == "import surgrad":
        heavy |= {"numpy", "h5py", "yaml", "tempfile", "importlib.resources"}
    check = f"import sys; {code}; print(sorted(set(sys.modules) & {heavy}))"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("first", ["surgrad.runs.record", "surgrad.neurons.surrogate", "surgrad.training.losses"])
def test_a_module_can_be_the_first_that_is_imported(first):
    subprocess.run([sys.executable, "-c", f"import {first}"], cwd=ROOT, check=True)


@pytest.mark.parametrize(("front", "home"), FRONTS.items())
def test_a_front_module_has_the_objects_of_its_home(front, home):
    short, full = importlib.import_module(front), importlib.import_module(home)
    assert short.__all__
    for name in short.__all__:
        assert getattr(short, name) is getattr(full, name)
    classes = {name for name, value in vars(full).items() if inspect.isclass(value) and value.__module__ == home}
    assert {name for name in classes if not name.startswith("_")} <= set(short.__all__)


def test_the_version_has_one_source():
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == surgrad.__version__
    assert 'path = "surgrad/__init__.py"' in (ROOT / "pyproject.toml").read_text()


def test_types_are_offered():
    assert (ROOT / "surgrad" / "py.typed").exists()
