"""Dale's law: signs by construction, the balance and deviation that exponential weights give, and what is refused."""

import importlib.util
import logging
import math

import pytest
import torch

from surgrad.errors import UserError
from surgrad.kernels import reference
from surgrad.network.connections import Conv, DaleDense, Dense, MaskedDense
from surgrad.network.dale import impose, obeyed
from surgrad.network.initializers import (
    FluctuationDrivenCentered,
    FluctuationDrivenExponential,
    Kaiming,
    kernel_moments,
)
from surgrad.network.layers import SpikingLayer
from surgrad.network.models import HiddenParts, dense_snn
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.neurons.lif import LIF
from surgrad.runs.record import REPO, load_runs
from surgrad.training.losses import build_loss
from surgrad.training.optimizers import build_optimizer

DT, TAU_MEM, TAU_SYN, NU = 2e-3, 20e-3, 10e-3, 15.0


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(sizes=(40, 30, 30, 4), inhibitory=0.2, sigma_u=1.0, **options):
    built = dense_snn(sizes, neuron=LIF(), dt=DT, tau_mem=TAU_MEM, tau_syn=TAU_SYN, tau_readout=0.1, **options)
    impose(built, inhibitory)
    FluctuationDrivenExponential(sigma_u, NU)(built, seeded())
    return built


def bernoulli(nb_steps, nb_trains, nb_units, seed=1, rate=NU):
    return (torch.rand(nb_steps, nb_trains, nb_units, generator=seeded(seed)) < rate * DT).float()


def test_every_neuron_has_one_sign_and_only_excitatory_ones_project_upwards():
    built = network()
    assert obeyed(built)
    excitatory, inhibitory = slice(0, 24), slice(24, 30)
    for layer, above in zip(built.layers, (built.layers[1], built.readout), strict=True):
        assert bool((layer.feedforward.weight >= 0).all())
        assert bool((layer.recurrent.weight[:, excitatory] > 0).all())
        assert bool((layer.recurrent.weight[:, inhibitory] < 0).all())
        assert not bool(above.feedforward.weight[:, inhibitory].any())
    readout = built.readout.feedforward.weight[:, excitatory]
    assert bool((readout > 0).any())
    assert bool((readout < 0).any())
    assert [built.layers[1].feedforward.fan_in, built.readout.feedforward.fan_in] == [24, 24]
    with torch.no_grad():
        built.layers[1].feedforward.columns[-1] = 1  # an inhibitory neuron that excites the layer above
        built.layers[1].feedforward.parameter[:, -1] = 0.1
    assert not obeyed(built)


@pytest.mark.parametrize("sigma_u", [0.5, 1.0])
@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_membrane_has_the_mean_and_the_deviation_asked_for(sigma_u, alpha):
    """Over time, with independent inputs of rate nu; means scatter with sigma_U eps_bar sqrt(nu / (2 eps_hat))."""
    signs = torch.ones(200)
    signs[160:] = -1
    layer = SpikingLayer(DaleDense(300, 200, torch.ones(300)), LIF(), TAU_MEM, TAU_SYN, DaleDense(200, 200, signs))
    FluctuationDrivenExponential(sigma_u, NU, alpha, time_step=DT)(layer, seeded())
    parts = []
    for connection, seed in ((layer.feedforward, 1), (layer.recurrent, 2)):
        spikes = torch.poisson(torch.full((4000, 1, connection.fan_in), NU * DT), generator=seeded(seed))
        parts.append(connection(spikes).detach())
    eps_bar, eps_hat = kernel_moments(TAU_MEM, TAU_SYN, DT)
    scatter = sigma_u * float(eps_bar * (NU / (2 * eps_hat)).sqrt())

    def membrane(current):
        u, _ = reference.readout(current, layer.tau_syn.decay(DT), layer.tau_mem.decay(DT))
        return u[100:]

    u = membrane(sum(parts))
    assert float(u.var(0).mean().sqrt()) == pytest.approx(sigma_u, rel=0.05)
    assert float(u.mean()) == pytest.approx(0, abs=4 * scatter / math.sqrt(200))
    assert float(u.mean(0).std()) == pytest.approx(scatter, rel=0.15)
    feedforward_share = (
        alpha
        * 160
        * layer.recurrent.weight[:, :160].square().mean()
        / ((1 - alpha) * 300 * layer.feedforward.weight.square().mean())
    )
    assert float(feedforward_share.detach()) == pytest.approx(1, rel=0.05)


def test_weights_are_exponential():
    """Deviation = mean, and median = ln 2 of the mean, for each of the three populations."""
    built = network((300, 200, 4))
    layer = built.layers[0]
    feedforward, recurrent = layer.feedforward.weight.detach(), layer.recurrent.weight.detach()
    populations = (feedforward, recurrent[:, :160], -recurrent[:, 160:])
    for weights in populations:
        mean = float(weights.mean())
        assert float(weights.std()) == pytest.approx(mean, rel=0.05)
        assert float(weights.median()) == pytest.approx(math.log(2) * mean, rel=0.05)
    excitation = 300 * populations[0].mean() + 160 * populations[1].mean()
    assert float(excitation) == pytest.approx(float(40 * populations[2].mean()), rel=0.05)


