"""The command `surgrad`: runs experiments, looks at runs, fetches data, holds the results against the papers.

    surgrad run sigmoid_network integrate_closed_circle beta=100
    surgrad run classification --config-name=config_quickstart
    surgrad runs list

Experiments are the scripts of the suites themselves; what they take is in configs/<suite>, and `--help` says it.
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from surgrad import __version__
from surgrad.errors import UserError
from surgrad.paths import ROOT


class Suite(NamedTuple):
    """A set of experiments: the folder of its scripts, and the script that is meant when none is named."""

    folder: str
    script: str


SUITES = {
    "classification": Suite("Classification", "deep_convSNN"),
    "dense": Suite("Classification", "dense_SNN"),
    "non_spiking": Suite("Classification", "non_spiking"),
    "initialization": Suite("Classification", "initialization"),
    "eventprop": Suite("Classification", "yin_yang"),
    "event_snn": Suite("Classification", "event_SNN"),
    "spike_train_matching": Suite("Spike_train_matching", "run_image_task_1hid"),
    "superspike": Suite("Spike_train_matching", "run_superspike"),
    "sigmoid_network": Suite("Sigmoid_network", "integrate_closed_circle"),
}

#: Commands that are scripts of the repository: words of the command -> script.
SCRIPTS = {
    ("data", "fetch"): "scripts/download_data.py",
    ("data", "convert"): "scripts/audio_to_spikes.py",
    ("data", "show"): "scripts/show_data.py",
    ("search",): "scripts/search.py",
    ("papers",): "scripts/papers_table.py",
}

USAGE = """\
usage: surgrad run SUITE [SCRIPT] [OVERRIDE ...]   an experiment, e.g. surgrad run classification method=superspike
       surgrad runs list|show|compare|plot|clean   run folders
       surgrad data list|fetch|convert|show        data sets: what there is, download, recordings to spikes, a report
       surgrad search [OVERRIDE ...]               a search over hyperparameters
       surgrad papers                              every claim of the papers with its verdict
       surgrad --version | --help

Each command has its own --help. Suites and their scripts (the first is the default):
"""


def usage() -> str:
    """The commands, and the suites with their scripts."""
    return USAGE + "".join(f"  {name:<22}{', '.join(scripts(suite))}\n" for name, suite in SUITES.items())


def scripts(suite: Suite) -> list[str]:
    """Names of the scripts in a suite's folder, its own first."""
    others = sorted(path.stem for path in (ROOT / suite.folder).glob("*.py"))
    return [suite.script, *(name for name in others if name != suite.script)]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command.

    Args:
        arguments: the words after `surgrad`; those of the command line by default.

    Raises:
        SystemExit: with code 1, after one line that says what is wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _dispatch(words)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(usage())
    elif words[0] == "--version":
        sys.stdout.write(f"surgrad {__version__}\n")
    elif words[0] == "run":
        run(words[1:])
    elif words[:2] == ["runs", "plot"]:
        from surgrad.analysis.plot import main as plot

        plot(words[2:])
    elif words[0] == "runs":
        from surgrad.runs.__main__ import main as runs

        runs(words[1:])
    elif words[:2] == ["data", "list"]:
        list_data()
    else:
        for name, script in SCRIPTS.items():
            if tuple(words[: len(name)]) == name:
                _execute(ROOT / script, words[len(name) :])
                return
        raise UserError(f"surgrad {' '.join(words[:2])}: no such command; surgrad --help lists them")


def run(words: list[str]) -> None:
    """Run an experiment.

    Args:
        words: a suite, the name of a script if it is not the suite's first, and what the script takes.

    Raises:
        UserError: no such suite, or no such script in it.
    """
    name = words[0] if words else ""
    if name not in SUITES:
        raise UserError(f"surgrad run {name}: no such suite; there are {', '.join(SUITES)}")
    suite, rest = SUITES[name], words[1:]
    script = suite.script
    if rest and "=" not in rest[0] and not rest[0].startswith(("-", "~", "+")):
        script, rest = rest[0].removesuffix(".py"), rest[1:]
    if script not in scripts(suite):
        raise UserError(f"surgrad run {name} {script}: no such script; there are {', '.join(scripts(suite))}")
    _execute(ROOT / suite.folder / f"{script}.py", rest)


def list_data() -> None:
    """Print the data sets that are here, with their sizes."""
    for folder in sorted(path for path in (ROOT / "data").iterdir() if path.is_dir()):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        sys.stdout.write(f"{folder.name:<18}{size / 2**20:8.1f} MiB  {folder}\n")
    sys.stdout.write("surgrad data fetch --help names those that can be downloaded\n")


def _execute(script: Path, words: list[str]) -> None:
    """Run a script as `python3 SCRIPT WORDS` would."""
    sys.argv = [str(script), *words]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
