"""What both halves of the check share: the device, networks with seeded weights, their input."""

import os
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surgrad.kernels.state import NetworkOutput
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.neurons.lif import LIF

DRY = os.environ.get("DRY") == "1"
DEVICE = torch.device("cpu" if DRY else "cuda")
_END = time.monotonic() + float(os.environ.get("GPU_CHECK_LIMIT", "inf"))


def time_is_up(reserve: float = 5.0) -> bool:
    """Whether less than ``reserve`` seconds are left to this part."""
    return time.monotonic() > _END - reserve


def finish() -> None:
    """Wait for the device."""
    if not DRY:
        torch.cuda.synchronize()


def network_of(
    connections: Sequence[Dense | Conv],
    loops: Sequence[Dense | Conv | None],
    neuron: LIF,
    *,
    per_unit: bool = False,
    classes: int = 20,
) -> Network:
    """Layers and a readout with trained time constants, of each neuron with ``per_unit``; weights from seed 0."""
    generator = torch.Generator().manual_seed(0)

    def tau(mean: float, shape: tuple[int, ...] = ()) -> TimeConstant:
        return TimeConstant(mean * (1 + 0.3 * torch.rand(shape, generator=generator)), trainable=True)

    layers = [
        SpikingLayer(c, neuron, tau(20e-3, c.out_shape if per_unit else ()), tau(10e-3), loop)
        for c, loop in zip(connections, loops, strict=True)
    ]
    readout = Readout(Dense(connections[-1].out_shape, classes), tau(50e-3), 10e-3)
    network = Network(layers, readout, 2e-3)
    for part in network.modules():
        if isinstance(part, Dense | Conv):
            gain = 0.7 if part in loops else 7.0 if isinstance(part, Conv) else 3.0
            deviation = gain / part.fan_in**0.5
            nn.init.normal_(part.weight, 0.2 * deviation, deviation, generator=generator)
    return network.to(DEVICE)


def spikes_for(network: Network, nb_steps: int, nb_samples: int, density: float) -> Tensor:
    """Bernoulli spikes (T, B, *in_shape), float32."""
    shape = (nb_steps, nb_samples, *network.spec().stack[0].incoming.known_in_shape)
    return (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < density).float().to(DEVICE)


def ids_of(nb_samples: int) -> Tensor:
    """Global numbers of the samples, not in a row."""
    return torch.arange(nb_samples, device=DEVICE) * 3 + 5


def loss_of(output: NetworkOutput) -> Tensor:
    """Quadratic in counts and in one readout unit, linear in the others."""
    y = output.y
    counts = sum((k * c.to(y.dtype) ** 2).mean() for k, c in enumerate(output.counts, 1))
    return counts + (y[..., 0] ** 2 + y.sum(-1)).mean()
