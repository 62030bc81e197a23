"""What `--help` of a script says: its configurations, the choices of every group, every key with unit and meaning."""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, get_type_hints

from surgrad.config.command_line import options

WIDTH = 120


def help_text(script: object, schema: type, folders: Sequence[Path], given: Sequence[str] = ()) -> str:
    """The text.

    Args:
        script: the script's module, whose docstring comes first.
        schema: dataclass of its keys; `KEYS_OF` has the groups whose choices have keys of their own, and for each a
            function from the choice to the dataclass of these.
        folders: folders of the groups, the suite's own first.
        given: overrides beside `--help`: of these groups the choice whose keys are shown.
    """
    parts = [inspect.cleandoc(script.__doc__ or ""), ""]
    parts += ["Configurations (--config-name=…):", *_table((p.stem, _first_comment(p)) for p in _files(folders[0]))]
    parts += ["", "Groups (group=choice):"]
    own = {path.name for path in folders[0].iterdir() if path.is_dir()}
    groups = sorted(own | {field.name for field in dataclasses.fields(schema)})
    parts += _table((group, " | ".join(options(group, folders))) for group in groups if options(group, folders))
    parts += ["", "Keys (key=value), their defaults and meanings; --cfg job shows the values that a run would have:"]
    parts += _table((f"{key}={default}", meaning) for key, default, meaning in keys(schema))
    for group, schema_of in getattr(schema, "KEYS_OF", {}).items():
        chosen = [value for key, _, value in (word.partition("=") for word in given) if key == group]
        choice = (chosen or [_default(group, folders[0])])[-1]
        if choice not in options(group, folders):
            continue
        parts += ["", f"Keys of {group}={choice}; --help {group}=… shows another's, {group}/{choice}.yaml its values:"]
        parts += _table((f"{key}={default}", said) for key, default, said in keys(schema_of(choice), f"{group}."))
    parts += ["", "-m sweeps over comma-separated values; --hydra-help lists Hydra's own options."]
    return "\n".join(parts)


def keys(schema: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted key, default as it would be typed, and comment of every field of a dataclass, nested ones included."""
    comments: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if dataclasses.is_dataclass(base) and vars(base).get("__annotations__"):
            comments |= {name: said for name, said in field_comments(base).items() if said}
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{field.name}", _typed(field), comments.get(field.name, "")


def field_comments(schema: type) -> dict[str, str]:
    """The comment behind every field that a dataclass itself defines."""
    source = textwrap.dedent(inspect.getsource(schema))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    return {
        node.target.id: " ".join(comments[n] for n in range(node.lineno, node.end_lineno + 1) if n in comments)
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno is not None
    }


def _typed(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        value = "???" if field.default is dataclasses.MISSING else field.default
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("'", "")


def _default(group: str, folder: Path) -> str:
    """The choice of a group in the defaults of config.yaml; "" if it has none."""
    found = re.search(
        rf"^  - (?:override )?/?{group}: (\w+)", (folder / "config.yaml").read_text(encoding="utf-8"), re.M
    )
    return found[1] if found else ""


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.yaml"))


def _first_comment(path: Path) -> str:
    """The first sentence of the comment with which a file begins."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    comment = " ".join(line.lstrip("# ") for line in lines)
    return re.split(r"(?<=[a-z0-9)]\.) (?=[A-Z])", comment, maxsplit=1)[0]


def _table(rows: Iterator[tuple[str, str]]) -> list[str]:
    """Two columns, the right one wrapped."""
    lines: list[str] = []
    for left, right in rows:
        wrapped = textwrap.wrap(right, WIDTH - 38) or [""]
        first = f"  {left:<34}  "
        lines.append(f"{first}{wrapped[0]}".rstrip() if len(left) <= 34 else f"  {left}")
        rest = wrapped[1:] if len(left) <= 34 else wrapped
        lines += [f"{'':38}{line}".rstrip() for line in rest if line]
    return lines
