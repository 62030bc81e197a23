"""The entry of the scripts: every mistake is one line, every command finds its own run folder."""

import importlib.util
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from surgrad.config.build import build
from surgrad.config.common import resolve_device, use_threads
from surgrad.errors import UserError
from surgrad.runs.record import load_runs


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A copy of the test suite in a folder of its own, its script as a module; logging is put back afterwards."""
    folder = tmp_path / "Suite"
    shutil.copytree(Path(__file__).parents[1] / "smallest_suite", folder)
    spec = importlib.util.spec_from_file_location("smallest_suite_script", folder / "script.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(folder)
    spec.loader.exec_module(module)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield module
    root.handlers[:], root.level = handlers, level


def runs(tmp_path):
    return load_runs(tmp_path / "Suite/Runs")


def error_of(suite, capsys, *arguments: str) -> str:
    """What a mistaken command says; it must be one line, and exit code 1."""
    with pytest.raises(SystemExit) as stopped:
        suite.main(arguments)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_an_empty_name_is_no_run_folder_and_the_working_directory_none_either(suite, tmp_path, capsys, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert "hydra.run.dir=: empty" in error_of(suite, capsys, "hydra.run.dir=")
    assert list(here.iterdir()) == []
    (here / "thesis.tex").touch()
    assert "is no run folder, but holds thesis.tex" in error_of(suite, capsys, "hydra.run.dir=.")
    assert [path.name for path in here.iterdir()] == ["thesis.tex"]


def test_a_command_runs_in_a_folder_of_its_own_and_is_not_repeated(suite, tmp_path, capsys):
    assert suite.main([]) == 1.0
    (record,) = runs(tmp_path)
    assert record.name.startswith("digits/superspike/seed=1-")
    assert record.name.endswith(record.summary["run_id"])
    assert record.status == "done"
    assert record.summary["device"] == ("cpu" if not torch.cuda.is_available() else torch.cuda.get_device_name())
    assert record.config["method"] == {"name": "superspike", "beta": 10.0, "surrogate": None}
    assert record.config["tau_readout"] == 0.7
    assert record.overrides == []
    hydra = yaml.safe_load((record.folder / ".hydra/config.yaml").read_text())
    assert hydra["tau_readout"] == "${duration}"
    assert yaml.safe_load((record.folder / ".hydra/hydra.yaml").read_text())["hydra"]["job"]["name"]
    assert "results in" in (record.folder / "run.log").read_text()
    assert f"results in {record.folder}" in capsys.readouterr().out
    before = (record.folder / "summary.json").read_text()

    assert suite.main(["device=cpu", "wandb.project=x"]) == 1.0  # neither makes it another run
    assert "already done" in capsys.readouterr().out
    assert (record.folder / "summary.json").read_text() == before

    suite.main(["method.beta=5"])
    assert len(runs(tmp_path)) == 2
    suite.main(["rerun=all"])
    assert len(runs(tmp_path)) == 2
    assert (record.folder / "summary.json").read_text() != before


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("sed=1", r"unknown key sed \(did you mean seed\?\); allowed: seed, device, "),
        ("+sed=1", r"unknown key sed \(did you mean seed\?\)"),
        ("method.betaa=1", r"method.betaa \(did you mean method.beta\?\); allowed in method: name, beta, surrogate"),
        ("seed=abc", r"seed=abc: wanted int, got str"),
        ("seed=null", r"seed=null: wanted int, not null"),
        ("method.beta=[1]", r"method.beta.*wanted float"),
        ("nb_filters=[a]", r"nb_filters\[0\]=a: wanted int, got str"),
        ("nb_filters=3", r"nb_filters=3: wanted a list of int, got int"),
        ("num_threads=x", r"num_threads=x: wanted int or null, got str"),
        ("method=superspik", r"method=superspik: unknown \(did you mean superspike\?\); allowed: misspelt, stoch"),
        ("method=misspelt", r"method/misspelt.yaml: unknown key method.betta \(did you mean method.beta\?\)"),
        ("methods=superspike", r"unknown key methods \(did you mean method\?\)"),
        (
            "--config-name=confg",
            r"--config-name=confg: unknown \(did you mean config\?\); allowed: config, config_no_schema, ",
        ),
        ("--config-name=config_unchecked", r"'seed' not found; does the configuration's .* begin with `- schema`\?"),
        ("--config-name=config_no_schema", r"unknown key sed \(did you mean seed\?\)"),
        ("dataset=hdf5", r"dataset.path: has no value"),
        ("tau_readout=${durations}", r"tau_readout: .*'durations' not found"),
        ("tau_readout=${oc.env:NOT_SET}", r"tau_readout: .*'NOT_SET' not found"),
        ("seed=1,2", r"Ambiguous value for argument 'seed=1,2'"),
        ("seed=a=b", r"an override is key=value"),
        ("nb_epochs=0", r"nb_epochs=0: wanted 1 or more"),
        ("wandb.mode=on", r"wandb.mode=on: unknown; allowed: offline, online, disabled"),
        ("rerun=true", r"rerun=true: unknown; allowed: missing, failed, all"),
        ("device=gpu", r"device=gpu: unknown; allowed: auto, cpu, cuda"),
        ("device=cuda:99", r"device=cuda:99: "),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(suite, tmp_path, capsys, argument, expected):
    assert re.search(expected, error_of(suite, capsys, argument))
    assert not (tmp_path / "Suite/Runs").exists()


def test_a_mistake_in_the_data_is_one_line_and_recorded(suite, tmp_path, capsys):
    assert error_of(suite, capsys, "fail=user").endswith("error: data/nothing.h5: no such file\n")
    (record,) = runs(tmp_path)
    assert record.status == "failed"
    assert record.summary["error"] == "data/nothing.h5: no such file"


def test_a_bug_keeps_its_traceback(suite, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        suite.main(["fail=bug"])
    assert stopped.value.code == 1
    assert "in bug" in capsys.readouterr().err
    (record,) = runs(tmp_path)
    assert "in bug" in (record.folder / "traceback.txt").read_text()
    suite.main(["fail=bug"])  # goes on behind the checkpoint
    assert runs(tmp_path)[0].status == "done"
    assert runs(tmp_path)[0].metrics["epoch"].tolist() == [0, 1]


def test_terminated_run_ends_with_143_and_is_resumable(suite, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        suite.main(["fail=term"])
    assert stopped.value.code == 143
    assert runs(tmp_path)[0].status == "interrupted"
    assert suite.main(["fail=term"]) == 1.0


def test_sweep_runs_every_job_skips_done_ones_and_exits_1_if_one_failed(suite, tmp_path, capsys):
    suite.main(["seed=2"])
    done = (runs(tmp_path)[0].folder / "summary.json").read_text()
    with pytest.raises(SystemExit) as stopped:
        suite.main(["-m", "seed=1,2", "fail=user,null"])
    assert stopped.value.code == 1
    records = runs(tmp_path)
    assert sorted((r.get("seed"), r.status) for r in records) == [
        (1, "done"),
        (1, "failed"),
        (2, "done"),
        (2, "failed"),
    ]
    assert [r for r in records if (r.folder / "summary.json").read_text() == done]
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert suite.main(["-m", "seed=1,2", "fail=user"]) is None  # resumed behind the checkpoint


def test_mistake_in_a_sweep_is_found_before_its_first_job(suite, tmp_path, capsys):
    assert "method=nope" in error_of(suite, capsys, "-m", "method=superspike,nope")
    assert "seed=x: wanted int" in error_of(suite, capsys, "-m", "seed=1,x")
    assert not list((tmp_path / "Suite").glob("Runs/*/"))


def test_a_folder_of_ones_own_takes_one_configuration(suite, tmp_path, capsys):
    suite.main(["hydra.run.dir=mine", "seed=1"])
    assert load_runs(tmp_path / "mine")[0].get("seed") == 1
    said = error_of(suite, capsys, "hydra.run.dir=mine", "seed=2")
    assert "seed (1 there, 2 here)" in said
    assert yaml.safe_load((tmp_path / "mine/.hydra/config.yaml").read_text())["seed"] == 1


def test_a_run_is_run_again_from_its_own_record(suite, tmp_path):
    suite.main(["seed=4", "method.beta=3"])
    (record,) = runs(tmp_path)
    arguments = ["--config-path", os.path.relpath(record.folder / ".hydra"), "--config-name=config", "seed=5"]
    suite.main(arguments)
    again = next(r for r in runs(tmp_path) if r.get("seed") == 5)
    assert again.get("method.beta") == 3.0


@pytest.fixture
def command(tmp_path):
    """The test suite's script as a process, started from another folder than its own."""
    shutil.copytree(Path(__file__).parents[1] / "smallest_suite", tmp_path / "Suite")
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"WANDB_MODE": "disabled"}
    environment.pop("HYDRA_FULL_ERROR", None)

    def start(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, tmp_path / "Suite/script.py", *arguments],
            cwd=tmp_path / "elsewhere",
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )

    return start


