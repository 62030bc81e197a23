"""Signals reach Python during a call into compiled code: a handler that raises ends it, and nothing is left over."""

import ctypes
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from surgrad.datasets.encoding import cochlea
from surgrad.eventprop.grid import GridLayer, GridReadout
from surgrad.eventprop.layers import EventLayer, EventLIF, EventReadout, spikes_from_times
from surgrad.experiments.superspike.online import SuperSpikeNetwork, SuperSpikeRule
from surgrad.kernels import dispatch
from surgrad.kernels.cpu import adaptive as adaptive_scan
from surgrad.kernels.cpu import build, delays, eventprop, eventprop_grid, products
from surgrad.kernels.cpu import superspike as superspike_kernel
from surgrad.network.connections import DelayedDense, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays
from surgrad.neurons.lif import LIF, AdaptiveLIF
from surgrad.runs.folder import open_run
from surgrad.runs.record import load_runs

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C++ compiler on this machine")

NEURON = EventLIF(20e-3, 5e-3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def spikes(*shape, rate=0.1):
    return (torch.rand(*shape, generator=seeded(1)) < rate).float()


def gradients(modules, y):
    """y, and the gradients of the sum of its squares."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [y.detach(), *torch.autograd.grad(y.square().sum(), parameters)]


def network(first, recurrent=False, steps=200):
    torch.manual_seed(0)
    loop = Dense(256, 256) if recurrent else None
    net = Network([SpikingLayer(first(), LIF(), 20e-3, 10e-3, loop)], Readout(Dense(256, 4), 20e-3, 10e-3), dt=1e-3)
    return gradients([net], net(spikes(steps, 24, 128)).readout)


def stream():
    current = (4 * torch.randn(100, 32, 1024, generator=seeded())).requires_grad_()
    a, b = torch.full((2, 1024), 0.9)
    found = dispatch.lif(current, a, b, LIF(), kernel="cpu")[0]
    return found.detach(), *torch.autograd.grad(found.sum(), current)


def adaptive():
    torch.manual_seed(0)
    layer = SpikingLayer(Dense(64, 256), AdaptiveLIF(), 20e-3, 10e-3, Dense(256, 256))
    net = Network([layer], Readout(Dense(256, 4), 20e-3, 10e-3), dt=1e-3)
    return gradients([net], net(spikes(100, 24, 64)).readout)


def event_layer():
    torch.manual_seed(0)
    times = 50e-3 * torch.rand(200, 200, generator=seeded())
    given, layer = spikes_from_times(times, 60e-3), EventLayer(200, 256, NEURON, recurrent=True)
    layer.weight.data = 0.02 * torch.randn(200, 256, generator=seeded()) + 0.05
    found = layer(given, 60e-3)
    return gradients([layer], found.times)


def event_readout(of):
    torch.manual_seed(0)
    given = spikes_from_times(50e-3 * torch.rand(128, 300, generator=seeded()), 60e-3)
    readout = EventReadout(300, 256, NEURON)
    value = readout.maximum(given, 60e-3) if of == "peaks" else readout.voltage(given, torch.linspace(0, 0.06, 50))
    return gradients([readout], value)


def on_grid(module):
    torch.manual_seed(0)
    layer = module(200, 256, NEURON, 1e-3)
    layer.weight.data.normal_(0.02, 0.1)
    return gradients([layer], layer(spikes(200, 24, 200)))


def superspike_network():
    hidden, output = torch.randn(2, 256, 256, generator=seeded())
    return SuperSpikeNetwork(hidden, output, SuperSpikeRule())


def superspike():
    net = superspike_network()
    return torch.tensor(net.run(spikes(100, 256), spikes(100, 256))[0]), net.hidden.weight


def matrices():
    return [products.product(*torch.randn(2, 768, 768, generator=seeded()))]


STAGES = ("filter", "hair_cell", "releases", "uniform", "bushy_cell")


def hearing(stage):
    rng = np.random.default_rng(0)
    velocity = rng.normal(size=(64, 24000))
    stages = {
        "filter": lambda: np.concatenate([v for _, v in cochlea.BasilarMembrane(16).velocity(rng.normal(size=48000))]),
        "hair_cell": lambda: cochlea.hair_cell(velocity, 1e-5, cochlea.HairCell()),
        "releases": lambda: cochlea.releases(np.abs(velocity) * 1e-2, 1, cochlea.ReleaseSites(), 24),
        "uniform": lambda: cochlea.uniform(1, 0, 10**6),
        "bushy_cell": lambda: cochlea.bushy_cell(np.ones((64, 24000)), 1e-5, cochlea.BushyCell()),
    }
    return [torch.from_numpy(stages[stage]())]


#: What runs; the library that it calls, and those functions of it.
RUNS = {
    "lif": (lambda: network(lambda: Dense(128, 256), True), "lif", "surgrad_forward surgrad_backward"),
    "stream": (stream, "lif", "surgrad_forward surgrad_backward"),
    "adaptive": (adaptive, "adaptive", "adaptive_forward adaptive_backward"),
    "delays": (lambda: network(lambda: DelayedDense(128, 256, 20e-3)), "delays", "synapses_forward synapses_backward"),
    "spread": (
        lambda: network(lambda: AxonalDelays(128, 256, 20e-3)),
        "delays",
        "spread_forward spread_correlate",
    ),
    "products": (matrices, "products", "surgrad_product"),
    "eventprop": (event_layer, "eventprop", "eventprop_forward_f32 eventprop_backward_f32"),
    "peaks": (lambda: event_readout("peaks"), "eventprop", "eventprop_peaks_f32 eventprop_peaks_backward_f32"),
    "voltages": (
        lambda: event_readout("voltages"),
        "eventprop",
        "eventprop_voltages_f32 eventprop_voltages_backward_f32",
    ),
    "grid": (lambda: on_grid(GridLayer), "eventprop_grid", "grid_spiking_f32 grid_spiking_backward_f32"),
    "leaking": (lambda: on_grid(GridReadout), "eventprop_grid", "grid_leaking_f32 grid_leaking_backward_f32"),
    "superspike": (superspike, "superspike", "superspike_run"),
    **{stage: (lambda stage=stage: hearing(stage), "cochlea", f"cochlea_{stage}") for stage in STAGES},
}


class Stopped(Exception):
    """Stands for what a handler of a signal raises."""


def stopping(library, function, spent):
    """The function, in whose calls the first look for signals finds one; how often each call looks is kept."""

    def call(*arguments):
        looks = []
        check = ctypes.PYFUNCTYPE(ctypes.c_int)(lambda: looks.append(True) or -1)
        python = [ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p) for name in build.INTERPRETER[:2]]
        library.surgrad_use_python(*python, ctypes.cast(check, ctypes.c_void_p), 0)
        try:
            function(*arguments)
        finally:
            build.listen(library)
        spent.append(len(looks))
        raise Stopped

    return call


#: Functions that keep a library, or a function of one.
KEEPING = (
    *(build.library, build.compiled, adaptive_scan.library, delays.library, superspike_kernel.library),
    *(products._library, cochlea._library, eventprop._function, eventprop_grid._function),
)


@pytest.fixture(autouse=True, scope="module")
def one_library():
    """Other tests have loaded some libraries twice."""
    for function in KEEPING:
        function.cache_clear()


@pytest.mark.parametrize(("run", "name", "functions"), RUNS.values(), ids=RUNS)
def test_a_handler_that_raises_ends_the_call_and_the_next_one_is_whole(run, name, functions, monkeypatch):
    library = build.library() if name == "lif" else build.compiled(name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def through(wrap, function, spent):
        with monkeypatch.context() as patched:
            for module in (eventprop, eventprop_grid):
                patched.setattr(module, "_function", module._function.__wrapped__)
            patched.setattr(library, function, wrap(library, getattr(library, function), spent))
            return run()

    try:
        expected = run()
        for function in functions.split():
            looks = []
            with pytest.raises(Stopped):
                through(stopping, function, looks)
            assert looks == [1]  # it would have looked again
        found = run()
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)], ids=["term", "ctrl-c"]
)
def test_a_run_answers_inside_a_call_of_minutes_and_says_how_to_go_on(number, expected, tmp_path, caplog):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    net = superspike_network()
    silence = torch.zeros(200_000, 256, dtype=torch.uint8)  # minutes
    timer = threading.Timer(0.2, os.kill, (os.getpid(), number))
    started = time.monotonic()
    try:
        with pytest.raises(expected) as stopped, open_run(tmp_path, {}) as run:  # noqa: PT012
            run.checkpoint({"epoch": 1})
            timer.start()
            net.run(silence, silence)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 60
    assert getattr(stopped.value, "code", 143) == 143
    assert load_runs(tmp_path)[0].status == "interrupted"
    assert f"the run is kept in {tmp_path}: the same command goes on from its last checkpoint" in caplog.text
