"""The command line as Hydra will see it: published spellings, text that looks like a number, choices of a group."""

import dataclasses
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from surgrad.config.build import is_own
from surgrad.config.explain import unknown_option
from surgrad.config.published import Published
from surgrad.errors import UserError

_OVERRIDE = re.compile(r"(?P<sign>\+{0,2})(?P<key>[A-Za-z_][\w./@-]*)=(?P<value>.*)", re.DOTALL)
_PLAIN = re.compile(r"[^\[\]{}()'\"$\\]*")  # neither quoted nor nested: values, or a choice of them between commas
_NUMBER = re.compile(
    r"[-+]?(?:(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:e[-+]?\d+)?|inf|nan)|true|false", re.IGNORECASE | re.ASCII
)
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")


@contextmanager
def command_line(arguments: Sequence[str], schema: type, folders: Sequence[Path]) -> Iterator[None]:
    """Let Hydra find these arguments in sys.argv, said as it understands them.

    Args:
        arguments: of the command.
        schema: dataclass of the configuration; its `PUBLISHED` holds spellings of the published suite.
        folders: of the groups, that of the suite first.

    Raises:
        UserError: an override can only be a mistake.
    """
    before = sys.argv
    sys.argv = [before[0], *_with_absolute_paths(translated(arguments, schema, folders))]
    try:
        yield
    finally:
        sys.argv = before


def translated(arguments: Sequence[str], schema: type, folders: Sequence[Path]) -> list[str]:
    """The arguments with every override in the spelling of this suite."""
    published: Published = getattr(schema, "PUBLISHED", Published())
    said = []
    for argument in arguments:
        if argument.startswith("="):
            raise UserError(f"{argument}: no key stands before it; an override is key=value")
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            said.append(argument)
            continue
        sign, key, value = match["sign"], published.keys.get(match["key"], match["key"]), match["value"]
        if key in published.refused:
            raise UserError(f"{argument}: {published.refused[key]}")
        if value == published.single.get(key):
            continue
        if key in published.unread:
            sys.stderr.write(f"note: {argument} changes nothing: {published.unread[key]}\n")
            continue
        if key in _FOLDERS and not value.strip():
            raise UserError(f"{argument}: empty; leave it out, or name a folder")
        words = published.values.get(key, {})
        hint = _hint(schema, key)
        value = _each(value, lambda word, words=words: words.get(word, word))
        _refuse_no_option(key, value, folders)
        _store_own_options(key, value, folders)
        if hint is str:
            value = _each(value, _quoted)
        elif hint == list[str] and value.startswith("[") and value.endswith("]"):
            value = f"[{_each(value[1:-1], _quoted)}]"
        said.append(f"{sign}{key}={value}")
    return said


def options(group: str, folders: Sequence[Path]) -> list[str]:
    """Names of the files of a group, in all folders."""
    return sorted({path.stem for folder in folders for path in folder.glob(f"{group}/*.yaml")})


def _store_own_options(key: str, value: str, folders: Sequence[Path]) -> None:
    """Make `surrogate=my_module.MySurrogate` a choice of its group, as if there were a file of this name in it.

    In a group of nodes the file would hold the `_target_`, in one of names the name; in a group with a file own.yaml it
    would be that file with the `_target_` of its `source`.
    """
    group = key.split("@")[0]
    texts = {
        path.stem: path.read_text(encoding="utf-8") for folder in folders for path in folder.glob(f"{group}/*.yaml")
    }
    for word in value.split(",") if _PLAIN.fullmatch(value) else ():
        name = word.strip()
        if not texts or not _DOTTED.fullmatch(name) or not is_own(name) or name in texts:
            continue
        node: dict[str, Any] = {"_target_": name}
        if "own" in texts:
            node = {"defaults": ["own", "_self_"], "name": name.rpartition(".")[2], "source": node}
        elif not any(text.startswith("_target_:") or "\n_target_:" in text for text in texts.values()):
            node = {"name": name}
        ConfigStore.instance().store(group=group, name=name, node=node, provider="command line")


def _refuse_no_option(key: str, value: str, folders: Sequence[Path]) -> None:
    """Hydra does not say which group it is that was given null, a number or a list."""
    group = key.split("@")[0]
    if "." in group or group.startswith("hydra") or not any((folder / group).is_dir() for folder in folders):
        return
    if "@" in key and value == "null":
        return  # leaves out a part
    for word in value.split(",") if _PLAIN.fullmatch(value) else [value]:
        if (
            value.startswith(("[", "{"))
            or not word.strip()
            or word.strip() == "null"
            or _NUMBER.fullmatch(word.strip())
        ):
            raise UserError(unknown_option(key, word, options(group, folders)))


def _each(value: str, change: Any) -> str:
    """Change every word of a plain value; leave one that is quoted, nested or interpolated as it is."""
    if not _PLAIN.fullmatch(value):
        return value
    return ",".join(change(word) for word in value.split(","))


def _quoted(word: str) -> str:
    """`695e0514` is a name where text is wanted, not infinity."""
    return f"'{word}'" if _NUMBER.fullmatch(word.strip()) else word


def _hint(schema: type, key: str) -> Any:
    """The type of a key, null put aside; None below what a schema knows."""
    hint: Any = schema
    for name in key.split("."):
        if not dataclasses.is_dataclass(hint):
            return None
        hint = typing.get_type_hints(hint).get(name)
        if isinstance(hint, types.UnionType):
            (hint, *_) = [option for option in typing.get_args(hint) if option is not type(None)]
    return hint


def _with_absolute_paths(arguments: list[str]) -> list[str]:
    """A relative --config-path that exists here is meant from here, not from the script."""
    given = list(arguments)
    for i, argument in enumerate(given):
        option, equals, value = argument.partition("=")
        if option in ("--config-path", "-cp") and equals and os.path.isdir(value):
            given[i] = f"{option}={os.path.abspath(value)}"
        elif i and given[i - 1] in ("--config-path", "-cp") and os.path.isdir(argument):
            given[i] = os.path.abspath(argument)
    return given
