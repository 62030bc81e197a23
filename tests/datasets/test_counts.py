"""Spikes that are counted, in channels of several units: against sums, and what networks make of them."""

from functools import partial

import numpy as np
import pytest
import torch
from datasets.random_events import random_dataset

from surgrad.datasets.binning import bin_events, bin_on_device
from surgrad.datasets.events import EventBatch
from surgrad.datasets.sources.hdf5 import write_shd
from surgrad.errors import UserError
from surgrad.experiments.datasets import dataset_config
from surgrad.kernels.events import Events
from surgrad.network.connections import DelayedDense, Dense
from surgrad.network.models import HiddenParts, dense_snn
from surgrad.neurons.lif import LIF, AdaptiveLIF
from surgrad.training.distributed import samples

GRID = {"dt": 10e-3, "nb_steps": 9, "nb_units": 14}
make_dataset = partial(random_dataset, nb_samples=11, nb_units=14, mean=60)


def summed(dataset, width=1, nb_steps=9, dt=10e-3):
    """(T, N, channels) by one addition per event."""
    x = torch.zeros(nb_steps, len(dataset), -(-dataset.nb_units // width))
    for n in range(len(dataset)):
        for t, unit in zip(*dataset[n][:2], strict=True):
            if int(float(t) / dt) < nb_steps:
                x[int(float(t) / dt), n, int(unit) // width] += 1
    return x


def test_events_of_a_cell_are_counted_on_the_host_and_on_a_device():
    dataset = make_dataset()
    arrays = dataset.times, dataset.units.astype(np.int32), dataset.offsets
    for binned in (
        bin_events(*arrays, **GRID, counted=True),
        bin_on_device(*map(torch.from_numpy, arrays), **GRID, counted=True)[0],
    ):
        plain = bin_events(*arrays, **GRID)
        for name in ("steps", "units", "offsets"):
            np.testing.assert_array_equal(np.asarray(getattr(binned, name)), getattr(plain, name))
        x = summed(dataset)
        cells = np.repeat(np.arange(len(dataset)), np.diff(plain.offsets))
        found = x[plain.steps.astype(int), cells, plain.units.astype(int)]
        np.testing.assert_array_equal(np.asarray(binned.counts), found.numpy())
        assert plain.counts is None
        assert int(np.asarray(binned.counts).sum()) == int(x.sum()) > len(plain.steps)


@pytest.mark.parametrize("width", [1, 3, 14])
@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_batches_hold_the_counts_of_channels(width, generator):
    dataset, seen = make_dataset(), 0
    grouped = dataset.grouped(width)
    x = summed(dataset, width)
    assert grouped.nb_units == -(-14 // width)
    for batch in grouped.batches(4, dt=10e-3, nb_steps=9, generator=generator, counted=True):
        assert torch.equal(batch.dense(), x[:, batch.ids])
        assert torch.equal(samples(batch, 1, 3).dense(), x[:, batch.ids[1:3]])
        seen += len(batch)
    assert seen == len(dataset)


def test_augmented_batches_are_counted():
    def same(dataset, generator):
        return dataset

    dataset, generator = make_dataset(), torch.Generator()
    x = summed(dataset)
    for batch in dataset.batches(4, dt=10e-3, nb_steps=9, generator=generator, augment=same, counted=True):
        assert torch.equal(batch.dense(), x[:, batch.ids])


def delayed(shape, nb_units):
    return DelayedDense(shape, nb_units, 30e-3)


@pytest.mark.parametrize("kernel", ["reference", "auto"])
@pytest.mark.parametrize(
    ("neuron", "connection"),
    [(LIF(), Dense), (LIF(), delayed), (AdaptiveLIF(a=(0, 10)), Dense)],
    ids=["lif", "delayed", "adaptive"],
)
def test_a_network_sees_counts_as_analogue_input(neuron, connection, kernel):
    (batch,) = make_dataset().batches(11, dt=10e-3, nb_steps=9, counted=True)
    found = []
    for x in (batch, batch.dense()):
        torch.manual_seed(0)
        constants = {"dt": 10e-3, "tau_mem": 20e-3, "tau_syn": 10e-3, "tau_readout": 0.1}
        network = dense_snn((14, 8, 3), neuron=neuron, hidden=HiddenParts(connection), **constants)
        out = network(x, kernel=kernel if x is batch else "reference")
        out.y.square().sum().backward()
        found.append([out.y.detach(), *out.counts, *(p.grad for p in network.parameters() if p.grad is not None)])
        state = network(x, kernel=kernel, return_state=True).state
        torch.testing.assert_close(state.last_input, batch.dense()[-1])
    assert found[0][1].sum() > 0
    for a, b in zip(*found, strict=True):
        scale = b.abs().max()
        torch.testing.assert_close(a / scale, b / scale, rtol=1e-3, atol=1e-4)


def test_wrong_counts_are_named():
    batch = EventBatch.from_dense((torch.rand(5, 2, 3) < 0.5).float())
    for counts in (torch.ones(1, dtype=torch.int32), torch.rand(len(batch.steps))):
        with pytest.raises(UserError, match="counts of the events"):
            Events(batch.steps, batch.units, batch.offsets, 5, (3,), counts)


def test_files_give_channels_to_every_part(tmp_path):
    names = ("train", "test", "valid")
    for k, name in enumerate(names):
        write_shd(tmp_path / f"{name}.h5", make_dataset(seed=k))
    paths = {f"{name}_path": str(tmp_path / f"{name}.h5") for name in names}
    content = {"name": "hdf5", "validation": "file", "duration": 0.1, "nb_inputs": 14, **paths}
    data = dataset_config(content | {"units_per_channel": 5, "time_step": 10e-3, "counted": True})
    assert data.network_inputs == 3
    assert [part.nb_units for part in data.splits()] == [3, 3, 3]
    np.testing.assert_array_equal(data.splits()[1].counts().sum(), make_dataset(seed=2).nb_events)
    assert dataset_config(content).network_inputs == 14
    with pytest.raises(UserError, match=r"dataset.units_per_channel=0"):
        dataset_config(content | {"units_per_channel": 0})
