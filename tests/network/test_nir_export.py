"""A network in NIR is the same network: a simulator that knows nir files and no surgrad emits the same spikes."""

import importlib.util

import numpy as np
import pytest
import torch
from classification_suite import TINY, load_script, make_network
from torch.nn import functional as F

nir = pytest.importorskip("nir", reason="the extra `nir` is not installed")

from surgrad.errors import UserError  # noqa: E402
from surgrad.experiments.trained import trained_network  # noqa: E402
from surgrad.network import nir as nir_export  # noqa: E402
from surgrad.network.connections import Conv, DelayedDense, Dense  # noqa: E402
from surgrad.network.dale import impose  # noqa: E402
from surgrad.network.layers import Readout, SpikingLayer  # noqa: E402
from surgrad.network.methods import SpikeParameters, method_neuron, set_neuron  # noqa: E402
from surgrad.network.models import dense_snn  # noqa: E402
from surgrad.network.network import Network  # noqa: E402
from surgrad.network.neuron_delays import AxonalDelays, DendriticDelays  # noqa: E402
from surgrad.network.parameters import TimeConstant  # noqa: E402
from surgrad.neurons.escape_noise import Sigmoid  # noqa: E402
from surgrad.neurons.lif import LIF, AdaptiveLIF  # noqa: E402
from surgrad.runs.record import REPO, load_runs  # noqa: E402

DECAY = {"exponential": lambda x: np.exp(-x), "euler": lambda x: 1 - x}


class Simulator:
    """What docs/nir.md asks of an importer: states are read at the beginning of a step, inputs held during it."""

    def __init__(self, graph: nir.NIRGraph):
        self.graph, self.about = graph, graph.metadata
        self.dt, self.decay = float(self.about["dt"]), DECAY[self.about["decay"]]
        self.i = {name: np.zeros(node.tau_mem.shape) for name, node in self.neurons()}
        self.v = {name: np.zeros(node.tau_mem.shape) for name, node in self.neurons()}
        if "readout_v0" in self.about:
            self.v["readout"] += float(self.about["readout_v0"])
        self.late = {
            name: np.round(np.asarray(node.delay) / self.dt).astype(int)
            for name, node in graph.nodes.items()
            if isinstance(node, nir.Delay)
        }
        self.line = {name: [np.zeros(late.shape)] * (late.max() + 1) for name, late in self.late.items()}

    def neurons(self):
        return [(name, node) for name, node in self.graph.nodes.items() if isinstance(node, nir.CubaLI | nir.CubaLIF)]

    def into(self, name):
        return sum(self.output(source) for source, target in self.graph.edges if target == name)

    def output(self, name):
        """What a node sends in this step."""
        node = self.graph.nodes[name]
        if name not in self.sent:
            if isinstance(node, nir.Delay):  # of one from 1 step on, so that loops have an end
                past = np.stack(
                    [self.line[name][-1] if self.late[name].min() else self.into(name), *self.line[name][::-1]]
                )
                self.sent[name] = np.take_along_axis(past, self.late[name][None], 0)[0]
            elif isinstance(node, nir.Linear):
                self.sent[name] = node.weight @ self.into(name)
            elif isinstance(node, nir.Flatten):
                self.sent[name] = self.into(name).reshape(-1)
            elif isinstance(node, nir.Conv1d | nir.Conv2d):
                convolve = F.conv1d if isinstance(node, nir.Conv1d) else F.conv2d
                arrays = (
                    torch.from_numpy(np.asarray(a, dtype=float))
                    for a in (self.into(name)[None], node.weight, node.bias)
                )
                options = {key: np.asarray(getattr(node, key)).tolist() for key in ("stride", "padding", "dilation")}
                self.sent[name] = convolve(*arrays, groups=int(node.groups), **options)[0].numpy()
        return self.sent[name]

    def step(self, x):
        self.sent = {"input": x}
        for name, node in self.neurons():
            if isinstance(node, nir.CubaLIF):
                self.sent[name] = (self.v[name] > node.v_threshold).astype(float)
                self.v[name] = np.where(self.sent[name] > 0, node.v_reset, self.v[name])
        inputs = {name: self.into(name) for name in [*self.line, *(name for name, _ in self.neurons())]}
        for name, node in self.neurons():
            a, b = self.decay(self.dt / node.tau_syn), self.decay(self.dt / node.tau_mem)
            v = b * self.v[name] + (1 - b) * (node.v_leak + node.r * self.i[name])
            if self.about["reset"] == "multiplicative" and isinstance(node, nir.CubaLIF):
                v = np.where(self.sent[name] > 0, node.v_reset, v)
            self.v[name] = v
            self.i[name] = a * self.i[name] + (1 - a) * node.w_in * inputs[name]
        self.line = {name: [*line[1:], inputs[name].astype(float)] for name, line in self.line.items()}
        return {name: self.sent[name] for name in self.sent}, {name: v.copy() for name, v in self.v.items()}


