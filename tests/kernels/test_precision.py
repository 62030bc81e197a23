"""Products are in float32 whatever the process allows, forward and backward, and leave its flags as they were."""

import pytest
import torch
from kernels.spiking_parts import NOISES
from kernels.triton_networks import DEVICE, assert_close, cuda, ids_of, loss_of, network, results, spikes_for
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from surgrad.errors import UserError
from surgrad.kernels import call, checks, precision
from surgrad.kernels.gpu import layer, layerwise
from surgrad.network.connections import Conv, DelayedDense, Dense, GaussianDelays
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays
from surgrad.neurons.lif import LIF, AdaptiveLIF

CPU = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
GPU = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)


@pytest.fixture
def loose():
    """Everything is allowed; afterwards what was."""
    switches = (*CPU, *GPU)
    before = [switch.fp32_precision for switch in switches]
    torch.set_float32_matmul_precision("medium")
    CPU[1].fp32_precision, GPU[1].fp32_precision = "bf16", "tf32"
    yield [switch.fp32_precision for switch in switches]
    torch.set_float32_matmul_precision("highest")
    for switch, value in zip(switches, before, strict=True):
        switch.fp32_precision = value


class Products(TorchDispatchMode):
    """What was allowed when a product ran: matrix products, convolutions, whether sums have one order."""

    def __init__(self, switches):
        super().__init__()
        self.switches, self.seen = switches, []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.removeprefix("aten::")
        if name in ("mm", "addmm", "linear", "convolution", "convolution_backward"):
            cudnn = torch.backends.cudnn
            self.seen.append((*(s.fp32_precision for s in self.switches), cudnn.deterministic and not cudnn.benchmark))
        return operation(*args, **(kwargs or {}))


def connections(device):
    for connection in (Dense((2, 3), 5), Conv((2, 9), 3, 3), Conv((2, 5, 4), 3, 3)):
        nn.init.normal_(connection.weight, generator=torch.Generator().manual_seed(1))
        x = torch.randn(4, 2, *connection.in_shape, generator=torch.Generator().manual_seed(0))
        yield connection.to(device), x.to(device).requires_grad_()


@pytest.mark.parametrize(("device", "switches"), [("cpu", CPU), ("meta", GPU)])
def test_connections_are_in_float32(loose, device, switches):
    """The meta device stands for a GPU: it is asked for the same, and computes nothing."""
    for connection, x in connections(device):
        with Products(switches) as products:
            connection(x).square().sum().backward()
        assert len(products.seen) >= 2
        assert {seen[:2] for seen in products.seen} == {("ieee", "ieee")}
        assert device == "cpu" or all(seen[2] for seen in products.seen)
        assert [switch.fp32_precision for switch in (*CPU, *GPU)] == loose


def test_delayed_connections_are_in_float32(loose):
    connection = DelayedDense(6, 5, 10e-3)
    with Products(CPU) as products:
        connection(torch.ones(7, 2, 6), dt=2e-3).square().sum().backward()
    assert {seen[0] for seen in products.seen} == {"ieee"}


def test_flags_change_nothing_on_a_cpu(loose):
    found = []
    for matmul in ("bf16", "ieee"):
        CPU[0].fp32_precision = CPU[1].fp32_precision = matmul
        for connection, x in connections("cpu"):
            y = connection(x)
            y.square().sum().backward()
            found.append((y.detach(), x.grad, connection.weight.grad))
    half = len(found) // 2
    for a, b in zip(found[:half], found[half:], strict=True):
        assert_close(a[0], b[0], tolerance=1e-6)
        assert_close(a[1], b[1], tolerance=1e-6)
        assert_close(a[2], b[2], tolerance=1e-6)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x, w: precision._Linear.apply(x, w, "float32"), [(3, 2, 4), (5, 4)]),
        (lambda x, w: precision._Convolution.apply(x, w, (2,), (1,), "float32"), [(3, 2, 5), (4, 2, 3)]),
        (lambda x, w: precision._Convolution.apply(x, w, (1, 1), (2, 0), "float32"), [(1, 3, 5, 2), (3, 1, 3, 1)]),
    ],
    ids=["linear", "convolution", "in groups"],
)
def test_their_derivatives_of_both_orders(function, shapes):
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_what_is_thrown_leaves_the_flags_as_they_were(loose):
    def stopped():
        with precision.products("float32", torch.device("meta")):
            raise ValueError(f"stop at {GPU[0].fp32_precision}")

    with pytest.raises(ValueError, match="stop at ieee"):
        stopped()
    assert [switch.fp32_precision for switch in (*CPU, *GPU)] == loose


class Launches:
    """In place of a Triton kernel."""

    def __getitem__(self, grid):
        return lambda *args, **constants: None


@pytest.mark.parametrize(("wanted", "allowed"), [("float32", "ieee"), ("tf32", "tf32"), ("bf16", "tf32")])
def test_a_network_on_a_gpu_is_in_the_precision_it_was_given(loose, monkeypatch, wanted, allowed):
    for name in ("scan", "scan_adjoint"):
        monkeypatch.setattr(layer, name, Launches())
    for module in (checks, call):
        monkeypatch.setattr(module, "require_device", lambda *args: None)
    convolution = Conv((1, 9), 3, 3)
    net = network(convolution, recurrent=[Conv(convolution.out_shape, 3, 3, 1, 1)]).to_empty(device="meta")
    options = call.Options(call.Address(call.NoiseKey(), torch.arange(2, device="meta")), precision=wanted)
    with Products(GPU) as products:
        loss_of(cuda.run(net.spec(), torch.zeros(7, 2, 1, 9, device="meta"), options)).backward()
    assert len(products.seen) >= 6
    assert set(products.seen) == {(allowed, allowed, True)}
    assert [switch.fp32_precision for switch in (*CPU, *GPU)] == loose


