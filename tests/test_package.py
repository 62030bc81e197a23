"""The command, and what the wheel would hold."""

import subprocess
import sys
import tomllib

import pytest

from surgrad import __version__, cli, paths
from surgrad.paths import ROOT


def said(capsys, *words):
    cli.main(words)
    return capsys.readouterr().out


def refused(capsys, *words):
    with pytest.raises(SystemExit) as error:
        cli.main(words)
    assert error.value.code == 1
    return capsys.readouterr().err


def test_help_names_every_suite_and_script(capsys):
    text = said(capsys, "--help")
    for name, suite in cli.SUITES.items():
        assert name in text
        for script in cli.scripts(suite):
            assert script in text
    assert said(capsys, "--version") == f"surgrad {__version__}\n"


def test_every_script_and_command_exists():
    for suite in cli.SUITES.values():
        assert (ROOT / suite.folder / f"{suite.script}.py").is_file()
    for script in cli.SCRIPTS.values():
        assert (ROOT / script).is_file()


@pytest.mark.parametrize(
    ("words", "script", "rest"),
    [
        (["classification"], "Classification/deep_convSNN.py", []),
        (["classification", "seed=3", "-m"], "Classification/deep_convSNN.py", ["seed=3", "-m"]),
        (["classification", "--config-name=config"], "Classification/deep_convSNN.py", ["--config-name=config"]),
        (["sigmoid_network", "sign_bias", "beta=2"], "Sigmoid_network/sign_bias.py", ["beta=2"]),
        (["sigmoid_network", "sign_bias.py"], "Sigmoid_network/sign_bias.py", []),
        (["superspike", "+x=1"], "Spike_train_matching/run_superspike.py", ["+x=1"]),
    ],
)
def test_run_chooses_the_script(monkeypatch, words, script, rest):
    called = []
    monkeypatch.setattr(cli, "_execute", lambda path, words: called.append((path, words)))
    cli.run(words)
    assert called == [(ROOT / script, rest)]


def test_mistakes_are_one_line(capsys):
    assert refused(capsys, "run", "clasification").startswith(
        "error: surgrad run clasification: no such suite; there are"
    )
    assert "no such script; there are integrate_closed_circle" in refused(capsys, "run", "sigmoid_network", "circle")
    assert "no such command" in refused(capsys, "fly")


def test_data_is_listed(capsys):
    assert "spiking_digits" in said(capsys, "data", "list")


def test_a_script_runs_as_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "surgrad", "run", "sigmoid_network", "integrate_closed_circle", "--cfg", "job"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=None, check=False)
    assert found.returncode == 0, found.stderr
    assert "betas_sg" in found.stdout


def test_runs_go_beside_the_scripts_or_into_the_working_directory(monkeypatch, tmp_path):
    assert paths.runs_folder(ROOT / "Classification") == ROOT / "Classification" / "Runs"
    monkeypatch.setattr(paths, "IN_CHECKOUT", False)
    monkeypatch.chdir(tmp_path)
    assert paths.runs_folder(ROOT / "Classification") == tmp_path / "Runs"
    assert paths.all_runs_folders() == []


def test_the_wheel_has_what_experiments_read():
    """Each folder of the repository that the wheel lays into surgrad/bundle is there, and all of them are included."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    included = {name.strip("/").split("/")[0] for name in wheel["include"]}
    assert included - {"surgrad", "hydra_plugins"} == set(wheel["sources"])
    assert {suite.folder for suite in cli.SUITES.values()} | {"configs", "data", "scripts"} <= included
    assert all((ROOT / name.strip("/")).exists() for name in wheel["include"])
