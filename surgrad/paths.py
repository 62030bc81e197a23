"""Where configurations, scripts and the small data are: in the repository, or inside the installed package."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

#: Whether this is a checkout of the repository (an editable installation included), not an installed wheel.
IN_CHECKOUT = (_PACKAGE.parent / "pyproject.toml").is_file() and (_PACKAGE.parent / "configs").is_dir()

#: The folder with configs/, data/, scripts/ and the suites: the repository, or its copy in the wheel.
ROOT = _PACKAGE.parent if IN_CHECKOUT else _PACKAGE / "bundle"


def runs_folder(suite: Path) -> Path:
    """Where the runs of a suite's scripts go: beside the scripts in a checkout, else into the working directory.

    Args:
        suite: the folder of the scripts, e.g. `ROOT / "Classification"`.
    """
    return (suite if IN_CHECKOUT else Path.cwd()) / "Runs"


def all_runs_folders() -> list[Path]:
    """The folders in which runs of the suites are, those that exist."""
    folders = ROOT.glob("*/Runs") if IN_CHECKOUT else [Path.cwd() / "Runs"]
    return sorted(folder for folder in folders if folder.is_dir())
