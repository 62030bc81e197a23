"""What a sample costs, counted spike by spike and weight by weight."""

import pytest
import torch

from surgrad import LIF, Conv, Dense, EventDataset, Network, Readout, SpikingLayer, losses
from surgrad.network.connections import DelayedDense
from surgrad.network.pooling import POOLS
from surgrad.network.residual import Residual
from surgrad.training.loop import BatchGrid
from surgrad.training.workload import JOULE_PER_ADDITION, decision_steps, fan_out, workload

NB_STEPS, DT = 20, 2e-3


def layer(feedforward, recurrent=None):
    return SpikingLayer(feedforward, LIF(), tau_mem=20e-3, tau_syn=10e-3, recurrent=recurrent)


def network_of(kind):
    if kind == "dense":
        layers = [layer(Dense(12, 8), Dense(8, 8)), layer(DelayedDense(8, 5, 6e-3))]
    else:
        layers = [layer(Conv((1, 12), 3, 4, 2, 1), Conv((3, 6), 3, 3, 1, 1)), layer(Conv((3, 6), 2, 2))]
    last = layers[-1].unit_shape
    network = Network(layers, Readout(Dense(last, 3), 20e-3, 10e-3), DT)
    with torch.no_grad():
        for weights in network.parameters():
            if weights.dim() > 1:
                weights[torch.rand_like(weights) < 0.3] = 0
    return network


