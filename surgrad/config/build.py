"""Nodes with a `_target_` turned into objects of the library."""

import functools
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from surgrad.config.explain import unknown_key
from surgrad.config.trust import require_module, require_target
from surgrad.errors import UserError

#: What targets of the library begin with; any other is of the user's own modules, or of other packages.
LIBRARY = ("surgrad.", "torch.optim.")

#: Short names of modules, stable in configurations and run folders, and where they are; the first that has the name.
MODULES = {
    "surgrad.surrogate": ("surgrad.neurons.surrogate",),
    "surgrad.escape_noise": ("surgrad.neurons.escape_noise",),
    "surgrad.neurons": ("surgrad.neurons.lif",),
    "surgrad.layers": (
        "surgrad.network.layers",
        "surgrad.network.connections",
        "surgrad.network.neuron_delays",
        "surgrad.network.parameters",
        "surgrad.network.normalization",
    ),
    "surgrad.network": ("surgrad.network.network",),
    "surgrad.initializers": ("surgrad.network.initializers",),
    "surgrad.rate_propagation": ("surgrad.network.rate_propagation",),
    "surgrad.dale": ("surgrad.network.connections", "surgrad.network.initializers", "surgrad.network.dale"),
    "surgrad.heterogeneity": ("surgrad.network.time_constants",),
    "surgrad.losses": ("surgrad.training.losses",),
    "surgrad.regularizers": ("surgrad.training.regularizers",),
    "surgrad.optimizers": ("surgrad.training.optimizers",),
    "surgrad.datasets.latency": ("surgrad.datasets.encoding.latency",),
    "surgrad.datasets.lif_encoding": ("surgrad.datasets.encoding.lif_encoding",),
    "surgrad.datasets.threshold_crossing": ("surgrad.datasets.encoding.threshold_crossing",),
    "surgrad.non_spiking": ("surgrad.experiments.non_spiking.networks",),
    "surgrad.theory.single_neuron": ("surgrad.experiments.sigmoid_network.single_neuron",),
}


def is_own(name: str) -> bool:
    """Whether a name, of a target or in the place of a name that the library knows, is that of one's own code."""
    return "." in name and not name.startswith(LIBRARY)


def build(node: Any, /, *, at: str = "", **more: Any) -> Any:
    """The object that a node {_target_: surgrad.surrogate.SuperSpike, beta: 10} describes, nested nodes first.

    `more` are further keyword arguments and win over those of the node; `_partial_: true` gives a function that
    waits for the rest; a node without `_target_` is returned as it is. `at` is the node's key, for messages.
    A target of one's own is imported from the working directory or from Python's path.
    Raises UserError for a target that is not there, for arguments it does not take, and within
    `surgrad.config.trust.read_back` for a target outside its registry.
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
    short, _, name = path.rpartition(".")
    if not short:
        raise UserError(f"{where}._target_={path}: give its module, too, as in my_module.{path}")
    public: list[str] = []
    for module_name in MODULES.get(short, (short,)):
        require_module(module_name, where, path)
        module = _imported(module_name, f"{where}._target_={path}")
        found = getattr(module, name, None)
        if callable(found) and not name.startswith("_"):
            require_target(found, where, path)
            return found
        public += [n for n, value in vars(module).items() if callable(value) and _belongs(value, module_name)]
    raise UserError(f"{where}._target_: {unknown_key(name, sorted(public)).replace('key', 'name', 1)}")


def _imported(name: str, where: str) -> ModuleType:
    try:
        with _working_directory():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there and lacks something itself
        place = "" if name.startswith(LIBRARY) else f" in {Path.cwd()} or on Python's path (PYTHONPATH)"
        raise UserError(f"{where}: there is no module {error.name}{place}") from error


@contextmanager
def _working_directory() -> Iterator[None]:
    """Let modules be found in the working directory, after all other places."""
    path = str(Path.cwd())
    sys.path.append(path)
    try:
        yield
    finally:
        sys.path.remove(path)


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
