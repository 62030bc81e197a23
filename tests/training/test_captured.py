"""Training steps that are captured and replayed are those that are launched one by one, to the bit.

On a CPU the operations of the reference kernel are recorded and repeated (`tape.Tape`).
"""

from dataclasses import replace

import pytest
import torch
from classification_suite import GRID as WHOLE_GRID
from classification_suite import make_network
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training.tape import Tape

from surgrad.datasets.augment import Drop
from surgrad.datasets.batch import EventBatch
from surgrad.datasets.sources.randman import Randman
from surgrad.kernels import dispatch, philox
from surgrad.kernels.gpu.graphs import GraphedStep
from surgrad.network.connections import Dense, GaussianDelays, begin_epoch
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.methods import SpikeParameters, method_neuron, set_neuron
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.neurons.lif import LIF
from surgrad.runs.folder import open_run
from surgrad.training import captured
from surgrad.training.captured import Captured, padded, padded_size
from surgrad.training.fit import Fit, Plan
from surgrad.training.loop import Compute, Objective, Step
from surgrad.training.losses import MaxOverTimeCrossEntropy
from surgrad.training.optimizers import SMORMS3, keep_within_bounds
from surgrad.training.regularizers import LowerBoundL2, UpperBoundL2
from surgrad.training.schedules import build_schedule

GRID = replace(WHOLE_GRID, batch_size=3, nb_steps=15)
OBJECTIVE = Objective(MaxOverTimeCrossEntropy(), [UpperBoundL2(0.1, 1.0), LowerBoundL2(0.1, 3.0, "batch")])


@pytest.fixture(scope="module")
def splits():
    return Randman(nb_classes=3, nb_units=12, nb_steps=40, duration=0.08, nb_samples=20, alpha=2.0).splits()


