"""Checks of what crosses into a kernel: each raises one `UserError` that names the value and what is allowed."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surgrad.errors import UserError

FLOATS = (torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def count_of(name: str, value: Any, lowest: int = 0) -> int:
    """An integer of at least ``lowest``. Raises: UserError."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise UserError(f"{name}={value!r} is {type(value).__name__}; it must be an integer") from error
    if number < lowest:
        raise UserError(f"{name}={number} must be at least {lowest}")
    return number


def require_name(what: str, name: Any, allowed: Sequence[str]) -> None:
    """Raises: UserError for a name that is not among those allowed."""
    if name not in allowed:
        raise UserError(f"{what}={name!r} is unknown; allowed: {', '.join(allowed)}")


def require_shape(name: str, x: Any, shape: Sequence[int], meaning: str) -> None:
    """Raises: UserError unless ``x`` is a tensor of this shape, whose axes ``meaning`` names."""
    if not isinstance(x, Tensor):
        raise UserError(f"{name} is {type(x).__name__}; it must be a tensor {meaning} = {tuple(shape)}")
    if tuple(x.shape) != tuple(shape):
        raise UserError(f"{name} has shape {tuple(x.shape)}; it must be {meaning} = {tuple(shape)}")


def require_device(name: str, x: Tensor, device: torch.device) -> None:
    """Raises: UserError unless the tensor is on the device, and that device can compute."""
    if x.device != device:
        raise UserError(f"{name} is on {x.device}, the parameters are on {device}; move one with .to(device)")
    if device.type == "meta":
        raise UserError(f"{name} is on the meta device, which holds no values; move it with .to_empty(device='cpu')")


def require_alike(named: Sequence[tuple[str, Tensor]]) -> None:
    """Raises: UserError unless all tensors have one floating dtype and one device."""
    first_name, first = named[0]
    dtype, device = first.dtype, first.device
    if all(x.dtype == dtype and x.device == device for _, x in named) and dtype in FLOATS and device.type != "meta":
        return
    if not dtype.is_floating_point:
        raise UserError(f"{first_name} is {first.dtype}; parameters must be floating point")
    for name, x in named:
        require_device(name, x, device)
        if x.dtype != dtype:
            raise UserError(
                f"{name} is {x.dtype}, but {first_name} is {dtype}: give all of them one dtype, "
                "with network.float() or network.double()"
            )


def state_tensor(name: str, x: Any, shape: Sequence[int], like: Tensor) -> Tensor:
    """Contiguous, in dtype and on the device of ``like``. Raises: UserError for another shape or device, or NaN."""
    require_shape(name, x, shape, "(B, *units)" if "pending" not in name else "(steps, B, *units)")
    require_device(name, x, like.device)
    if x.dtype.is_complex:
        raise UserError(f"{name} is {x.dtype}; it must hold real numbers")
    x = x.to(like.dtype).contiguous()
    if x.device.type == "cpu" and x.numel() and not math.isfinite(float(x.detach().sum())):
        raise UserError(f"{name} holds values that are not finite (NaN or inf)")
    return x
