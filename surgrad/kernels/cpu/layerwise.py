"""A network on the CPU, one compiled call per layer: for adaptive neurons and learned delays.

`network.py` takes plain networks through all layers in one call; here currents and spikes of every layer are
whole arrays between the calls. The walk through the layers is that of `surgrad.kernels.reference`.
"""

import logging
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.kernels import reference
from surgrad.kernels.cpu import adaptive, delays
from surgrad.kernels.cpu import network as cpu
from surgrad.kernels.state import AdaptiveLayerState, LayerState
from surgrad.network.connections import Conv, DelayedDense, Dense
from surgrad.network.layers import SpikingLayer
from surgrad.neurons.lif import AdaptiveLIF, AdaptiveState, LIFState

if TYPE_CHECKING:
    from surgrad.network.network import Network

logger = logging.getLogger(__name__)


def needed(network: "Network") -> bool:
    """Whether a network has adaptive neurons or learned delays."""
    stack = [*network.layers, *([network.readout] if network.readout is not None else [])]
    delayed = any(isinstance(layer.feedforward, DelayedDense) for layer in stack)
    return delayed or any(isinstance(layer.neuron, AdaptiveLIF) for layer in network.layers)


def obstacle(network: "Network", dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the compiled code cannot run this network, or None."""
    if device.type != "cpu":
        return f"the data is on {device}"
    if dtype != torch.float32:
        return f"it computes in float32, not {dtype}"
    for layer in network.layers:
        if not (adaptive if layer.adaptation is not None else cpu).supports(layer.neuron):
            return f"it does not know {layer.neuron.surrogate} with {layer.neuron.escape_noise}"
    return _not_compiled()


@cache
def _not_compiled() -> str | None:
    """Why there is no compiled code, with one warning; or None."""
    try:
        adaptive.library(), delays.library()
    except UserError as error:
        logger.warning("the slow reference kernel runs: %s", error)
        return str(error)
    return None


def _drive(
    connection: Dense | Conv,
    below: Tensor | EventBatch,
    dt: float,
    delay: int,
    before: Tensor | None = None,
    pending: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As `reference.drive`; events are not turned into dense spikes where the sum over them is faster."""
    if isinstance(connection, DelayedDense):
        nb_steps = below.nb_steps if isinstance(below, EventBatch) else len(below)
        return reference.deliver(delays.currents(connection, below, dt, delay), nb_steps, pending)
    if isinstance(below, EventBatch) and type(connection) is Dense:
        current = delays.currents(connection, below, dt, delay)
        first = connection(before)[None] if delay and before is not None else None
        return reference.deliver(current, below.nb_steps, first)[0], None
    below = below.dense() if isinstance(below, EventBatch) else below
    return reference.drive(connection, below, dt, delay, before)


def _scan(
    layer: SpikingLayer,
    current: Tensor,
    dt: float,
    old: LayerState | AdaptiveLayerState | None,
    *,
    memory: str,
    **options,
) -> tuple[Tensor, LayerState | AdaptiveLayerState]:
    """As `reference.scan`."""
    a, b = layer.decays(dt)
    options |= {"recurrence": layer.recurrent, "previous": old.s if old else None}
    if layer.adaptation is None:
        state = LIFState(old.i, old.u) if old else None
        spikes, _, new = cpu.lif(current, a, b, layer.neuron, state=state, **options)
        return spikes, LayerState(*new, spikes[-1])
    state = AdaptiveState(old.i, old.u, old.w) if old else None
    values = layer.adaptation.values(dt)
    spikes, new = adaptive.scan(current, a, b, values, layer.neuron, state=state, memory=memory, **options)
    return spikes, AdaptiveLayerState(new.i, new.u, spikes[-1], new.w)


run = partial(reference.run, rooms=reference.Rooms(_drive, _scan, cpu.readout, takes_events=True))
