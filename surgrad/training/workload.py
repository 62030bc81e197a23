"""What one sample costs a network: operations, sparsity, memory, energy, and the time to a decision.

Definitions are NeuroBench's (Yik et al. 2025, Nature Communications 16:1545): an effective operation is an accumulate
that a spike, or a pooled one, causes through a weight that is not zero; the dense count is that of a processor that
skips nothing.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgrad.datasets.events import EventDataset
from surgrad.network.connections import Connection, Conv
from surgrad.network.network import Network, evaluating
from surgrad.network.pooling import Pool
from surgrad.network.residual import Residual
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
    connections = _connections(network)
    known = [(source, pool, part) for source, pool, part in connections if isinstance(part, Connection | Residual)]
    unknown = 0.0 if len(known) == len(connections) else math.nan
    fan_outs = [(source, pool, fan_out(connection).flatten().double()) for source, pool, connection in known]
    pooled = any(pool is not None for _, pool, _ in known)
    spikes = operations = latency = 0.0
    for batch in grid(dataset):
        with evaluating(network):
            out = compute(network, batch, seed=seed, record=pooled)
        inputs = torch.bincount(batch.units.long(), batch.counts, minlength=batch.nb_units)
        emitted = [inputs, *(counts.sum(0).flatten() for counts in out.counts)]
        spikes += float(sum(counts.double().sum() for counts in emitted[1:]))
        for source, pool, fans in fan_outs:
            counts = emitted[source]
            if pool is not None:
                spiking = batch.dense(torch.float32) if source == 0 else out.recorded[source - 1]
                counts = pool(spiking).count_nonzero((0, 1)).flatten()
            operations += float(counts.double() @ fans)
        latency += float(decision_steps(out.y, loss).double().sum()) * grid.dt
    nb_neurons = sum(int(torch.Size(layer.unit_shape).numel()) for layer in network.layers)
    nb = len(dataset)
    operations += unknown
    return Workload(
        spikes=spikes / nb,
        synaptic_operations=operations / nb,
        dense_operations=unknown + float(grid.nb_steps * sum(fan_out(part, dense=True).sum() for _, _, part in known)),
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


def fan_out(connection: Connection | Residual, *, dense: bool = False) -> Tensor:
    """Weights that lead away from every presynaptic unit, (*in_shape): those that are not zero, with `dense` all."""
    if isinstance(connection, Residual):
        return _past(connection, dense)
    weight = connection.weight
    mask = torch.ones_like(weight) if dense else (weight != 0).to(weight.dtype)
    if not isinstance(connection, Conv):
        return mask.sum(0).view(connection.in_shape)
    shown = torch.zeros(1, *connection.in_shape, dtype=weight.dtype, device=weight.device, requires_grad=True)
    convolve = F.conv1d if len(connection.kernel_size) == 1 else F.conv2d
    with torch.enable_grad():
        reached = convolve(shown, mask, stride=connection.stride, padding=connection.padding).sum()
    return torch.autograd.grad(reached, shown)[0][0]


def _past(residual: Residual, dense: bool) -> Tensor:
    """As `fan_out`; the identity has a weight for each unit."""
    if residual.conv is None:
        return torch.ones(residual.in_shape)
    inner = fan_out(residual.conv, dense=dense)
    found = torch.zeros(residual.in_shape, device=inner.device)
    residual.below(found).copy_(inner)
    return found


def _connections(network: Network) -> list[tuple[int, Pool | None, nn.Module]]:
    """Every connection behind its pool, if it has one, and the population that it leads away from, 0 for the input."""
    above = [(k, layer.pool, layer.feedforward) for k, layer in enumerate(network.stack)]
    own = [(k, None, layer.recurrent) for k, layer in enumerate(network.layers, 1)]
    residuals = [layer.residual for layer in network.layers if layer.residual is not None]
    past = [(residual.source + 1, None, residual) for residual in residuals]
    return [(k, pool, connection) for k, pool, connection in (*above, *past, *own) if connection is not None]
