"""Convolutions of spikes read as bytes: exact in the spikes, weights to 24 bits."""

import pytest
import torch
from kernels.triton_networks import DEVICE, assert_close, network, results, spikes_for
from torch.nn import functional as F

from surgrad.kernels.contract import connection_spec
from surgrad.kernels.gpu import products, spike_convolutions
from surgrad.network.connections import Conv

#: Images, and the convolution: shape, filters, kernel, stride, padding.
SHAPES = {
    "one of each": (1, ((1, 1), 1, 1, 1, 0)),
    "rows over several programs": (21, ((3, 30), 5, 7, 3, 0)),
    "taps over several blocks": (4, ((20, 9), 18, 5, 1, 2)),
    "filters over several programs": (2, ((2, 6), 70, 3, 2, 1)),
    "two axes": (5, ((2, 5, 7), 4, (3, 2), (2, 1), (0, 1))),
    "padding beyond the kernel": (3, ((2, 4), 3, 2, 3, 3)),
}


def operands(nb_images, shape, density=0.3):
    """The connection, its weight, byte spikes, and dL/dI of six orders of magnitude."""
    conv = Conv(*shape)
    g = torch.Generator().manual_seed(nb_images)
    weight = torch.randn(conv.weight.shape, generator=g)
    spikes = (torch.rand(nb_images, *conv.in_shape, generator=g) < density).to(torch.uint8)
    size = nb_images, *conv.out_shape
    drive = torch.randn(size, generator=g) * 10 ** (6 * torch.rand(size, generator=g) - 3)
    return connection_spec(conv, "conv"), *(x.to(DEVICE) for x in (weight, spikes, drive))


def exact(connection, weight, spikes):
    """In float64."""
    convolve = F.conv1d if len(connection.kernel_size) == 1 else F.conv2d
    return convolve(spikes.double(), weight.double(), stride=connection.stride, padding=connection.padding)


def exact_gradient(connection, weight, spikes, drive):
    weight = weight.double().requires_grad_()
    return torch.autograd.grad(exact(connection, weight, spikes), weight, drive.double())[0]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_currents(shape):
    connection, weight, spikes, _ = operands(*shape)
    found = spike_convolutions.product(connection, weight, spikes)
    size = exact(connection, weight.abs(), spikes)
    assert ((found.double() - exact(connection, weight, spikes)).abs() <= 4e-7 * size).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_weight_gradients(shape):
    connection, weight, spikes, drive = operands(*shape)
    found = spike_convolutions.weight_gradient(connection, spikes, drive)
    expected = exact_gradient(connection, weight, spikes, drive)
    size = exact_gradient(connection, weight, spikes, drive.abs())
    assert ((found.double() - expected).abs() <= 4e-7 * size + 1e-30).all()


def test_shares_of_the_rows_cover_them_once():
    """Integers, so that sums are exact."""
    connection, weight, spikes, drive = operands(210, ((2, 30), 3, 7, 3, 0))
    drive = drive.clamp(-4, 4).round()
    found = spike_convolutions.weight_gradient(connection, spikes, drive)
    assert torch.equal(found.double(), exact_gradient(connection, weight, spikes, drive))


def test_images_that_are_too_many_for_cudnn_go_there_in_parts(monkeypatch):
    connection, weight, spikes, drive = operands(4 * 3, ((2, 9), 3, 3, 2, 0))
    spikes, drive = (x.unflatten(0, (4, 3)) for x in (spikes.float(), drive))

    def found():
        yield products.current(connection, weight, spikes, "float32")
        yield products.input_gradient(connection, weight, drive, "float32")
        yield products.weight_gradient(connection, weight, spikes, drive, "float32")

    whole = list(found())
    monkeypatch.setattr(products, "MOST_IMAGES", 5)
    for at_once, in_parts in zip(whole, found(), strict=True):
        assert_close(at_once, in_parts, tolerance=1e-6)


def test_a_number_is_three_of_bf16():
    """Every bit of a weight arrives."""
    connection, _, _, _ = operands(1, ((1, 1), 4, 1, 1, 0))
    weight = torch.tensor([1 + 2.0**-23, -(2 - 2.0**-23), 1 / 3, 1e-20]).view(4, 1, 1).to(DEVICE)
    one = torch.ones(1, 1, 1, dtype=torch.uint8, device=DEVICE)
    assert torch.equal(spike_convolutions.product(connection, weight, one).flatten(), weight.flatten())


def test_no_image():
    connection, weight, spikes, drive = operands(0, ((2, 6), 3, 3, 1, 0))
    assert spike_convolutions.product(connection, weight, spikes).shape == (0, 3, 4)
    assert not spike_convolutions.weight_gradient(connection, spikes, drive).any()


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_spikes_that_are_not_read_as_bytes_are_left_to_the_library(precision, monkeypatch):
    """Those that are not bytes, and all in other precisions."""
    connection, weight, spikes, drive = operands(2, ((2, 9), 3, 4, 2, 1))
    monkeypatch.setattr(spike_convolutions, "spike_convolution", None)
    monkeypatch.setattr(spike_convolutions, "spike_kernel_gradient", None)
    given = spikes.float() if precision == "float32" else spikes
    assert products.operand_type(connection, given, precision) == torch.float32
    found = products.current(connection, weight, given[:, None], precision)[:, 0]
    assert torch.allclose(found.double(), exact(connection, weight, spikes), rtol=1e-2, atol=5e-2)
    found = products.weight_gradient(connection, weight, given[:, None], drive[:, None], precision)
    expected = exact_gradient(connection, weight, spikes, drive)
    assert float((found - expected).norm() / expected.norm()) < 1e-2


def test_a_network_makes_no_float_copy_of_its_spikes(monkeypatch):
    """The library convolves nothing: not forward, not again in the backward pass, not by the weights."""
    conv = Conv((1, 20), 4, 3, 2)
    net = network(conv, recurrent=[Conv(conv.out_shape, 4, 3, 1, 1)])
    x = spikes_for(net, 8, 2).to(torch.uint8)
    expected, gradients = results("reference", net, x)
    monkeypatch.setattr(products, "F", None)
    monkeypatch.setattr(products, "convolution_gradients", None)
    found, same = results("cuda", net, x, memory="recompute")
    assert found.counts[0].any()
    assert torch.equal(found.recorded[0], expected.recorded[0])
    for name in ("layers.0.feedforward.weight", "layers.0.recurrent.weight"):
        assert float((same[name] - gradients[name]).norm() / gradients[name].norm()) < 1e-4
