"""A whole training step, forward, backward and optimiser, as CUDA graphs: one for each of a few sizes of batches.

A graph replays what was recorded on the memory where it was recorded. Batches of events are padded to a few numbers of
events, so that shapes repeat. What the host decides is constant within an epoch, and graphs are recorded anew when it
changes: learning rates, slopes, widths of delays. Draws of the noise are a number on the device.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from surgrad.datasets.events import EventBatch
from surgrad.errors import known
from surgrad.kernels.contract import LayerSpec, ReadoutSpec
from surgrad.kernels.dispatch import choose
from surgrad.kernels.gpu import layerwise
from surgrad.kernels.gpu.graphs import Graph, GraphedStep
from surgrad.network.network import Network, has_own_call
from surgrad.training.loop import Step
from surgrad.training.optimizers import OPTIMIZERS


def padded_size(nb_events: int) -> int:
    """The smallest of the sizes 1 to 16, 18, 20, … 32, 36, 40, … 64, 72, … that holds as many: at most 1/8 more."""
    unit = 1 << max((nb_events - 1).bit_length() - 4, 0)
    return -(-nb_events // unit) * unit


def padded(batch: EventBatch) -> EventBatch:
    """A batch of `padded_size` events that stands for the same spikes: its last event again and again, counted 0 times.

    Kernels take an event for one spike however often it is there.
    """
    nb_events, missing = len(batch.steps), padded_size(len(batch.steps)) - len(batch.steps)
    if not missing:
        return batch
    steps, units = (torch.cat([x, x[-1:].expand(missing)]) for x in (batch.steps, batch.units))
    offsets = torch.where(batch.offsets == nb_events, nb_events + missing, batch.offsets)
    counts = None if batch.counts is None else torch.cat([batch.counts, batch.counts.new_zeros(missing)])
    return replace(batch, steps=steps, units=units, offsets=offsets, counts=counts)


@dataclass
class Captured:
    """Steps of training by graphs.

    Args:
        batch_size: samples of the batches that are captured; others run as they are.
        graph: makes a graph, by default CUDA's.
    """

    batch_size: int
    graph: Callable[[], Graph] | None = None
    _decided: str = field(default="", init=False)
    _step: Step | None = field(default=None, init=False)
    _graphed: GraphedStep | None = field(default=None, init=False)
    _form: tuple[int, tuple[int, ...]] = field(default=(0, ()), init=False)  # steps and input units of its batches

    def begin(self, step: Step) -> None:
        """An epoch begins; graphs of the one before serve on if the host has decided the same for it."""
        decided = _decided(step)
        if self._graphed is None or decided != self._decided:
            self._graphed = None  # frees its memory before there is another
        self._step, self._decided = step, decided

    def __call__(self, batch: EventBatch, draw: int) -> Tensor | None:
        """What `Step.__call__` returns, or None where this batch is not for a graph."""
        if len(batch) != self.batch_size or not len(batch.steps):
            return None
        batch = padded(batch)
        form = (batch.nb_steps, batch.unit_shape)
        if self._graphed is None or form != self._form:
            self._form, self._graphed = form, GraphedStep(self._whole, graph=self.graph)
        tensors = [batch.steps, batch.units, batch.offsets, batch.labels, batch.ids]
        counts = [] if batch.counts is None else [batch.counts]
        number = torch.full((), draw, dtype=torch.int64, device=batch.steps.device)
        found: Tensor = self._graphed(number, *tensors, *counts)
        return found

    def _whole(self, draw: Tensor, *tensors: Tensor) -> Tensor:
        step = known("the step of an epoch", self._step)
        (steps, units, offsets, labels, ids), counts = tensors[:5], tensors[5] if len(tensors) > 5 else None
        return step(EventBatch(steps, units, offsets, labels, ids, *self._form, counts), draw)


def device_of(network: nn.Module) -> torch.device:
    """Where a network is."""
    return next(network.parameters()).device


def obstacle(network: nn.Module, optimizer: torch.optim.Optimizer, kernel: str) -> str | None:
    """Why training steps of a network cannot be captured, or None."""
    device = device_of(network)
    if device.type != "cuda":
        return f"the network is on {device}"
    if type(optimizer) not in OPTIMIZERS.values():
        return f"{type(optimizer).__name__} may read from the device"
    if not isinstance(network, Network) or any(map(has_own_call, network.stack)):
        return "it has a forward or hooks of its own"
    spec = network.spec()
    if choose(kernel, spec).name != "cuda":
        return f"kernel={kernel} is not for a GPU"
    return layerwise.obstacle(spec) or next(filter(None, map(_own_input, spec.stack)), None)


def _own_input(layer: LayerSpec | ReadoutSpec) -> str | None:
    """The function on a population's currents that is not of this library, or None."""
    function = None if layer.input is None else layer.input.function
    known = function is None or type(function).__module__.startswith("surgrad.")
    return None if known else f"{layer.name} ({type(function).__name__})"


def _decided(step: Step) -> str:
    """All that a graph has from the host: attributes of modules, options of the optimiser, the objective."""
    modules = [(name, type(part), *_attributes(part)) for name, part in step.network.named_modules()]
    groups = [{key: value for key, value in g.items() if key != "params"} for g in step.optimizer.param_groups]
    return repr((modules, groups, step.objective, step.seed, step.grad_clip, step.compute))


#: Attributes of every module: its parameters, buffers, parts and hooks.
_OF_MODULES = frozenset(vars(nn.Module())) - {"training"}


def _attributes(part: nn.Module) -> list[tuple[str, Any]]:
    own = ((name, value) for name, value in vars(part).items() if name not in _OF_MODULES)
    return [(name, id(value) if isinstance(value, Tensor) else value) for name, value in own]
