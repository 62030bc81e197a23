"""Notebooks executed in this process, as a kernel would, without the seconds that a new one takes to start."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output


class Shell(InteractiveShell):
    """A shell without a window to show figures in."""

    def enable_gui(self, gui: Any = None) -> None:
        """There is none."""


def execute(path: Path) -> list[dict[str, Any]]:
    """What the cells of a notebook show, by MIME type; printed text as text/plain, warnings as stderr.

    Raises what a cell raises; AssertionError if the notebook is committed with outputs.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), f"{path.name} has outputs"
    backend = plt.get_backend()
    shell = Shell.instance()  # one for all: matplotlib shows its figures in the first
    shell.reset(new_session=True)
    shell.run_line_magic("matplotlib", "inline")  # as every kernel does
    shown: list[dict[str, Any]] = []
    try:
        for cell in cells:
            with capture_output() as captured:
                result = shell.run_cell(cell.source)
            result.raise_error()
            shown += [{"text/plain": captured.stdout}] if captured.stdout else []
            shown += [{"stderr": captured.stderr}] if captured.stderr else []
            shown += [output.data for output in captured.outputs]
    finally:
        shell.reset(new_session=True)
        plt.switch_backend(backend)
        plt.close("all")
    return shown
