"""Nodes with a `_target_` turned into objects of the library."""

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from surgrad.errors import UserError
from surgrad.schema.explain import unknown_key

ALLOWED = ("surgrad.", "torch.optim.")


def build(node: Any, /, *, at: str = "", **more: Any) -> Any:
    """The object that a node {_target_: surgrad.surrogate.SuperSpike, beta: 10} describes, nested nodes first.

    `more` are further keyword arguments and win over those of the node; `_partial_: true` gives a function that
    waits for the rest; a node without `_target_` is returned as it is. `at` is the node's key, for messages.
    Raises UserError for a target outside surgrad and torch.optim, and for arguments it does not take.
    """
    if isinstance(node, list):
        return [build(child, at=f"{at}[{i}]") for i, child in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    content = {str(k): build(v, at=f"{at}.{k}" if at else str(k)) for k, v in node.items()}
    if "_target_" not in content:
        return content
    where = at or "config"
    target = _locate(str(content.pop("_target_")), where)
    partial = bool(content.pop("_partial_", False))
    arguments = content | more
    _check(target, arguments, where, partial)
    if partial:
        return functools.partial(target, **arguments)
    try:
        return target(**arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}" if at and at not in str(error) else str(error)) from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _locate(path: str, where: str) -> Any:
    if not path.startswith(ALLOWED):
        raise UserError(f"{where}._target_={path}: only targets in surgrad and torch.optim are built")
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise  # the module is there and lacks something itself: not the user's mistake
        raise UserError(f"{where}._target_={path}: there is no module {error.name}") from error
    found = getattr(module, name, None)
    if not callable(found) or name.startswith("_"):
        public = [n for n, value in vars(module).items() if callable(value) and _belongs(value, module_name)]
        raise UserError(f"{where}._target_: {unknown_key(name, sorted(public)).replace('key', 'name', 1)}")
    return found


def _belongs(value: Any, module_name: str) -> bool:
    home = str(getattr(value, "__module__", ""))
    return not value.__name__.startswith("_") and (home == module_name or home.startswith(f"{module_name}."))


def _check(target: Any, arguments: Mapping[str, Any], where: str, partial: bool) -> None:
    signature = inspect.signature(target)
    takes = [p for p in signature.parameters.values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        for name in arguments:
            if name not in {p.name for p in takes}:
                raise UserError(f"{unknown_key(f'{where}.{name}', [p.name for p in takes])}")
    lacking = [p.name for p in takes if p.default is p.empty and p.name not in arguments]
    if lacking and not partial:
        raise UserError(f"{where}: {target.__name__} lacks {', '.join(lacking)}")
