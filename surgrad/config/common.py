"""What the schemas of all suites share."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from surgrad.config.explain import unknown_option
from surgrad.errors import UserError
from surgrad.runs.wandb import WandbConfig

__all__ = ["CommonConfig", "WandbConfig", "one_of", "positive", "resolve_device", "use_threads"]


@dataclass
class CommonConfig:
    """Keys that every suite's schema has; inherit from it."""

    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | cuda:<n>
    num_threads: int | None = None  # CPU threads; null: OMP_NUM_THREADS, else torch's choice
    rerun: str = "missing"  # missing | failed | all: what is computed again, see surgrad.runs.folder.RERUN
    wandb: WandbConfig = field(default_factory=WandbConfig)


def one_of(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raises UserError naming the key and the allowed values, and the nearest of them, unless value is one."""
    if value not in allowed:
        raise UserError(unknown_option(key, value, allowed))


def positive(owner: object, prefix: str, *names: str) -> None:
    """Raises UserError for the first of these attributes that is not positive; prefix is the key of the owner."""
    for name in names:
        if not getattr(owner, name) > 0:
            raise UserError(f"{prefix}{name}={getattr(owner, name)}: must be positive")


def resolve_device(name: str) -> torch.device:
    """The device called auto, cpu, cuda or cuda:<n>; auto is the GPU if there is one.

    Raises UserError for another name and for a GPU that is not there.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise UserError(f"device={name}: unknown; allowed: auto, cpu, cuda, cuda:<n>")
    if available == 0:
        build = "this torch is a CPU build" if torch.version.cuda is None else "torch finds no GPU"
        raise UserError(f"device={name}: no CUDA ({build}); take device=cpu or device=auto")
    if int(match[1] or 0) >= available:
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
    if number < 1:
        raise UserError(f"num_threads={number}: wanted 1 or more, or null")
    torch.set_num_threads(number)
