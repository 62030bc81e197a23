"""Networks read back from NIR, and what other simulators made of ours: the same spikes, or a refusal."""

import ast
import importlib.util
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

nir = pytest.importorskip("nir", reason="the extra `nir` is not installed")

from surgrad.errors import UserError  # noqa: E402
from surgrad.network import nir as nir_export  # noqa: E402
from surgrad.network.connections import Conv, Dense  # noqa: E402
from surgrad.network.layers import Readout, SpikingLayer  # noqa: E402
from surgrad.network.network import Network  # noqa: E402
from surgrad.network.neuron_delays import (  # noqa: E402
    AxonalDelays,
    ConvAxonalDelays,
    ConvDendriticDelays,
    DendriticDelays,
)
from surgrad.network.nir_import import from_nir, read  # noqa: E402
from surgrad.network.parameters import TimeConstant  # noqa: E402
from surgrad.network.pooling import AveragePool, MaxPool  # noqa: E402
from surgrad.network.residual import Residual  # noqa: E402
from surgrad.neurons.lif import LIF  # noqa: E402
from surgrad.runs.record import REPO  # noqa: E402

DT = 2e-3


def network(kind, reset="multiplicative", delay=1, **neuron):
    torch.manual_seed(3)
    neuron, taus = LIF(reset=reset, **neuron), (20e-3, 10e-3)
    if kind == "dense":
        mem = TimeConstant(torch.linspace(10e-3, 40e-3, 12))
        layers = [
            SpikingLayer(Dense(20, 12), neuron, mem, 10e-3, Dense(12, 12)),
            SpikingLayer(Dense(12, 6), neuron, *taus),
        ]
    elif kind == "conv":
        mem = TimeConstant(torch.linspace(10e-3, 40e-3, 36).view(4, 9))
        first = Conv((1, 20), 4, 5, 2, 1)
        layers = [SpikingLayer(first, neuron, mem, mem), SpikingLayer(Dense(first.out_shape, 6), neuron, *taus)]
    else:
        first = Conv((2, 7, 8), 4, 3, (2, 1), 1)
        if kind == "pooled":
            pools = [AveragePool(first.out_shape, 2), AveragePool((6, 2, 4), (2, 1))]
            second = Conv(pools[0].out_shape, 6, 3, 1, 1)
            second.weight.data *= 4
            layers = [SpikingLayer(first, neuron, *taus), SpikingLayer(second, neuron, *taus).behind(pools[0])]
            top = Readout(Dense(pools[1].out_shape, 3), 0.1, 10e-3).behind(pools[1])
            return Network(layers, top, DT, delay)
        if kind != "conv2d":
            delays = {"axonal": ConvAxonalDelays, "dendritic": ConvDendriticDelays}[kind]
            first = delays((2, 7, 8), 4, 3, (2, 1), 1, max_delay=9e-3, rounded=True)
        layers = [SpikingLayer(first, neuron, *taus), SpikingLayer(Dense(first.out_shape, 6), neuron, *taus)]
    return Network(layers, Readout(Dense(6, 3), 0.1, 10e-3), DT, delay).eval()


def stimulus(net, seed=1):
    shape = net.layers[0].feedforward.in_shape
    return (torch.rand(100, 2, *shape, generator=torch.Generator().manual_seed(seed)) < 0.1).float()


CASES = [
    ("dense", {}),
    ("dense", {"delay": 0}),
    ("conv", {"reset": "multiplicative_leak"}),
    ("conv2d", {"unit_gain": False}),
    ("axonal", {}),
    ("dendritic", {}),
    ("pooled", {}),
    ("pooled", {"delay": 0}),
]


