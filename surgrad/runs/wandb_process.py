"""The process beside a run that calls wandb; `surgrad.runs.wandb` starts it and says which messages it takes.

It reads one JSON message a line from its standard input, in order, and answers in the same way. wandb is imported and
started here while the run already computes; what fails here, or is killed, cannot take the run with it, and a run that
is killed still leaves a whole wandb run, because its end is the end of this input. It is started as a file, without the
library around it.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any


def main() -> None:
    """Answer "started", "refused" (a mistake of the user) or "stopped" (anything else), and at the end "finished"."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the run decides when it ends
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  what wandb prints is no answer

    def answer(kind: str, content: Any) -> None:
        with suppress(BrokenPipeError):  # the run was killed
            answers.write(json.dumps({kind: content}) + "\n")

    try:
        _mirror(sys.stdin.buffer, answer)
    finally:
        os._exit(0)  # wandb's own end waits for a service that may be gone


def _mirror(messages: IO[bytes], answer: Callable[[str, Any], None]) -> None:
    start = json.loads(messages.readline() or "{}").get("start")
    if start is None:
        return
    sys.argv = start["argv"]
    run = None
    try:
        import wandb

        run = wandb.init(**start["init"], settings=wandb.Settings(silent=True, console="off", **start["settings"]))
        run.define_metric("*", step_metric="epoch")
        answer("started", run.url)
        exit_code = 1  # of a run that ends without having said so
        for line in messages:
            if not line.endswith(b"\n"):  # cut off by a kill
                break
            ((kind, content),) = json.loads(line).items()
            if kind == "finish":
                exit_code = content
                break
            ACTIONS[kind](wandb, run, content)
        run.finish(exit_code=exit_code)
        answer("finished", None)
    except Exception as error:
        refused = run is None and bool({kind.__name__ for kind in type(error).__mro__} & REFUSALS)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        answer("refused" if refused else "stopped", lines[0])


def _log(wandb: Any, run: Any, row: dict[str, Any]) -> None:
    run.log(row)


def _image(wandb: Any, run: Any, image: dict[str, Any]) -> None:
    run.log({image["name"]: wandb.Image(image["path"])} | image["row"])


def _summary(wandb: Any, run: Any, values: dict[str, Any]) -> None:
    run.summary.update(values)


def _checkpoint(wandb: Any, run: Any, checkpoint: dict[str, Any]) -> None:
    artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata=checkpoint["metadata"])
    artifact.add_file(checkpoint["path"])
    run.log_artifact(artifact)


ACTIONS = {"log": _log, "image": _image, "summary": _summary, "checkpoint": _checkpoint}

#: What wandb raises for a mistake of the user.
REFUSALS = {"UsageError", "AuthenticationError"}

if __name__ == "__main__":
    main()
