"""A drill: a script is killed with SIGKILL at given moments, each time run again, and must end as if undisturbed.

For every line [script, folder, overrides] of its input this program runs the script undisturbed in folder/whole and
with kills in folder/killed, and writes a line that says how each attempt ended; what they printed is in folder/output.
The moments are those at which files take their place, not times: before a checkpoint in the middle, after the last
checkpoint, and before the summary that says done. All attempts are forked from one process that has imported the
scripts and run nothing.
"""

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

CHECKPOINT, SUMMARY = "checkpoint.pt", "summary.json"


def load(script: Path) -> Callable[[list[str]], object]:
    """The command of a script."""
    sys.path.insert(0, str(script.parent))
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.main


def watch_files(before: Callable[[str, Path], None], after: Callable[[str, Path], None]) -> None:
    """From now on, call these around every file that takes its place, with its name and its new content."""

    def watched(real):
        def replace(source, target, **options):
            before(Path(target).name, Path(source))
            real(source, target, **options)
            after(Path(target).name, Path(target))

        return replace

    os.replace, os.rename = watched(os.replace), watched(os.rename)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def attempt(
    main: Callable[[list[str]], object], folder: Path, overrides: list[str], moment: tuple[str, int] | None
) -> int:
    """Run the script in a child that dies at a moment; returns its exit status, -9 for killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with (folder.parent / "output").open("a") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    status, seen = 1, {CHECKPOINT: 0}

    def before(name: str, content: Path) -> None:
        if name == CHECKPOINT and moment == ("before checkpoint", seen[CHECKPOINT] + 1):
            die()
        if moment == ("before done", 0) and name == SUMMARY and json.loads(content.read_text())["status"] == "done":
            die()

    def after(name: str, content: Path) -> None:
        if name == CHECKPOINT:
            seen[CHECKPOINT] += 1
            folder.with_suffix(".count").write_text(str(seen[CHECKPOINT]))
            if moment == ("after checkpoint", seen[CHECKPOINT]):
                die()

    watch_files(before, after)
    try:
        main([*overrides, f"hydra.run.dir={folder}"])
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def drill(script: Path, folder: Path, overrides: list[str]) -> list[int]:
    """Exit statuses: of the undisturbed run, of three attempts that are killed, and of the last one."""
    main = load(script)
    statuses = [attempt(main, folder / "whole", overrides, None)]
    if statuses != [0]:
        return statuses
    nb_checkpoints = int((folder / "whole.count").read_text())
    middle = nb_checkpoints // 2 + 1
    left = nb_checkpoints - (middle - 1)
    for moment in (("before checkpoint", middle), ("after checkpoint", left), ("before done", 0), None):
        statuses.append(attempt(main, folder / "killed", overrides, moment))
    return statuses


if __name__ == "__main__":
    for line in sys.stdin:
        script, folder, overrides = json.loads(line)
        sys.stdout.write(json.dumps(drill(Path(script), Path(folder), overrides)) + "\n")
        sys.stdout.flush()
