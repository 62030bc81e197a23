"""What one sample costs a network: operations, sparsity, memory, energy, and the time to a decision.

Definitions are NeuroBench's (Yik et al. 2025, Nature Communications 16:1545): an effective operation is an accumulate
that a spike causes through a weight that is not zero; the dense count is that of a processor that skips nothing.
"""

import math
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgrad.datasets.events import EventDataset
from surgrad.network.connections import Connection, Conv
from surgrad.network.network import Network, evaluating
from surgrad.training.loop import DEFAULT_COMPUTE, BatchGrid, Compute
from surgrad.training.losses import ReadoutCrossEntropy

#: Energy of one 32-bit floating-point addition in 45 nm CMOS (J): Horowitz 2014, ISSCC, table 1.1.9.
JOULE_PER_ADDITION = 0.9e-12
#: Parts of a sample after which the decision so far is looked at.
DECISIONS = 50


class Workload(NamedTuple):
    """Means over the samples of a data set.

    Attributes:
        spikes: of all hidden neurons, in one sample.
        synaptic_operations: effective accumulates in one sample.
        dense_operations: multiply-accumulates in one sample if no zero were skipped.
        activation_sparsity: share of (hidden neuron, step) without a spike.
        footprint: bytes of parameters and buffers.
        energy: J in one sample, of the effective accumulates alone, each `JOULE_PER_ADDITION`: no memory, no leak.
        latency: s until the decision by the readout so far is the one at the end and stays so, to 1/50 of a sample.
    """

    spikes: float
    synaptic_operations: float
    dense_operations: float
    activation_sparsity: float
    footprint: int
    energy: float
    latency: float

    def columns(self) -> dict[str, float]:
        """Entries of a run's summary, for its test set; without what is not known."""
        units = {"spikes": "spikes_per_sample", "energy": "energy_joule", "latency": "latency_seconds"}
        costs = {f"test_{units.get(name, name)}": value for name, value in self._asdict().items()}
        costs["footprint_bytes"] = costs.pop("test_footprint")
        return {name: cost for name, cost in costs.items() if not math.isnan(cost)}


@torch.no_grad()
def workload(
    network: Network,
    dataset: EventDataset,
    grid: BatchGrid,
    loss: ReadoutCrossEntropy,
    *,
    seed: int = 0,
    compute: Compute = DEFAULT_COMPUTE,
) -> Workload:
    """The cost of a network on a data set.

    Args:
        network: with a readout.
        dataset: what it is shown, in order; one presentation of each sample.
        grid: how it becomes batches.
        loss: its `predictions` are the decision.
        seed: of the escape noise.
        compute: how the network is run.

    Returns:
        the cost; operations and energy are nan if a connection is neither `Dense` nor `Conv`.
    """
    outgoing = _outgoing(network)
    known = [[part for part in connections if isinstance(part, Connection)] for connections in outgoing]
    unknown = 0.0 if known == outgoing else math.nan
    fan_outs = [[fan_out(connection) for connection in connections] for connections in known]
    dense = [[fan_out(connection, dense=True) for connection in connections] for connections in known]
    spikes = operations = latency = 0.0
    for batch in grid(dataset):
        with evaluating(network):
            out = compute(network, batch, seed=seed)
        inputs = torch.bincount(batch.units.long(), batch.counts, minlength=batch.nb_units)
        emitted = [inputs, *(counts.sum(0).flatten() for counts in out.counts)]
        spikes += float(sum(counts.double().sum() for counts in emitted[1:]))
        for counts, fans in zip(emitted, fan_outs, strict=True):
            operations += sum(float(counts.double() @ fan.flatten().double()) for fan in fans)
        latency += float(decision_steps(out.y, loss).double().sum()) * grid.dt
    nb_neurons = sum(int(torch.Size(layer.unit_shape).numel()) for layer in network.layers)
    nb = len(dataset)
    operations += unknown
    return Workload(
        spikes=spikes / nb,
        synaptic_operations=operations / nb,
        dense_operations=unknown + float(grid.nb_steps * sum(fan.sum() for fans in dense for fan in fans)),
        activation_sparsity=1 - spikes / (nb * nb_neurons * grid.nb_steps),
        footprint=sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers())),
        energy=operations / nb * JOULE_PER_ADDITION,
        latency=latency / nb,
    )


def decision_steps(readout: Tensor, loss: ReadoutCrossEntropy) -> Tensor:
    """Steps (B,) after which the decision by the readout (T, B, classes) up to then is the last one and stays so."""
    nb_steps = len(readout)
    ends = [max(1, round(nb_steps * k / DECISIONS)) for k in range(1, DECISIONS + 1)]
    decided = torch.stack([loss.predictions(readout[:end]) for end in ends])
    differs = decided != decided[-1]
    last_other = torch.where(differs.any(0), len(ends) - differs.flip(0).int().argmax(0), 0)
    return torch.tensor(ends, device=readout.device)[last_other]


def fan_out(connection: Connection, *, dense: bool = False) -> Tensor:
    """Weights that lead away from every presynaptic unit, (*in_shape): those that are not zero, with `dense` all."""
    weight = connection.weight
    mask = torch.ones_like(weight) if dense else (weight != 0).to(weight.dtype)
    if not isinstance(connection, Conv):
        return mask.sum(0).view(connection.in_shape)
    shown = torch.zeros(1, *connection.in_shape, dtype=weight.dtype, device=weight.device, requires_grad=True)
    convolve = F.conv1d if len(connection.kernel_size) == 1 else F.conv2d
    with torch.enable_grad():
        reached = convolve(shown, mask, stride=connection.stride, padding=connection.padding).sum()
    return torch.autograd.grad(reached, shown)[0][0]


def _outgoing(network: Network) -> list[list[nn.Module]]:
    """Connections that lead away from the input and from every spiking layer."""
    above = [layer.feedforward for layer in network.stack]
    own = [None, *(layer.recurrent for layer in network.layers)]
    pairs = zip_longest(above, own)  # without a readout, nothing is above the last layer
    return [[connection for connection in pair if connection is not None] for pair in pairs]
