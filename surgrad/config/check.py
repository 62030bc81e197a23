"""A composed configuration checked against its dataclass and turned into it."""

from functools import cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from surgrad.config.explain import CONFIG_ERRORS, explain, unknown_key
from surgrad.config.validate import numbers
from surgrad.errors import UserError


def check(composed: DictConfig, schema: type) -> Any:
    """The composed configuration, which is resolved in place, as an object of the dataclass `schema`.

    Raises UserError naming the key for an unknown key, a wrong type, a missing value or a bad interpolation.
    """
    return check_settings(composed, schema)[0]


def check_settings(composed: DictConfig, schema: type) -> tuple[Any, dict[str, Any]]:
    """As `check`, and the same configuration in dicts and lists, as a run folder records it."""
    blank, defaults = _blank(schema)
    unresolved = OmegaConf.to_container(composed, resolve=False)
    numbers(unresolved, defaults)
    _refuse_unknown(unresolved, blank)
    checked = _checked(composed, blank)
    settings = cast(dict[str, Any], OmegaConf.to_container(checked, enum_to_str=True))
    numbers(settings, defaults)  # interpolations, too
    return _convert(checked), settings


@cache
def _blank(schema: type) -> tuple[DictConfig, Any]:
    """The schema with its defaults, and these in dicts and lists: not to be changed."""
    blank = cast(DictConfig, OmegaConf.structured(schema))
    return blank, OmegaConf.to_container(blank)


def _checked(composed: DictConfig, blank: DictConfig) -> DictConfig:
    try:
        # `- schema` gives the type: then Hydra has merged into it already
        typed = OmegaConf.get_type(composed) is OmegaConf.get_type(blank)
        checked = composed if typed else cast(DictConfig, OmegaConf.merge(blank, composed))
        OmegaConf.resolve(checked)
        missing = sorted(OmegaConf.missing_keys(checked))
    except InterpolationResolutionError as error:
        key = error.full_key or _unresolved(composed)
        raise UserError(explain(error) if error.full_key or not key else f"{key}: {explain(error)}") from error
    except CONFIG_ERRORS as error:
        raise UserError(explain(error)) from error
    if missing:
        raise UserError(f"{missing[0]}: has no value; give one, e.g. {missing[0]}=…")
    return checked


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


def _convert(checked: DictConfig) -> Any:
    try:
        return OmegaConf.to_object(checked)
    except CONFIG_ERRORS as error:
        raise UserError(explain(error)) from error
    except ValueError as error:  # a dataclass refused its values
        raise error if isinstance(error, UserError) else UserError(str(error)) from error
