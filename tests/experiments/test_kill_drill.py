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


#: Those whose runs, undisturbed and killed, take more than some seconds.
LONG = {"initialization", "sign_bias", "integrate_closed_circle", "gradient_estimators", "single_neuron"}
LONG |= {"dense_SNN adaptive", "dense_SNN dcls"}  # dense_SNN full has the most parts
SHORT = [name for name in kill_drill.SCRIPTS if name not in LONG]


@pytest.mark.parametrize("names", [SHORT, pytest.param(sorted(LONG), marks=pytest.mark.slow)], ids=["short", "long"])
def test_killed_around_its_checkpoints_a_script_ends_as_if_it_had_not_been(names, tmp_path):
    """One process for all, since importing PyTorch takes longer than most attempts."""
    options = ["--kills", "0", "--crashes", "0", "--checkpoints", "--folder", str(tmp_path), "--scripts", *names]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, str(SCRIPT), *options], stdout=subprocess.PIPE, text=True, env=environment)
    rows = {cells[0]: cells for line in done.stdout.splitlines() if len(cells := line.strip("| ").split(" | ")) == 5}
    for name in names:
        _, _, deaths, runs, different = rows[name]
        assert (deaths, runs, different) == ("3", "1", "0"), done.stdout
