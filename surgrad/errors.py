"""Errors that a user can mend: scripts print them as one line, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """The message names the value, what is allowed and what to do."""


def known(name: str, x: T | None) -> T:
    """``x``, which is called ``name``, where there must be one. Raises: UserError if it is None."""
    if x is None:
        raise UserError(f"{name} is needed here, but there is none")
    return x


@contextmanager
def naming(said: str) -> Iterator[None]:
    """Put what the user wrote, such as key=value, in front of the message of a UserError raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{said}: {error}") from error
