"""The study against closed forms: moments of membranes, rates of crossings, what time steps miss, and its command."""

import importlib.util
import logging
import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from surgrad.config.check import check
from surgrad.errors import UserError
from surgrad.experiments.initialization import figures, membrane, study
from surgrad.experiments.initialization.config import InitializationConfig
from surgrad.network.initializers import FluctuationDrivenCentered, Kaiming, kernel_moments
from surgrad.network.models import dense_snn
from surgrad.network.probing import bernoulli_spikes
from surgrad.neurons.lif import LIF
from surgrad.runs.record import REPO, load_runs

CELL = study.Cell()
FOLDER = REPO / "configs" / "initialization"
TINY = [
    "dataset=randman",
    "dataset.nb_classes=3",
    "dataset.nb_inputs=12",
    "dataset.nb_samples=20",
    "grid.xi=[1,2]",
    "grid.mu_u=[0]",
    "grid.nu=[15]",
    "grid.nb_inputs=20",
    "grid.nb_units=20",
    "grid.duration=0.5",
    "grid.nb_draws=1",
    "steps.dts=[1e-3,2e-3]",
    "steps.nb_units=8",
    "steps.duration=0.5",
    "depth.nb_layers=2",
    "depth.nb_units=20",
    "depth.nb_samples=4",
    "depth.duration=0.2",
    "depth.nb_draws=2",
    "depth.sigma_us=[1,2]",
    "depth.transfer_rates=[5,20]",
    "depth.transfer_sigma_us=[1]",
    "real.nb_samples=6",
    "wandb.mode=disabled",
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- theory
def test_campbells_theorem_neuron_by_neuron():
    """Each neuron's mean and deviation follow from its own weights and each input's own rate."""
    layer = CELL.layer(30, 6, recurrent=False)
    torch.nn.init.normal_(layer.feedforward.weight, mean=0.1, std=0.3, generator=seeded())
    rates = torch.linspace(2, 120, 30)
    spikes = (torch.rand(40_000, 1, 30, generator=seeded(1)) < rates * CELL.dt).float()
    with torch.no_grad():
        u = study.free_membrane(layer, layer.feedforward(spikes), CELL.dt)
    mean, std = study.over_time(u, CELL.transient)
    moments = kernel_moments(CELL.tau_mem, CELL.tau_syn, CELL.dt)
    theory = membrane.poisson_membrane(layer.feedforward.weight.detach(), rates, *moments, CELL.dt)
    torch.testing.assert_close(std.double(), theory.std, rtol=0.06, atol=0)
    torch.testing.assert_close(mean.double(), theory.mean, rtol=0.03, atol=0.03)
    poisson = membrane.poisson_membrane(layer.feedforward.weight.detach(), rates, *moments)
    assert bool((poisson.std > theory.std).all())


def test_rare_spikes_are_threshold_crossings():
    """Rice's formula for a Gaussian membrane two to three deviations below threshold, steps far below tau_syn."""
    cell = study.Cell(dt=2.5e-4)
    for mu_u, sigma_u in ((0.0, 0.5), (0.3, 0.25)):
        found = study.measure_step(mu_u, sigma_u, cell, seeded(), nb_units=400, duration=5.0)
        crossings = membrane.crossing_rate(torch.tensor(mu_u), torch.tensor(sigma_u), cell.tau_mem, cell.tau_syn)
        assert found.std == pytest.approx(sigma_u, rel=0.02)
        assert found.rate == pytest.approx(float(crossings), rel=0.12)


def test_siegerts_rate_in_its_limits():
    """Without noise the f-I curve tau ln(mu / (mu - 1)); far below threshold Kramers' rate."""
    tau = 20e-3
    regular = 1 / (tau * math.log(1.5 / 0.5))
    assert membrane.white_noise_rate(1.5, 0.02, tau) == pytest.approx(regular, rel=0.01)
    sigma = 0.2
    kramers = math.exp(-1 / (2 * sigma**2)) / (tau * sigma * math.sqrt(2 * math.pi))
    assert membrane.white_noise_rate(0.0, sigma, tau) == pytest.approx(kramers, rel=0.1)
    slow = membrane.white_noise_rate(1.5, 0.02, tau, refractory=5e-3)
    assert 1 / slow == pytest.approx(1 / regular + 5e-3, rel=0.01)


@pytest.mark.parametrize("dt", [2.5e-4, 1e-3])
def test_missed_crossings_move_the_threshold_and_larger_weights_make_up_for_them(dt):
    cell, sigma_u = study.Cell(tau_syn=1e-6, dt=dt), 0.7
    sizes = {"nb_units": 400, "duration": 4.0}
    continuous = membrane.white_noise_rate(0.0, sigma_u, cell.tau_mem)
    moved = membrane.effective_threshold(sigma_u, cell.tau_mem, dt)
    found = study.measure_step(0.0, sigma_u, cell, seeded(), **sizes).rate
    assert found < 0.9 * continuous
    assert found == pytest.approx(membrane.white_noise_rate(0.0, sigma_u, cell.tau_mem, moved, dt), rel=0.05)
    gain = membrane.compensating_gain(sigma_u, cell.tau_mem, dt)
    mended = study.measure_step(0.0, gain * sigma_u, cell, seeded(), **sizes).rate
    assert 1 / mended - dt == pytest.approx(1 / continuous, rel=0.05)


def test_steps_too_coarse_for_any_weights_are_refused():
    with pytest.raises(ValueError, match="too coarse"):
        membrane.compensating_gain(2.0, 20e-3, 20e-3)


# ---------------------------------------------------------------- one layer
@pytest.mark.parametrize("target", study.targets([0.0, 0.4], [2.0], [10.0], [0.6]), ids=str)
def test_a_layer_meets_its_target_and_its_own_theory(target):
    found = study.measure_layer(target, CELL, seeded(), nb_inputs=150, nb_units=150, nb_steps=5000)
    assert found.std == pytest.approx(target.sigma_u, rel=0.05)
    assert found.std == pytest.approx(found.predicted_std, rel=0.03)
    assert found.mean == pytest.approx(found.predicted_mean, abs=0.03)
    eps_bar, eps_hat = (float(m) for m in kernel_moments(CELL.tau_mem, CELL.tau_syn, CELL.dt))
    # each neuron keeps its weights, so that its mean is as random as they are: nu eps_bar sqrt(n) sigma_w
    scatter = target.sigma_u * eps_bar * math.sqrt(target.nu / eps_hat)
    assert found.scatter <= 1.15 * scatter  # the mean's part of the weights does not scatter
    if target.mu_u == 0:
        assert found.scatter == pytest.approx(scatter, rel=0.15)


def test_fast_inputs_on_a_grid_fluctuate_less_than_poisson_inputs():
    """Binary spikes of 100 Hz at 2 ms: sigma_U falls short by sqrt(1 - nu dt) = 0.894."""
    target = study.Target(0.0, 1.0, 100.0, math.nan)
    found = study.measure_layer(target, CELL, seeded(), nb_inputs=150, nb_units=150, nb_steps=5000)
    assert found.std == pytest.approx(math.sqrt(0.8) * target.sigma_u, rel=0.03)
    assert found.std == pytest.approx(found.predicted_std, rel=0.02)


# ---------------------------------------------------------------- stacks
def stack(initialize, seed=0, nb_layers=3):
    network = dense_snn(
        [60] * (nb_layers + 1) + [4],
        neuron=LIF(),
        dt=2e-3,
        tau_mem=20e-3,
        tau_syn=10e-3,
        tau_readout=0.2,
        recurrent=False,
    )
    initialize(network, seeded(seed))
    return network


def test_gradients_of_the_stack_are_those_of_the_whole_network():
    network = stack(FluctuationDrivenCentered(1.0, 15.0))
    spikes, labels = bernoulli_spikes(15.0, (60, 8, 60), 2e-3, seeded(1)), torch.arange(8) % 4
    found = study.measure_stack(network, spikes, labels)
    network.zero_grad()
    study.build_loss("mot_ce")(network(spikes).readout, labels).backward()
    norms = [float(layer.feedforward.weight.grad.norm()) for layer in [*network.layers, network.readout]]
    assert found.weight_gradient == pytest.approx(norms, rel=1e-4)
    assert found.current_gradient.shape == (3, 60)
    assert np.all(found.current_gradient[:, -2:] == 0)  # two delays and the synapse: too late to reach the readout
    counts = torch.stack(network(spikes).counts).detach()
    assert found.rate.mean() == pytest.approx(float(counts.mean()) / 0.12, rel=1e-5)


def test_kaiming_weights_silence_a_stack_and_its_gradients():
    """Deviation of the first layer sqrt(nu eps_hat) = 0.17; from the layer above the first silent one no gradient."""
    spikes, labels = bernoulli_spikes(15.0, (300, 8, 60), 2e-3, seeded(1)), torch.arange(8) % 4
    found = study.by_layer(study.measure_stack(stack(Kaiming()), spikes, labels, transient=100))
    _, eps_hat = kernel_moments(20e-3, 10e-3, 2e-3)
    assert found["std"][0] == pytest.approx(math.sqrt(15.0 * float(eps_hat)), rel=0.1)
    assert found["std"][0] == pytest.approx(found["predicted_std"][0], rel=0.05)
    assert found["rate"].max() < 0.1
    assert found["weight_gradient"][-1] == 0


def test_an_initialiser_that_refuses_is_left_out():
    from surgrad.network.rate_propagation import RatePropagated

    spikes, labels = bernoulli_spikes(15.0, (20, 2, 60), 2e-3, seeded()), torch.tensor([0, 1])
    rules = {"silent": RatePropagated(0.05, 15.0), "loud": FluctuationDrivenCentered(1.0, 15.0)}
    found = study.stacks(rules, lambda: stack(lambda network, generator: None), [0, 1], spikes, labels)
    assert [len(results) for results in found.values()] == [0, 2]


def test_a_layer_passes_on_more_spikes_the_more_it_gets():
    rates = [1.0, 5.0, 15.0, 30.0]
    sizes = {"nb_inputs": 60, "nb_units": 60, "nb_steps": 2000}
    output = study.transfer(rates, 0.5, 15.0, CELL, seeded(), **sizes)
    assert np.all(np.diff(output) > 0)
    assert np.all(output < rates)  # below the diagonal: a stack of such layers falls silent


def test_shuffling_keeps_every_count_and_destroys_the_order():
    spikes = torch.zeros(200, 3, 5)
    spikes[:50] = bernoulli_spikes(100.0, (50, 3, 5), 2e-3, seeded())
    other = study.shuffled(spikes, seeded(1))
    assert torch.equal(other.sum(0), spikes.sum(0))
    assert float(other[50:].sum()) > 0.5 * float(spikes.sum())


# ---------------------------------------------------------------- the command
@pytest.fixture
def main():
    path = REPO / "Classification" / "initialization.py"
    spec = importlib.util.spec_from_file_location("initialization", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield module.main
    root.handlers[:], root.level = handlers, level


def test_the_command_writes_its_numbers_and_every_figure(main, tmp_path):
    main([*TINY, f"hydra.run.dir={tmp_path}/run"])
    (run,) = load_runs(tmp_path / "run")
    assert run.status == "done"
    assert len(run.metrics["std"]) == 2 * 3  # two values of xi, with and without recurrence
    assert {path.stem for path in (tmp_path / "run" / "Plots").glob("*.png")} == set(figures.FIGURES)
    assert run.state("depth/Kaiming/rate").shape == (2, 2)
    assert run.state("collapse/one rate").shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grid.nu=[600]", "more than one spike per step"),
        ("depth.nb_layers=0", "depth.nb_layers=0: must be positive"),
        ("initializers.Kaiming._target_=surgrad.initializers.Kaimingg", "Kaiming"),
        ("+initializers.mine.gain=2", "initializers.mine={'gain': 2}: has no _target_"),
    ],
)
def test_mistakes_are_one_line(main, tmp_path, capsys, caplog, override, message):
    with pytest.raises(SystemExit):
        main([*TINY, override, f"hydra.run.dir={tmp_path}/run"])
    said = [line for line in (capsys.readouterr().err + caplog.text).splitlines() if message in line]
    assert said
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("dataset", ["mnist", "randman", "shd", "spiking_digits", "ssc"])
def test_every_config_composes(main, dataset):
    ConfigStore.instance().store(name="schema", node=InitializationConfig)
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        cfg = check(compose("config", [f"dataset={dataset}"]), InitializationConfig)
    assert cfg.dataset.name == dataset
    assert cfg.build_initializers()["fluctuation-driven, 1"].nu == cfg.depth.nu


