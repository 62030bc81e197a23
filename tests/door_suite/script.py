"""The smallest suite: what a script looks like behind the door. Used by tests/test_schema.py."""

import logging
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from surgrad.errors import UserError
from surgrad.runs import Run
from surgrad.schema import CommonConfig, entry

log = logging.getLogger(__name__)


@dataclass
class MethodConfig:
    name: str = "superspike"
    beta: float = 10.0  # slope of the surrogate, 1/threshold
    surrogate: Any = None


@dataclass
class Config(CommonConfig):
    nb_epochs: int = 2
    tau_mem: float = 20e-3  # s
    nb_filters: list[int] = field(default_factory=lambda: [16, 32])
    duration: float = 0.7  # s
    tau_readout: float = 0.7  # s
    dataset: Any = None
    method: MethodConfig = field(default_factory=MethodConfig)
    fail: str | None = None  # user | bug | kill

    def __post_init__(self) -> None:
        if self.nb_epochs < 1:
            raise UserError(f"nb_epochs={self.nb_epochs}: wanted 1 or more")


def user() -> None:
    raise UserError("data/nothing.h5: no such file")


def bug() -> None:
    raise RuntimeError("shapes differ")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


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
            {"user": user, "bug": bug, "kill": kill}[cfg.fail]()
    run.summary["test_acc"] = 0.5
    log.info("results in %s", run.folder)
    return float(cfg.seed)


if __name__ == "__main__":
    main()