def simulate(graph, x):
    """Spikes of every hidden layer and, with a readout, its output, for x (T, *units)."""
    simulator = Simulator(graph)
    steps = [simulator.step(sample) for sample in x]
    hidden = [name for name in graph.nodes if name.startswith("hid_") and name.count("_") == 1]
    spikes = [np.stack([sent[name] for sent, _ in steps]) for name in hidden]
    readout = np.stack([v["readout"] for _, v in steps]) if "readout" in graph.nodes else None
    return spikes, readout


def random_weights(network, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            parameter.data = (torch.randn(parameter.shape, generator=generator) + 0.3) * scale / fan_in**0.5
    return network


def dense(recurrent=True, delay=1, readout=True, **neuron):
    connection = Dense(6, 6) if recurrent else None
    layers = [
        SpikingLayer(Dense(5, 6), LIF(**neuron), TimeConstant(torch.linspace(5e-3, 3e-2, 6)), 5e-3, connection),
        SpikingLayer(Dense(6, 4), LIF(**neuron), 2e-2, TimeConstant(torch.linspace(4e-3, 1e-2, 4))),
    ]
    top = Readout(Dense(4, 3), 5e-2, 5e-3) if readout else None
    return random_weights(Network(layers, top, dt=1e-3, delay=delay), scale=20.0)


def conv(reset="multiplicative"):
    neuron = LIF(reset=reset)
    layers = [
        SpikingLayer(Conv((1, 12), 4, 3, 2), neuron, 2e-2, 1e-2, Conv((4, 5), 4, 3, 1, 1)),
        SpikingLayer(Conv((4, 5), 3, 3, 1), neuron, 2e-2, 1e-2),
    ]
    return random_weights(Network(layers, Readout(Dense((3, 3), 2), 0.1, 1e-2), dt=2e-3), seed=1, scale=6.0)


def conv2d():
    layers = [SpikingLayer(Conv((2, 5, 4), 3, 2, (2, 1), (1, 0)), LIF(), 2e-2, 1e-2)]
    return random_weights(Network(layers, Readout(Dense((3, 3, 3), 2), 0.1, 1e-2), dt=2e-3), seed=2, scale=6.0)


def delays(delay=1):
    """Of axons, of axons in a loop, of dendrites, and of the axons of the last layer."""
    reach, neuron = {"max_delay": 8e-3, "rounded": True}, LIF(reset="multiplicative_leak")
    layers = [
        SpikingLayer(AxonalDelays(5, 6, **reach), neuron, 2e-2, 5e-3, AxonalDelays(6, 6, **reach, seed=1)),
        SpikingLayer(DendriticDelays(6, 4, **reach, seed=2), neuron, 2e-2, 5e-3),
    ]
    top = Readout(AxonalDelays(4, 3, **reach, seed=3), 5e-2, 5e-3)
    return random_weights(Network(layers, top, dt=1e-3, delay=delay).eval(), scale=20.0)


NETWORKS = {
    "recurrent": dense,
    "multiplicative_leak": lambda: dense(reset="multiplicative_leak"),
    "without delay or readout": lambda: dense(recurrent=False, delay=0, readout=False, reset="multiplicative_leak"),
    "unscaled current": lambda: dense(unit_gain=False),
    "euler": lambda: dense(decay="euler"),
    "convolution": conv,
    "convolution 2d": conv2d,
    "delays": delays,
    "delays alone": lambda: delays(0),
    "dale": lambda: random_weights(
        impose(
            dense_snn([5, 8, 2], neuron=LIF(), dt=1e-3, tau_mem=2e-2, tau_syn=5e-3, tau_readout=5e-2), inhibitory=0.25
        ),
        scale=6.0,
    ),
}


@pytest.mark.parametrize("decay", ["exponential", "euler"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_spikes_from_the_file(tmp_path, name, decay):
    network = NETWORKS[name]().double()
    nir_export.write(network, tmp_path / "network.nir", decay)
    x = torch.rand(200, 3, *network.layers[0].feedforward.in_shape, generator=torch.Generator().manual_seed(3)) < 0.2
    out = network(x.double(), record=True, kernel="reference")
    assert min(int(spikes.sum()) for spikes in out.spikes) > 20  # every layer spikes
    graph = nir.read(tmp_path / "network.nir")
    for sample in range(3):
        spikes, readout = simulate(graph, x[:, sample].numpy().astype(float))
        for ours, theirs in zip(out.spikes, spikes, strict=True):
            np.testing.assert_array_equal(ours[:, sample].detach().numpy(), theirs)
        if readout is not None:
            np.testing.assert_allclose(out.readout[:, sample].detach().numpy(), readout, rtol=1e-9, atol=1e-12)


def test_a_network_without_its_statements_is_another_one(tmp_path):
    """Each statement matters: an importer that ignores it emits other spikes."""
    network = dense().double()
    x = (torch.rand(200, 1, 5, generator=torch.Generator().manual_seed(3)) < 0.2).double()
    ours = network(x, record=True, kernel="reference").spikes[0][:, 0].detach().numpy()
    for change in ({"reset": "multiplicative_leak"}, {"dt": 0.9e-3}, {"decay": "euler"}):
        graph = nir_export.to_nir(network)
        graph.metadata |= change
        assert not np.array_equal(simulate(graph, x[:, 0].numpy())[0][0], ours), change


def test_the_equations_of_nir_are_the_limit_of_small_steps():
    """One spike: tau_syn dI/dt = -I, tau_mem dv/dt = -v + I from I = 1; the error of the steps is of first order."""
    tau_mem, tau_syn, errors = 2e-2, 5e-3, []
    for dt in (1e-3, 5e-4, 2.5e-4):
        layer = SpikingLayer(Dense(1, 1), LIF(), tau_mem, tau_syn)
        layer.feedforward.weight.data.fill_(1.0)
        graph = nir_export.to_nir(Network([layer], None, dt, delay=0).double())
        simulator, v = Simulator(graph), []
        for t in range(round(5e-2 / dt)):
            v.append(simulator.step(np.array([float(t == 0)]))[1]["hid_0"][0])
        t = dt * np.arange(1, len(v) + 1)  # v[k] is the state after k + 1 steps
        exact = tau_syn / (tau_mem - tau_syn) * (np.exp(-t / tau_mem) - np.exp(-t / tau_syn))
        errors.append(np.abs(np.array(v) - exact).max())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda: dense(escape_noise=Sigmoid(10.0)), "layer 0 spikes at random .Sigmoid escape noise."),
        (lambda: dense(reset="subtractive"), "reset=subtractive: NIR resets to a value"),
        (
            lambda: Network([SpikingLayer(Dense(2, 3), AdaptiveLIF(a=(0, 1), b=(0, 1)), 2e-2, 5e-3)], None, 1e-3),
            "no adaptation current",
        ),
        (
            lambda: Network([SpikingLayer(DelayedDense(2, 3, 0.01), LIF(), 2e-2, 5e-3)], None, 1e-3),
            "a delay per synapse",
        ),
        (
            lambda: Network([SpikingLayer(AxonalDelays(2, 3, 0.01), LIF(), 2e-2, 5e-3)], None, 1e-3),
            "steps: NIR's Delay does not interpolate; evaluate with connection.rounded=true",
        ),
        (
            lambda: Network([SpikingLayer(Conv((1, 5, 5), 2, (3, 2)), LIF(), 2e-2, 5e-3)], None, 1e-3),
            "square",
        ),
    ],
)
def test_what_nir_cannot_say_is_refused_by_name(tmp_path, network, said):
    with pytest.raises(UserError, match=said):
        nir_export.write(network(), tmp_path / "network.nir")
    assert not list(tmp_path.iterdir())