def data(nb_samples=5):
    x = torch.rand(NB_STEPS * nb_samples, 12) < 0.3
    step, unit = x.nonzero().unbind(1)
    offsets = torch.bincount(step // NB_STEPS, minlength=nb_samples).cumsum(0)
    times = (step % NB_STEPS) * DT + DT / 2
    labels = torch.arange(nb_samples) % 3
    return EventDataset(times.numpy(), unit.numpy(), [0, *offsets.tolist()], labels.numpy(), 12, 3)


def reached(connection, shape, dense):
    """Weights away from each unit, by what a spike of it alone changes in every weight's gradient."""
    found = torch.zeros(shape)
    for unit in range(found.numel()):
        spike = torch.zeros(found.numel())
        spike[unit] = 1
        weight = (torch.ones_like(connection.weight) if dense else (connection.weight != 0).float()).detach()
        if isinstance(connection, Conv):
            convolved = torch.conv1d(
                spike.view(1, *shape), weight, stride=connection.stride, padding=connection.padding
            )
            found.view(-1)[unit] = convolved.sum()
        else:
            found.view(-1)[unit] = (weight @ spike).sum()
    return found


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_every_spike_counts_the_weights_it_reaches(kind):
    torch.manual_seed(3)
    network, dataset = network_of(kind), data()
    grid = BatchGrid(2, DT, NB_STEPS, (1, 12) if kind == "conv" else (12,))
    found = workload(network, dataset, grid, losses.MaxOverTimeCrossEntropy())
    (batch,) = BatchGrid(5, DT, NB_STEPS, grid.unit_shape)(dataset)
    with torch.no_grad():
        out = network(batch, record=True)
    populations = [batch.dense(), *out.spikes]
    operations = dense = 0.0
    for k, spikes in enumerate(populations):
        above = network.layers[k].feedforward if k < len(network.layers) else network.readout.feedforward
        own = network.layers[k - 1].recurrent if k else None
        for connection in (c for c in (above, own) if c is not None):
            operations += float((spikes.sum((0, 1)) * reached(connection, spikes.shape[2:], False)).sum())
            dense += NB_STEPS * float(reached(connection, spikes.shape[2:], True).sum())
    hidden = sum(float(spikes.sum()) for spikes in out.spikes)
    assert hidden > 0
    assert found.synaptic_operations == pytest.approx(operations / 5)
    assert found.dense_operations == pytest.approx(dense)
    assert found.spikes == pytest.approx(hidden / 5)
    neurons = sum(spikes[0, 0].numel() for spikes in out.spikes)
    assert found.activation_sparsity == pytest.approx(1 - hidden / (5 * NB_STEPS * neurons))
    assert found.energy == pytest.approx(operations / 5 * JOULE_PER_ADDITION)
    assert found.footprint == sum(4 * weights.numel() for weights in network.parameters())


@pytest.mark.parametrize("kind", POOLS)
def test_a_pooled_spike_counts_the_weights_that_it_reaches_once(kind):
    torch.manual_seed(3)
    pool, events = POOLS[kind]((3, 6), 2), data()
    layers = [layer(Conv((1, 12), 3, 4, 2, 1)), layer(Conv((3, 3), 2, 2)).behind(pool)]
    network, grid = Network(layers, Readout(Dense((2, 2), 3), 20e-3, 10e-3), DT), BatchGrid(5, DT, NB_STEPS, (1, 12))
    network.readout.feedforward.weight.data.zero_()
    (batch,) = grid(events)
    spikes = network(batch, record=True).recorded[0]
    first, second = (part.feedforward for part in layers)
    expected = float((batch.dense().sum((0, 1)) * reached(first, (1, 12), False)).sum())
    expected += float(((pool(spikes) > 0).sum((0, 1)) * reached(second, (3, 3), False)).sum())
    found = workload(network, events, grid, losses.MaxOverTimeCrossEntropy())
    assert found.synaptic_operations == pytest.approx(expected / 5)
    assert spikes.any()


def test_a_residual_connection_costs_what_its_spikes_reach():
    torch.manual_seed(3)
    layers = [layer(Conv((1, 12), 3, 3, 1, 1)), layer(Conv((3, 12), 3, 3, 1, 1)), layer(Conv((3, 12), 4, 2, 2))]
    plain = Network(layers, None, DT)
    same, other = Residual(0, (3, 12), (3, 12), (1,), (0,)), Residual(0, (3, 12), (4, 6), (2,), (1,))
    assert fan_out(same).tolist() == torch.ones(3, 12).tolist()
    other.conv.weight.data[0] = 0
    assert fan_out(other).tolist() == [[0, 3] * 6] * 3
    assert fan_out(other, dense=True).tolist() == [[0, 4] * 6] * 3
    grid, loss = BatchGrid(5, DT, NB_STEPS, (1, 12)), losses.MaxOverTimeCrossEntropy()
    plain.readout = Readout(Dense((4, 6), 3), 20e-3, 10e-3)
    without = workload(plain, data(), grid, loss)
    layers[2].beside(other)
    found = workload(plain, data(), grid, loss)
    assert found.dense_operations - without.dense_operations == NB_STEPS * 4 * 3 * 6


def test_operations_of_connections_of_another_kind_are_not_known():
    network = Network([layer(torch.nn.Linear(12, 5))], Readout(Dense(5, 3), 20e-3, 10e-3), DT)
    grid = BatchGrid(5, DT, NB_STEPS, (12,))
    found = workload(network, data(), grid, losses.MaxOverTimeCrossEntropy()).columns()
    assert "test_spikes_per_sample" in found
    assert not {"test_synaptic_operations", "test_dense_operations", "test_energy_joule"} & found.keys()


def test_zero_weights_cost_nothing_and_are_stored_all_the_same():
    connection = Dense(4, 3)
    torch.nn.init.zeros_(connection.weight)
    assert fan_out(connection).sum() == 0
    assert fan_out(connection, dense=True).tolist() == [3, 3, 3, 3]


def test_latency_is_the_time_after_which_the_decision_stays():
    readout = torch.zeros(100, 3, 2)
    readout[:, 0, 1] = 1  # decided from the first
    readout[:60, 1, 0], readout[60:, 1, 1] = 1, 2  # turns at step 60
    readout[:20, 2, 0], readout[20:40, 2, 1], readout[80:, 2, 0] = 3, 4, 5  # turns twice
    assert decision_steps(readout, losses.MaxOverTimeCrossEntropy()).tolist() == [2, 62, 82]
