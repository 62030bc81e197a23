"""Errors that a user can mend: scripts print them as one line, without a traceback."""

from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """The message names the value, what is allowed and what to do."""


def known(name: str, x: T | None) -> T:
    """``x``, which is called ``name``, where there must be one. Raises: UserError if it is None."""
    if x is None:
        raise UserError(f"{name} is needed here, but there is none")
    return x
