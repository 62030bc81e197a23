"""Parts that a configuration names, of the library or of one's own: built, and those of one's own held to a protocol.

What a part of each kind must have is a row of `PROTOCOLS`; what is missing, or answers a trial call with something
else, is named in one line before anything is computed. docs/extending.md shows one of each kind, examples/my_parts.py
runs.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from surgrad.config.build import build, is_own
from surgrad.config.explain import unknown_option
from surgrad.datasets.events import EventDataset
from surgrad.errors import UserError
from surgrad.network.connections import Connection
from surgrad.neurons.lif import LIF
from surgrad.training.losses import ReadoutCrossEntropy, build_loss
from surgrad.training.optimizers import Params, build_optimizer
from surgrad.training.regularizers import ActivityRegularizer
from surgrad.training.schedules import build_schedule


class Protocol(NamedTuple):
    """What a part of one's own must be.

    Attributes:
        needs: its methods and attributes, as one would write them; "(…)" alone is a call of the part itself.
        trial: calls it and returns what is wrong with the answer, "" if nothing is.
    """

    needs: tuple[str, ...]
    trial: Callable[[Any], str]


def part(kind: str, node: Mapping[str, Any], at: str, **more: Any) -> Any:
    """The object that a node describes; one of one's own is tried before it is used.

    Args:
        kind: a row of `PROTOCOLS`.
        node: with its `_target_`.
        at: the node's key.
        more: further arguments, which win over those of the node.

    Raises:
        UserError: as `surgrad.config.build.build`, and naming what the protocol of the kind asks for and is missing.
    """
    found = build(node, at=at, **more)
    if is_own(str(node.get("_target_", ""))):
        require(kind, found, f"{at}={node['_target_']}")
    return found


def factory(kind: str, node: Mapping[str, Any], at: str) -> Any:
    """As `part`, of a node whose target is called later with the rest of its arguments."""
    return part(kind, {**node, "_partial_": True}, at)


def require(kind: str, found: Any, where: str) -> None:
    """Raise UserError naming what a part lacks of its protocol.

    Args:
        kind: a row of `PROTOCOLS`.
        found: the part.
        where: key and value that named it.
    """
    needs, trial = PROTOCOLS[kind]
    for need in needs:
        name = need.partition("(")[0]
        if not (hasattr(found, name) if name else callable(found)):
            raise UserError(
                f"{where}: {_named(found)} has no {need if name else f'__call__{need}'}; a part of the kind {kind} "
                f"needs {', '.join(n.partition(' ->')[0] if n[0] != '(' else f'__call__{n}' for n in needs)} "
                "(docs/extending.md)"
            )
    try:
        with torch.random.fork_rng(devices=[]):
            wrong = trial(found)
    except Exception as error:
        raise UserError(
            f"{where}: a trial call ended in {type(error).__name__}: {error} (docs/extending.md)"
        ) from error
    if wrong:
        raise UserError(f"{where}: {wrong} (docs/extending.md)")


def neuron(node: Mapping[str, Any], at: str, **more: Any) -> LIF:
    """The neuron that a node describes, and its escape noise. Raises: UserError, see `part`."""
    noise = node.get("escape_noise")
    if isinstance(noise, Mapping):
        part("escape noise", noise, f"{at}.escape_noise")
    found: LIF = part("neuron", node, at, **more)
    return found


def loss(name: str, **options: Any) -> ReadoutCrossEntropy:
    """The loss of a name in `surgrad.training.losses.LOSSES`, or of one's own.

    Args:
        name: of the loss; of a class of one's own with its module.
        options: arguments; of those that are 0 a class of one's own is told nothing.

    Raises:
        UserError: see `part`.
    """
    if not is_own(name):
        return build_loss(name, **options)
    given = {key: value for key, value in options.items() if value}
    found: ReadoutCrossEntropy = part("loss", {"_target_": name}, "loss_type", **given)
    return found


def schedule(name: str, optimizer: torch.optim.Optimizer, nb_epochs: int, **options: Any) -> LRScheduler:
    """The schedule of a name in `surgrad.training.schedules.SCHEDULES`, or of one's own.

    Args:
        name: of the schedule; of a class of one's own with its module.
        optimizer: whose learning rates change.
        nb_epochs: of the training.
        options: further arguments.

    Raises:
        UserError: see `part`.
    """
    if not is_own(name):
        return build_schedule(name, optimizer, nb_epochs, **options)
    given: dict[str, Any] = {"optimizer": optimizer, "nb_epochs": nb_epochs}
    found: LRScheduler = part("schedule", {"_target_": name, **options}, "lr_schedule", **given)
    return found


def optimizer(name: str, params: Params, lr: float, **options: Any) -> torch.optim.Optimizer:
    """The optimiser of a name in `surgrad.training.optimizers.OPTIMIZERS`, or of one's own.

    Args:
        name: of the optimiser; of a class of one's own with its module.
        params: parameters, or groups of them.
        lr: learning rate.
        options: further arguments.

    Raises:
        UserError: see `part`.
    """
    if not is_own(name):
        return build_optimizer(name, params, lr, **options)
    found: torch.optim.Optimizer = part("optimizer", {"_target_": name}, "optimizer", params=params, lr=lr, **options)
    return found


def regularizers(nodes: Mapping[str, Any]) -> list[ActivityRegularizer]:
    """Penalties by the names that a configuration gives them; null leaves one out. Raises: UserError, see `part`."""
    return [part("regularizer", node, f"regularizers.{name}") for name, node in nodes.items() if node is not None]


def one_of_or_own(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raise UserError unless a value is one of those allowed, or has the form of a class of one's own."""
    names = list(allowed)
    if value not in names and not is_own(value):
        raise UserError(f"{unknown_option(key, value, names)}, or one of yours as my_module.MyClass")


