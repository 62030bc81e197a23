"""The check of the kernels on a GPU, rehearsed on a CPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


def check(*arguments):
    environment = os.environ | {"DRY": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "scripts.gpu_check", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_a_part_is_rehearsed_and_its_results_are_written(tmp_path):
    done = check("smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result, whole = json.loads((tmp_path / "gpu_check.json").read_text())
    assert result["ok"]
    assert result["wrong"] == 0
    assert result["decided"] == 9 * 3 * 6
    assert whole["seconds"] > 0
    assert "| 8-6-3, recurrent | True |" in (tmp_path / "gpu_check.md").read_text()


def test_what_takes_too_long_is_stopped_and_is_no_success(tmp_path):
    done = check("smoke", "--out", tmp_path, "--limit", "0.01")
    assert done.returncode == 1
    assert "stopped after" in json.loads((tmp_path / "gpu_check.json").read_text())[0]["error"]


def test_an_unknown_part_is_named(tmp_path):
    done = check("stricter", "--out", tmp_path)
    assert done.returncode == 2
    assert "unknown: stricter" in done.stderr
