"""Import paths of release 0.1.0 that moved: they keep working, and say where the names are now.

`from surgrad.layers import Dense` imports what is now in `surgrad.network.connections`. The public names of `surgrad`
itself are the ones to use.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_ENCODINGS = ("audio", "cochlea", "latency", "lif_encoding", "threshold_crossing")
_SOURCES = ("braille", "bs1", "hdf5", "idx", "randman", "random_task", "targets", "yin_yang")

#: Former module: where its names are now, the first that has one.
FORMER: dict[str, tuple[str, ...]] = {
    "surgrad.layers": ("surgrad.network.layers", "surgrad.network.connections", "surgrad.network.parameters"),
    "surgrad.dale": ("surgrad.network.dale", "surgrad.network.connections", "surgrad.network.initializers"),
    "surgrad.heterogeneity": ("surgrad.network.time_constants", "surgrad.training.optimizers"),
    "surgrad.models": ("surgrad.network.models", "surgrad.network.methods"),
    "surgrad.rate_propagation": ("surgrad.network.rate_propagation",),
    "surgrad.probing": ("surgrad.network.probing",),
    "surgrad.nir_export": ("surgrad.network.nir",),
    "surgrad.state": ("surgrad.kernels.state",),
    "surgrad.philox": ("surgrad.kernels.philox",),
    "surgrad.kernels.build": ("surgrad.kernels.cpu.build",),
    "surgrad.eventprop_grid": ("surgrad.eventprop.grid",),
    "surgrad.eventprop_network": ("surgrad.eventprop.network",),
    "surgrad.regularizers": ("surgrad.training.regularizers",),
    "surgrad.optimizers": ("surgrad.training.optimizers",),
    "surgrad.monitoring": ("surgrad.training.monitoring",),
    "surgrad.statistics": ("surgrad.training.statistics",),
    "surgrad.study": ("surgrad.runs.intervals", "surgrad.analysis.rows", "surgrad.runs.record"),
    "surgrad.online": ("surgrad.experiments.superspike.online",),
    "surgrad.estimators": ("surgrad.experiments.sigmoid_network.estimators",),
    "surgrad.theory.single_neuron": ("surgrad.experiments.sigmoid_network.single_neuron",),
    "surgrad.theory": ("surgrad.experiments.sigmoid_network",),
    **{f"surgrad.datasets.{name}": (f"surgrad.datasets.encoding.{name}",) for name in _ENCODINGS},
    **{f"surgrad.datasets.{name}": (f"surgrad.datasets.sources.{name}",) for name in _SOURCES},
}


def names_of(*homes: str) -> Callable[[str], Any]:
    """A `__getattr__` for a package that was a module: finds its former names in the modules `homes`."""

    package = homes[0].rpartition(".")[0]

    def __getattr__(name: str) -> Any:
        if not name.startswith("__"):
            if find_spec(f"{package}.{name}"):  # `from surgrad.runs import files` asks here first
                return import_module(f"{package}.{name}")
            for home in homes:
                module = import_module(home)
                if hasattr(module, name):
                    return getattr(module, name)
        raise AttributeError(f"no {name!r} in {', '.join(homes)}")

    return __getattr__


class _FormerModules:
    """Finds and loads the modules of `FORMER`, after every other finder has failed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        loader: Any = self  # not of `importlib.abc`, whose import takes a third of that of `surgrad`
        return ModuleSpec(fullname, loader) if fullname in FORMER else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        homes = FORMER[name]
        warnings.warn(f"{name} is now {' and '.join(homes)}", DeprecationWarning, stacklevel=2)
        if len(homes) == 1:
            sys.modules[name] = import_module(homes[0])
        else:
            module.__dict__["__getattr__"] = names_of(*homes)
            module.__dict__["__all__"] = sorted(
                {n for home in homes for n in vars(import_module(home)) if n[0].isupper() or n[0].islower()}
            )


def install() -> None:
    """Let `import` find the former modules."""
    if not any(isinstance(finder, _FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(_FormerModules())
