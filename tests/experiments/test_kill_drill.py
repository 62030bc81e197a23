"""Every script that trains or studies, killed around its checkpoints, ends bit-equal to an undisturbed run."""

import importlib.util
import os
import subprocess
import sys

import pytest

from surgrad.runs.record import REPO

SCRIPT = REPO / "scripts" / "kill_drill.py"
spec = importlib.util.spec_from_file_location("kill_drill", SCRIPT)
kill_drill = importlib.util.module_from_spec(spec)
sys.modules["kill_drill"] = kill_drill
spec.loader.exec_module(kill_drill)


def test_every_script_that_trains_or_studies_is_drilled():
    scripts = {path.stem for folder, _ in kill_drill.SCRIPTS.values() for path in (REPO / folder).glob("*.py")}
    assert scripts == {name.split()[0] for name in kill_drill.SCRIPTS}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Lines of the drill's table: one process for all, since importing PyTorch takes longer than most attempts."""
    folder = tmp_path_factory.mktemp("drill")
    options = ["--kills", "0", "--crashes", "0", "--checkpoints", "--folder", str(folder)]
    command = [sys.executable, str(SCRIPT), *options]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process.stdout
        process.communicate()


@pytest.mark.parametrize("name", kill_drill.SCRIPTS)
def test_killed_around_its_checkpoints_a_script_ends_as_if_it_had_not_been(name, table):
    said = ""
    while (line := table.readline()) and not line.startswith(f"| {name} |"):
        said += line
    _, _, _, deaths, runs, different, _ = [cell.strip() for cell in line.split("|")]
    assert (deaths, runs, different) == ("3", "1", "0"), said
