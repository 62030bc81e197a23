"""Runs under PyTorch's deterministic algorithms, and launches on the device of their input."""

import contextlib

import pytest
import torch
from kernels.spiking_parts import NOISES
from kernels.triton_networks import DEVICE, ids_of, network, results, spikes_for

from surgrad.datasets.batch import EventBatch
from surgrad.kernels.gpu import adaptive, layer, spike_products
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays
from surgrad.neurons.lif import LIF, AdaptiveLIF
from surgrad.training.loop import Compute, Objective, Step
from surgrad.training.losses import MaxOverTimeCrossEntropy
from surgrad.training.optimizers import OPTIMIZERS
from surgrad.training.regularizers import UpperBoundL2


@pytest.fixture
def deterministic():
    """As a user asks for it; memory that is not initialised holds NaN then."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def recurrent():
    first = Conv((1, 9), 4, 3, 2)
    loops = [Conv(first.out_shape, 4, 3, 1, 1), None]
    return network(
        first, Dense(first.out_shape, 5), neuron=LIF(escape_noise=NOISES[1]), recurrent=loops, trained="units"
    )


def delayed():
    layers = [
        SpikingLayer(Dense(8, 6), AdaptiveLIF(), 20e-3, 10e-3, AxonalDelays(6, 6, 9e-3), recurrent_dropout=0.3),
        SpikingLayer(AxonalDelays(6, 5, 9e-3), LIF(), 20e-3, 10e-3, dropout=0.3),
    ]
    return Network(layers, Readout(Dense(5, 3), 40e-3, 10e-3), 2e-3).to(DEVICE)


@pytest.mark.parametrize("make", [recurrent, delayed])
@pytest.mark.parametrize("kernel", ["cuda", "reference"])
def test_a_step_passes_under_deterministic_algorithms(make, kernel, deterministic):
    net = make()
    x = spikes_for(net, 9, 3, 0.4)
    batch = EventBatch.from_dense(x.cpu(), labels=torch.arange(3)).to(DEVICE)
    for optimizer in OPTIMIZERS.values():
        objective = Objective(MaxOverTimeCrossEntropy(label_smoothing=0.1), [UpperBoundL2(0.1, 1.0)])
        step = Step(net, objective, optimizer(net.parameters(), lr=1e-3), grad_clip=1.0, compute=Compute(kernel))
        assert step(batch, 1).isfinite().all()
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("make", [recurrent, delayed])
def test_memory_that_holds_nan_changes_no_bit(make):
    net = make()
    x = spikes_for(net, 9, 3, 0.4)
    expected, wanted = results("cuda", net, x)
    torch.use_deterministic_algorithms(True)
    try:
        found, gradients = results("cuda", net, x)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(expected.y, found.y)
    for name, gradient in wanted.items():
        assert gradient is None or torch.equal(gradient, gradients[name]), name


@pytest.mark.parametrize("make", [recurrent, delayed])
def test_every_launch_is_on_the_device_of_its_input(make, monkeypatch):
    """Whatever the current device is: within `torch.cuda.device_of`, given one of its tensors."""
    guards, launched = [], []

    @contextlib.contextmanager
    def guard(tensor):
        guards.append(tensor)
        yield
        guards.pop()

    class Guarded:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launched.append(len(guards))
            return self.kernel[grid]

    monkeypatch.setattr(torch.cuda, "device_of", guard)
    for module, names in (
        (layer, ("scan", "scan_adjoint")),
        (adaptive, ("adaptive_scan", "adaptive_scan_adjoint")),
        (spike_products, ("spike_product", "spike_weight_gradient")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, Guarded(getattr(module, name)))
    net = make()
    x = spikes_for(net, 9, 3, 0.4)
    results("cuda", net, x)
    assert len(launched) >= 6
    assert min(launched) == 1
    assert ids_of(x).device == DEVICE