# ---------------------------------------------------------------- events are padded
@given(st.integers(1, 10**7))
def test_sizes_are_few_and_at_most_an_eighth_too_large(nb_events):
    size = padded_size(nb_events)
    assert nb_events <= size <= nb_events * 9 / 8
    assert padded_size(size) == size
    sizes = {padded_size(n) for n in range(nb_events, nb_events + nb_events // 50 + 1)}
    assert len(sizes) <= 2  # batches of a data set differ by a few percent


def events(counted=False):
    """Four samples of 8 units and 12 steps, the last of them empty."""
    x = (torch.rand(12, 4, 8, generator=torch.Generator().manual_seed(2)) < 0.2).float()
    x[:, 3] = 0
    batch = EventBatch.from_dense(x, labels=torch.arange(4) % 3)
    assert padded_size(len(batch.steps)) > len(batch.steps)
    return replace(batch, counts=torch.arange(1, len(batch.steps) + 1, dtype=torch.int32) % 3) if counted else batch


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_events_that_are_added_change_no_bit(kernel, counted):
    layers = [SpikingLayer(Dense(8, 16), LIF(), 20e-3, 10e-3, Dense(16, 16))]
    network = Network(layers, Readout(Dense(16, 3), 40e-3, 10e-3), 2e-3)
    step = Step(network, OBJECTIVE, SMORMS3(network.parameters()), compute=Compute(kernel))
    found = []
    for batch in (events(counted), padded(events(counted))):
        values = step.gradients(batch, 1)
        found.append([values, *(p.grad for p in network.parameters() if p.grad is not None)])
    assert found[0][0][2] > 0  # spikes
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_last_event_is_repeated_in_its_own_sample():
    batch = padded(events())
    assert batch.offsets[-1] == batch.offsets[-2] == len(batch.steps)
    assert torch.equal(batch.samples[-3:], torch.full((3,), 2))
    assert torch.equal(batch.dense(), events().dense())


# ---------------------------------------------------------------- a captured run is a run
def keep_draws(monkeypatch):
    """Numbers of the draw stay tensors on a CPU, too, as on a GPU."""
    monkeypatch.setattr(dispatch, "noise_key", lambda seed, draw, layer=0: philox.NoiseKey(seed, draw, layer))


def train(folder, splits, tapes=None, *, nb_epochs=3, lr=5e-3, stop_at=None):
    """Weights of a run with noise, bounded time constants, clipped gradients, a schedule, and slopes that rise."""
    network = make_network()
    network.layers[0].tau_mem = TimeConstant(20e-3, trainable=True, bounds=(19e-3, 21e-3))
    optimizer = SMORMS3(network.parameters(), lr)
    keep_within_bounds(optimizer, network)
    plan = Plan(
        nb_epochs,
        seed=3,
        augment=Drop(0.1),
        compute=Compute("reference"),
        schedule=lambda optimizer: build_schedule("step", optimizer, nb_epochs, step_size=2),
        grad_clip=0.5,
    )

    def rise(epoch):
        if epoch == stop_at:
            raise KeyboardInterrupt
        set_neuron(network, method_neuron("stochasticsuperspike", SpikeParameters(beta=10.0 + 5 * (epoch > 1))))

    with open_run(folder, {"nb_epochs": nb_epochs}) as run:
        trainee = Fit(network, optimizer, splits[0], splits[1], GRID, OBJECTIVE, run, plan, before_epoch=rise)
        if tapes is not None:
            trainee.__dict__["_whole"] = Captured(GRID.batch_size, lambda: tapes.append(Tape()) or tapes[-1])
        trainee()
    return network.state_dict()


@pytest.fixture
def short(splits):
    """Three batches and a smaller one."""
    return splits[0].subset(list(range(11))), splits[1].subset(list(range(3)))


def test_replayed_training_has_the_weights_of_training(tmp_path, short, monkeypatch):
    keep_draws(monkeypatch)
    monkeypatch.setattr(captured, "padded_size", lambda nb_events: 1 << 9)
    tapes = []
    expected, found = train(tmp_path / "a", short), train(tmp_path / "b", short, tapes)
    assert len(tapes) == 3  # the slope rises, then the learning rate falls
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_that_was_stopped_replays_to_the_same_weights(tmp_path, short, monkeypatch):
    keep_draws(monkeypatch)
    monkeypatch.setattr(captured, "padded_size", lambda nb_events: 1 << 9)
    expected = train(tmp_path / "a", short, [])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", short, [], stop_at=3)
    found = train(tmp_path / "b", short, [])
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def dropping():
    layers = [SpikingLayer(Dense(8, 12), LIF(), 20e-3, 10e-3, Dense(12, 12), dropout=0.4, recurrent_dropout=0.3)]
    return Network(layers, Readout(GaussianDelays(12, 3, 8e-3, 4e-3, 1e-3, 4), 40e-3, 10e-3), 2e-3)


def test_units_are_dropped_anew_in_every_epoch_and_delays_are_of_their_epoch(monkeypatch):
    keep_draws(monkeypatch)
    weights, tapes = [], []
    for whole in (None, Captured(4, lambda: tapes.append(Tape()) or tapes[-1])):
        torch.manual_seed(0)
        network = dropping()
        step = Step(network, OBJECTIVE, SMORMS3(network.parameters(), 1e-2), compute=Compute("reference"))
        for draw in range(1, 7):
            begin_epoch(network, 1 + draw // 4)
            if whole is None:
                step(events(), draw)
            else:
                whole.begin(step)
                assert whole(events(), draw) is not None
        weights.append([p.detach().clone() for p in network.parameters()])
    assert len(tapes) == 2  # of either width of the delays
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_what_a_step_does_not_take_from_its_arguments_is_of_the_recording():
    """That the tape would show it: a factor of the host is the one it was."""
    factor, steps = [2.0], GraphedStep(lambda x: x * factor[0], graph=Tape)
    assert [steps(torch.tensor(2.0 + k)).item() for k in range(3)] == [4, 6, 8]
    factor[0] = 3.0
    assert steps(torch.tensor(5.0)).item() == 10
    assert steps(torch.ones(2)).tolist() == [3, 3]


# ---------------------------------------------------------------- what is captured
def test_batches_of_another_size_and_shapes_beyond_the_most_run_as_they_are():
    whole = Captured(5, Tape)
    network = make_network()
    whole.begin(Step(network, OBJECTIVE, SMORMS3(network.parameters())))
    assert whole(events(), 1) is None
    graphs = []
    steps = GraphedStep(lambda x: x + 1, most=1, graph=lambda: graphs.append(Tape()) or graphs[-1])
    for size in (1, 2, 1, 2, 1, 2):
        assert steps(torch.ones(size)).tolist() == [2] * size
    assert len(graphs) == 1


def test_a_capture_that_fails_is_said_and_the_step_runs_as_it_is(caplog):
    class Refused(Tape):
        def capture(self, step):
            raise RuntimeError("operation not permitted when stream is capturing")

    steps = GraphedStep(lambda x: x + 1, graph=Refused)
    assert [steps(torch.tensor(float(k))).item() for k in range(4)] == [1, 2, 3, 4]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "not permitted" in caplog.text


def test_a_step_on_the_cpu_is_not_captured():
    steps = GraphedStep(lambda x: x + 1)
    assert [steps(torch.ones(1)).item() for _ in range(3)] == [2, 2, 2]
    assert not steps.graphs
    network = make_network()
    assert captured.obstacle(network, SMORMS3(network.parameters()), "auto") == "the network is on cpu"


@pytest.fixture
def on_gpu(monkeypatch):
    """A parameter that says it is on a GPU, for the first question alone."""
    monkeypatch.setattr(captured, "device_of", lambda network: torch.device("cuda"))
    monkeypatch.setattr(captured, "choose", lambda kernel, spec: dispatch.Choice("cuda", None, ""))


def test_what_might_read_from_the_device_is_not_captured(on_gpu):
    def why(network, optimizer=SMORMS3):
        return captured.obstacle(network, optimizer(network.parameters()), "auto")

    class Own(torch.optim.SGD):
        pass

    assert why(make_network()) is None
    assert why(dropping()) is None
    assert why(make_network(), torch.optim.Adam) is None
    assert "Own may read" in why(make_network(), lambda p: Own(p, lr=1.0))
    network = make_network()
    network.layers[0].register_forward_hook(lambda *args: None)
    assert "hooks of its own" in why(network)
    network = make_network()
    network.layers[0].normalization = nn.Identity()
    assert "Identity" in why(network)
    network = dropping()
    network.layers[0].feedforward = nn.Linear(8, 12)
    assert "Linear" in why(network)
