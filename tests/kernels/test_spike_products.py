"""Products of spikes read as bytes: exact in the spikes, weights to 24 bits."""

import json
import os
import subprocess
import sys

import pytest
import torch
from kernels.triton_networks import DEVICE

from surgrad.kernels.gpu import products, spike_products


def operands(rows, fan_in, units, density=0.3):
    g = torch.Generator().manual_seed(rows + fan_in + units)
    spikes = (torch.rand(rows, fan_in, generator=g) < density).to(torch.uint8)
    # of six orders of magnitude
    scale = 10 ** (6 * torch.rand(rows, units, generator=g) - 3)
    return spikes.to(DEVICE), (torch.randn(rows, units, generator=g) * scale).to(DEVICE), g


@pytest.mark.parametrize(("rows", "fan_in", "units"), [(1, 1, 1), (130, 33, 70), (17, 64, 16)])
def test_currents(rows, fan_in, units):
    spikes, _, g = operands(rows, fan_in, units)
    weight = torch.randn(units, fan_in, generator=g).to(DEVICE)
    exact = spikes.double() @ weight.double().t()
    size = spikes.double() @ weight.double().abs().t()
    assert ((spike_products.product(spikes, weight).double() - exact).abs() <= 2e-7 * size).all()


@pytest.mark.parametrize(("rows", "fan_in", "units"), [(1, 1, 1), (1100, 5, 3), (40, 70, 65)])
def test_weight_gradients(rows, fan_in, units):
    """Of more rows than one program sums, too."""
    spikes, drive, _ = operands(rows, fan_in, units)
    exact = drive.double().t() @ spikes.double()
    size = drive.double().abs().t() @ spikes.double()
    assert ((spike_products.weight_gradient(spikes, drive).double() - exact).abs() <= 4e-7 * size + 1e-30).all()


def test_shares_of_the_rows_cover_them_once():
    spikes, drive, _ = operands(2049, 3, 2)
    exact = drive.double().t() @ spikes.double()
    assert ((spike_products.weight_gradient(spikes, drive).double() - exact).abs() <= 1e-5 * exact.abs().max()).all()


def test_a_number_is_three_of_bf16():
    """Every bit of a weight arrives."""
    weight = torch.tensor([[1 + 2.0**-23], [-(2 - 2.0**-23)], [1 / 3], [1e-20]]).to(DEVICE)
    one = torch.ones(1, 1, dtype=torch.uint8, device=DEVICE)
    assert torch.equal(spike_products.product(one, weight), weight.t())


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_precisions_and_types_are_left_to_the_library(precision):
    spikes, _, _ = operands(3, 2, 2)
    assert spike_products.readable(spikes, "float32")
    assert not spike_products.readable(spikes, precision)
    assert not spike_products.readable(spikes.float(), "float32")
    assert not spike_products.readable(spikes.to("meta"), "float32")
    assert products.spike_products is spike_products


COMPILE = """
import json, sys
from surgrad.kernels.contract import connection_spec
from surgrad.kernels.gpu.compile import compiled_product, resources
from surgrad.network.connections import Conv, Dense
layers = eval(sys.argv[1])
found = [compiled_product(connection_spec(layer, "layer"), capability) for layer in layers for capability in (80, 90)]
print(json.dumps([resources(kernel) for kernels in found for kernel in kernels.values()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
@pytest.mark.parametrize(
    ("layers", "most_spilled"),
    [
        ("[Dense(700, 128), Dense(128, 20)]", 0),
        ("[Conv((16, 68), 32, 7, 3), Conv((64, 5), 64, 5, 1, 2), Conv((2, 34, 34), 16, 3)]", 8),
    ],
    ids=["dense", "convolutions"],
)
def test_they_compile_for_gpus_that_are_not_there(layers, most_spilled, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, layers]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for registers, spilled, shared in json.loads(done.stdout):
        assert registers <= 255
        assert spilled <= most_spilled
        assert shared <= 99 * 1024