def test_each_neuron_is_scaled_by_its_own_time_constant():
    def constants(tau, nb_units):
        return TimeConstant(tau * torch.linspace(0.5, 2, nb_units))

    layer = network((300, 200, 4), hidden=HiddenParts(time_constants=constants)).layers[0]
    _, eps_hat = kernel_moments(layer.tau_mem.tau.detach().double(), layer.tau_syn.tau.detach().double(), DT)
    second_moment = layer.feedforward.weight.square().mean(1) * eps_hat
    slope = torch.corrcoef(torch.stack([second_moment, eps_hat]))[0, 1]
    assert abs(float(slope.detach())) < 0.2  # after scaling nothing is left that depends on tau
    assert float(second_moment.std() / second_moment.mean()) < 0.3


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_gradients_reach_magnitudes_through_the_signs(kernel):
    """dL/dV = dL/dW s for V > 0, with dL/dW that of a free network of the same weights."""
    constrained = network()
    free = dense_snn((40, 30, 30, 4), neuron=LIF(), dt=DT, tau_mem=TAU_MEM, tau_syn=TAU_SYN, tau_readout=0.1)
    x = bernoulli(60, 3, 40, rate=60)
    pairs = []
    for one, other in zip([*constrained.layers, constrained.readout], [*free.layers, free.readout], strict=True):
        pairs.append((one.feedforward, other.feedforward))
        if hasattr(one, "recurrent"):
            pairs.append((one.recurrent, other.recurrent))
    for one, other in pairs:
        other.weight.data.copy_(one.weight.detach())
    outputs = [net(x, kernel=kernel) for net in (constrained, free)]
    for out in outputs:
        (out.readout.square().sum() + sum(counts.sum() for counts in out.counts)).backward()
    assert torch.equal(outputs[0].counts[1], outputs[1].counts[1])
    assert float(outputs[0].counts[1].sum()) > 0
    for one, other in pairs:
        torch.testing.assert_close(one.parameter.grad, other.weight.grad * one.columns, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("optimizer", "lr"), [("smorms3", 0.2), ("adam", 0.2), ("sgd", 100.0)])
def test_signs_hold_after_training(optimizer, lr):
    """Steps far larger than the weights turn many of them back at zero; none changes its sign."""
    built = network(sigma_u=2.0)
    before = built.layers[0].recurrent.parameter.detach().clone()
    step = build_optimizer(optimizer, built.parameters(), lr)
    x, labels = bernoulli(40, 16, 40, rate=60), torch.arange(16) % 4
    for _ in range(10):
        loss = build_loss("mot_ce")(built(x).readout, labels)
        step.zero_grad()
        loss.backward()
        step.step()
    after = built.layers[0].recurrent.parameter.detach()
    assert bool((before.sign() * after.sign() < 0).any())  # magnitudes did cross zero
    assert obeyed(built)


def test_a_state_dict_carries_the_weights_and_not_the_signs():
    built, other = network(), network(sigma_u=0.5)
    state = built.state_dict()
    assert not any("columns" in name for name in state)
    other.load_state_dict(state)
    x = bernoulli(40, 2, 40)
    assert torch.equal(built(x).readout, other(x).readout)


def conv_network():
    layer = SpikingLayer(Conv((1, 20), 4, 3), LIF(), TAU_MEM, TAU_SYN, Conv((4, 18), 4, 3, padding=1))
    return Network([layer], None, DT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(recurrent=False), "recurrent=true"),
        (lambda: network(inhibitory=0.0), "at least one neuron of each kind"),
        (lambda: network(inhibitory=1.0), "at least one neuron of each kind"),
        (lambda: impose(conv_network()), "connection=dense"),
        (lambda: FluctuationDrivenExponential(0.0, NU), "sigma_u=0.0"),
        (lambda: FluctuationDrivenExponential(1.0, NU, alpha=0.0), "alpha=0.0"),
        (lambda: FluctuationDrivenExponential(1.0, NU)(network().layers[0], seeded()), "needs a network"),
        (lambda: Kaiming()(network(), seeded()), "initializer=dale"),
        (lambda: FluctuationDrivenCentered(1.0, NU)(network(), seeded()), "initializer=dale"),
        (lambda: DaleDense(3, 2, torch.tensor([1.0, 0.5, -1.0])), "allowed are 1"),
        (lambda: MaskedDense((2, 2), 2, torch.ones(3)), "4 presynaptic units"),
    ],
)
def test_what_dales_law_cannot_mean_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_layer_of_free_signs_has_no_exponential_weights():
    layer = SpikingLayer(Dense(3, 4), LIF(), TAU_MEM, TAU_SYN, Dense(4, 4))
    with pytest.raises(UserError, match=r"inhibitory=0\.2"):
        FluctuationDrivenExponential(1.0, NU, time_step=DT)(layer, seeded())


def test_a_run_of_the_dense_suite_keeps_the_law(tmp_path):
    """What training left in the checkpoint, read back into a network of the run's configuration."""
    spec = importlib.util.spec_from_file_location("dense_SNN", REPO / "Classification" / "dense_SNN.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = [
        "dataset=randman",
        "dataset.nb_classes=3",
        "dataset.nb_inputs=12",
        "dataset.nb_samples=20",
        "hidden=[10,8]",
    ]
    quick = ["nb_epochs=2", "batch_size=16", "lr=0.1", "optimizer=adam", "plot=false", "wandb.mode=disabled"]
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    module.main(["--config-name=dale", *small, *quick, "device=cpu", "num_threads=1", f"hydra.run.dir={tmp_path}/run"])
    root.handlers[:], root.level = handlers, level
    (run,) = load_runs(tmp_path / "run")
    trained = network((12, 10, 8, 3))
    before = trained.layers[0].recurrent.weight.detach().clone()
    trained.load_state_dict(run.checkpoint()["model"])
    assert not torch.equal(trained.layers[0].recurrent.weight, before)
    assert obeyed(trained)
