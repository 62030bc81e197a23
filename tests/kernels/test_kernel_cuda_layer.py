"""The Triton kernels of a single layer compute what the reference computes."""

import pytest
import torch
from kernels.spiking_parts import NOISES
from kernels.triton_networks import DEVICE, assert_close
from torch import nn

from surgrad.kernels import dispatch
from surgrad.kernels.contract import connection_spec
from surgrad.kernels.gpu import layer
from surgrad.kernels.gpu.layer import Population, waves
from surgrad.kernels.philox import NoiseKey
from surgrad.network.connections import Conv, Dense
from surgrad.neurons.lif import LIF, AdaptiveLIF


@pytest.mark.parametrize(
    ("recurrent", "trained"),
    [(None, ()), (None, "layer"), ("one launch", "units"), ("one launch", "layer"), ("step by step", "units")],
)
def test_one_layer_driven_by_a_current(recurrent, trained, monkeypatch):
    if recurrent == "step by step":
        from surgrad.kernels.gpu import layer as triton_layer

        monkeypatch.setattr(triton_layer, "LARGEST_TILE", 0)
    generator = torch.Generator().manual_seed(2)
    units = (6,)
    neuron = LIF(escape_noise=NOISES[1], diff_reset=trained == "layer")
    loop = Dense(units, 6) if recurrent else None
    shape = units if trained == "units" else ()
    a, b = (0.8 + 0.1 * torch.rand(shape, generator=generator).to(DEVICE) for _ in range(2))
    current = (torch.randn(17, 3, *units, generator=generator) * 2 + 1).to(DEVICE).requires_grad_()
    cotangent = torch.randn(17, 3, *units, generator=generator).to(DEVICE)
    if loop is not None:
        nn.init.normal_(loop.weight, std=0.5, generator=generator)
        loop.to(DEVICE)
    leaves = [current, *([loop.weight] if loop is not None else [])]
    if trained:
        leaves += [a.requires_grad_(), b.requires_grad_()]
    options = {"noise": NoiseKey(1, 2, 3), "ids": torch.arange(3, device=DEVICE), "recurrence": loop}
    outputs = []
    for kernel in ("reference", "cuda"):
        s, u, end = dispatch.lif(current, a, b, neuron, **options, return_membrane=True, kernel=kernel)
        loss = (s * cotangent).sum() + (end.u**2).sum()
        outputs.append((s, u, end.i, end.u, *torch.autograd.grad(loss, leaves)))
    expected, got = outputs
    assert torch.equal(expected[0], got[0])
    assert expected[0].sum() > 0
    for p, q in zip(expected[1:], got[1:], strict=True):
        assert_close(p.detach(), q)


def test_two_halves_of_a_current_are_one_whole():
    generator = torch.Generator().manual_seed(3)
    current = (torch.randn(20, 2, 5, generator=generator) * 2 + 1).to(DEVICE)
    a, b, neuron = torch.tensor(0.8, device=DEVICE), torch.tensor(0.9, device=DEVICE), LIF(escape_noise=NOISES[1])
    ids, noise = torch.arange(2, device=DEVICE), NoiseKey(1)
    whole, _, _ = dispatch.lif(current, a, b, neuron, noise=noise, ids=ids, kernel="cuda")
    first, _, state = dispatch.lif(current[:9], a, b, neuron, noise=noise, ids=ids, kernel="cuda")
    second, _, _ = dispatch.lif(
        current[9:], a, b, neuron, kernel="cuda", noise=noise, ids=ids, state=state, previous=first[-1], first_step=9
    )
    assert torch.equal(whole, torch.cat([first, second]))


@pytest.mark.parametrize("unit_gain", [True, False])
def test_leaky_integrator_driven_by_a_current(unit_gain):
    current = torch.randn(15, 3, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE).requires_grad_()
    a, b = (torch.tensor(x, device=DEVICE, requires_grad=True) for x in (0.7, 0.95))
    outputs = []
    for kernel in ("reference", "cuda"):
        y, end = dispatch.readout(current, a, b, u0=-0.2, unit_gain=unit_gain, kernel=kernel)
        outputs.append((y, end.u, *torch.autograd.grad((y**2).sum(), (current, a, b))))
    for p, q in zip(*outputs, strict=True):
        assert_close(p.detach(), q.detach(), tolerance=1e-5)


def layer_plan(loop, nb_samples=400, neuron=None):
    """Programs, warps of each, and waves on 132 multiprocessors."""
    population = Population(loop.out_shape, neuron or LIF(), connection_spec(loop, "loop"), 0, nb_samples, "float32")
    (programs,), warps = population.grid, population.tile.warps
    return programs, warps, waves(programs, warps, 132)


@pytest.mark.parametrize(
    ("shape", "expected"), [((16, 68), (400, 4, 2)), ((32, 21), (400, 4, 2)), ((64, 5), (134, 4, 1))]
)
def test_published_layers_run_in_few_waves(shape, expected, monkeypatch):
    """Programs of 8 warps would take 4, 4 and 2."""
    monkeypatch.setattr(layer, "multiprocessors", lambda: 132)
    loop = Conv(shape, shape[0], 5, 1, 2)
    assert layer_plan(loop) == expected
    assert layer_plan(loop, neuron=AdaptiveLIF())[1] == 8


@pytest.mark.parametrize(
    ("tile", "trained", "expected"),
    [
        (layer.Tile(16, 128, 68, 4), True, 8),
        (layer.Tile(16, 128, 68, 4), False, 4),
        (layer.Tile(16, 128, 68, 8), True, 8),
        (layer.Tile(32, 32, 21, 4), True, 4),
        (layer.Tile(64, 16, 15, 4), True, 4),
        (layer.Tile(256, 16, 16, 16), True, 16),
        (layer.Tile(128, 1, 1, 8), True, 8),
        (layer.Tile(4, 128, 128, 4), True, 4),
    ],
)
def test_gradients_of_time_constants_have_the_registers_of_more_warps(tile, trained, expected):
    assert layer.adjoint_warps(tile, trained) == expected


@pytest.mark.parametrize(
    ("nb_units", "nb_samples", "expected"),
    [
        (20, 264, (32, 4)),
        (64, 264, (64, 4)),
        (64, 265, None),
        (65, 132, (128, 8)),
        (128, 132, (128, 8)),
        (128, 133, None),
        (129, 1, None),
    ],
)
def test_programs_of_one_sample_run_at_once_and_hold_their_weights(nb_units, nb_samples, expected):
    """On 132 multiprocessors; rows and warps, or None where programs have more samples."""
    tile = layer.tile_of_one_sample(nb_units, nb_samples, 132)
    assert (tile and (tile.rows, tile.warps)) == expected
    assert tile is None or (tile.columns, tile.used) == (1, 1)


def test_convolutions_and_large_layers_have_no_programs_of_one_sample(monkeypatch):
    monkeypatch.setattr(layer, "multiprocessors", lambda: 132)
    assert layer_plan(Dense(128, 128), 128) == (128, 8, 1)
    assert layer_plan(Dense(256, 256), 128)[0] == 8
    assert layer_plan(Conv((16, 1), 16, 1), 128)[0] == 8


@pytest.mark.parametrize("nb_units", [64, 128])
def test_few_programs_have_many_warps(nb_units, monkeypatch):
    monkeypatch.setattr(layer, "multiprocessors", lambda: 132)
    assert layer_plan(Dense(nb_units, nb_units)) == (25, 8, 1)