@pytest.mark.parametrize("decay", ["exponential", "euler"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_network_comes_back_from_its_file(tmp_path, kind, options, decay):
    net = network(kind, **options)
    nir_export.write(net, tmp_path / "a.nir", decay)
    back, x = read(tmp_path / "a.nir").eval(), stimulus(net)
    ours, theirs = (n(x, record=True, kernel="reference") for n in (net, back))
    assert back.delay == net.delay
    assert ours.spikes[1].sum() > 20
    for a, b in zip(ours.spikes, theirs.spikes, strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(theirs.readout, ours.readout, rtol=1e-3, atol=1e-3)


def test_a_sum_is_an_average_with_larger_weights():
    net = network("pooled")
    graph, x = nir_export.to_nir(net), stimulus(net)
    for name, node in list(graph.nodes.items()):
        if isinstance(node, nir.AvgPool2d):
            graph.nodes[name] = nir.SumPool2d(node.kernel_size, node.stride, node.padding)
    for name, by in (("hid_1_in", 4), ("readout_in", 2)):
        graph.nodes[name].weight = graph.nodes[name].weight / by
    ours, theirs = (n(x, kernel="reference").readout for n in (net, from_nir(graph)))
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)


def test_pools_without_a_node_are_refused():
    for pool, said in (
        (MaxPool((2, 7, 8), 2), "MaxPool over 2 axes"),
        (AveragePool((2, 56), 2), "AveragePool over 1 a"),
    ):
        layer = SpikingLayer(Dense(pool.out_shape, 6), LIF(), 20e-3, 10e-3).behind(pool)
        with pytest.raises(UserError, match=said):
            nir_export.to_nir(Network([layer], None, DT))
    net = network("conv2d")
    first = net.layers[0]
    first.beside(Residual(0, first.unit_shape, first.unit_shape, (1, 1), (0, 0)))
    with pytest.raises(UserError, match="layer 0 has a residual connection: the graphs written here are chains"):
        nir_export.to_nir(net)
    with pytest.raises(UserError, match="pooled spikes are not written for Norse"):
        nir_export.to_nir(network("pooled", "multiplicative_leak"), dialect="norse")


@pytest.mark.parametrize("dialect", nir_export.DIALECTS)
def test_what_is_written_for_a_simulator_is_the_network_by_our_own_reading_too(dialect):
    net = Network(network("conv2d", "multiplicative_leak").layers, None, DT)
    graph = nir_export.to_nir(net, dialect=dialect)
    back = from_nir(graph, nir_export.DIALECTS[dialect].dt or DT, decay="euler", reset="multiplicative_leak")
    x = stimulus(net)
    late, early = (n(x, record=True, kernel="reference").spikes[-1] for n in (net, back))
    assert torch.equal(late[2:], early[:-2])  # the delay of a step in each of two layers is not written
    assert "are the same" in graph.metadata["statements"]


def script(name):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, REPO / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_other_simulators_emitted_the_spikes_of_our_networks():
    """Recorded by scripts/nir_importers.py; a step that is earlier by two and the delay in each layer."""
    importers = script("nir_importers")
    with np.load(REPO / "tests" / "network" / "nir_importers.npz") as recorded:
        found = {name: recorded[name] for name in recorded.files}
    assert {name.split("/")[0] for name in found} == set(nir_export.DIALECTS)
    nets = importers.networks()
    for name, packed in found.items():
        net = nets[name.split("/")[2]]
        ours = net(importers.stimulus(net), record=True, kernel="reference").spikes[-1].detach().numpy()
        theirs = np.unpackbits(packed, axis=0)[: importers.NB_STEPS]
        earlier = (2 + net.delay) * len(net.layers)
        assert ours.sum() > 50
        np.testing.assert_array_equal(ours[earlier:], theirs[:-earlier], err_msg=name)


LINEAR = nir.Linear(np.ones((3, 4), "f4"))

#: Spikes that differ of those recorded, in the first steps: a bias flows 2 steps longer in the second layer here.
BIASED = {"snntorch-Leaky-zero": 1, "snntorch-Leaky-subtract": 1, "spikingjelly-LIFNode": 1, "sinabs-LIF": 4}
FILES = sorted((REPO / "tests" / "network" / "nir_exported").glob("*.nir"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_networks_that_other_simulators_wrote_emit_here_the_spikes_that_they_emit_there(file):
    """Recorded by scripts/nir_exporters.py; every layer is two steps later here."""
    exporters = script("nir_exporters")
    with np.load(file.with_suffix(".npz")) as recorded:
        reading, shape = ast.literal_eval(str(recorded["reading"][0])), tuple(recorded["shape"])
        theirs = np.unpackbits(recorded["spikes"], axis=0)[: exporters.NB_STEPS]
    net = read(file, **reading)
    later = exporters.LATER * len(net.layers)
    x = exporters.stimulus(shape)
    x = torch.cat([x, torch.zeros(later, *x.shape[1:])]).reshape(-1, x.shape[1], *net.layers[0].feedforward.in_shape)
    ours = net(x, record=True, kernel="reference").recorded[-1].detach().numpy()[later:]
    assert theirs.sum() > 100
    differ = ours.reshape(theirs.shape) != theirs
    assert differ.sum() <= BIASED.get(file.stem, 0)
    assert not differ[15:].any()


def test_a_loop_of_another_simulator_is_refused_as_too_short():
    w = nir.Linear(np.eye(3, dtype="f4"))
    inner = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([3])}),
            "lif": lif(),
            "w": w,
            "output": nir.Output({"output": np.array([3])}),
        },
        [("input", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "output")],
    )
    with pytest.raises(UserError, match=r"n1\.w: a loop of 0 steps; the shortest here is 1"):
        from_nir(chain(LINEAR, inner), DT)


def test_a_graph_inside_a_graph_is_read_in_its_place():
    inner = chain(LINEAR, lif(), metadata={})
    outer = chain(inner, nir.Linear(np.ones((3, 3), "f4")), lif())
    found = from_nir(outer, DT)
    assert [layer.feedforward.weight.shape for layer in found.layers] == [(3, 4), (3, 3)]
    with pytest.raises(UserError, match="dialect=brian: unknown; allowed: norse, or none"):
        from_nir(outer, DT, dialect="brian")


def chain(*nodes, metadata=None):
    """A graph of nodes one after the other."""
    named = {f"n{k}": node for k, node in enumerate(nodes)}
    named = {"input": nir.Input({"input": np.array([4])}), **named, "output": nir.Output({"output": np.array([3])})}
    names = list(named)
    return nir.NIRGraph(named, list(pairwise(names)), metadata=metadata or {})


