"""Parts of one's own: examples/my_parts.py through the scripts, and every protocol's mistakes in one line."""

import logging
import re
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from classification_suite import SHORT, TINY_NETWORK, load_script
from dense_suite import TINY, run_dense

from surgrad.errors import UserError
from surgrad.experiments import parts
from surgrad.experiments.trained import load_run
from surgrad.kernels import dispatch, reference
from surgrad.network.connections import Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.lif import LIF
from surgrad.runs.fingerprint import fingerprints
from surgrad.runs.record import REPO, RunRecord

SMALL = [part for part in TINY if not part.startswith(("dataset", "hidden"))]
TONES = ["dataset=my_parts.Tones", "dataset.duration=0.2", "dataset.time_step=5e-3"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The example in a folder of its own, which is the working directory; its module is forgotten afterwards."""
    shutil.copy(REPO / "examples" / "my_parts.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_parts", None)


@pytest.fixture
def example(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    import my_parts

    return my_parts


EVERYTHING = [
    *TONES,
    "dataset.source.nb_samples=40",
    "surrogate=my_parts.Gaussian",
    "surrogate.width=0.4",
    "neuron=my_parts.QuadraticLIF",
    "neuron.escape_noise._target_=my_parts.Probit",
    "connection=my_parts.HalfDense",
    "normalization=my_parts.AcrossNeurons",
    "normalization.gain=2",
    "initializer=my_parts.Orthogonal",
    "loss_type=my_parts.SquaredError",
    "regularizers.mine._target_=my_parts.Sparsity",
    "optimizer=my_parts.SignSGD",
    "lr_schedule=my_parts.Halving",
    "lr_schedule.every=1",
    "dataset.augmentations.mine._target_=my_parts.Echo",
    "hidden=[8]",
    "lr=1e-2",
]


def test_every_kind_of_part_is_taken_from_the_command_line_and_read_back_with_trust(here, capsys):
    run_dense(*SMALL, *EVERYTHING, "hydra.run.dir=run")
    assert "input units fire at 4.99 Hz (dataset.nu=10 is assumed)" in capsys.readouterr().out
    record = RunRecord(here / "run")
    assert record.status == "done"
    assert record.get("dataset.name") == "Tones"
    assert record.metrics["lr"].tolist()[1:] == [1e-2, 5e-3]
    with pytest.raises(UserError, match=r"_target_=my_parts\.\w+: named in a run folder.*--trust"):
        _ = load_run(here / "run").network
    run = load_run(here / "run", trust=True)
    assert type(run.network.layers[0].neuron).__name__ == "QuadraticLIF"
    assert run.network.layers[0].neuron.surrogate.width == 0.4
    assert run.evaluate("valid").acc == pytest.approx(run.summary["valid_acc_best_valid"])


def test_a_convolutional_network_takes_surrogate_noise_and_loss_of_ones_own(here):
    given = [*TINY_NETWORK, *SHORT, *TONES, "surrogate=my_parts.Gaussian", "loss_type=my_parts.SquaredError"]
    given += ["escape_noise={_target_: my_parts.Probit, width: 0.3}", "dataset.source.nb_samples=16", "nb_epochs=1"]
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    load_script().main([*given, "fano.evaluate=false", "plot=none", "test_draws=1", "hydra.run.dir=run"])
    root.handlers[:], root.level = handlers, level
    run = load_run(here / "run", trust=True)
    neuron = run.network.layers[0].neuron
    assert run.status == "done"
    assert (type(neuron.surrogate).__name__, neuron.escape_noise.width) == ("Gaussian", 0.3)


def test_surrogates_of_both_kinds_are_swept_together(here):
    run_dense("-m", *TINY, "surrogate=esser,my_parts.Gaussian", "nb_epochs=1", f"hydra.sweep.dir={here / 'sweep'}")
    found = {RunRecord(path.parent).get("surrogate._target_") for path in here.glob("sweep/**/summary.json")}
    assert found == {"surgrad.surrogate.Esser", "my_parts.Gaussian"}


def test_a_file_of_ones_own_configurations_names_them(here):
    (here / "mine" / "surrogate").mkdir(parents=True)
    (here / "mine" / "surrogate" / "wide.yaml").write_text("_target_: my_parts.Gaussian\nwidth: 0.7\n")
    run_dense("--config-dir", str(here / "mine"), *TINY, "surrogate=wide", "nb_epochs=0", "hydra.run.dir=run")
    assert load_run(here / "run", trust=True).network.layers[0].neuron.surrogate.width == 0.7


def test_a_changed_file_is_another_run(example):
    config = {"surrogate._target_": "my_parts.Gaussian", "loss_type": "mot_ce", "optimizer": "torch.optim.Adam"}
    found = fingerprints(config)
    assert set(found) == {"surrogate._target_"}
    assert found["surrogate._target_"]["size"] == (REPO / "examples" / "my_parts.py").stat().st_size


def test_a_neuron_of_ones_own_carries_its_state_and_has_gradients(example):
    torch.manual_seed(0)
    neuron = example.QuadraticLIF()
    layer = SpikingLayer(example.HalfDense(6, 4), neuron, 20e-3, 10e-3)
    network = Network([layer], Readout(example.HalfDense(4, 2), 20e-3, 10e-3), 2e-3)
    x = (torch.rand(30, 2, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    whole = network(x, record=True)
    first = network(x[:11], return_state=True)
    second = network(x[11:], state=first.state)
    assert torch.equal(torch.cat([first.readout, second.readout]), whole.readout)
    assert whole.counts[0].sum() > 0
    whole.readout.sum().backward()
    assert layer.feedforward.weight.grad.abs().sum() > 0
    assert not layer.feedforward.weight.grad[layer.feedforward.mask == 0].any()


def test_a_neuron_with_more_states_carries_them_all_and_has_gradients(example, caplog):
    torch.manual_seed(0)
    layers = [SpikingLayer(Dense(6, 5), example.Resonator(), 20e-3, 10e-3, Dense(5, 5))]
    layers.append(SpikingLayer(Dense(5, 4), LIF(), 20e-3, 10e-3))
    network = Network(layers, Readout(Dense(4, 2), 20e-3, 10e-3), 2e-3)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=2.0)
    x = (torch.rand(30, 2, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    with caplog.at_level(logging.INFO):
        whole = network(x, record=True, return_state=True)
    first = network(x[:11], return_state=True)
    second = network(x[11:], state=first.state, return_state=True)
    assert torch.equal(torch.cat([first.readout, second.readout]), whole.readout)
    assert second.state.layers[0]._fields == ("i", "u", "s", "v")
    assert all(
        torch.equal(one, other) for one, other in zip(second.state.layers[0], whole.state.layers[0], strict=True)
    )
    assert torch.equal(network(x, kernel="reference").readout, whole.readout)
    assert torch.equal(network(x, truncate=7).readout, whole.readout)
    whole.readout.sum().backward()
    full = layers[0].feedforward.weight.grad.clone()
    assert full.abs().sum() > 0
    network.zero_grad()
    network(x, memory="recompute").readout.sum().backward()
    torch.testing.assert_close(layers[0].feedforward.weight.grad, full)
    lines = [record.message for record in caplog.records if "Resonator" in record.message]
    assert len(lines) <= 1  # once in a process
    with pytest.raises(UserError, match="this layer has a ResonatorStateOfLayer"):
        network(x, state=first.state._replace(layers=first.state.layers[::-1]))
    with pytest.raises(UserError, match="Resonator, which has more states: run it in a SpikingLayer of a Network"):
        dispatch.lif(x, torch.tensor(0.8), torch.tensor(0.9), example.Resonator())


def test_what_a_resonator_does_below_threshold_is_a_damped_oscillation(example):
    neuron, b = example.Resonator(angle=0.3), torch.tensor(0.95, dtype=torch.float64)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    begin = example.ResonatorState(zero, zero + 0.8, zero)
    _, u, _ = reference.lif(torch.zeros(60, 1, 1, dtype=torch.float64), b, b, neuron, state=begin)
    t = torch.arange(60, dtype=torch.float64)
    torch.testing.assert_close(u[:, 0, 0], 0.8 * 0.95**t * torch.cos(0.3 * t))


def test_a_run_of_a_neuron_with_more_states_says_which_kernel_runs_and_is_read_back(here, capsys):
    run_dense(
        *SMALL, *TONES, "dataset.source.nb_samples=16", "neuron=my_parts.Resonator", "hidden=[6]", "hydra.run.dir=run"
    )
    assert RunRecord(here / "run").status == "done"
    log = (here / "run" / "run.log").read_text()
    assert log.count("Resonator neurons") <= 1
    assert load_run(here / "run", trust=True).network.layers[0].neuron.State.__name__ == "ResonatorState"


class NoFields(LIF):
    State = dict


class OtherState(LIF):
    def step(self, state, current, s, a, b):
        return (state.i, state.u)


class Empty:
    pass


class WrongShape:
    def __call__(self, x, s):
        return x.sum()


class Raises:
    def __call__(self, x, s):
        return x @ s


class HalfNoise:
    stochastic = True

    def probability(self, x):
        return x.clamp(0, 1)


class NoInverse(HalfNoise):
    def threshold(self, r):
        return r / 2


class NoPredictions:
    def __call__(self, readout, labels):
        return readout.mean()


class NoScalar(NoPredictions):
    def __call__(self, readout, labels):
        return readout

    def predictions(self, readout):
        return readout.amax(0).argmax(-1)


def linear(in_shape, nb_units):
    return torch.nn.Linear(*in_shape, nb_units)


def unchanged(dataset, generator):
    return np.zeros(3)


MISTAKES = [
    ("surrogate", Empty(), r"mine\.X: Empty has no __call__\(x, s\); a part of the kind surrogate needs __call__"),
    ("surrogate", WrongShape(), r"h\(x, s\) gives \(\) of torch.float32 for \(2, 4\)"),
    ("neuron", NoFields(), r"its State has no fields; it must be a NamedTuple of i, u and what more it has"),
    ("neuron", OtherState(), r"step gives tuple, not a LIFState of i, u"),
    ("surrogate", Raises(), r"a trial call ended in RuntimeError"),
    ("escape noise", HalfNoise(), r"has no threshold\(r\)"),
    ("escape noise", Empty(), r"has no stochastic; .* needs stochastic, probability\(x\), threshold\(r\)"),
    ("escape noise", NoInverse(), r"not the inverse of probability\(x\): probability\(threshold\(0.1\)\) = 0.05"),
    ("neuron", Empty(), r"Empty is no surgrad.LIF; inherit from it and define step"),
    ("connection", linear, r"its out_shape is missing, not \(3,\)"),
    ("connection", lambda in_shape, nb_units: None, r"gives NoneType, not a torch.nn.Module"),
    ("initializer", Empty(), r"no __call__\(network, generator\)"),
    ("loss", NoPredictions(), r"has no predictions\(readout\)"),
    ("loss", NoScalar(), r"gives torch.Size\(\[4, 2, 3\]\), not a scalar"),
    ("regularizer", lambda counts: counts, r"gives torch.Size\(\[2, 3\]\), not a scalar"),
    ("optimizer", Empty(), r"has no step\(\)"),
    ("schedule", Empty(), r"has no step\(\)"),
    ("data set", Empty(), r"has no splits\(\)"),
    ("augmentation", unchanged, r"must give a surgrad.EventDataset of 2 samples"),
]


@pytest.mark.parametrize(("kind", "found", "expected"), MISTAKES)
def test_what_a_part_lacks_is_named_in_one_line(kind, found, expected):
    with pytest.raises(UserError, match=expected) as refused:
        parts.require(kind, found, "key=mine.X")
    assert "\n" not in str(refused.value)
    assert "docs/extending.md" in str(refused.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "surrogate=nowhere.Gaussian",
            r"surrogate._target_=nowhere.Gaussian: there is no module nowhere in .*PYTHONPATH",
        ),
        ("surrogate=my_parts.Gausian", r"surrogate._target_: unknown name Gausian \(did you mean Gaussian\?\)"),
        ("surrogate=my_parts.Tones", r"surrogate=my_parts.Tones: Tones has no __call__\(x, s\)"),
        ("loss_type=max_ce", r"loss_type=max_ce: unknown.*; allowed: mot_ce, .* or one of yours as my_module.MyClass"),
        ("loss_type=my_parts.Tones", r"loss_type=my_parts.Tones: Tones has no __call__\(readout, labels\)"),
        ("dataset=my_parts.Gaussian", r"dataset.source=my_parts.Gaussian: Gaussian has no splits\(\)"),
        (
            "regularizers.mine._target_=my_parts.Tones",
            r"regularizers.mine=my_parts.Tones: Tones has no __call__\(counts\)",
        ),
    ],
)
def test_mistakes_on_the_command_line_leave_no_folder(here, capsys, override, expected):
    with pytest.raises(SystemExit):
        run_dense(*SMALL, *TONES, override, "hydra.run.dir=run")
    said = capsys.readouterr()
    assert re.search(expected, said.err + said.out)
    assert not (here / "run").exists()


def test_a_library_name_is_not_ones_own(monkeypatch):
    module = types.ModuleType("mine")
    module.Squares = lambda params, lr: torch.optim.SGD(params, lr=lr)
    monkeypatch.setitem(sys.modules, "mine", module)
    weights = [torch.nn.Parameter(torch.zeros(2))]
    assert isinstance(parts.optimizer("mine.Squares", weights, 0.1), torch.optim.SGD)
    assert isinstance(parts.optimizer("adam", weights, 0.1), torch.optim.Adam)
