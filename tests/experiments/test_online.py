"""SuperSpike online: backpropagation through time without the history."""

import ctypes
import importlib.util
import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from surgrad.config.check import check
from surgrad.datasets.sources.bs1 import read_bs1
from surgrad.errors import UserError
from surgrad.experiments.superspike import online
from surgrad.experiments.superspike.config import SuperSpikeConfig
from surgrad.experiments.superspike.online import SuperSpikeNetwork, SuperSpikeRule
from surgrad.kernels import reference
from surgrad.kernels.cpu import superspike
from surgrad.neurons.lif import LIF
from surgrad.neurons.surrogate import SuperSpike
from surgrad.runs.record import REPO, load_runs

NB_INPUTS, NB_HIDDEN, NB_OUTPUTS = 40, 30, 10
NEVER = 10**6


def task(nb_steps=300, seed=0):
    """Input, target, hidden and output weights."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(nb_steps, NB_INPUTS, generator=generator) < 0.05).float()
    z = (torch.rand(nb_steps, NB_OUTPUTS, generator=generator) < 0.03).float()
    hidden = torch.randn(NB_HIDDEN, NB_INPUTS, generator=generator) * 0.8
    output = torch.randn(NB_OUTPUTS, NB_HIDDEN, generator=generator) * 0.5
    return x, z, hidden, output


def alpha(x, rule):
    """The van Rossum kernel by its definition, (T, N) -> (T, N)."""
    a, b = rule.decay(rule.tau_rise), rule.decay(rule.tau_decay)
    r = y = torch.zeros(x.shape[1])
    out = []
    for row in x:
        y, r = b * y + (1 - b) * r, a * r + row
        out.append(y)
    return torch.stack(out)


def cosine(x, y):
    return float(torch.cosine_similarity(x.flatten().double(), y.flatten().double(), 0))


def run_reference(x, weight, rule):
    a, b = (torch.tensor(rule.decay(tau)) for tau in (rule.tau_syn, rule.tau_mem))
    neuron = LIF(surrogate=SuperSpike(rule.beta), reset=rule.reset)
    return reference.lif((x @ weight.T)[:, None], a, b, neuron)[0][:, 0]


def test_descriptor_has_the_size_the_compiler_gave_it():
    assert ctypes.sizeof(superspike.Rule) == superspike.library().superspike_size()


@pytest.mark.parametrize("reset", online.ONLINE_RESETS)
def test_spikes_are_those_of_the_suite_s_neurons(reset):
    x, z, hidden, output = task()
    rule = SuperSpikeRule(period=NEVER, reset=reset)
    _, s_hidden, s_output = SuperSpikeNetwork(hidden, output, rule).run(x, z, record=True)
    expected = run_reference(x, hidden, rule)
    assert torch.equal(s_hidden.float(), expected)
    assert torch.equal(s_output.float(), run_reference(expected, output, rule))
    assert s_hidden.float().mean() > 0.01


def test_gradient_is_that_of_backpropagation_through_time_where_resets_are_cut():
    """Output layer: the van Rossum loss. Hidden layer: leaky readouts W (alpha * s) with that error."""
    x, z, hidden, output = task()
    rule = SuperSpikeRule(period=NEVER, reset="subtractive")
    network = SuperSpikeNetwork(hidden, output, rule)
    found, s_hidden, _ = network.run(x, z, record=True)

    output.requires_grad_()
    error = alpha(z - run_reference(s_hidden.float(), output, rule), rule)
    loss = 0.5 * error.square().sum()
    (gradient,) = torch.autograd.grad(loss, output)
    assert found == pytest.approx(float(loss.detach()), rel=1e-5)
    assert cosine(gradient, -network.output.g) > 0.9999
    assert float((gradient + network.output.g).norm() / gradient.norm()) < 1e-4

    hidden.requires_grad_()
    readout = alpha(run_reference(x, hidden, rule), rule) @ output.detach().T
    (gradient,) = torch.autograd.grad(-(error.detach() * readout).sum(), hidden)
    assert cosine(gradient, -network.hidden.g) > 0.9999
    assert float((gradient + network.hidden.g).norm() / gradient.norm()) < 1e-4


@pytest.mark.parametrize("threads", [1, 3])
def test_pieces_of_any_length_make_the_same_run(threads):
    x, z, hidden, output = task()
    rule = SuperSpikeRule(period=70)
    whole = SuperSpikeNetwork(hidden, output, rule)
    total, _, _ = whole.run(x, z)
    pieces = SuperSpikeNetwork(hidden, output, rule, threads=threads)
    parts = [pieces.run(x[k : k + 37], z[k : k + 37])[0] for k in range(0, len(x), 37)]
    assert sum(parts) == pytest.approx(total, rel=1e-12)
    assert torch.equal(whole.hidden.weight, pieces.hidden.weight)
    assert not torch.equal(whole.hidden.weight, hidden)


def test_update_is_rms_normalised():
    x, z, hidden, output = task(100)
    still = SuperSpikeNetwork(hidden, output, SuperSpikeRule(period=NEVER))
    still.run(x, z)
    moved = SuperSpikeNetwork(hidden, output, SuperSpikeRule(period=100, rate_output=0.01))
    moved.run(x, z)
    g = still.output.g
    expected = output + 0.01 * torch.where(g == 0, 0.0, g.sign())  # the first gradient is the largest so far
    large = g.abs() > 1e-6
    torch.testing.assert_close(moved.output.weight[large], expected[large])
    assert not moved.output.g.any()


def test_memory_does_not_depend_on_the_duration():
    _, _, hidden, output = task()
    sizes, peaks = [], []
    for nb_steps in (1_000, 100_000):
        network = SuperSpikeNetwork(hidden, output, SuperSpikeRule())
        generator = torch.Generator().manual_seed(0)
        for _ in range(nb_steps // 1_000):
            x = torch.rand(1_000, NB_INPUTS, generator=generator) < 0.05
            network.run(x, torch.rand(1_000, NB_OUTPUTS, generator=generator) < 0.03)
        sizes.append(network.nb_bytes)
        peaks.append(peak_mib())
    assert sizes[0] == sizes[1]
    assert peaks[1] - peaks[0] < 4


def peak_mib():
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def test_learning_brings_the_output_closer_to_its_target():
    x, z, hidden, output = task(200)
    network = SuperSpikeNetwork(hidden, output, SuperSpikeRule(period=100, rate_hidden=0.02, rate_output=0.02))
    losses = []
    for _ in range(60):
        network.clear()
        losses.append(network.run(x, z)[0])
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"tau_rise": 0.0}, "tau_rise"), ({"feedback": "none"}, "symmetric"), ({"reset": "hard"}, "subtractive")],
)
def test_mistakes_in_the_rule_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        SuperSpikeRule(**arguments)


def test_mistakes_in_arrays_are_named(tmp_path):
    x, z, hidden, output = task(10)
    with pytest.raises(UserError, match="wanted"):
        SuperSpikeNetwork(hidden, output, SuperSpikeRule()).run(x, z[:5])
    with pytest.raises(UserError, match="finite"):
        SuperSpikeNetwork(hidden * math.nan, output, SuperSpikeRule())
    with pytest.raises(UserError, match="do not make a network"):
        SuperSpikeNetwork(hidden, output.T, SuperSpikeRule())
    (tmp_path / "cut.bs1").write_bytes(b"1234567")
    with pytest.raises(UserError, match="multiple of 5"):
        read_bs1(tmp_path / "cut.bs1")


# ---------------------------------------------------------------- configurations
FOLDER = REPO / "configs" / "superspike"


def composed(config_name, *overrides):
    ConfigStore.instance().store(name="schema", node=SuperSpikeConfig)
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        return check(compose(config_name, [*overrides]), SuperSpikeConfig)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_config_makes_a_network_and_what_it_is_to_learn(name):
    cfg = composed(name)
    x, target = cfg.events()
    assert x.shape == (cfg.nb_steps, cfg.nb_inputs)
    assert target.shape == (cfg.nb_steps, cfg.nb_outputs)
    loss, _, _ = cfg.network().run(x, target, learning=False)
    assert loss > 0


def test_the_simple_task_asks_for_spikes_at_equal_distances_to_frozen_poisson_spikes():
    cfg = composed("simple", "nb_outputs=2", "nb_inputs=2000")
    x, target = cfg.events()
    assert target.nonzero().tolist() == [[step, unit] for step in (83, 166, 250, 333, 416) for unit in range(2)]
    mean = cfg.nb_steps * cfg.nu_input * cfg.dt
    assert x.float().sum(0).mean() == pytest.approx(mean, abs=5 * math.sqrt(mean / cfg.nb_inputs))
    assert torch.equal(x, cfg.events()[0])
    assert not torch.equal(x, composed("simple", "seed=1", "nb_outputs=2", "nb_inputs=2000").events()[0])


@pytest.mark.parametrize("feedback", online.FEEDBACKS)
def test_a_simple_task_is_learnt_from_silence_with_any_feedback(feedback):
    cfg = composed("simple", f"feedback={feedback}", "seed=100")
    network, (x, target) = cfg.network(), cfg.events()
    losses = []
    for _ in range(600):
        network.clear()
        loss, _, spikes = network.run(x, target, record=True)
        losses.append(loss)
        assert len(losses) > 1 or not spikes.any()
    assert np.mean(losses[-10:]) < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("override", "message"), [("nu_input=1001", "more than a spike in each step"), ("nb_spikes=500", "do not fit")]
)
def test_a_task_that_does_not_fit_into_the_steps_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        composed("simple", override)


# ---------------------------------------------------------------- the script
def test_the_script_learns_the_events_and_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = REPO / "Spike_train_matching" / "run_superspike.py"
    spec = importlib.util.spec_from_file_location("run_superspike", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    quick = ["nb_hidden=20", "logging_freq=1", "wandb.mode=disabled", "plot=false"]
    script.main([*quick, "nb_epochs=3", "hydra.run.dir=whole"])
    network, run = SuperSpikeNetwork.run, []

    def dies_in_the_third_trial(self, *arguments, **options):
        run.append(1)
        if len(run) == 4:  # one run measures silence
            raise KeyboardInterrupt
        return network(self, *arguments, **options)

    monkeypatch.setattr(SuperSpikeNetwork, "run", dies_in_the_third_trial)
    with pytest.raises(SystemExit):
        script.main([*quick, "nb_epochs=3", "hydra.run.dir=cut"])
    script.main([*quick, "nb_epochs=3", "hydra.run.dir=cut"])
    whole, cut = (load_runs(tmp_path / name)[0] for name in ("whole", "cut"))
    assert whole.status == cut.status == "done"
    np.testing.assert_array_equal(whole.metrics["van_rossum"], cut.metrics["van_rossum"])
    assert whole.state("target").sum() == 10361


def test_an_unknown_feedback_is_refused():
    with pytest.raises(UserError, match="feedback=direct"):
        SuperSpikeConfig(feedback="direct")
