"""The smallest suite: a script, its schema and its configurations. For test_schema.py and test_sweeps.py."""

import logging
import os
import signal
import time
from pathlib import Path

import torch
from smallest_suite_schema import Config

from surgrad.config.entry import entry
from surgrad.errors import UserError
from surgrad.runs.folder import Run

log = logging.getLogger(__name__)


def user() -> None:
    raise UserError("data/nothing.h5: no such file")


def bug() -> None:
    raise RuntimeError("shapes differ")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def term() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@entry(
    suite="smallest_suite",
    schema=Config,
    run_name="${dataset.name}/${method.name}/seed=${seed}",
    config_path=Path(__file__).parent / "configs",
)
def main(cfg: Config, run: Run) -> float:
    torch.backends.cudnn.deterministic = True  # a module that cannot be pickled
    saved = run.load_checkpoint()
    first = 0 if saved is None else saved["epoch"] + 1
    run.rewind(first - 1)
    for epoch in range(first, cfg.nb_epochs):
        run.log({"epoch": epoch, "train_loss": cfg.method.beta / (epoch + 1)})
        run.checkpoint({"epoch": epoch, "w": torch.zeros(1)})
        time.sleep(cfg.pause)
        if cfg.fail and (saved is None or cfg.fail == "dead"):
            {"user": user, "bug": bug, "kill": kill, "dead": kill, "term": term, "ctrl_c": ctrl_c}[cfg.fail]()
    run.summary.update(test_acc=0.5, threads=torch.get_num_threads())
    log.info("results in %s", run.folder)
    return float(cfg.seed)


if __name__ == "__main__":
    main()
