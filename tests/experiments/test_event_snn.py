"""The event-based script: its configurations compose and train, and what it cannot train on is refused."""

import importlib.util

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from surgrad.config.check import check
from surgrad.datasets.events import EventDataset
from surgrad.errors import UserError
from surgrad.eventprop.layers import EventReadout, Spikes
from surgrad.eventprop.network import IntegratedVoltage, SpikeSet
from surgrad.experiments.eventprop.config import EventSNNConfig
from surgrad.runs.record import REPO, load_runs
from surgrad.training.losses import IntegratedCrossEntropy

FOLDER = REPO / "configs" / "event_snn"
PRIMARY = sorted(path.stem for path in FOLDER.glob("*.yaml"))
QUICK = ["nb_hidden=12", "nb_epochs=1", "time_step=5e-3", "wandb.mode=disabled", "plot=false", "hydra.run.dir=run"]
#: where a configuration would take longer than a test may
SMALL = {"mnist": ["dataset.subset=true", "dataset.batch_size=50"], "config": ["dataset.duration=0.1"]}


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("event_SNN", REPO / "Classification" / "event_SNN.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def composed(config_name, *overrides):
    ConfigStore.instance().store(name="schema", node=EventSNNConfig)
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        return check(compose(config_name, [*overrides]), EventSNNConfig)


@pytest.mark.parametrize("method", ["eventprop", "surrogate"])
@pytest.mark.parametrize("name", PRIMARY)
def test_every_config_trains_by_both_methods(script, tmp_path, name, method):
    script.main([f"--config-name={name}", f"method={method}", *SMALL[name], *QUICK])
    (record,) = load_runs(tmp_path / "run")
    assert record.status == "done"
    assert record.metrics["epoch"][-1] == 1
    assert 0 <= record.summary["test_acc"] <= 1


@pytest.mark.parametrize("name", PRIMARY)
def test_both_methods_start_from_one_network(name):
    cfg = composed(name)
    events, grid = cfg.event_network(), cfg.grid_network()
    assert torch.equal(events.layers[0].weight.T, grid.layers[0].feedforward.weight)
    assert torch.equal(events.head.readout.weight.T, grid.readout.feedforward.weight)
    assert tuple(events.layers[0].weight.shape) == cfg.sizes[:2]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="validation"):
        composed("config", "dataset.validation=none").splits()
    with pytest.raises(UserError, match="input_dropout"):
        composed("config", "input_dropout=1.0")
    with pytest.raises(UserError, match="no spike times"):
        composed("config", "method=surrogate", "loss=first_spike")
    with pytest.raises(UserError, match="_target_"):
        composed("mnist", "~dataset.code._target_").splits()
    with pytest.raises(UserError, match="tau=0"):
        IntegratedCrossEntropy(tau=0.0)


def test_a_data_set_becomes_spikes_in_the_order_of_time():
    data = EventDataset(
        times=np.array([0.3, 0.1, 0.9, 0.2]),
        units=np.array([4, 1, 2, 3]),
        offsets=np.array([0, 3, 3, 4]),
        labels=np.array([1, 0, 1]),
        nb_units=5,
        nb_classes=2,
    )
    spikes, labels = SpikeSet.from_events(data, duration=0.5)
    assert spikes.times.tolist() == pytest.approx([0.1, 0.3, 0.2])
    assert spikes.units.tolist() == [1, 4, 3]
    assert spikes.offsets.tolist() == [0, 2, 2, 3]
    assert labels.tolist() == [1, 0, 1]


def test_shaped_loss_on_a_grid_converges_to_the_integral():
    """z = gain / T int exp(-t / tau) V dt of the same voltage, sampled ever more finely."""
    cfg = composed("config", "nb_hidden=3")
    readout = EventReadout(3, 4, dtype=torch.float64)
    readout.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    data = EventDataset([0.05, 0.1, 0.2], [0, 1, 2], [0, 3], [0], nb_units=3, nb_classes=4)
    spikes = SpikeSet.from_events(data, cfg.duration).spikes
    spikes = spikes._replace(times=spikes.times.double())
    exact = IntegratedVoltage(readout, cfg.tau_weight, cfg.gain).scores(spikes, cfg.duration)
    errors = []
    for dt in (2e-3, 1e-3):
        steps = round(cfg.duration / dt)
        voltage = readout.voltage(spikes, torch.arange(steps) * dt).transpose(0, 1)
        stepped = IntegratedCrossEntropy(cfg.tau_weight / dt, cfg.gain).scores(voltage)
        errors.append(float((stepped - exact).detach().abs().max() / exact.detach().abs().max()))
    assert errors[1] < 0.02
    assert errors[1] < 0.6 * errors[0]


def test_without_loss_shaping_hardly_anything_is_left_of_the_hidden_gradient():
    """The integral of a postsynaptic potential does not depend on when its spike came, except near the end."""
    cfg = composed("config", "nb_hidden=40")
    given = (torch.rand(300, generator=torch.Generator().manual_seed(1)) * 0.3).sort().values
    units = torch.randint(700, (300,), generator=torch.Generator().manual_seed(2)).int()
    spikes, norms = Spikes(given, units, torch.tensor([0, 300])), {}
    for tau_weight in (0.2, float("inf")):
        network = cfg.event_network()
        network.layers[0].weight.data.add_(0.2)
        network.head.tau_weight = tau_weight
        output = network(spikes)
        network.head.loss(output.scores, torch.tensor([3]), cfg.duration).backward()
        norms[tau_weight] = float(network.layers[0].weight.grad.norm())
    assert norms[float("inf")] < 1e-3 * norms[0.2]
