"""Whose code a configuration may name: the user's own anything, a run folder that is read back a closed registry.

People share run folders, and a `_target_` in the config.yaml of one is executed when its network is built again. There
only the classes of `REGISTRY` are built: neurons, surrogates, escape noise, connections, initialisers, losses,
regularisers, optimisers, encodings, generated data sets; they take numbers and each other, and neither read nor write
files.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from surgrad.errors import UserError

#: The modules whose own public classes are built from run folders, and the functions that are built besides.
REGISTRY: dict[str, frozenset[str]] = {
    "surgrad.neurons.surrogate": frozenset(),
    "surgrad.neurons.escape_noise": frozenset(),
    "surgrad.neurons.lif": frozenset(),
    "surgrad.network.connections": frozenset(),
    "surgrad.network.neuron_delays": frozenset(),
    "surgrad.network.layers": frozenset(),
    "surgrad.network.parameters": frozenset(),
    "surgrad.network.normalization": frozenset(),
    "surgrad.network.initializers": frozenset(),
    "surgrad.network.rate_propagation": frozenset(),
    "surgrad.network.time_constants": frozenset({"homogeneous", "gamma", "normal", "uniform"}),
    "surgrad.training.losses": frozenset(),
    "surgrad.training.regularizers": frozenset(),
    "surgrad.training.optimizers": frozenset(),
    "surgrad.datasets.encoding.latency": frozenset(),
    "surgrad.datasets.encoding.lif_encoding": frozenset(),
    "surgrad.datasets.encoding.threshold_crossing": frozenset(),
    "surgrad.datasets.sources.randman": frozenset(),
    "surgrad.datasets.sources.random_task": frozenset(),
    "surgrad.datasets.sources.yin_yang": frozenset(),
    "surgrad.experiments.sigmoid_network.single_neuron": frozenset(),
    "surgrad.experiments.non_spiking.networks": frozenset(),
    "torch.optim": frozenset(),
}

_closed: ContextVar[bool] = ContextVar("closed", default=False)


@contextmanager
def read_back(trust: bool = False) -> Iterator[None]:
    """Surround what builds objects from the configuration of a run folder; `trust` lets it name any code."""
    token = _closed.set(not trust)
    try:
        yield
    finally:
        _closed.reset(token)


def require_module(module: str, where: str, target: str) -> None:
    """Raise UserError if a run folder names a module outside the registry, before it is imported."""
    if _closed.get() and module not in REGISTRY:
        raise _refused(where, target)


def require_target(found: Any, where: str, target: str) -> None:
    """Raise UserError if what a run folder names in a module of the registry is no class of these modules."""
    if not _closed.get():
        return
    home, name = str(getattr(found, "__module__", "")), getattr(found, "__name__", "")
    is_class = inspect.isclass(found) and (home in REGISTRY or home.startswith("torch.optim."))
    if not is_class and name not in REGISTRY.get(home, ()):
        raise _refused(where, target)


def require_resolved(config: Any, where: str = "config.yaml") -> None:
    """Raise UserError for an interpolation such as `${oc.env:HOME}`: a run records its configuration without any."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            require_resolved(value, f"{where}: {key}" if where == "config.yaml" else f"{where}.{key}")
    elif isinstance(config, list):
        for value in config:
            require_resolved(value, where)
    elif _closed.get() and isinstance(config, str) and "${" in config:
        raise UserError(f"{where}={config}: an interpolation, which no run records; the folder is not what a run wrote")


def _refused(where: str, target: str) -> UserError:
    return UserError(
        f"{where}._target_={target}: named in a run folder, and not among the classes that are built from there "
        "(docs/security.md); if you trust whoever made the folder, take --trust (in Python trust=True)"
    )
