"""A composed configuration checked against its dataclass and turned into it."""

import copy
import dataclasses
import typing
from collections.abc import Callable, Collection, Iterator
from functools import cache, lru_cache
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from surgrad.config.explain import CONFIG_ERRORS, explain, unknown_key
from surgrad.config.validate import numbers
from surgrad.errors import UserError


def check(composed: DictConfig | dict[str, Any], schema: type) -> Any:
    """A composed configuration, or one in resolved dicts and lists, as an object of the dataclass `schema`.

    Raises UserError naming the key for an unknown key, a wrong type, a missing value or a bad interpolation.
    """
    return _made(schema, _keys(composed, schema))


def check_settings(composed: DictConfig | dict[str, Any], schema: type) -> tuple[Any, dict[str, Any]]:
    """As `check`, and the same configuration in dicts and lists, as a run folder records it.

    The value of each key is checked by itself, once in a process: the jobs of a sweep share most of theirs. What must
    hold between keys is checked by the dataclass, each time.
    """
    checked = _keys(composed, schema)
    return _made(schema, checked), {key: copy.deepcopy(recorded) for key, (recorded, _) in checked.items()}


def _keys(composed: DictConfig | dict[str, Any], schema: type) -> dict[str, tuple[Any, Any]]:
    """For each key what `_checked` gives: not to be changed."""
    content = composed if isinstance(composed, dict) else _content(composed, schema)
    blanks = _blanks(schema)
    for key in content:
        if key not in blanks:
            raise UserError(unknown_key(key, blanks))
    last = {key for key in content if isinstance(composed, DictConfig) and OmegaConf.is_interpolation(composed, key)}
    found = {}
    for key in sorted(blanks, key=last.__contains__):  # what refers to another key last: a mistake is that of the other
        given = {key: content[key]} if key in content else {}
        found[key] = _checked(schema, key, _Value(repr(given), given))
    checked = {key: found[key] for key in blanks}
    missing = sorted(_missing({key: recorded for key, (recorded, _) in checked.items()}))
    if missing:
        raise UserError(f"{missing[0]}: has no value; give one, e.g. {missing[0]}=…")
    return checked


def _made(schema: type, checked: dict[str, tuple[Any, Any]]) -> Any:
    return _converted(lambda: schema(**{key: copy.deepcopy(made) for key, (_, made) in checked.items()}))


@dataclasses.dataclass(frozen=True)
class _Value:
    """Of a key; equal to another if both read the same."""

    text: str
    content: Any = dataclasses.field(compare=False)


@cache
def _blanks(schema: type) -> dict[str, DictConfig]:
    """For each key of the schema a configuration of this key alone, at its default: not to be changed."""
    hints, blanks = typing.get_type_hints(schema), {}
    for one in dataclasses.fields(schema):
        default: Any = {"default": one.default, "default_factory": one.default_factory}
        alone = dataclasses.make_dataclass(schema.__name__, [(one.name, hints[one.name], dataclasses.field(**default))])
        blanks[one.name] = cast(DictConfig, OmegaConf.structured(alone))
    return blanks


def resolved(composed: DictConfig, without: Collection[str] = ("hydra",)) -> dict[str, Any]:
    """The configuration in dicts and lists, less some keys, interpolations looked up; "???" has no value.

    Raises UserError for a key that refers to itself, and what OmegaConf raises for another that cannot be looked up.
    """
    return {str(key): _resolved(composed, str(key)) for key in composed if key not in without}


def _resolved(composed: DictConfig, key: str) -> Any:
    if OmegaConf.is_missing(composed, key):
        return MISSING
    try:
        value = composed[key]
    except InterpolationResolutionError as error:
        if "Recursive" not in str(error):
            raise
        raise UserError(f"{key}: refers to itself") from error
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _content(composed: DictConfig, schema: type) -> dict[str, Any]:
    """As `resolved`, with every mistake explained."""
    try:
        return resolved(composed)
    except InterpolationResolutionError as error:
        if OmegaConf.get_type(composed) is not schema:  # `- schema` gives the type; without, a default may be meant
            return _content(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(schema), composed)), schema)
        key = error.full_key or _unresolved(composed)
        raise UserError(explain(error) if error.full_key or not key else f"{key}: {explain(error)}") from error
    except CONFIG_ERRORS as error:
        raise UserError(explain(error)) from error


@cache
def _untyped(schema: type, key: str) -> bool:
    return bool(typing.get_type_hints(schema)[key] == dict[str, Any])


@lru_cache(maxsize=4096)
def _checked(schema: type, key: str, value: _Value) -> tuple[Any, Any]:
    """What is recorded of a key and what the dataclass takes for it; not to be changed."""
    blank = _blanks(schema)[key]
    defaults = OmegaConf.to_container(blank)
    numbers(value.content, defaults)
    _refuse_unknown(value.content, blank)
    if defaults == {key: {}} and isinstance(value.content.get(key), dict) and _untyped(schema, key):
        content = copy.deepcopy(value.content[key])
        return content, content
    try:
        checked = OmegaConf.merge(blank, value.content)
    except CONFIG_ERRORS as error:
        raise UserError(explain(error)) from error
    recorded = cast(dict[str, Any], OmegaConf.to_container(checked, enum_to_str=True))
    numbers(recorded, defaults)
    if any(_missing(recorded)):
        return recorded[key], None
    return recorded[key], getattr(_converted(lambda: OmegaConf.to_object(checked)), key)


def _missing(content: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys without a value."""
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in children:
        key = f"{prefix}[{name}]" if isinstance(content, list) else f"{prefix}.{name}".lstrip(".")
        if value == MISSING:
            yield key
        yield from _missing(value, key)


def _unresolved(content: Any, prefix: str = "") -> str:
    """The first key whose value cannot be looked up; "" if there is none."""
    keys = range(len(content)) if OmegaConf.is_list(content) else list(content)
    for key in keys:
        try:
            value = content[key]
        except InterpolationResolutionError:
            return f"{prefix}{key}"
        except CONFIG_ERRORS:
            continue
        found = _unresolved(value, f"{prefix}{key}.") if OmegaConf.is_config(value) else ""
        if found:
            return found
    return ""


def _refuse_unknown(content: Any, allowed: Any, prefix: str = "") -> None:
    """`+key=value` adds to a composed configuration what its schema does not know."""
    if not isinstance(content, dict) or not isinstance(allowed, DictConfig) or OmegaConf.get_type(allowed) is dict:
        return
    for key, value in content.items():
        if key not in allowed.keys():  # noqa: SIM118  `in allowed` is false for keys that have no value yet
            raise UserError(unknown_key(f"{prefix}{key}", map(str, allowed.keys())))
        _refuse_unknown(value, allowed._get_node(key), f"{prefix}{key}.")


def _converted(convert: Callable[[], Any]) -> Any:
    try:
        return convert()
    except CONFIG_ERRORS as error:
        raise UserError(explain(error)) from error
    except ValueError as error:  # a dataclass refused its values
        raise error if isinstance(error, UserError) else UserError(str(error)) from error