class Operands(TorchDispatchMode):
    """The products that ran, and those of them with operands of more bits than bf16 has."""

    def __init__(self):
        super().__init__()
        self.seen, self.finer = [], []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.removeprefix("aten::")
        if name in ("mm", "addmm", "bmm", "linear", "convolution", "convolution_backward"):
            self.seen.append(name)
            operands = [x for x in args[:3] if isinstance(x, torch.Tensor)]
            self.finer += [name for x in operands if not torch.equal(x, x.bfloat16().float())]
        return operation(*args, **(kwargs or {}))


def layer_by_layer(kind):
    """Two layers and a readout that run layer by layer: with delays and adaptation, or convolutions with dropout."""
    if kind == "conv":
        first = Conv((2, 9), 4, 3, 2)
        layers = [
            SpikingLayer(first, LIF(), 20e-3, 10e-3, Conv(first.out_shape, 4, 3, 1, 1), recurrent_dropout=0.3),
            SpikingLayer(Conv(first.out_shape, 3, 2), AdaptiveLIF(), 20e-3, 10e-3),
        ]
        readout = Dense(layers[1].unit_shape, 3)
    else:
        layers = [
            SpikingLayer(GaussianDelays(8, 6, 9e-3, 3e-3, 1e-3, 10), LIF(), 20e-3, 10e-3, AxonalDelays(6, 6, 9e-3)),
            SpikingLayer(Dense(6, 5), AdaptiveLIF(), 20e-3, 10e-3, Dense(5, 5)),
        ]
        readout = AxonalDelays(5, 3, 9e-3)
    net = Network(layers, Readout(readout, 40e-3, 10e-3), 2e-3)
    for part in net.modules():
        if isinstance(part, Dense | Conv):
            nn.init.normal_(part.weight, 1.0, 3.0, generator=torch.Generator().manual_seed(1))
    return net.to(DEVICE)


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("wanted", ["bf16", "float32"])
def test_every_product_of_a_network_layer_by_layer_is_in_the_precision_it_was_given(kind, wanted, monkeypatch):
    net, dots = layer_by_layer(kind), []
    of_dots = layer.Population._dot_precision
    monkeypatch.setattr(
        layer.Population, "_dot_precision", lambda self, device: dots.append(self.precision) or of_dots(self, device)
    )
    x = spikes_for(net, 9, 2)
    output = net(x, ids=ids_of(x), kernel="cuda", precision=wanted)
    with Operands() as backward:
        loss_of(output).backward()
    with Operands() as forward, torch.no_grad():
        net(x, ids=ids_of(x), kernel="cuda", precision=wanted)
    assert len(forward.seen) >= 3
    assert len(backward.seen) >= 5
    assert (forward.finer + backward.finer == []) == (wanted == "bf16")
    # A readout has no product within its scan.
    assert wanted in dots


@pytest.mark.parametrize(("wanted", "allowed"), [("float32", "ieee"), ("tf32", "tf32"), ("bf16", "tf32")])
def test_what_is_asked_for_reaches_connections_on_a_gpu(loose, wanted, allowed):
    for connection, x in connections("meta"):
        with Products(GPU) as products:
            with precision.asked(wanted):
                y = connection(x)
            y.square().sum().backward()
        assert {seen[:2] for seen in products.seen} == {(allowed, allowed)}
    assert [switch.fp32_precision for switch in (*CPU, *GPU)] == loose


def test_a_precision_that_a_part_would_not_follow_is_refused():
    net = network(Dense(4, 3), recurrent=[Dense(3, 3)])
    net.layers[0].recurrent = nn.Linear(3, 3, bias=False).to(DEVICE)
    x = spikes_for(net, 3, 1)
    with pytest.raises(UserError, match=r"precision='bf16' does not reach .*Linear.*; give precision=float32"):
        layerwise.run(net.spec(), x, call.Options(call.Address(call.NoiseKey(), ids_of(x)), precision="bf16"))


@pytest.mark.parametrize("recurrent", [True, False])
def test_a_backward_pass_under_autocast_is_in_float32(recurrent):
    net = network(Dense(8, 6), Dense(6, 5), recurrent=[Dense(6, 6) if recurrent else None, None])
    x = spikes_for(net, 9, 2, 0.5)
    _, expected = results("cuda", net, x)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        _, found = results("cuda", net, x)
    for name, gradient in expected.items():
        assert gradient is None or torch.equal(gradient, found[name]), name


@pytest.mark.parametrize("wanted", ["tf32", "bf16"])
def test_precisions_below_float32_keep_the_spikes_of_weights_that_fit(wanted):
    net = network(Dense(8, 6), neuron=LIF(escape_noise=NOISES[1]), recurrent=[Dense(6, 6)])
    for parameter in net.parameters():
        if parameter.dim() == 2:
            parameter.data = parameter.data.bfloat16().float()
    x = spikes_for(net, 9, 2)
    (a, exact), (b, rounded) = (results("cuda", net, x, precision=p) for p in ("float32", wanted))
    assert torch.equal(a.spikes[0], b.spikes[0])
    for name, gradient in exact.items():
        assert_close(gradient, rounded[name], name, 2e-2)


def test_a_cpu_has_no_other_precision():
    net = network(Dense(4, 3))
    x = spikes_for(net, 3, 1)
    with pytest.raises(UserError, match="is for kernel='cuda'"):
        net(x, ids=ids_of(x), precision="tf32", kernel="reference")
    with pytest.raises(UserError, match="float32, tf32, bf16"):
        net(x, ids=ids_of(x), precision="half")
