"""Every script that trains or studies, killed with SIGKILL at chosen moments, ends bit-equal to an undisturbed run."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from classification_suite import TINY as CONVOLUTIONAL
from dense_suite import TINY as DENSE
from test_initialization_study import TINY as INITIALIZATION
from test_sigmoid_studies import SMALL as SIGMOID

from surgrad.datasets.sources.targets import write_spike_image
from surgrad.runs.record import REPO, load_runs

CLASSIFICATION, MATCHING, STUDIES = (
    REPO / name for name in ("Classification", "Spike_train_matching", "Sigmoid_network")
)
QUIET = ["wandb.mode=disabled", "num_threads=1"]
EVENT = ["dataset.duration=0.1", "time_step=5e-3", "nb_hidden=8", "nb_epochs=2", "plot=false", *QUIET]
SUPERSPIKE = ["nb_hidden=8", "nb_epochs=6", "logging_freq=2", "plot=false", *QUIET]
TINY_MATCHING = [
    "dataset.name=tiny",
    "dataset.data_path={target}",
    "dataset.nb_inputs=10",
    "dataset.nb_hidden=8",
    "dataset.nb_outputs=16",
    "dataset.nb_steps=40",
    "method=stochasticsuperspike",
    "logging_freq=2",
    "nb_epochs=7",
    "plot=false",
    "save_w=true",
    *QUIET,
]
DRILLS = {
    "deep_convSNN": (CLASSIFICATION / "deep_convSNN.py", [*CONVOLUTIONAL, "plot=none"]),
    "dense_SNN": (CLASSIFICATION / "dense_SNN.py", DENSE),
    "event_SNN": (CLASSIFICATION / "event_SNN.py", [*EVENT, "method=eventprop"]),
    "event_SNN on a grid": (CLASSIFICATION / "event_SNN.py", [*EVENT, "method=surrogate"]),
    "initialization": (CLASSIFICATION / "initialization.py", INITIALIZATION),
    "run_image_task_1hid": (MATCHING / "run_image_task_1hid.py", TINY_MATCHING),
    "run_superspike": (MATCHING / "run_superspike.py", SUPERSPIKE),
    **{name: (STUDIES / f"{name}.py", [f"--config-name={name}", *SIGMOID[name], *QUIET]) for name in SIGMOID},
}
#: what says when and how often a run was computed, not what came of it; rows are compared one by one, not by their seal
OF_THE_ATTEMPT = ("started", "ended", "attempts", "wall_seconds", "seconds_per_epoch", "wandb_id", "metrics")


def require_equal(a, b, where):
    """The same values down to the last bit; NaN equals NaN."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            require_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            require_equal(x, y, f"{where}/{k}")
    elif isinstance(a, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=where)
    else:
        assert a == b or a != a, where


def result(folder):
    """All that a run folder holds, without what belongs to an attempt."""
    (record,) = load_runs(folder)
    of_attempt = {key for key in record.summary if key in OF_THE_ATTEMPT or "peak" in key}
    return {
        "summary": {key: value for key, value in record.summary.items() if key not in of_attempt},
        "metrics": {name: column for name, column in record.metrics.items() if name != "seconds"}
        if (folder / "metrics.csv").exists()
        else {},
        "states": {name: record.state(name) for name in record.states},
        "checkpoint": record.checkpoint(),
        "figures": sorted(path.name for path in folder.glob("Plots/*")),
    }


@pytest.fixture(scope="module")
def drill():
    """Runs a drill, in one process for all: importing PyTorch takes longer than most of the attempts."""
    command = [sys.executable, str(REPO / "tests" / "kill_drill.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(script, folder, overrides):
            process.stdin.write(json.dumps([str(script), str(folder), overrides]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.mark.parametrize("name", DRILLS)
def test_killed_at_any_moment_a_script_ends_as_if_it_had_not_been(name, tmp_path, drill):
    script, options = DRILLS[name]
    target = tmp_path / "target.png"
    write_spike_image(target, np.random.default_rng(0).random((40, 16)) < 0.15)
    ended = drill(script, tmp_path, [option.format(target=target) for option in options])
    assert ended == [0, -9, -9, -9, 0], (tmp_path / "output").read_text()[-3000:]
    whole, killed = result(tmp_path / "whole"), result(tmp_path / "killed")
    assert killed["summary"]["status"] == "done"
    for part in whole:
        require_equal(killed[part], whole[part], part)
