"""Text on the command line that looks like a number: `wandb.name=695e0514` is a name, not infinity."""

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

_OVERRIDE = re.compile(r"(?P<key>\+{0,2}(?P<name>[A-Za-z_][\w.]*))=(?P<text>.+)", re.DOTALL)
_PLAIN = re.compile(r"[\w+.\-]+")


def quoted(arguments: Sequence[str], schema: type) -> list[str]:
    """The command line, with quotes around what Hydra would read as a number where `schema` wants text.

    Values of keys of type `str` or `list[str]`, one or several that are swept over; null stays null.
    """
    return [_quoted(str(argument), schema) for argument in arguments]


def _quoted(argument: str, schema: type) -> str:
    override = _OVERRIDE.fullmatch(argument)
    if override is None:
        return argument
    wanted, text = _type_of(schema, override["name"].split(".")), override["text"]
    if wanted == list[str] and re.fullmatch(r"\[[^\[\]]*\]", text):
        return f"{override['key']}=[{_words(text[1:-1])}]"
    return f"{override['key']}={_words(text)}" if wanted is str else argument


def _words(text: str) -> str:
    return ",".join(f"'{word}'" if _is_number(word) else word for word in text.split(","))


def _is_number(word: str) -> bool:
    """Whether Hydra reads a word as a number or a truth value."""
    if not _PLAIN.fullmatch(word):
        return False
    try:
        float(word.replace("_", ""))
    except ValueError:
        return word.lower() in ("true", "false")
    return True


def _type_of(schema: Any, path: Sequence[str]) -> Any:
    """The type that a dataclass gives to a dotted key, without `| None`; None if it says nothing."""
    for name in path:
        if not dataclasses.is_dataclass(schema):
            return None
        schema = typing.get_type_hints(schema).get(name)
        if isinstance(schema, types.UnionType) or typing.get_origin(schema) is typing.Union:
            kinds = [kind for kind in typing.get_args(schema) if kind is not type(None)]
            schema = kinds[0] if len(kinds) == 1 else None
    return schema
