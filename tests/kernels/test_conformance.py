"""Refuse or be right: every entry, argument, fault and kernel of `conformance.py`, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from surgrad.kernels.cpu import build
from surgrad.kernels.gpu import network as cuda

SCRIPT = Path(__file__).with_name("conformance.py")


@pytest.mark.skipif(build.library() is None, reason="no C++ compiler on this machine")
def test_what_does_not_fit_is_refused_by_name_and_all_else_equals_the_reference(record_property):
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    options = ["interpreter"] if cuda.triton_installed() else []
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], env=environment, capture_output=True, text=True, check=False
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    cells = [name for kind, name in found if kind == "cell"]
    assert found[-1:] == [["end", ""]], f"rc {done.returncode} in {cells[-1:]}: {done.stderr[-2000:]}"
    record_property("cells", len(cells))
    assert len(cells) > 1000
    assert [text for kind, text in found if kind == "missing"] == []
    problems = [text for kind, text in found if kind == "broken"]
    assert not problems, "\n".join(problems)
