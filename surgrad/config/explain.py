"""Mistakes in a configuration, said in one line: the key or value, what is allowed, what to do."""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from surgrad.errors import UserError

#: What composing, resolving and converting a configuration raises for a mistake in it.
CONFIG_ERRORS = (HydraException, OmegaConfBaseException)


def explain(error: BaseException, primary: Iterable[str] = ()) -> str:
    """One line for a configuration error of Hydra or OmegaConf; `primary`: what --config-name may be."""
    for link in _chain(error):
        if isinstance(link, UserError):
            return str(link)
    for kind, say in _SAYINGS:
        for link in _chain(error):
            if isinstance(link, kind):
                said: str = say(link, _file(error))
                if said.startswith("--config-name="):
                    return unknown_option("--config-name", said.partition("=")[2], primary)
                return said
    return " ".join(str(error).split())


def unknown_key(key: str, allowed: Iterable[str], where: str = "") -> str:
    """`key` (dotted) is not among `allowed` (its siblings)."""
    *parents, name = key.split(".")
    prefix = "".join(f"{parent}." for parent in parents)
    names = [str(k) for k in allowed if k != "hydra"]
    inside = f" in {'.'.join(parents)}" if parents else ""
    return f"{where}unknown key {key}{_near(name, names, prefix)}; allowed{inside}: {', '.join(names) or 'none'}"


def unknown_option(key: str, value: object, allowed: Iterable[str]) -> str:
    """`value` is not among the values that `key` may take."""
    names = [str(option) for option in allowed]
    return f"{key}={value}: unknown{_near(str(value), names)}; allowed: {', '.join(names) or 'none'}"


def _near(name: str, names: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _file(error: BaseException) -> str:
    """ "method/superspike.yaml: " if the mistake is in a file rather than on the command line."""
    match = re.match(r"In '([^']+)'", str(error))
    return f"{match[1]}.yaml: " if match else ""


def _say_unknown_key(error: Any, where: str) -> str:
    parent = error.parent_node
    allowed = list(parent.keys()) if hasattr(parent, "keys") else []
    return unknown_key(str(error.full_key or error.key), allowed, where)


def _say_missing_config(error: Any, where: str) -> str:
    group, _, option = str(error.missing_cfg_file or "").rpartition("/")
    if error.options is not None and group:
        return unknown_option(group, option, error.options)
    if group:
        return f"{where}there is no {group}/{option}.yaml among the configurations"
    return f"--config-name={option}"


def _say_wrong_type(error: Any, where: str) -> str:
    wanted = _wanted(error)
    text = " ".join((error.msg or str(error)).split())
    if "is not Optional" in text:
        return f"{where}{error.full_key}=null: wanted {wanted or 'a value'}, not null"
    if error.value is None:
        return f"{where}{error.full_key}: {text}"
    return f"{where}{error.full_key}={error.value}: wanted {wanted or 'another type'}, got {_name(type(error.value))}"


def _wanted(error: Any) -> str | None:
    try:
        if isinstance(error.key, int):
            return _name(typing.get_args(error.ref_type)[0])
        return _name(typing.get_type_hints(error.object_type)[error.key])
    except (KeyError, IndexError, TypeError, NameError):
        match = re.search(r"could not be converted to (\w+)", str(error))
        return match[1] if match else None


def _name(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join("null" if a is type(None) else _name(a) for a in arguments)
    if arguments and typing.get_origin(hint) is list:
        return f"a list of {_name(arguments[0])}"
    return getattr(hint, "__name__", str(hint))


def _say_missing_value(error: Any, where: str) -> str:
    return f"{where}{error.full_key or error.key}: has no value; give one, e.g. {error.full_key or error.key}=…"


def _say_interpolation(error: Any, where: str) -> str:
    reason = " ".join((error.msg or str(error)).split(" full_key:")[0].split())
    reason = reason.rpartition("while resolving interpolation: ")[2].strip("\"'")
    if str(error.full_key).startswith("hydra."):  # the run folder's name asks for keys of the schema
        reason += "; does the configuration's list of defaults begin with `- schema`?"
    return f"{where}{error.full_key}: {reason}" if error.full_key else f"{where}{reason}"


def _say_unparsed(error: Any, where: str) -> str:
    lines = [line for line in str(error).splitlines() if line and not line.startswith("See ")]
    said = f"{error.override}: {' '.join(lines)}"
    return f"{said}; an override is key=value, with a value holding = or , in quotes: \"key='a=b'\""


def _say_composition(error: Any, where: str) -> str:
    text = " ".join(str(error).split())
    return text.replace("1. To use it as a list", ": to use it as a list").replace(" 2. ", "; ").replace(" 3. ", "; ")


# the first kind that is found anywhere in the chain of causes makes the message
_SAYINGS: list[tuple[type[BaseException], Any]] = [
    (ConfigAttributeError, _say_unknown_key),
    (ConfigKeyError, _say_unknown_key),
    (MissingConfigException, _say_missing_config),
    (InterpolationResolutionError, _say_interpolation),
    (ValidationError, _say_wrong_type),
    (MissingMandatoryValue, _say_missing_value),
    (OverrideParseException, _say_unparsed),
    (ConfigCompositionException, _say_composition),
]
