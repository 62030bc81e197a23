"""Layers recorded in other libraries, replayed with our neurons: the mappings of docs/conventions.md."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from surgrad.kernels import reference
from surgrad.network.connections import Dense
from surgrad.network.layers import SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.lif import LIF
from surgrad.neurons.surrogate import SigmoidPrime, SuperSpike
from surgrad.runs.record import REPO

FOLDER = REPO / "tests" / "reference" / "conventions"
NO_SYNAPSE = 1e-9  # s: the current of a step is gone in the next one


@dataclass(frozen=True)
class Mapping:
    """How a recorded layer is said here.

    Args:
        neuron: the neuron.
        tau_mem, tau_syn: s, in steps of 1 ms.
        spike_shift: recorded spikes of step t are ours of step t + spike_shift.
        membrane: from our u[t+2] and the spike drawn from it to the recorded membrane of step t.
        weight: factor on all weights.
    """

    neuron: LIF
    tau_mem: float
    tau_syn: float
    spike_shift: int
    membrane: Callable[[Tensor, Tensor], Tensor]
    weight: float = 1.0


def before_reset(u: Tensor, s: Tensor) -> Tensor:
    return u


def reset_to_zero(u: Tensor, s: Tensor) -> Tensor:
    return u * (1 - s)


def reset_by_one(u: Tensor, s: Tensor) -> Tensor:
    return u - s


def tau(decay: float) -> float:
    """The time constant in s whose exponential decay over 1 ms is given."""
    return -1e-3 / math.log(decay)


MAPPINGS = {
    "norse_lif": Mapping(
        LIF(SuperSpike(1), reset="multiplicative_leak", diff_reset=True, decay="euler"), 10e-3, 5e-3, 2, reset_to_zero
    ),
    "snntorch_leaky_subtract": Mapping(
        LIF(SuperSpike(25), reset="subtractive", unit_gain=False), tau(0.9), NO_SYNAPSE, 2, before_reset
    ),
    "snntorch_leaky_zero": Mapping(
        LIF(SuperSpike(25), reset="multiplicative_leak", unit_gain=False), tau(0.9), NO_SYNAPSE, 2, before_reset
    ),
    "snntorch_synaptic": Mapping(
        LIF(SuperSpike(25), reset="subtractive", unit_gain=False), tau(0.9), tau(0.8), 2, before_reset
    ),
    "spikingjelly_lif_hard": Mapping(
        LIF(SigmoidPrime(4), reset="multiplicative_leak"), tau(0.9), NO_SYNAPSE, 2, reset_to_zero
    ),
    "spikingjelly_lif_soft": Mapping(
        LIF(SigmoidPrime(4), reset="subtractive_leak"), tau(0.9), NO_SYNAPSE, 2, reset_by_one
    ),
    "sinabs_lif_reset": Mapping(
        LIF(reset="multiplicative_leak"), 10e-3, 5e-3, 2, reset_to_zero, weight=math.exp(-1 / 5)
    ),
    "sinabs_lif_subtract": Mapping(
        LIF(reset="subtractive_leak"), 10e-3, 5e-3, 2, reset_by_one, weight=math.exp(-1 / 5)
    ),
    "spyx_lif": Mapping(
        LIF(SuperSpike(25), reset="subtractive", diff_reset=True, unit_gain=False),
        tau(0.9),
        NO_SYNAPSE,
        1,
        before_reset,
    ),
    "spyx_cubalif": Mapping(
        LIF(SuperSpike(25), reset="subtractive_leak", diff_reset=True, unit_gain=False),
        tau(0.9),
        tau(0.8),
        1,
        before_reset,
    ),
}


def replay(mapping: Mapping, current: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Our spikes and membranes for T + 2 steps, membranes as they are drawn from."""
    layer = SpikingLayer(None, mapping.neuron, mapping.tau_mem, mapping.tau_syn, unit_shape=current.shape[1:])
    a, b = layer.decays(1e-3)
    padded = torch.cat([mapping.weight * current, torch.zeros_like(current[:2])])[:, None]
    spikes, u, _ = reference.lif(padded, a.to(current.dtype), b.to(current.dtype), mapping.neuron)
    return spikes[:, 0], u[:, 0]


