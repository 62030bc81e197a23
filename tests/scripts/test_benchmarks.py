"""The benchmark commands: output, skipping, and the counted work behind the floors."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from classification_suite import TINY

from benchmarks import distributed
from benchmarks.command import floor
from benchmarks.problems import ConvSNNStep, LIFScan, LinearLIF, Matching, Recurrent
from benchmarks.rates import Rates
from surgrad.training.distributed import ALONE, Processes

ROOT = Path(__file__).parents[2]


def test_counted_work_of_the_published_network():
    """A multiplication and an addition per weight, position, sample and step; thrice where inputs have gradients."""
    problem = ConvSNNStep(64, 350, "cpu", 2)
    assert problem.shapes() == [(1, 700), (16, 68), (32, 21), (64, 5)]
    work = problem.work()
    assert work.dense_flops + work.spike_flops == pytest.approx(62.57e9, rel=1e-3)
    assert work.dense_flops == pytest.approx(20.17e9, rel=1e-3)


@pytest.mark.parametrize(
    ("problem", "seconds"),
    [
        (LinearLIF(16, 500, "cpu", 2, neurons=2048), 0.309),
        (LIFScan(256, 350, "cpu", 2), 0.071),
        (Recurrent(128, 350, "cpu", 2), 0.066),
    ],
)
def test_floors_at_given_rates(problem, seconds):
    assert floor(problem, Rates(flops=453e9, bytes=31e9))["floor_s"] == pytest.approx(seconds, rel=0.01)


def test_matching_is_deterministic_with_one_trial_only():
    assert [Matching(k, 189, "cpu", 1).stochastic for k in (1, 10)] == [False, True]


def test_a_command_prints_one_line_per_framework_and_names_the_absent(tmp_path):
    absent = tmp_path / "absent.py"
    absent.write_text("import framework_that_is_not_installed\n")
    command = [sys.executable, "-m", "benchmarks.linear_lif", "--neurons", "16", "--steps", "5", "--batch", "2"]
    command += ["--repeats", "2", "--threads", "1", "--frameworks", "surgrad", "torch_loop", "mine"]
    done = subprocess.run([*command, "--path", f"mine={absent}"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = {line["framework"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert lines["mine"]["skipped"] == "framework_that_is_not_installed is not installed"
    for name in ("surgrad", "torch_loop"):
        line = lines[name]
        assert line["best_s"] <= line["median_s"]
        assert line["ratio_to_floor"] == pytest.approx(line["median_s"] / line["floor_s"], rel=1e-2)
    assert lines["surgrad"]["ratio_to_ours"] == 1


def test_a_run_in_several_processes_is_timed_by_its_own_training_pass(capsys):
    overrides = [option for option in TINY if not option.startswith("nb_epochs")]
    distributed.work(argparse.Namespace(overrides=overrides, passes=1, steps=2))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2
    assert all(line["step_s"] > 0 and line["cpu_s"] > 0 for line in lines)
    assert "exchange_share" not in lines[0]  # of a single process


def test_processes_that_exchange_nothing_have_the_shares_of_those_that_do():
    network = torch.nn.Linear(2, 2)
    silent = distributed.Unconnected(1, 3)
    assert (silent.rank, silent.size, silent.first) == (1, 3, False)
    assert silent.share.__func__ is Processes.share
    assert silent.parallel(network) is network
    assert silent.total(torch.ones(2)).tolist() == [1, 1]
    assert distributed.exchange(ALONE, 10) >= 0