def test_killed_and_resumed_by_the_same_command_from_anywhere(command, tmp_path):
    assert command("fail=kill").returncode == -9
    assert runs(tmp_path)[0].status == "interrupted"
    done = command("fail=kill")
    assert done.returncode == 0, done.stderr
    (record,) = runs(tmp_path)
    assert (record.status, record.summary["attempts"]) == ("done", 2)
    assert record.metrics["epoch"].tolist() == [0, 1]
    wrong = command("sed=3")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("error: unknown key sed")
    assert wrong.stderr.count("\n") == 1
    assert not list((tmp_path / "elsewhere").iterdir())


def test_ctrl_c_ends_a_run_with_exit_code_130_and_the_same_command_goes_on(suite, tmp_path, capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with pytest.raises(SystemExit) as stopped:
            suite.main(["fail=ctrl_c"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == 130
    assert "Traceback" not in capsys.readouterr().err
    assert runs(tmp_path)[0].status == "interrupted"
    suite.main(["fail=ctrl_c"])
    assert (runs(tmp_path)[0].status, runs(tmp_path)[0].summary["attempts"]) == ("done", 2)


def test_help_into_a_pipe_that_is_closed_ends_quietly(tmp_path):
    shutil.copytree(Path(__file__).parents[1] / "smallest_suite", tmp_path / "Suite")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, tmp_path / "Suite/script.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=400)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_sweep_in_parallel_processes(command, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    swept = command("-m", "hydra/launcher=joblib", "seed=1,2", "fail=user,null")
    assert swept.returncode == 1
    assert sorted((r.get("seed"), r.status) for r in runs(tmp_path)) == [
        (1, "done"),
        (1, "failed"),
        (2, "done"),
        (2, "failed"),
    ]


def test_build_makes_what_a_node_says():
    parameters = [torch.nn.Parameter(torch.ones(2))]
    node = {"_target_": "torch.optim.Adam", "lr": 0.1, "betas": [0.9, 0.99]}
    optimizer = build(node, params=parameters, lr=0.2)
    assert optimizer.defaults["lr"] == 0.2
    assert build({**node, "_partial_": True})(parameters).defaults["lr"] == 0.1
    assert build({"a": [1, {"b": 2}]}) == {"a": [1, {"b": 2}]}
    assert build(None) is None


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"_target_": "Adam"}, r"_target_=Adam: give its module, too, as in my_module.Adam"),
        ({"_target_": "torch.optimx.Adam"}, r"there is no module torch.optimx in /.* or on Python's path"),
        ({"_target_": "torch.optim.Adan"}, r"unknown name Adan \(did you mean Adam"),
        ({"_target_": "surgrad.nothing.Adam"}, r"there is no module surgrad.nothing"),
        ({"_target_": "torch.optim.Adam", "lrr": 1}, r"unknown key optimizer.lrr \(did you mean optimizer.lr\?\)"),
        ({"_target_": "torch.optim.Adam"}, r"optimizer: Adam lacks params"),
        ({"_target_": "torch.optim.Adam", "params": [], "lr": -1}, r"optimizer: "),
    ],
)
def test_build_names_the_mistake(node, expected):
    with pytest.raises(UserError, match=expected) as error:
        build(node, at="optimizer")
    assert "\n" not in str(error.value)


def test_devices_and_threads():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device=cuda: no CUDA"):
            resolve_device("cuda")
    with pytest.raises(UserError, match="num_threads=0"):
        use_threads(0)