def _named(found: Any) -> str:
    return found.__name__ if isinstance(found, type) else type(found).__name__


def _unlike(what: str, y: Any, x: Tensor) -> str:
    """What is wrong with an answer that must be a tensor like x; "" if nothing is."""
    if not isinstance(y, Tensor):
        return f"{what} gives {type(y).__name__}, not a tensor"
    if y.shape != x.shape or y.dtype != x.dtype:
        return f"{what} gives {tuple(y.shape)} of {y.dtype} for {tuple(x.shape)} of {x.dtype}: wanted the same"
    return "" if bool(y.isfinite().all()) else f"{what} is not finite"


def _surrogate(h: Any) -> str:
    x = torch.linspace(-2.0, 2.0, 8).view(2, 4)
    return _unlike("h(x, s)", h(x, (x > 0).to(x.dtype)), x)


def _escape_noise(noise: Any) -> str:
    x, r = torch.linspace(-2.0, 2.0, 8), torch.linspace(0.1, 0.9, 8)
    wrong = _unlike("probability(x)", noise.probability(x), x) or _unlike("threshold(r)", noise.threshold(r), r)
    if wrong or not noise.stochastic:
        return wrong
    back = noise.probability(noise.threshold(r))
    if not torch.allclose(back, r, atol=1e-3):
        return f"threshold(r) is not the inverse of probability(x): probability(threshold(0.1)) = {float(back[0]):.4g}"
    return ""


def _neuron(found: Any) -> str:
    if not isinstance(found, LIF):
        return f"{_named(found)} is no surgrad.LIF; inherit from it and define step(state, current, s, a, b)"
    names = tuple(getattr(found.State, "_fields", ()))
    if names[:2] != ("i", "u") or "s" in names:
        return f"its State has {', '.join(names) or 'no fields'}; it must be a NamedTuple of i, u and what more it has"
    state = found.State(*(torch.full((2, 3), 0.1 * (k + 1)) for k in range(len(names))))
    a, b = torch.tensor(0.8), torch.tensor(0.9)
    after = found.step(state, torch.ones(2, 3), torch.zeros(2, 3), a, b)
    if type(after) is not found.State:
        return f"step gives {type(after).__name__}, not a {found.State.__name__} of {', '.join(names)}"
    return next(filter(None, (_unlike(f"{n} of step", x, state.i) for n, x in zip(names, after, strict=True))), "")


