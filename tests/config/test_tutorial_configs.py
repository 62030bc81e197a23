"""The five tutorials of Neftci et al. (2019): their equations and penalties as published, and a run of each."""

import math

import numpy as np
import pytest
import torch
from test_dense_suite import composed, main  # noqa: F401  the command of the script is a fixture there

from surgrad.runs.record import load_runs
from surgrad.training.regularizers import penalty

QUICK = ["wandb.mode=disabled", "device=cpu", "num_threads=1", "plot=false", "monitor_samples=2", "hidden=[6]"]
RUNS = {
    "tutorial1": ["nb_epochs=2", "dataset.nb_samples=20"],
    "tutorial2": ["nb_epochs=1", "dataset.subset=true"],
    "tutorial3": ["nb_epochs=1", "dataset=mnist", "dataset.subset=true"],
    "tutorial4": ["nb_epochs=1", "dataset=spiking_digits", "dataset.time_step=56e-3"],
    "tutorial5": ["nb_epochs=1", "dataset=braille_threshold_crossing"],
}


def as_published(x, alpha, beta, w1, w2, v1=None):
    """The loop of the tutorials: hidden spikes (T, B, units) and readout (T, B, classes)."""

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            ctx.save_for_backward(u)
            return (u > 0).to(u.dtype)

        @staticmethod
        def backward(ctx, grad):
            (u,) = ctx.saved_tensors
            return grad / (100 * u.abs() + 1) ** 2

    syn = mem = out = x.new_zeros(x.shape[1], w1.shape[1])
    spikes = []
    for step in x:
        h = step @ w1 + (0 if v1 is None else out @ v1)
        out = Spike.apply(mem - 1)
        syn, mem = alpha * syn + h, (beta * mem + syn) * (1 - out.detach())
        spikes.append(out)
    flt, y = x.new_zeros(x.shape[1], w2.shape[1]), x.new_full((x.shape[1], w2.shape[1]), -1e-3)
    readout = []
    for s in spikes:
        flt, y = alpha * flt + s @ w2, beta * y + flt
        readout.append(y)
    return torch.stack(spikes), torch.stack(readout)


@pytest.mark.parametrize("name", ["tutorial1", "tutorial2", "tutorial3", "tutorial4"])
def test_networks_are_those_of_the_published_loop(main, name):  # noqa: F811
    cfg = composed(name, "hidden=[12]", "initializer.std=8")
    network = cfg.network(20, 4, torch.Generator().manual_seed(1)).double()
    generator = torch.Generator().manual_seed(2)
    x = (torch.rand(60, 5, 20, generator=generator) < 0.05).double()
    layer = network.layers[0]
    weights = [layer.feedforward.weight, network.readout.feedforward.weight]
    weights += [layer.recurrent.weight] if cfg.recurrent else []
    out = network(x, record=True, kernel="reference")
    alpha, beta = (float(decay) for decay in layer.decays(network.dt))
    assert (alpha, beta) == pytest.approx((math.exp(-1 / 5), math.exp(-1 / 10)), rel=1e-6)  # those of steps of 1 ms
    spikes, readout = as_published(x, alpha, beta, *(weight.T for weight in weights))
    assert 20 < float(spikes.detach().sum()) < 0.5 * spikes.numel()
    torch.testing.assert_close(out.spikes[0].double(), spikes.detach())
    torch.testing.assert_close(out.readout, readout)
    weigh = torch.randn(readout.shape, generator=generator, dtype=torch.float64)
    mine = torch.autograd.grad((weigh * out.readout).sum() + out.counts[0].sum(), weights)
    theirs = torch.autograd.grad((weigh * readout).sum() + spikes.sum(), weights)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "strength"), [("tutorial3", 1e-5), ("tutorial4", 2e-6)])
def test_penalties_are_the_published_sums_over_a_batch(main, name, strength):  # noqa: F811
    cfg = composed(name)
    counts = torch.poisson(torch.full((256, *cfg.hidden), 0.7), generator=torch.Generator().manual_seed(0))
    published = strength * counts.sum() + strength * counts.sum(0).square().mean()
    assert float(penalty(cfg.objective().regularizers, [counts])) == pytest.approx(float(published), rel=1e-5)


def test_weights_of_the_first_two_start_as_published(main):  # noqa: F811
    expected = 7 * (1 - math.exp(-1 / 10))
    for name in ("tutorial1", "tutorial2"):
        assert composed(name).initializer["std"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_each_tutorial_trains_on_data_that_ship(main, tmp_path, name):  # noqa: F811
    main([f"--config-name={name}", *QUICK, *RUNS[name], f"hydra.run.dir={tmp_path}/run"])
    (record,) = load_runs(tmp_path / "run")
    assert record.status == "done"
    assert np.isfinite(record.metrics["train_loss"][1:]).all()
    assert "valid_acc" not in record.metrics  # as published: everything trains