def test_a_one_step_clamp_and_the_readout_are_stated():
    said = "\n".join(nir_export.statements(make_network("superspike")))
    for word in ("dt = 0.002 s", "exp(-dt / tau)", "v[t+1] = v_reset", "v[0] = -0.001"):
        assert word in said
    assert "v_reset" not in "\n".join(nir_export.statements(dense(reset="multiplicative_leak")))


def export(*arguments):
    spec = importlib.util.spec_from_file_location("export_nir", REPO / "scripts" / "export_nir.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([str(argument) for argument in arguments])


def test_a_trained_run_is_exported_from_its_folder(tmp_path, capsys):
    folder, out = tmp_path / "run", tmp_path / "network.nir"
    load_script().main(
        [*TINY, "method=superspike", "plot=none", "fano.evaluate=false", "beta=5", f"hydra.run.dir={folder}"]
    )
    (record,) = load_runs(folder)
    export(folder, out)
    assert "v[t+1] = v_reset" in capsys.readouterr().out
    network = trained_network(record)
    best = record.checkpoint()["best"]
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, best["weights"][name])
    x = (torch.rand(60, 1, 1, 12, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    ours = network(x, record=True)
    spikes, readout = simulate(nir.read(out), x[:, 0].numpy())
    for k, layer in enumerate(ours.spikes):
        np.testing.assert_array_equal(layer[:, 0].detach().numpy(), spikes[k])
    np.testing.assert_allclose(ours.readout[:, 0].detach().numpy(), readout, atol=1e-5)
    export(folder, out, "--weights=last")
    last = record.checkpoint()["model"]["layers.0.feedforward.weight"]
    np.testing.assert_array_equal(nir.read(out).nodes["hid_0_in"].weight, last)


def test_a_stochastic_run_is_refused(tmp_path):
    network = make_network("superspike")
    set_neuron(network, method_neuron("stochasticsuperspike", SpikeParameters()))
    with pytest.raises(UserError, match="method=superspike"):
        nir_export.to_nir(network)