def _connection(make: Any) -> str:
    made = make((5,), 3)
    if not isinstance(made, nn.Module):
        return f"called with ((5,), 3) it gives {type(made).__name__}, not a torch.nn.Module"
    if isinstance(made, Connection):
        return ""
    if tuple(getattr(made, "out_shape", ())) != (3,):
        return f"called with ((5,), 3) its out_shape is {getattr(made, 'out_shape', 'missing')}, not (3,)"
    y = made(torch.zeros(4, 2, 5))
    return "" if tuple(y.shape) == (4, 2, 3) else f"forward maps (4, 2, 5) to {tuple(y.shape)}, not to (4, 2, 3)"


def _normalization(make: Any) -> str:
    made = make((3,))
    if not isinstance(made, nn.Module):
        return f"called with ((3,)) it gives {type(made).__name__}, not a torch.nn.Module"
    x = torch.linspace(-1.0, 1.0, 24).view(4, 2, 3)
    return _unlike("forward", made(x), x)


def _loss(found: Any) -> str:
    readout, labels = torch.linspace(-1.0, 1.0, 24).view(4, 2, 3), torch.tensor([0, 2])
    value, predicted = found(readout, labels), found.predictions(readout)
    if not isinstance(value, Tensor) or value.shape != ():
        return f"called with (readout, labels) it gives {getattr(value, 'shape', type(value).__name__)}, not a scalar"
    if not isinstance(predicted, Tensor) or predicted.shape != (2,) or predicted.is_floating_point():
        return "predictions(readout (4, 2, 3)) must give one class for each of 2 samples, (2,) int64"
    return ""


def _regularizer(found: Any) -> str:
    value = found(torch.ones(2, 3))
    scalar = isinstance(value, Tensor) and value.shape == ()
    return "" if scalar else f"called with counts (2, 3) it gives {getattr(value, 'shape', value)}, not a scalar"


def _optimizer(found: Any) -> str:
    return "" if isinstance(found, torch.optim.Optimizer) else f"{_named(found)} is no torch.optim.Optimizer"


def _schedule(found: Any) -> str:
    return "" if isinstance(found, LRScheduler) else f"{_named(found)} is no torch.optim.lr_scheduler.LRScheduler"


def _augmentation(found: Any) -> str:
    events = EventDataset(
        np.array([0.01, 0.02, 0.03]),
        np.array([0, 1, 1]),
        np.array([0, 2, 3]),
        np.array([0, 1]),
        nb_units=2,
        nb_classes=2,
    )
    after = found(events, torch.Generator().manual_seed(0))
    if not isinstance(after, EventDataset) or len(after) != 2:
        return "called with a data set of 2 samples and a generator it must give a surgrad.EventDataset of 2 samples"
    return ""


def _nothing(found: Any) -> str:
    return ""


#: Every kind of part that can be one's own.
PROTOCOLS: dict[str, Protocol] = {
    "surrogate": Protocol(("(x, s)",), _surrogate),
    "escape noise": Protocol(("stochastic", "probability(x)", "threshold(r)"), _escape_noise),
    "neuron": Protocol((), _neuron),
    "connection": Protocol(("(in_shape, nb_units)",), _connection),
    "normalization": Protocol(("(unit_shape)",), _normalization),
    "initializer": Protocol(("(network, generator)",), _nothing),
    "loss": Protocol(("(readout, labels)", "predictions(readout)"), _loss),
    "regularizer": Protocol(("(counts)",), _regularizer),
    "optimizer": Protocol(("step()", "zero_grad()", "state_dict()"), _optimizer),
    "schedule": Protocol(("step()", "state_dict()"), _schedule),
    "data set": Protocol(("splits()",), _nothing),
    "augmentation": Protocol(("(dataset, generator)",), _augmentation),
}
