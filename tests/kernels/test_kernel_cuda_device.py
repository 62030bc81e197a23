"""The Triton kernels compile for GPUs that are not there; where there is one, larger networks run on it."""

import contextlib
import json
import math
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from kernels.spiking_parts import NOISES
from kernels.triton_networks import (
    DEVICE,
    GPU,
    assert_close,
    cuda,
    network,
    results,
    spikes_for,
    strict,
)
from torch.nn import functional as F
from torch.nn.utils import clip_grad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.kernels import call, checks, dispatch, events
from surgrad.kernels.events import Events
from surgrad.kernels.gpu import adaptive, layer, layerwise, products, spike_convolutions, spike_products
from surgrad.kernels.philox import NoiseKey
from surgrad.network.connections import Conv, Dense, GaussianDelays
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays
from surgrad.network.normalization import TemporalBatchNorm
from surgrad.neurons import escape_noise
from surgrad.neurons.lif import LIF, AdaptiveLIF
from surgrad.training.captured import Captured
from surgrad.training.loop import Compute, Objective, Step
from surgrad.training.losses import MaxOverTimeCrossEntropy
from surgrad.training.optimizers import build_optimizer
from surgrad.training.regularizers import LowerBoundL2, UpperBoundL2


def published(noise, recurrent=True, **options):
    """The network of the paper."""
    connections = [Conv((1, 700), 16, 21, 10, 0), Conv((16, 68), 32, 7, 3, 0), Conv((32, 21), 64, 7, 3, 0)]
    loops = [Conv(c.out_shape, c.out_shape[0], 5, 1, 2) if recurrent else None for c in connections]
    return network(*connections, neuron=LIF(escape_noise=noise), recurrent=loops, classes=20, **options)


COMPILE = """
import json
from surgrad.neurons.escape_noise import Sigmoid  # noqa: E402
from surgrad.kernels.contract import connection_spec  # noqa: E402
from surgrad.kernels.gpu.compile import compiled  # noqa: E402
from surgrad.kernels.gpu.layer import Population  # noqa: E402
from surgrad.network.connections import Conv, Dense  # noqa: E402
from surgrad.neurons.lif import LIF  # noqa: E402

noisy = LIF(escape_noise=Sigmoid(10.0), diff_reset=True)
populations = [
    (Population((16, 70), LIF(), connection_spec(Conv((16, 70), 16, 5, 1, 2), "loop"), 0, 400, "float32"), 90, False),
    (Population((64,), noisy, connection_spec(Dense(64, 64), "loop"), 0, 400, "bf16"), 80, True),
    (Population((128,), noisy, connection_spec(Dense(128, 128), "loop"), 0, 128, "float32"), 80, False),
    (Population((20,), None, None, 0, 128, "float32"), 90, True),
]
print(json.dumps([
    [len(kernel.asm["cubin"]), kernel.metadata.shared]
    for population, capability, decays in populations
    for kernel in compiled(population, capability, decays).values()
]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
def test_kernels_compile_for_gpus_that_are_not_there(tmp_path):
    """Machine code for Ampere and Hopper by Triton's own assembler, within the 99 KiB of shared memory all offer."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = json.loads(done.stdout)
    assert len(kernels) == 8
    assert all(code > 0 and shared <= 99 * 1024 for code, shared in kernels)