@pytest.mark.parametrize("name", MAPPINGS)
def test_recorded_layers_are_ours_in_other_words(name):
    mapping = MAPPINGS[name]
    with np.load(FOLDER / f"{name}.npz") as file:
        recorded = {key: torch.from_numpy(file[key]) for key in file.files}
    current = recorded["current"].requires_grad_()
    nb_steps, shift = len(current), mapping.spike_shift
    spikes, u = replay(mapping, current)
    assert recorded["spikes"].sum() > 40
    assert torch.equal(spikes[shift : shift + nb_steps], recorded["spikes"])
    membrane = mapping.membrane(u[2:], spikes[2:]).detach()
    torch.testing.assert_close(membrane, recorded["membrane"], rtol=1e-4, atol=1e-5)
    if "gradient" in recorded:
        loss = (spikes[shift : shift + nb_steps] * recorded["cotangent"]).sum()
        (gradient,) = torch.autograd.grad(loss, current)
        scale = recorded["gradient"].abs().max()
        assert (gradient - recorded["gradient"]).abs().max() <= 1e-4 * scale


def test_every_recording_is_mapped_and_named_in_the_page():
    assert {path.stem for path in FOLDER.glob("*.npz")} == set(MAPPINGS)
    page = (REPO / "docs" / "conventions.md").read_text()
    assert all(f"`{name}`" in page for name in MAPPINGS)


def test_snippets_of_the_page_are_neurons():
    page = (REPO / "docs" / "conventions.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/conventions.md", "exec"), {})


# ---------------------------------------------------------------- closed forms, for what was not recorded
def test_cuba_of_lava_dl_is_a_difference_of_powers():
    """i[t] = a i[t-1] + x[t], v[t] = b v[t-1] + i[t]: an impulse leads to v[t] = (b^(t+1) - a^(t+1)) / (b - a)."""
    a, b = 0.75, 0.97
    current = torch.zeros(40, 1, dtype=torch.float64)
    current[0] = 0.1
    mapping = Mapping(LIF(reset="multiplicative_leak", unit_gain=False), tau(b), tau(a), 2, before_reset)
    _, u = replay(mapping, current)
    t = torch.arange(40, dtype=torch.float64)
    torch.testing.assert_close(u[2:, 0], 0.1 * (b ** (t + 1) - a ** (t + 1)) / (b - a), rtol=1e-5, atol=0)


@pytest.mark.parametrize("decay", ["exponential", "euler"])
def test_both_decays_converge_to_the_exact_neuron_of_brian(decay):
    """dv/dt = (i - v) / tau_mem, di/dt = -i / tau_syn: an input of weight 1 leads to (exp(-t / tau_mem) -
    exp(-t / tau_syn)) / (tau_mem / tau_syn - 1), which an exact integrator gives for every dt."""
    tau_mem, tau_syn, t, errors = 20e-3, 5e-3, 30e-3, []
    exact = (math.exp(-t / tau_mem) - math.exp(-t / tau_syn)) / (tau_mem / tau_syn - 1)
    for dt in (5e-4, 2.5e-4, 1.25e-4):
        neuron = LIF(decay=decay)
        layer = SpikingLayer(Dense(1, 1), neuron, tau_mem, tau_syn).double()
        with torch.no_grad():
            layer.feedforward.weight.fill_(1.0)
        x = torch.zeros(round(t / dt) + 1, 1, 1, dtype=torch.float64)
        x[0] = 1
        end = Network([layer], None, dt, delay=0)(x, return_state=True).state.layers[0]
        errors.append(abs(end.u.item() - exact))
    for coarse, fine in ((0, 1), (1, 2)):
        assert 1.8 < errors[coarse] / errors[fine] < 2.2


def test_a_threshold_in_volts_scales_the_slope_of_a_surrogate():
    """1 / (k |v - v_th| + 1)^2 is SuperSpike of x = v / v_th - 1 with beta = k v_th."""
    v, v_th, k = torch.linspace(-1, 3, 41), 1.5, 25.0
    theirs = 1 / (k * (v - v_th).abs() + 1) ** 2
    torch.testing.assert_close(SuperSpike(beta=k * v_th)(v / v_th - 1, torch.zeros_like(v)), theirs)