def test_an_empty_comparison_is_refused():
    with pytest.raises(UserError, match="initializers: is empty"):
        InitializationConfig(dataset={"name": "randman", "nb_classes": 3, "nb_inputs": 4})


# ---------------------------------------------------------------- what is read back
def sweep_rows():
    """Accuracy that rises with the deviation, for both rules."""
    rules = ("FluctuationDrivenCentered", "RatePropagated")
    return [
        {"initializer": rule, "sigma_u": sigma_u, "seed": seed, "test_acc": 0.1 + 0.3 * sigma_u + 0.01 * seed}
        | {"rate_before": 10 * sigma_u, "rate_after": 12.0, "chance": 0.1}
        for rule in rules
        for sigma_u in (0.5, 1.0, 2.0)
        for seed in (1, 2)
    ]


def test_the_figure_of_the_sweep_shows_means_and_runs():
    figure = figures.accuracy(sweep_rows())
    accuracy, rate = figure.axes
    lines = [line for line in accuracy.lines if len(line.get_xdata()) == 3 and line.get_marker() == "o"]
    assert len(lines) == 2
    for line in lines:
        assert line.get_ydata() == pytest.approx([0.265, 0.415, 0.715])
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == [*figures.RULES.values(), "before training", "after training"]
    assert rate.get_ylim()[1] >= 20


def test_without_runs_the_published_study_is_read(tmp_path):
    run = study.study_run(str(tmp_path))
    assert run.folder == study.PUBLISHED
    table = study.grid_table(run).splitlines()
    assert len(table) == 2 + 2 * 3  # three rates, with and without recurrence
    assert [row.split("|")[5].strip() for row in table[2:]] == ["0.995", "0.995", "0.985", "0.985", "0.949", "0.949"]
    within = np.abs(run.metrics["std"] / run.metrics["predicted_std"] - 1)
    assert within.max() == pytest.approx(run.summary["grid/largest_deviation_from_theory"])
    assert within.max() < 0.05
