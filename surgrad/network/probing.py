"""Runs single layers and looks at their membranes, with and without spikes; what initialisation is measured with.

Spikes and membranes are (T, B, units), rates in Hz, membranes in units of threshold.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from surgrad.errors import UserError, known
from surgrad.kernels import dispatch
from surgrad.kernels.philox import NoiseKey
from surgrad.kernels.reference import delayed
from surgrad.network.layers import SpikingLayer


class Trace(NamedTuple):
    """What one layer did: its input current without and with recurrence, its spikes, its membrane at each step."""

    current: Tensor
    total_current: Tensor
    spikes: Tensor
    membrane: Tensor


def bernoulli_spikes(rate: float, shape: tuple[int, int, int], dt: float, generator: Generator) -> Tensor:
    """Independent spikes of 0 and 1.

    Args:
        rate: Hz.
        shape: (T, B, units).
        dt: time step, s.
        generator: draws them.
    """
    return (torch.rand(shape, generator=generator, device=generator.device) < rate * dt).float()


def run_layer(layer: SpikingLayer, below: Tensor, dt: float, delay: int = 1, index: int = 0) -> Trace:
    """Run one layer of dense connections on the spikes below it.

    Args:
        layer: with dense connections.
        below: spikes (T, B, inputs).
        dt: time step in s.
        delay: in steps.
        index: of the layer, address of its escape noise.

    Returns:
        currents and spikes are differentiable, the membrane is not.
    """
    if layer.feedforward is None:
        raise UserError("the layer has no feed-forward connection, so spikes do not reach it")
    current = layer.feedforward(delayed(below, delay))
    spikes, membrane, _ = dispatch.lif(
        current,
        layer.tau_syn.decay(dt),
        layer.tau_mem.decay(dt),
        layer.neuron,
        recurrence=layer.recurrent,
        noise=NoiseKey(layer=index),
        ids=torch.arange(below.shape[1]),
        return_membrane=True,
    )
    total = current if layer.recurrent is None else current + layer.recurrent(delayed(spikes, 1))
    return Trace(current, total, spikes, known("the membrane", membrane))


@torch.no_grad()
def free_membrane(layer: SpikingLayer, current: Tensor, dt: float) -> Tensor:
    """The layer's membrane under an input current (T, B, units), without spikes and reset."""
    a, b = layer.tau_syn.decay(dt), layer.tau_mem.decay(dt)
    return dispatch.readout(current, a, b, unit_gain=layer.neuron.unit_gain)[0]


def over_time(u: Tensor, transient: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each neuron's membrane over samples and time, after ``transient`` steps: (units,) each."""
    u = u.detach()[transient:].flatten(0, 1)
    return u.mean(0), u.std(0)


def root_mean_square(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
