"""EventProp on a time grid: gradients converge to the exact ones, at first order in dt."""

import math

import pytest
import torch

from surgrad.errors import UserError
from surgrad.eventprop.grid import GridLayer, GridReadout, first_times, on_grid
from surgrad.eventprop.layers import EventLayer, EventLIF, EventReadout, first_spikes, spikes_from_times

NEURON, DURATION = EventLIF(20e-3, 5e-3), 12e-3


def pair(recurrent, seed=1):
    """A network that both forms share: 5-12-6 spiking units, 3 leaky readouts, 8 samples; steep crossings."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # on the coarsest grid, so that only the network's own spikes are rounded
    times = torch.randint(50, (8, 5), generator=generator) * 0.1e-3 + 1e-9
    given = spikes_from_times(times, DURATION, torch.float64)
    weights = [0.5 * normal(5, 12) + 3.0, 0.1 * normal(12, 6) + 0.8, normal(6, 3)]
    return given, weights, 0.1 * normal(12, 12) if recurrent else None


def build(layer, readout, weights, rec, *dt, **options):
    layers = [
        layer(5, 12, NEURON, *dt, recurrent=rec is not None, dtype=torch.float64, **options),
        layer(12, 6, NEURON, *dt, dtype=torch.float64, **options),
        readout(6, 3, NEURON, *dt, dtype=torch.float64, **options),
    ]
    for module, weight in zip(layers, weights, strict=True):
        module.weight.data = weight.clone()
    if rec is not None:
        layers[0].recurrent.data = rec.clone()
    return layers


def flat_gradient(layers):
    tensors = [p.grad for layer in layers for p in layer.parameters()]
    return torch.cat([g.flatten() for g in tensors if g is not None])


def loss_of(times, area):
    """Something that depends on first spikes and on voltages, without their silent units."""
    return 1e2 * times[times.isfinite()].square().sum() + area.square().sum()


def exact(given, weights, rec):
    one, two, readout = layers = build(EventLayer, EventReadout, weights, rec)
    hidden = one(given, DURATION)
    spikes = two(hidden, DURATION)
    first = first_spikes(spikes, 6)
    loss_of(1e2 * first, 1e2 * readout.integral(spikes, DURATION)).backward()
    return flat_gradient(layers), first.isfinite()


def stepped(given, weights, rec, dt, kernel="auto"):
    one, two, readout = layers = build(GridLayer, GridReadout, weights, rec, dt, kernel=kernel)
    hidden = one(on_grid(given, 5, round(DURATION / dt), dt))
    spikes = two(hidden)
    first = first_times(spikes, dt)
    loss_of(1e2 * first, 1e2 * readout(spikes).mean(0)).backward()
    return flat_gradient(layers), first.isfinite()


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_gradient_converges_to_the_exact_one_at_first_order(recurrent):
    network = pair(recurrent)
    truth, fired = exact(*network)
    steps, errors = [0.05e-3, 0.025e-3, 0.0125e-3], []
    for dt in steps:
        gradient, found = stepped(*network, dt)
        assert torch.equal(found, fired)
        errors.append(float((gradient - truth).norm() / truth.norm()))
    order = math.log(errors[0] / errors[-1]) / math.log(steps[0] / steps[-1])
    assert errors[-1] < 0.06
    assert 0.85 < order < 1.15


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_the_compiled_scan_is_the_reference_to_rounding(recurrent):
    (found, fired), (wanted, expected) = (stepped(*pair(recurrent), 0.1e-3, kernel) for kernel in ("cpu", "reference"))
    assert torch.equal(fired, expected)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12 * float(wanted.abs().max()))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_forms_agree_on_long_busy_recurrent_trains(dtype, threads):
    """Many spikes per step and sizes that fill no register, with input that needs a gradient by its times."""
    generator = torch.Generator().manual_seed(3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    given = (torch.rand(120, 7, 45, generator=generator) < 0.1).to(dtype)
    layer, readout = GridLayer(45, 37, NEURON, 0.5e-3, True, dtype), GridReadout(37, 3, NEURON, 0.5e-3, dtype)
    layer.weight.data.normal_(0.6, 0.3, generator=generator)
    layer.recurrent.data.normal_(0.0, 0.2, generator=generator)
    readout.weight.data.normal_(generator=generator)
    outcomes = []
    for kernel in ("cpu", "reference"):
        layer.kernel = readout.kernel = kernel
        x = given.clone().requires_grad_()
        spikes = layer(x)
        loss = readout(spikes).square().sum()
        outcomes.append([spikes, *torch.autograd.grad(loss, [x, layer.weight, layer.recurrent, readout.weight])])
    torch.set_num_threads(before)
    assert outcomes[0][0].mean() > 0.01
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    precision = 1e-10 if dtype == torch.float64 else 2e-3  # jumps of 1 / (i - 1) stretch float32's rounding
    for found, wanted in zip(outcomes[0][1:], outcomes[1][1:], strict=True):
        assert float((found - wanted).norm() / wanted.norm()) < precision


def test_first_times_and_bins():
    given = spikes_from_times([[2.5e-3, math.inf, 0.4e-3]], DURATION, torch.float64)
    spikes = on_grid(given, 3, 5, 1e-3).requires_grad_()
    first = first_times(spikes, 1e-3)
    assert first.tolist() == [[2e-3, math.inf, 0.0]]
    first[:, ::2].sum().backward()
    assert spikes.grad.nonzero().tolist() == [[0, 0, 2], [2, 0, 0]]


def test_a_step_as_long_as_a_time_constant_and_an_unknown_kernel_are_refused():
    with pytest.raises(UserError, match="below the time constants"):
        GridLayer(1, 1, NEURON, dt=5e-3)
    with pytest.raises(UserError, match="reference"):
        GridLayer(1, 1, NEURON, kernel="cuda")
