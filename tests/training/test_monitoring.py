"""Monitors look at single samples: repeats draw their own noise, Fano factors are those of the recorded spikes."""

import pytest
import torch
from classification_suite import GRID, make_network

from surgrad.datasets.sources.randman import Randman
from surgrad.errors import UserError
from surgrad.network.methods import SpikeParameters, method_neuron, set_neuron
from surgrad.runs.folder import open_run
from surgrad.runs.record import load_runs
from surgrad.training.monitoring import Monitor, Repeats, Shown, record, repeated
from surgrad.training.statistics import defined_mean, fano_over_trials


@pytest.fixture(scope="module")
def dataset():
    return Randman(nb_classes=3, nb_units=12, nb_steps=40, duration=0.08, nb_samples=20, alpha=2.0).dataset()


def test_repeats_are_the_same_sample_with_noise_of_their_own(dataset):
    network = make_network()
    sample = next(GRID(dataset.subset([3])))
    batches = repeated(sample, 7, batch_size=3)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(7))
    for batch in batches:
        assert torch.equal(batch.dense(), sample.dense().expand(-1, len(batch), -1, -1))
    spikes = record(network, batches).spikes[0]
    assert not torch.equal(spikes[:, 0], spikes[:, 1])
    assert torch.equal(spikes, record(network, repeated(sample, 7, batch_size=7)).spikes[0])
    set_neuron(network, method_neuron("superspike", SpikeParameters()))
    spikes = record(network, batches).spikes[0]
    assert torch.equal(spikes, spikes[:, :1].expand_as(spikes))


def test_the_fano_factor_is_that_of_the_recorded_trials(dataset, tmp_path):
    network = make_network()
    with open_run(tmp_path, {}) as run:
        shown, repeats = Shown(nb_samples=3, nb_trials=10, idx_layer=0), Repeats(10, window=5)
        monitor = Monitor(network, dataset, GRID, run, shown, repeats, plot=False)
        nb_units = 4 * 5
        monitor.neurons = list(range(nb_units))
        columns = monitor("now")
    (record_,) = load_runs(tmp_path)
    trials = torch.from_numpy(record_.state("now/trials"))
    assert trials.shape == (40, 10, nb_units)
    expected = defined_mean(fano_over_trials(trials, 5)).value
    assert columns == {"fano-hid_0": pytest.approx(expected, rel=1e-6)}
    rates = trials.float().mean((0, 1)) / GRID.dt
    torch.testing.assert_close(torch.from_numpy(record_.state("now/rates-hid_0")).flatten(), rates)
    assert record_.state("now/labels").shape == (3,)


def test_the_same_samples_are_seen_each_time_and_the_seed_chooses_them(dataset, tmp_path):
    with open_run(tmp_path, {}) as run:
        first, second, other = (
            Monitor(make_network(), dataset, GRID, run, Shown(idx_layer=0, sample_seed=s)) for s in (1, 1, 2)
        )
    assert first.samples.tolist() == second.samples.tolist() != other.samples.tolist()
    assert first.neurons == second.neurons != other.neurons
    with pytest.raises(UserError, match="idx_neuron=20: layer 0 has 20 neurons"):
        Monitor(make_network(), dataset, GRID, run, Shown(idx_layer=0, idx_neuron=20))


def test_figures_are_drawn_even_where_all_samples_are_of_one_class(dataset, tmp_path):
    with open_run(tmp_path, {}) as run:
        one_class = dataset.subset(dataset.labels == 1)
        Monitor(make_network(), one_class, GRID, run, Shown(2, idx_layer=0), Repeats(3))("now")
    assert sorted(path.name for path in (tmp_path / "Plots").iterdir()) == ["now_activity.png", "now_trials.png"]