def lif(**changed):
    values = {"tau": np.full(3, 20e-3), "r": np.full(3, 2.0), "v_leak": np.zeros(3), "v_threshold": np.full(3, 4.0)}
    return nir.LIF(**values | changed)


def test_neurons_without_a_synapse_biases_and_thresholds_are_taken_up():
    weight, bias = np.random.default_rng(0).normal(size=(3, 4)).astype("f4") * 20, np.array([5.0, 20.0, 0.0], "f4")
    net = from_nir(chain(nir.Affine(weight, bias), lif()), DT)
    x = (torch.rand(80, 1, 4, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    found = net(x, record=True).spikes[0][:, 0].detach().numpy()
    b, v, expected = np.exp(-DT / 20e-3), np.zeros(3), []
    for step in x[:, 0].numpy():
        expected.append(v > 4.0)
        v = b * np.where(expected[-1], 0, v) + (1 - b) * 2.0 * (weight @ step + bias)
    assert np.sum(expected) > 20
    np.testing.assert_array_equal(found[1:], np.array(expected)[:-1])  # the synapse holds a spike for a step
    assert isinstance(net.layers[0].feedforward.bias, nn.Parameter)


def steps(*values):
    return nir.Delay(np.array(values) * DT)


def first_spikes(net):
    """(4, 3) step of the first spike of every unit after a spike of one input alone."""
    x = torch.eye(4)[None].expand(1, 4, 4)
    z = net.eval()(torch.cat([x, torch.zeros(15, 4, 4)]), record=True, kernel="reference").spikes[0]
    assert bool((z.sum(0) > 0).all())
    return z.argmax(0)


@pytest.mark.parametrize(
    ("nodes", "late", "delay", "kind"),
    [
        ((steps(0, 3, 1, 4), LINEAR), [[0], [3], [1], [4]], 0, AxonalDelays),
        ((steps(3, 3, 3, 3), LINEAR), [[3]] * 4, 1, AxonalDelays),
        ((steps(1, 1, 1, 2), LINEAR, steps(4, 4, 4)), [[5], [5], [5], [6]], 1, AxonalDelays),
        ((LINEAR, steps(1, 5, 2)), [[1, 5, 2]] * 4, 1, DendriticDelays),
        ((steps(1, 1, 1, 1), LINEAR, steps(0, 0, 0)), [[1]] * 4, 1, Dense),
    ],
)
def test_spikes_are_as_late_as_delay_nodes_say(nodes, late, delay, kind):
    neurons = lif(v_threshold=np.full(3, 1e-3))
    net, at_once = (from_nir(chain(*path, neurons), DT) for path in (nodes, [LINEAR]))
    assert (net.delay, type(net.layers[0].feedforward)) == (delay, kind)
    back = from_nir(nir_export.to_nir(net), DT, reset="multiplicative_leak")
    for read_once_or_twice in (net, back):
        assert torch.equal(first_spikes(read_once_or_twice) - first_spikes(at_once), torch.tensor(late).expand(4, 3))


REFUSED = [
    (chain(LINEAR, lif(v_leak=np.ones(3))), r"n1: v_leak is not 0"),
    (chain(LINEAR, nir.Linear(np.ones((3, 3), "f4")), lif()), r"n1: a second connection before n2"),
    (chain(LINEAR), r"n0: a connection to the output without neurons"),
    (chain(nir.Scale(np.ones(4)), LINEAR, lif()), r"n0: Scale nodes are not known; Linear"),
    (
        chain(nir.Delay(np.arange(4) * DT), LINEAR, nir.Delay(np.arange(3) * DT), lif()),
        r"n0: delays of axons and of dendrites; one kind",
    ),
    (
        chain(nir.Delay(np.arange(4) * DT), nir.Affine(np.ones((3, 4), "f4"), np.ones(3, "f4")), lif()),
        r"n0: delays beyond 0 steps beside Dense; delays without a bias",
    ),
]


@pytest.mark.parametrize(("graph", "said"), REFUSED)
def test_what_has_no_equal_is_refused_by_the_name_of_its_node(graph, said):
    with pytest.raises(UserError, match=said):
        from_nir(graph, DT)


def test_dialects_refuse_what_they_cannot_say(tmp_path):
    leak = "multiplicative_leak"
    for net, dialect, said in (
        (network("dense", leak), "norse", "layer 0 is recurrent: Norse's loop is two steps shorter"),
        (network("conv"), "spikingjelly", "layer 0 has reset=multiplicative: SpikingJelly knows no such reset"),
        (network("conv", leak), "snntorch", "layer 0 is a convolution over one axis, which snnTorch does not read"),
        (network("conv", leak), "brian", "dialect=brian: unknown; allowed: norse, snntorch, spikingjelly"),
    ):
        with pytest.raises(UserError, match=said):
            nir_export.to_nir(net, dialect=dialect)
    (tmp_path / "a.nir").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a NIR graph"):
        read(tmp_path / "a.nir")
    with pytest.raises(UserError, match="dt: the graph does not say"):
        from_nir(chain(LINEAR, lif()))
