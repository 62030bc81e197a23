"""Surrogate-gradient learning in spiking neural networks.

The names below are the public front: imported when first used, so that `import surgrad` is fast and needs no PyTorch.
Modules: `surgrad.surrogate`, `surgrad.escape_noise`, `surgrad.losses`, `surgrad.initializers`, `surgrad.datasets`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from surgrad import former

if TYPE_CHECKING:
    from surgrad import datasets, escape_noise, initializers, losses, surrogate
    from surgrad.datasets.events import EventBatch, EventDataset
    from surgrad.experiments.trained import TrainedRun, best_run, load_run
    from surgrad.network.connections import Conv, DaleDense, DelayedDense, Dense
    from surgrad.network.layers import Readout, SpikingLayer
    from surgrad.network.network import Network
    from surgrad.neurons.lif import LIF, AdaptiveLIF
    from surgrad.runs.record import RunRecord, load_runs

__version__ = "0.1.0"

former.install()

_MODULES = ("datasets", "escape_noise", "initializers", "losses", "surrogate")
_HOMES = {
    "surgrad.datasets.events": ("EventBatch", "EventDataset"),
    "surgrad.experiments.trained": ("TrainedRun", "best_run", "load_run"),
    "surgrad.network.connections": ("Conv", "DaleDense", "DelayedDense", "Dense"),
    "surgrad.network.layers": ("Readout", "SpikingLayer"),
    "surgrad.network.network": ("Network",),
    "surgrad.neurons.lif": ("LIF", "AdaptiveLIF"),
    "surgrad.runs.record": ("RunRecord", "load_runs"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "LIF",
    "AdaptiveLIF",
    "Conv",
    "DaleDense",
    "DelayedDense",
    "Dense",
    "EventBatch",
    "EventDataset",
    "Network",
    "Readout",
    "RunRecord",
    "SpikingLayer",
    "TrainedRun",
    "__version__",
    "best_run",
    "datasets",
    "escape_noise",
    "initializers",
    "load_run",
    "load_runs",
    "losses",
    "surrogate",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"surgrad.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'surgrad' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
