"""Learning rates that change over epochs: PyTorch's schedules by name, stepped after every epoch."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import LRScheduler

from surgrad.errors import UserError


def _one_cycle(optimizer: Optimizer, nb_epochs: int, **options: Any) -> LRScheduler:
    largest: dict[str, Any] = {"max_lr": [group["lr"] for group in optimizer.param_groups], "cycle_momentum": False}
    return torch_schedules.OneCycleLR(optimizer, **(largest | options), total_steps=nb_epochs + 1)


#: Makes a schedule from an optimiser, the number of epochs that it is planned for, and its own options.
SCHEDULES: dict[str, Callable[..., LRScheduler]] = {
    "cosine": lambda optimizer, nb_epochs, **options: torch_schedules.CosineAnnealingLR(
        optimizer, **({"T_max": max(nb_epochs, 1)} | options)
    ),
    "exponential": lambda optimizer, nb_epochs, **options: torch_schedules.ExponentialLR(
        optimizer, **({"gamma": 0.95} | options)
    ),
    "one_cycle": _one_cycle,
    "plateau": lambda optimizer, nb_epochs, **options: torch_schedules.ReduceLROnPlateau(optimizer, **options),
    "step": lambda optimizer, nb_epochs, **options: torch_schedules.StepLR(optimizer, **({"step_size": 30} | options)),
}


def build_schedule(name: str, optimizer: Optimizer, nb_epochs: int, *, warmup: int = 0, **options: Any) -> LRScheduler:
    """The schedule that a config calls ``name``.

    Args:
        name: one of `SCHEDULES`.
        optimizer: whose learning rates change.
        nb_epochs: of the training.
        warmup: epochs over which learning rates first rise linearly, from a tenth of their value.
        options: of PyTorch's class, such as gamma or patience.

    Raises:
        UserError: for an unknown name, an option that the schedule does not know, or a value it refuses.
    """
    if name not in SCHEDULES:
        raise UserError(f"lr_schedule.name={name!r} is unknown; allowed: {', '.join(SCHEDULES)}")
    if warmup < 0 or (warmup and name == "plateau"):
        raise UserError(f"lr_schedule.warmup={warmup}: wanted 0 or more epochs, and 0 for plateau")
    try:
        main = SCHEDULES[name](optimizer, nb_epochs - warmup, **options)
        if not warmup:
            return main
        rise = torch_schedules.LinearLR(optimizer, start_factor=0.1, total_iters=warmup)
        return torch_schedules.SequentialLR(optimizer, [rise, main], milestones=[warmup])
    except (TypeError, ValueError) as error:
        raise UserError(f"lr_schedule={name} with {options}: {error}") from error
