"""What the schemas of all suites share."""

import os
import re
from dataclasses import dataclass, field

import torch

from surgrad.config.validate import one_of
from surgrad.errors import UserError
from surgrad.runs.folder import RERUN
from surgrad.runs.wandb import WandbConfig

__all__ = ["CommonConfig", "WandbConfig", "resolve_device", "use_threads"]

MOST_THREADS = 1024


@dataclass
class CommonConfig:
    """Keys that every suite's schema has; inherit from it."""

    seed: int = 0  # of weights, the order of samples, noise
    device: str = "auto"  # auto | cpu | cuda | cuda:<n>
    num_threads: int | None = None  # CPU threads; null: OMP_NUM_THREADS, else torch's choice
    rerun: str = "missing"  # missing | failed | all: what is computed again, see surgrad.runs.folder.RERUN
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        one_of("rerun", self.rerun, RERUN)
        _gpu_number(self.device)
        _require_threads(self.num_threads)

    def preflight(self) -> None:
        """Look, before anything is written or computed, for what would stop a run: files, parts that cannot be built.

        Raises: UserError naming the first mistake.
        """


def resolve_device(name: str) -> torch.device:
    """The device called auto, cpu, cuda or cuda:<n>; auto is the GPU if there is one.

    Raises UserError for another name and for a GPU that is not there.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = _gpu_number(name)
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if available == 0:
        build = "this torch is a CPU build" if torch.version.cuda is None else "torch finds no GPU"
        raise UserError(f"device={name}: no CUDA ({build}); take device=cpu or device=auto")
    if number >= available:
        raise UserError(f"device={name}: there are {available} GPUs, cuda:0 to cuda:{available - 1}")
    return torch.device(name)


def use_threads(number: int | None) -> None:
    """Let torch use `number` CPU threads; None: as many as OMP_NUM_THREADS says, which the launchers of sweeps set.

    torch itself reads that variable only once, before a worker knows its job. Raises UserError below 1.
    """
    if number is None:
        said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
        if not said.isdigit() or said == "0":
            return
        number = int(said)
    _require_threads(number)
    torch.set_num_threads(number)


def _require_threads(number: int | None) -> None:
    if number is not None and not 1 <= number <= MOST_THREADS:
        raise UserError(f"num_threads={number}: wanted 1 to {MOST_THREADS}, or null")


def _gpu_number(name: str) -> int:
    """n of cuda:<n>, 0 for other devices. Raises UserError for a name that no device has."""
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise UserError(f"device={name}: unknown; allowed: auto, cpu, cuda, cuda:<n>")
    return int(match[1] or 0)
