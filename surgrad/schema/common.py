"""What the schemas of all suites share."""

import re
from dataclasses import dataclass, field

import torch

from surgrad.errors import UserError
from surgrad.run_wandb import WandbConfig

__all__ = ["CommonConfig", "WandbConfig", "resolve_device", "use_threads"]


@dataclass
class CommonConfig:
    """Keys that every suite's schema has; inherit from it."""

    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | cuda:<n>
    num_threads: int | None = None  # CPU threads; null leaves it to torch
    rerun: bool = False  # start afresh although the run folder holds this run
    wandb: WandbConfig = field(default_factory=WandbConfig)


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
    """Let torch use `number` CPU threads; None changes nothing. Raises UserError below 1."""
    if number is None:
        return
    if number < 1:
        raise UserError(f"num_threads={number}: wanted 1 or more, or null")
    torch.set_num_threads(number)
