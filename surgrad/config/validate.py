"""What a value of a configuration may be: one check of each kind, and one wording of each mistake."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from omegaconf import MISSING

from surgrad.config.explain import unknown_option
from surgrad.errors import UserError

LARGEST = 2**53  # up to here every integer is a float, in JSON files and spreadsheets, too


def one_of(key: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raises UserError naming the key and the allowed values, and the nearest of them, unless value is one.

    A value that is still missing passes, here and in the checks below: `surgrad.config.check` names its key.
    """
    if value not in allowed and value != MISSING:
        raise UserError(unknown_option(key, value, allowed))


def positive(owner: object, prefix: str, *names: str) -> None:
    """Raises UserError for the first of these attributes that is not positive; prefix is the key of the owner.

    In lists every element counts; null, where its type allows it, passes. So in all checks below.
    """
    _require(owner, prefix, names, lambda value: value > 0, "must be positive")


def not_negative(owner: object, prefix: str, *names: str) -> None:
    """Raises UserError for the first of these attributes that is below 0."""
    _require(owner, prefix, names, lambda value: value >= 0, "must not be negative")


def at_least(lowest: float, owner: object, prefix: str, *names: str) -> None:
    """Raises UserError for the first of these attributes that is below ``lowest``."""
    _require(owner, prefix, names, lambda value: value >= lowest, f"must be at least {lowest}")


def share(owner: object, prefix: str, *names: str) -> None:
    """Raises UserError for the first of these attributes that is not strictly between 0 and 1."""
    _require(owner, prefix, names, lambda value: 0 < value < 1, "must be a share between 0 and 1")


def probability(owner: object, prefix: str, *names: str) -> None:
    """Raises UserError for the first of these attributes that is not from 0 to 1."""
    _require(owner, prefix, names, lambda value: 0 <= value <= 1, "must be from 0 to 1")


def not_empty(owner: object, prefix: str, *names: str) -> None:
    """Raises UserError for the first of these lists that is empty."""
    for name in names:
        if not getattr(owner, name):
            raise UserError(f"{prefix}{name}={getattr(owner, name)}: must not be empty")


def at_default(owner: object, prefix: str, *names: str) -> None:
    """Raises UserError for the first of these attributes that differs from its default: nothing reads them."""
    for name in names:
        default = type(owner).__dataclass_fields__[name].default  # type: ignore[attr-defined]
        if getattr(owner, name) != default:
            key, value = f"{prefix}{name}", getattr(owner, name)
            raise UserError(f"{key}={value}: has no effect here and is accepted as {default} only")


def node(key: str, content: Mapping[str, Any] | None, example: str) -> None:
    """Raises UserError unless ``content`` is a node that says what to build."""
    if not isinstance(content, Mapping) or not content.get("_target_"):
        raise UserError(f"{key}={content}: has no _target_, such as {example}")


def numbers(content: Any, defaults: Any = None, prefix: str = "") -> None:
    """Raises UserError for a number that nothing can compute with, anywhere in nested settings.

    Infinite or no number, unless the default is infinite, too; an integer that is no exact float; a negative seed.

    Args:
        content: settings, in dicts and lists.
        defaults: the same of the schema.
        prefix: key of the content, with a dot behind it.
    """
    for name, value in _children(content):
        key = f"{prefix}{name}" if isinstance(content, Mapping) else f"{prefix.removesuffix('.')}[{name}]"
        default = defaults.get(name) if isinstance(defaults, Mapping) else None
        if isinstance(value, float) and not math.isfinite(value) and not _infinite(default):
            raise UserError(f"{key}={value}: must be a finite number")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"{key}={value}: must be an integer of at most 2^53 = {LARGEST}")
        is_seed = isinstance(name, str) and (name == "seed" or name.endswith("seed"))
        if is_seed and isinstance(value, int | float) and value < 0:
            raise UserError(f"{key}={value}: must not be negative")
        numbers(value, default, f"{key}.")


def _require(owner: object, prefix: str, names: Iterable[str], allowed: Callable[[Any], bool], wanted: str) -> None:
    for name in names:
        value = getattr(owner, name)
        for element in value if isinstance(value, list | tuple) else [value]:
            if element not in (None, MISSING) and not allowed(element):  # nan is not allowed either
                raise UserError(f"{prefix}{name}={value}: {wanted}")


def _children(content: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, Mapping):
        yield from content.items()
    elif isinstance(content, list):
        yield from enumerate(content)


def _infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)
