"""The smallest suite: what a script looks like behind the door. Used by tests/test_schema.py."""

import logging
import os
import signal
from pathlib import Path

import torch
from door_suite_schema import Config

from surgrad.errors import UserError
from surgrad.runs import Run
from surgrad.schema import entry

log = logging.getLogger(__name__)


def user() -> None:
    raise UserError("data/nothing.h5: no such file")


def bug() -> None:
    raise RuntimeError("shapes differ")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def term() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@entry(
    suite="door_suite",
    schema=Config,
    run_name="${dataset.name}/${method.name}/seed=${seed}",
    config_path=Path(__file__).parent / "configs",
)
def main(cfg: Config, run: Run) -> float:
    saved = run.load_checkpoint()
    first = 0 if saved is None else saved["epoch"] + 1
    run.rewind(first - 1)
    for epoch in range(first, cfg.nb_epochs):
        run.log({"epoch": epoch, "train_loss": cfg.method.beta / (epoch + 1)})
        run.checkpoint({"epoch": epoch, "w": torch.zeros(1)})
        if cfg.fail and saved is None:
            {"user": user, "bug": bug, "kill": kill, "term": term}[cfg.fail]()
    run.summary["test_acc"] = 0.5
    log.info("results in %s", run.folder)
    return float(cfg.seed)


if __name__ == "__main__":
    main()
