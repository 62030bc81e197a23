"""Sweeps: what is skipped, resumed and repeated, what a dead worker costs, and what each launcher is given."""

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from surgrad.config import launchers
from surgrad.runs.record import REPO, load_runs

LAUNCHERS = ["joblib", "ray", "slurm", "submitit_local"]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the test suite; its runs go to Suite/Runs."""
    shutil.copytree(Path(__file__).parents[1] / "smallest_suite", tmp_path / "Suite")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "Suite"


@pytest.fixture
def suite(folder, monkeypatch):
    """The suite's script in this process; logging is put back afterwards."""
    spec = importlib.util.spec_from_file_location("smallest_suite_script", folder / "script.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    monkeypatch.syspath_prepend(folder)
    spec.loader.exec_module(module)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield module
    root.handlers[:], root.level = handlers, level


def start(folder, *arguments, **environment) -> subprocess.Popen:
    """The suite's script as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, folder / "script.py", "-m", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def swept(folder, *arguments, **environment) -> tuple[int, str]:
    """Exit code and output of a sweep."""
    process = start(folder, *arguments, **environment)
    said, _ = process.communicate(timeout=400)
    return process.returncode, said


def records(folder):
    return load_runs(folder / "Runs") if any(folder.glob("Runs/**/summary.json")) else []


def by_seed(folder):
    return {record.get("seed"): record for record in records(folder)}


def contents(folder):
    """Of every run, its summary and when it was written: two attempts within a second may say the same."""
    paths = {record.folder.name: record.folder / "summary.json" for record in records(folder)}
    return {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in paths.items()}


def failed(suite, *arguments) -> None:
    with pytest.raises(SystemExit) as stopped:
        suite.main(["-m", *arguments])
    assert stopped.value.code == 1


# ---------------------------------------------------------------- what is run
def test_a_sweep_started_again_skips_what_is_done_and_resumes_the_rest(suite, folder, capsys):
    failed(suite, "seed=1,2,10", "fail=null,bug")
    first = contents(folder)
    assert "6 runs, 0 of them done already" in capsys.readouterr().out
    suite.main(["-m", "seed=1,2,10", "fail=null,bug"])
    said = capsys.readouterr().out
    assert "6 runs, 3 of them done already" in said
    assert "6 runs in Suite/Runs/digits/superspike: 6 done" in said
    unchanged = [name for name, content in contents(folder).items() if first[name] == content]
    assert len(unchanged) == 3
    assert [record.summary["attempts"] for record in records(folder) if record.folder.name not in unchanged] == [2] * 3
    suite.main(["-m", "seed=1,2,10", "fail=null,bug", "device=cpu"])  # nothing is left to do
    assert len(contents(folder)) == 6


def test_a_changed_configuration_never_reuses_a_run(suite, folder):
    suite.main(["-m", "seed=1,2"])
    before = contents(folder)
    suite.main(["-m", "seed=1,2", "tau_mem=0.03"])
    after = contents(folder)
    assert len(after) == 4
    assert before.items() <= after.items()


@pytest.mark.parametrize(("rerun", "again"), [("missing", {2}), ("failed", {2}), ("all", {1, 2})])
def test_rerun_of_a_sweep(suite, folder, rerun, again):
    failed(suite, "seed=1,2", "fail=bug")  # both fail once …
    suite.main(["seed=1", "fail=bug"])  # … and one is mended
    before = contents(folder)
    if rerun == "missing":
        suite.main(["-m", "seed=1,2", "fail=bug"])
    else:
        failed(suite, "seed=1,2", "fail=bug", f"rerun={rerun}")  # from the beginning they fail again
    runs = by_seed(folder)
    assert {seed for seed, run in runs.items() if contents(folder)[run.folder.name] != before[run.folder.name]} == again
    assert runs[2].status == ("done" if rerun == "missing" else "failed")
    assert {seed for seed, run in runs.items() if list(run.folder.glob(".old/*"))} == again - (
        {2} if rerun == "missing" else set()
    )


def test_the_last_words_of_a_sweep(suite, folder, capsys):
    failed(suite, "seed=1,2,10", "fail=null,user", "method=superspike")
    said = capsys.readouterr().out
    table = said[said.index("6 runs in Suite/Runs") :].splitlines()
    assert table[0] == "6 runs in Suite/Runs/digits/superspike: 3 done, 3 failed"
    assert [line.split() for line in table[1:5]] == [
        ["run", "status", "test_acc", "path"],
        *[[f"seed={seed}", "fail=null", "done", "0.5", by_status(folder, "done")[seed]] for seed in (1, 2, 10)],
    ]
    assert [line.split()[:3] for line in table[5:8]] == [[f"seed={s}", "fail=user", "failed"] for s in (1, 2, 10)]
    assert table[8].endswith("data/nothing.h5: no such file")
    assert max(map(len, table)) <= 100


def by_status(folder, status):
    return {run.get("seed"): run.folder.name for run in records(folder) if run.status == status}


def test_mistakes_are_found_before_the_first_job(suite, folder, capsys):
    for arguments, expected in (
        (["seed=1,2", "nb_epochs=1,0"], r"nb_epochs=0: wanted 1 or more \(in the job seed=1 nb_epochs=0\)"),
        (["seed=1,1"], "seed=1 and seed=1 would share the run folder .* the same run"),
        (["seed=1,2", "hydra.sweep.subdir=here"], "would share the run folder .*/here: .* hydra.sweep.subdir"),
        (["seed=1,2", "rerun=yes"], "rerun=yes: unknown; allowed: missing, failed, all"),
        (["seed=1,2", "hydra.sweep.subdir=${hydra.job.num}"], r"hydra.job.num"),
        (["seed=1,2", "hydra/launcher=slrm"], r"hydra/launcher=slrm: unknown \(did you mean slurm\?\); allowed: basic"),
    ):
        failed(suite, *arguments)
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert re.search(expected, said), said
    assert not records(folder)


def test_a_run_of_another_configuration_is_not_taken_for_ones_own(suite, folder, capsys):
    suite.main(["-m", "seed=1,2", "hydra.sweep.subdir=seed_${seed}"])
    failed(suite, "seed=1,2", "hydra.sweep.subdir=seed_${seed}", "tau_mem=0.03")
    assert "holds a run with another configuration: tau_mem (0.02 there, 0.03 here)" in capsys.readouterr().err
    suite.main(["-m", "seed=1,2", "hydra.sweep.subdir=seed_${seed}", "tau_mem=0.03", "rerun=all"])
    assert [record.get("tau_mem") for record in records(folder)] == [0.03, 0.03]


# ---------------------------------------------------------------- launchers
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_without_its_package_says_what_to_install(suite, capsys, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    failed(suite, f"hydra/launcher={name}", "seed=1")
    said = capsys.readouterr().err
    assert re.fullmatch(rf"error: hydra/launcher={name}: hydra-\w+-launcher .*pip install -e \.\[sweep\]\n", said)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_keys_of_a_launcher_are_those_that_its_package_knows(name):
    launchers.store_all(ConfigStore.instance())
    ours = OmegaConf.load(launchers.FOLDER / f"{name}.yaml").launcher
    package = ours._target_.split(".")[1]
    pytest.importorskip(f"hydra_plugins.{package}")
    module, dataclass = {
        "joblib": ("config", "JobLibLauncherConf"),
        "ray": ("_config", "RayLauncherConf"),
        "slurm": ("config", "SlurmQueueConf"),
        "submitit_local": ("config", "LocalQueueConf"),
    }[name]
    known = OmegaConf.structured(getattr(importlib.import_module(f"hydra_plugins.{package}.{module}"), dataclass))
    assert ours._target_ == known._target_
    assert set(ours) <= set(known)


def test_shares_of_a_machine(monkeypatch):
    machine = {"cores": 16, "gpus": 0}
    monkeypatch.setattr(launchers, "_available", machine.__getitem__)
    assert (launchers.jobs(), launchers.per_job("cores"), launchers.per_job("gpus")) == (16, 1, 0)
    assert [launchers.per_job("cores", n) for n in (1, 3, 4, 40, -1)] == [16, 5, 4, 1, 1]
    machine["gpus"] = 4
    assert (launchers.jobs(), launchers.per_job("cores"), launchers.per_job("gpus")) == (4, 4, 1)
    assert launchers.per_job("gpus", 1) == 4


def test_jobs_that_see_the_same_gpus_take_turns(monkeypatch):
    import torch

    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for number in range(4):
        launchers.take_gpu(torch.device("cuda"), OmegaConf.create({"num": number}))
    for device in ("cuda:1", "cpu"):
        launchers.take_gpu(torch.device(device), OmegaConf.create({"num": 1}))
    launchers.take_gpu(torch.device("cuda"), OmegaConf.create({"num": "???"}))  # not a sweep
    assert taken == [0, 1, 2, 0]


@pytest.mark.slow
def test_joblib_shares_the_cores_and_outlives_killed_workers(folder):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    code, said = swept(folder, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "fail=null,kill,dead", "nb_epochs=3")
    assert code == 1, said
    assert "the launcher stopped" in said
    assert re.search(r"\d #\d+ run folder", said)  # lines say which job they are from
    runs = {run.get("fail"): run for run in records(folder)}
    assert {fail: run.status for fail, run in runs.items()} == {None: "done", "kill": "done", "dead": "interrupted"}
    assert runs["kill"].metrics["epoch"].tolist() == [0, 1, 2]
    assert runs["kill"].summary["attempts"] == 2
    assert runs[None].summary["threads"] == max(1, CORES // 2)
    assert "3 runs in Suite/Runs/digits/superspike: 2 done, 1 interrupted" in said
    assert f"interrupted: {runs['dead'].folder.name}: its process died without a word (kill -9" in said


def test_a_sweep_killed_with_its_workers_goes_on_by_the_same_command(folder):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=range(1,5)", "nb_epochs=8", "pause=0.25"]
    process = start(folder, *arguments)
    try:
        deadline = time.monotonic() + 300
        while not (under_way(folder) and any(run.status == "done" for run in records(folder))):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = {run.folder.name: contents(folder)[run.folder.name] for run in records(folder) if run.status == "done"}
    assert 0 < len(done) < 4
    code, said = swept(folder, *arguments)
    assert code == 0, said
    runs = by_seed(folder)
    assert sorted(runs) == [1, 2, 3, 4]
    assert all(run.metrics["epoch"].tolist() == list(range(8)) for run in runs.values())
    assert done.items() <= contents(folder).items()
    assert {run.summary["attempts"] for run in runs.values()} == {1, 2}


def under_way(folder):
    """Whether some run has left a checkpoint and goes on."""
    return any(run.status == "running" and (run.folder / "checkpoint.pt").exists() for run in records(folder))


@pytest.mark.slow
def test_submitit_runs_what_slurm_would_on_this_machine(folder):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    code, said = swept(
        folder, "hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2", "seed=1,2", "fail=user"
    )
    assert code == 1, said
    assert [run.status for run in records(folder)] == ["failed", "failed"]
    assert "failed: seed=1-" in said
    code, said = swept(
        folder, "hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2", "seed=1,2", "fail=user"
    )
    assert code == 0, said
    assert {run.summary["threads"] for run in records(folder)} == {max(1, CORES // 2)}


@pytest.mark.slow
def test_a_job_that_slurm_takes_off_its_node_is_queued_again_and_goes_on(folder):
    """submitit answers the signal before a time limit or a preemption; here it is sent by hand."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    process = start(folder, "hydra/launcher=submitit_local", "seed=1", "nb_epochs=12", "pause=0.5")
    deadline = time.monotonic() + 300
    while not under_way(folder):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    (run,) = records(folder)
    os.kill(writer_of(run.folder, deadline), signal.SIGUSR2)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    (run,) = records(folder)
    assert (run.status, run.summary["attempts"]) == ("done", 2)
    assert run.metrics["epoch"].tolist() == list(range(12))


def writer_of(run: Path, deadline: float) -> int:
    """The process that holds the lock of a run; it says so after it has locked, and a reader may come between."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            if said := re.match(r"process (\d+) on ", (run / ".writer").read_text()):
                return int(said[1])
        assert time.monotonic() < deadline
        time.sleep(0.01)


SBATCH = """#!{python}
# Stands in for Slurm: keeps the script, runs the jobs of its array one after the other in the background.
import os, re, subprocess, sys
script = open(sys.argv[1]).read()
open("{folder}/sbatch.sh", "w").write(script)
jobs = int(re.search(r"--array=0-([0-9]+)", script)[1]) + 1
names = dict(SLURM_JOB_NUM_NODES="1", SLURM_NTASKS="1", SLURM_NODEID="0", SLURM_PROCID="0", SLURM_LOCALID="0")
for job in range(jobs):
    own = dict(SLURM_JOB_ID=str(70 + job), SLURM_ARRAY_JOB_ID="70", SLURM_ARRAY_TASK_ID=str(job))
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.Popen(["bash", "{folder}/sbatch.sh"], env=os.environ | names | own, **quiet)
print("Submitted batch job 70")
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do if [[ $1 == --unbuffered ]]; then shift; else shift 2; fi; done
exec "$@"
"""
SACCT = """#!/bin/bash
echo 'JobID|State|NodeList'
echo '70_0|RUNNING|n'
echo '70_1|RUNNING|n'
"""


def test_slurm_is_given_an_array_of_jobs_with_their_resources(folder, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        filled = text.replace("{python}", sys.executable).replace("{folder}", str(tmp_path))
        (programs / name).write_text(filled)
        (programs / name).chmod(0o755)
    account = ["hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1", "hydra.launcher.cpus_per_task=3"]
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    code, said = swept(folder, "hydra/launcher=slurm", "seed=1,2", *account, PATH=path)
    assert code == 0, said
    script = (tmp_path / "sbatch.sh").read_text()
    asked = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", script))
    asked |= {"output": Path(asked["output"]).name}
    assert asked == {
        "array": "0-1%2",
        "job-name": "script",
        "nodes": "1",
        "ntasks-per-node": "1",
        "cpus-per-task": "3",
        "gpus-per-node": "1",
        "mem": "8GB",
        "time": "240",
        "partition": "gpu",
        "signal": "USR2@120",
        "open-mode": "append",
        "output": "%A_%a_0_log.out",
        "wckey": "submitit",
    }
    assert f"{sys.executable} -u -m submitit.core._submit" in script
    assert {run.summary["threads"] for run in records(folder)} == {3}


@pytest.mark.slow
def test_ray_runs_a_sweep(folder):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    code, said = swept(folder, "hydra/launcher=ray", "seed=1,2", "fail=null,kill")
    assert code == 0, said
    assert [run.status for run in records(folder)] == ["done"] * 4
    assert {run.summary["threads"] for run in records(folder)} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_the_drill_of_the_documentation(tmp_path, launcher):
    pytest.importorskip({"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}[launcher])
    drill = [sys.executable, REPO / "scripts" / "sweep_drill.py", launcher, "--folder", tmp_path, "--kills=2"]
    assert subprocess.run(drill, check=False).returncode == 0
