"""What a search may choose: ranges of numbers and lists of values, as text on a command line or in YAML.

log(1e-3, 1e-1)        a number, its logarithm uniform       logint(16, 256)    the same for integers
interval(0.1, 0.9)     a number, uniform                     int(1, 4)          an integer, both ends included
choice(a, b, [1,2])    one of these, written as they are
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from surgrad.errors import UserError


class Trial(Protocol):
    """What of Optuna's trial is used here."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int: ...
    def suggest_categorical(self, name: str, choices: tuple[str, ...]) -> str: ...


class Range(Protocol):
    """One dimension of the space."""

    def suggest(self, trial: Trial, name: str) -> Any: ...


@dataclass(frozen=True)
class Number:
    """A number in [low, high], uniform or, with ``log``, uniform in its logarithm."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Integer:
    """An integer from low to high, both included."""

    low: int
    high: int
    log: bool = False

    def suggest(self, trial: Trial, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of several values, each as the script's command line takes it."""

    values: tuple[str, ...]

    def suggest(self, trial: Trial, name: str) -> str:
        return trial.suggest_categorical(name, self.values)


def parse_space(space: Mapping[str, Any]) -> dict[str, Range]:
    """Read a space: {"method.lr": "log(1e-3, 1e-1)"}. Raises: UserError naming the entry that cannot be read."""
    if not space:
        raise UserError("space: nothing to search; give e.g. 'space.method.lr=log(1e-3,1e-1)'")
    return {key: _parse(key, str(text)) for key, text in space.items()}


def _parse(key: str, text: str) -> Range:
    match = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", text, flags=re.DOTALL)
    if match is None or match[1] not in KINDS:
        allowed = ", ".join(f"{name}({'a,b,…' if name == 'choice' else 'low,high'})" for name in KINDS)
        raise UserError(f"space.{key}={text}: wanted one of {allowed}")
    try:
        return KINDS[match[1]](_split(match[2]))
    except (ValueError, TypeError) as error:
        raise UserError(f"space.{key}={text}: {error}") from error


def _split(text: str) -> list[str]:
    """Split at the commas outside of brackets and quotes."""
    parts = re.findall(r"""((?:\[[^\]]*\]|\{[^}]*\}|"[^"]*"|'[^']*'|[^,\[{"'])+)""", text)
    return [part.strip() for part in parts]


def _number(ends: list[str], log: bool) -> Number:
    low, high = _ends(ends, float, log)
    return Number(low, high, log)


def _integer(ends: list[str], log: bool) -> Integer:
    low, high = _ends(ends, int, log)
    return Integer(low, high, log)


def _ends(ends: list[str], kind: type, log: bool) -> tuple[Any, Any]:
    if len(ends) != 2:
        raise ValueError(f"wanted two ends, low and high, got {len(ends)}")
    low, high = (kind(end) for end in ends)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError("low must be below high, both finite")
    if log and low <= 0:
        raise ValueError("low must be positive")
    return low, high


def _choice(values: list[str]) -> Choice:
    if not all(values) or len(set(values)) < 2:
        raise ValueError("wanted two or more different values")
    return Choice(tuple(values))


KINDS: dict[str, Callable[[list[str]], Range]] = {
    "log": lambda ends: _number(ends, log=True),
    "interval": lambda ends: _number(ends, log=False),
    "int": lambda ends: _integer(ends, log=False),
    "logint": lambda ends: _integer(ends, log=True),
    "choice": _choice,
}