class Operations(TorchDispatchMode):
    """Counts the operations that would be launched on a device: all but views and allocations."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.removeprefix("aten::")
        if not operation.is_view and "empty" not in name and not name.startswith("profiler"):
            self.counts[name] += 1
        return operation(*args, **(kwargs or {}))


class Launches:
    """In place of a Triton kernel: counts its launches."""

    number = 0

    def __getitem__(self, grid):
        return self._launch

    def _launch(self, *args, **constants):
        self.number += 1


KERNELS = {
    layer: ("scan", "scan_adjoint"),
    spike_products: ("spike_product", "spike_weight_gradient"),
    spike_convolutions: ("spike_convolution", "spike_kernel_gradient"),
}


@pytest.fixture
def meta(monkeypatch):
    """The meta device stands for a GPU; what stands for the kernels, by their names."""
    kernels = {}
    for module, names in KERNELS.items():
        for name in names:
            kernels[name] = Launches()
            monkeypatch.setattr(module, name, kernels[name])
    monkeypatch.setattr(
        spike_products, "readable", lambda spikes, precision: spikes.dtype == torch.uint8 and precision == "float32"
    )
    for module in (checks, call, events):
        monkeypatch.setattr(module, "require_device", lambda *args: None)
    monkeypatch.setattr(clip_grad, "_has_foreach_support", lambda *args: True)  # as on a GPU
    monkeypatch.setattr(dispatch, "sample_ids", lambda ids, *args: ids)
    monkeypatch.setattr(dispatch, "_own_precision", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(dispatch, "choose", lambda *args: dispatch.Choice("cuda", cuda.run, ""))
    return kernels


@pytest.mark.parametrize("trained", [(), "layer"], ids=["fixed", "trained"])
def test_a_training_step_never_reads_from_the_device(meta, trained):
    """On tensors without values: an operation that reads one fails, and what would be launched is counted."""
    net = published(NOISES[1], trained=trained).to_empty(device="meta")
    optimizer = build_optimizer("smorms3", net.parameters(), 1e-3)
    x, labels = (
        torch.zeros(350, 400, 1, 700, dtype=torch.uint8, device="meta"),
        torch.zeros(400, dtype=torch.int64, device="meta"),
    )
    address = call.Address(NoiseKey(1, 2), torch.arange(400, device="meta"))
    for _ in range(2):  # the first makes the optimiser's state
        with Operations() as operations:
            optimizer.zero_grad()
            output = cuda.run(net.spec(), x, call.Options(address))
            loss = F.cross_entropy(output.y.amax(0), labels) + sum((counts**2).mean() for counts in output.counts)
            loss.backward()
            optimizer.step()
    per_step = {name: kernel.number / 2 for name, kernel in meta.items()}
    assert per_step == {  # in one chunk of time
        "scan": 4,
        "scan_adjoint": 4,
        "spike_product": 1,
        "spike_weight_gradient": 1,
        "spike_convolution": 6,
        "spike_kernel_gradient": 6,
    }
    assert operations.counts["convolution"] == 0
    assert operations.counts["convolution_backward"] == 2 * math.ceil(350 * 400 / products.MOST_IMAGES)
    assert operations.counts.total() + sum(per_step.values()) < 150


#: Operations that PyTorch refuses on CUDA under `torch.use_deterministic_algorithms`, by its documentation (2.13).
UNORDERED = {
    "bincount", "ctc_loss", "cumsum", "embedding_bag", "histc", "kthvalue", "max_unpool2d", "median",
    "nll_loss2d_forward", "put", "put_", "resize_", "scatter_reduce", "upsample_linear1d_backward",
}  # fmt: skip


class FromHost(Operations):
    """The operations that take a tensor of the host beside one of the device."""

    def __init__(self):
        super().__init__()
        self.mixed = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = super().__torch_dispatch__(operation, types, args, kwargs)
        devices = {x.device.type for x in tree_leaves((args, kwargs, found)) if isinstance(x, torch.Tensor)}
        if len(devices) > 1:
            self.mixed.append(operation._schema.name)
        return found


def step_on_meta(net, regularizers, unit_shape, nb_steps=350, optimizer="smorms3", **options):
    """The operations of a second step: events, loss, penalties, clipping and optimiser included."""
    objective = Objective(MaxOverTimeCrossEntropy(label_smoothing=0.1), regularizers)
    optimizer = build_optimizer(optimizer, net.parameters(), 1e-3, **options)
    step = Step(net, objective, optimizer, grad_clip=1.0, compute=Compute("cuda"))
    long = {"dtype": torch.int64, "device": "meta"}
    steps, units = (torch.zeros(2816, dtype=torch.int32, device="meta") for _ in range(2))
    labels, ids, offsets, draw = (torch.zeros(shape, **long) for shape in ((400,), (400,), (401,), ()))
    batch = EventBatch(steps, units, offsets, labels, ids, nb_steps, unit_shape)
    for _ in range(2):
        with FromHost() as operations:
            step(batch, draw)
    return operations


@pytest.mark.parametrize("regularizers", [[], [UpperBoundL2(0.1, 7.0), LowerBoundL2(0.1, 1.0, "batch")]])
def test_what_is_captured_neither_reads_nor_copies_from_the_host(meta, regularizers):
    """On tensors without values."""
    operations = step_on_meta(published(NOISES[1], trained="layer").to_empty(device="meta"), regularizers, (1, 700))
    assert operations.mixed == []
    assert operations.counts.total() + sum(kernel.number // 2 for kernel in meta.values()) < 300
    assert not operations.counts.keys() & UNORDERED


def test_nor_does_a_step_layer_by_layer(meta, monkeypatch):
    """Adaptation, delays, dropout and normalisation."""
    kernels = Launches(), Launches()
    for name, kernel in zip(("adaptive_scan", "adaptive_scan_adjoint"), kernels, strict=True):
        monkeypatch.setattr(adaptive, name, kernel)
    monkeypatch.setattr(dispatch, "choose", lambda *args: dispatch.Choice("cuda", layerwise.run, ""))
    layers = [
        SpikingLayer(
            GaussianDelays(700, 128, 50e-3, 10e-3, 1e-3, 10), AdaptiveLIF(), 20e-3, 10e-3, Dense(128, 128),
            normalization=TemporalBatchNorm((128,)), dropout=0.2, recurrent_dropout=0.2,
        ),
        SpikingLayer(Dense(128, 128), LIF(), 20e-3, 10e-3, AxonalDelays(128, 128, 50e-3, width=20e-3), dropout=0.2),
    ]  # fmt: skip
    net = Network(layers, Readout(AxonalDelays(128, 20, 50e-3), 40e-3, 10e-3), 2e-3).to_empty(device="meta")
    operations = step_on_meta(net, [UpperBoundL2(0.1, 7.0)], (700,), 100)
    assert [kernel.number for kernel in kernels] == [4, 4]
    assert operations.mixed == []
    assert not operations.counts.keys() & UNORDERED


def test_input_that_was_left_on_the_cpu_is_named(monkeypatch):
    """The meta device stands for a GPU: parameters there, input here, and no advice that does not help."""
    with monkeypatch.context() as patch:
        patch.setattr(checks, "require_device", lambda *args: None)
        spec = network(Dense(8, 6)).to_empty(device="meta").spec()
    x = torch.zeros(5, 2, 8)
    batch = EventBatch.from_dense(x)
    for given in (x, Events(batch.steps, batch.units, batch.offsets, batch.nb_steps, batch.unit_shape)):
        with pytest.raises(UserError, match=r" on cpu, the parameters are on meta; move one with \.to\(device\)"):
            call.network_input(spec, given)


needs_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA device")


@needs_gpu
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
@pytest.mark.parametrize("recurrent", [False, True])
def test_published_shapes_on_a_gpu(noise, recurrent):
    net = published(noise, recurrent)
    strict(net, spikes_for(net, 100, 48, 0.02))


@needs_gpu
@pytest.mark.parametrize("nb_units", [128, 256, 700])
def test_dense_recurrence_on_a_gpu(nb_units):
    net = network(Dense(700, nb_units), recurrent=[Dense(nb_units, nb_units)], trained="units", classes=20)
    strict(net, spikes_for(net, 100, 64, 0.02))


@needs_gpu
def test_a_run_repeats_itself_on_a_gpu():
    """A spike read before it is stored would show as a run that differs from the one before."""
    net = network(Dense(64, 128), recurrent=[Dense(128, 128)])
    x = spikes_for(net, 350, 128, 0.05)
    first, gradients = results("cuda", net, x)
    for _ in range(20):
        again, same = results("cuda", net, x)
        assert torch.equal(first.spikes[0], again.spikes[0])
        for name, gradient in gradients.items():
            assert_close(gradient, same[name], name, 1e-6)


@needs_gpu
def test_captured_training_is_training_to_the_bit():
    weights = []
    for whole in (None, Captured(32)):
        net = network(Dense(40, 64), neuron=LIF(escape_noise=escape_noise.Sigmoid(10.0)), recurrent=[Dense(64, 64)])
        optimizer = torch.optim.Adam(net.parameters(), 1e-3, capturable=True)
        step = Step(net, Objective(MaxOverTimeCrossEntropy(), [UpperBoundL2(0.1, 1.0)]), optimizer, grad_clip=1.0)
        for draw in range(8):
            x = spikes_for(net, 50, 32, 0.1 + 0.005 * draw, seed=draw).cpu()
            batch = EventBatch.from_dense(x, labels=torch.arange(32) % 3).to(DEVICE)
            if whole is None:
                step(batch, draw)
            else:
                whole.begin(step)
                assert whole(batch, draw) is not None
        weights.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
