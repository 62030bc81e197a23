"""The spike-train matching rule against golden traces, its own adjoint, and differentiation."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from surgrad.errors import UserError
from surgrad.experiments.spike_train_matching.leaky_filter import BLOCK, LeakyFilter
from surgrad.experiments.spike_train_matching.rules import (
    Episode,
    autograd_three_factor,
    full_backpropagation,
    three_factor,
)
from surgrad.experiments.spike_train_matching.task import (
    Activity,
    Neurons,
    SpikeMode,
    Task,
    Weights,
    build_surrogate,
    initial_weights,
    poisson_input,
    spike_mode,
)
from surgrad.experiments.spike_train_matching.training import Learner, Training, evaluate
from surgrad.kernels.philox import NoiseKey
from surgrad.neurons.escape_noise import Exponential, Sigmoid, Step
from surgrad.training.losses import SpikeTrainL2, VanRossum, causal_convolution, double_exponential_kernel

REFERENCE = Path(__file__).parents[1] / "reference"
GOLDEN = sorted(REFERENCE.glob("stm_*.npz"))


def golden(path: Path, dtype=torch.float32):
    data = np.load(path)
    neurons = Neurons(
        *(float(data[k]) for k in ("dt", "tau_mem", "tau_syn", "theta", "eps0", "delta_uo")),
        reset="multiplicative" if data["reset_mode"] else "multiplicative_leak",
    )
    x, z = (torch.tensor(data[k]).to(dtype)[:, None] for k in ("x", "target"))
    weights = Weights(*(torch.tensor(data[k]).to(dtype) for k in ("w_hidden", "w_output")))
    names = ("spikes_hidden", "mem_hidden", "spikes_output", "mem_output")
    activity = Activity(*(torch.tensor(data[k]).to(dtype)[:, None, None] for k in names))
    surrogate = build_surrogate(str(data["method"]), float(data["beta_hidden"]))
    return data, Task(x, z, neurons), weights, activity, surrogate


def relative(ours: torch.Tensor, reference: np.ndarray) -> float:
    return float(np.abs(ours.numpy() - reference).max() / np.abs(reference).max())


@cache
def random_episode(nb_trials=3, nb_pairs=2, nb_steps=70, dtype=torch.float64, sg_mode="superspike", theta=1.0, **kw):
    generator = torch.Generator().manual_seed(4)
    neurons = Neurons(theta=theta, **kw)
    x = poisson_input(nb_steps, nb_pairs, 12, 60.0, 1e-3, generator).to(dtype)
    z = (torch.rand(nb_steps, nb_pairs, 7, generator=generator) < 0.1).to(dtype)
    task = Task(x, z, neurons)
    weights = Weights(*(w.to(dtype) for w in initial_weights((12, 9, 7), neurons, 50.0, 1.5, generator)))
    mode, key = spike_mode(True), NoiseKey(3, 5)
    activity = task.forward(weights, mode, key, nb_trials)
    return Episode(task, weights, activity, mode, key, build_surrogate(sg_mode, 10.0))


# ---------------------------------------------------------------- golden traces
def test_all_golden_files_are_there():
    assert len(GOLDEN) == 3


def test_deterministic_forward_gives_the_golden_spikes_and_membranes():
    data, task, weights, _, _ = golden(REFERENCE / "stm_superspike.npz")
    activity = task.forward(weights, SpikeMode(), NoiseKey())
    for ours, name in zip(activity, ("spikes_hidden", "mem_hidden", "spikes_output", "mem_output"), strict=True):
        if name.startswith("spikes"):
            np.testing.assert_array_equal(ours[:, 0, 0].numpy(), data[name])
        else:
            assert relative(ours[:, 0, 0], data[name]) < 1e-5


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_traces_update_and_losses_equal_the_golden_ones(path):
    data, task, weights, activity, surrogate = golden(path)
    assert relative(task.psp_input[:, 0], data["filtered_input"]) < 1e-5
    assert relative(task.psp(activity.spikes_hidden)[:, 0, 0], data["filtered_hidden"]) < 1e-5
    assert relative(task.surrogate_hidden(activity, surrogate)[:, 0, 0], data["surrogate_hidden"]) < 1e-5
    update = three_factor(Episode(task, weights, activity, SpikeMode(), NoiseKey(), surrogate))
    assert relative(update.hidden, data["dw_hidden"]) < 1e-4
    assert relative(update.output, data["dw_output"]) < 1e-4
    assert task.van_rossum(activity.spikes_output).item() == pytest.approx(float(data["van_rossum"]), rel=1e-5)
    assert task.l2(activity.spikes_output).item() == pytest.approx(float(data["l2"]), rel=1e-5)


@pytest.mark.parametrize("path", [p for p in GOLDEN if "stochastic" in p.stem], ids=lambda p: p.stem)
def test_golden_spikes_are_draws_of_the_sigmoidal_escape_noise(path):
    """z-test of the spike count against the probabilities at the stored membranes, and no impossible spike."""
    data = np.load(path)
    mode = spike_mode(True, True, beta_h=float(data["beta_hidden"]), beta_o=float(data["beta_output"]))
    for layer, noise in (("hidden", mode.hidden), ("output", mode.output)):
        p = noise.probability(torch.tensor(data[f"mem_{layer}"], dtype=torch.float64) - 1).numpy()
        spikes = data[f"spikes_{layer}"]
        assert abs(spikes.sum() - p.sum()) < 3.5 * np.sqrt((p * (1 - p)).sum())
        assert np.where(spikes == 1, p, 1 - p).min() > 1e-6


# ---------------------------------------------------------------- filters
@pytest.mark.parametrize("nb_steps", [1, BLOCK - 1, BLOCK, BLOCK + 1, 189])
@pytest.mark.parametrize(("a", "b"), [(0.8, 0.9), (0.9, 0.8), (0.85, 0.85)])
def test_filter_in_blocks_is_the_recursion(nb_steps, a, b):
    x = torch.randn(nb_steps, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    i, u, expected = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
    for t in range(nb_steps):
        i, u = a * i + x[t], b * u + i
        expected.append(1.7 * u)
    torch.testing.assert_close(LeakyFilter(a, b, 1.7, like=x)(x), torch.stack(expected))


def test_adjoint_is_the_transpose():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(75, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    leaky = LeakyFilter(0.8, 0.9, 0.3, like=x)
    torch.testing.assert_close((leaky(x) * y).sum(), (x * leaky.adjoint(y)).sum())


def test_linear_losses_equal_the_quadratic_ones_of_the_library():
    episode = random_episode()
    task, spikes = episode.task, episode.activity.spikes_output
    kernel = double_exponential_kernel(task.nb_steps, 1e-3, 10e-3, 5e-3, 0.2, torch.float64)
    torch.testing.assert_close(task.eps(spikes), causal_convolution(kernel, spikes))
    for k in range(spikes.shape[1]):
        torch.testing.assert_close(task.van_rossum(spikes)[k], VanRossum()(spikes[:, k], task.target))
        torch.testing.assert_close(task.l2(spikes)[k], SpikeTrainL2()(spikes[:, k], task.target))


# ---------------------------------------------------------------- the rule
@pytest.mark.parametrize("sg_mode", ["superspike", "sigmoidspike", "multilayerspiker"])
def test_three_factor_rule_is_the_gradient_with_its_paths_cut(sg_mode):
    episode = random_episode(sg_mode=sg_mode)
    for ours, other in zip(three_factor(episode), autograd_three_factor(episode), strict=True):
        assert ours.abs().max() > 0.1
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)


def test_three_factor_rule_is_the_sum_written_in_the_paper():
    """The definition with its (inputs x T x hidden) tensor, for one trial of one pair."""
    episode = random_episode(nb_trials=1, nb_pairs=1, nb_steps=40)
    task, activity = episode.task, episode.activity
    kernel = double_exponential_kernel(40, 1e-3, 10e-3, 5e-3, 0.2, torch.float64)
    g = task.surrogate_hidden(activity, episode.surrogate)[:, 0, 0]
    error = (task.target[:, 0] - activity.spikes_output[:, 0, 0]) / 13e-3
    eligibility = causal_convolution(kernel, task.psp_input[:, 0, :, None] * g[:, None, :])  # (T, N_in, N_hid)
    hidden = torch.einsum("tih,th->ih", eligibility, error @ episode.weights.output.T)
    output = task.psp(activity.spikes_hidden)[:, 0, 0].T @ error
    update = three_factor(episode)
    torch.testing.assert_close(update.hidden, hidden)
    torch.testing.assert_close(update.output, output)


def test_update_is_the_mean_over_trials_and_pairs():
    episode = random_episode(nb_trials=3, nb_pairs=2)
    whole = three_factor(episode)
    parts = []
    for k in range(3):
        for p in range(2):
            activity = Activity(*(a[:, k : k + 1, p : p + 1] for a in episode.activity))
            part = Episode(episode.task.pairs(p, p + 1), episode.weights, activity, *list(vars(episode).values())[3:])
            parts.append(three_factor(part))
    torch.testing.assert_close(whole.hidden, torch.stack([w.hidden for w in parts]).mean(0))
    torch.testing.assert_close(whole.output, torch.stack([w.output for w in parts]).mean(0))


def test_trials_and_pairs_draw_the_same_spikes_in_any_batch():
    episode = random_episode(nb_trials=3, nb_pairs=2)
    second = episode.task.pairs(1, 2).forward(episode.weights, episode.mode, episode.key, 3)
    torch.testing.assert_close(second.spikes_output, episode.activity.spikes_output[:, :, 1:])
    assert not torch.equal(second.spikes_hidden[:, 0], second.spikes_hidden[:, 1])


def test_full_backpropagation_descends_the_van_rossum_distance():
    episode = random_episode(nb_trials=20, nb_pairs=1, dtype=torch.float32)
    task = episode.task
    step = full_backpropagation(episode)
    before = task.van_rossum(episode.activity.spikes_output).mean()
    after = []
    for scale in (0.01, 0.02, 0.05):
        moved = Weights(*(w + scale * d / d.norm() for w, d in zip(episode.weights, step, strict=True)))
        after.append(evaluate(task, moved, episode.mode, episode.key, 20)[1].mean())
    assert min(after) < before


def test_full_backpropagation_is_the_sum_of_what_each_output_asks_for():
    """The distance is summed over outputs: what one of them learns does not depend on how many others there are."""
    episode = random_episode(nb_trials=1)
    mode = SpikeMode(Step(), Step())  # noise is addressed by the number of the neuron

    def update(outputs: slice) -> Weights:
        task = Task(episode.task.x, episode.task.target[..., outputs], episode.task.neurons)
        weights = Weights(episode.weights.hidden, episode.weights.output[:, outputs])
        activity = task.forward(weights, mode, episode.key, 1)
        return full_backpropagation(Episode(task, weights, activity, mode, episode.key, episode.surrogate))

    whole, parts = update(slice(None)), [update(slice(k, k + 1)) for k in range(7)]
    assert whole.output.abs().max() > 0
    torch.testing.assert_close(whole.output, torch.cat([part.output for part in parts], dim=1))
    torch.testing.assert_close(whole.hidden, torch.stack([part.hidden for part in parts]).sum(0))


def test_threshold_only_sets_the_scale_of_the_membrane():
    one, two = random_episode(), random_episode(theta=2.0)
    doubled = Weights(*(2 * w for w in one.weights))
    mode = SpikeMode(Sigmoid(5.0), Sigmoid(50.0))
    activity = two.task.forward(doubled, mode, one.key, 3)
    torch.testing.assert_close(activity.spikes_output, one.activity.spikes_output)
    torch.testing.assert_close(activity.membrane_hidden, 2 * one.activity.membrane_hidden)


def test_multiplicative_reset_forbids_a_spike_right_after_a_spike():
    episode = random_episode(reset="multiplicative")
    activity = episode.task.forward(episode.weights, SpikeMode(), NoiseKey())
    spikes = activity.spikes_hidden
    assert spikes.sum() > 0
    assert (spikes[1:] * spikes[:-1]).sum() == 0


# ---------------------------------------------------------------- weights, input, learning
def test_initial_membrane_fluctuates_as_asked():
    generator = torch.Generator().manual_seed(0)
    neurons = Neurons(theta=1e6)
    x = poisson_input(4000, 1, 200, 50.0, 1e-3, generator)
    weights = initial_weights((200, 100, 5), neurons, 50.0, 1.0, generator)
    task = Task(x, torch.zeros(4000, 1, 5), neurons)
    membrane = task.forward(weights, SpikeMode(), NoiseKey()).membrane_hidden[200:]
    assert membrane.var(0).mean().sqrt().item() == pytest.approx(1.0, rel=0.1)
    assert x.mean().item() == pytest.approx(0.05, rel=0.02)


def small_training(**kw):
    settings = {
        "surrogate": build_surrogate("superspike", 10.0),
        "mode": SpikeMode(),
        "other": spike_mode(True),
        "lr_h": 1e-4,
        "lr_o": 1e-3,
        "batch_size": 2,
    }
    return Training(**(settings | kw))


def learn(task, weights, training, epochs):
    learner = Learner(task, weights, training)
    return [learner(number) for number in epochs]


def test_learning_reduces_the_distance_and_resumes_exactly():
    episode = random_episode(dtype=torch.float32)
    training = small_training(mode=spike_mode(True), other=SpikeMode(), nb_trials=4, lr_h=2e-4, lr_o=2e-3)
    epochs = learn(episode.task, episode.weights, training, range(60))
    assert epochs[-1].van_rossum.mean() < 0.5 * epochs[0].van_rossum.mean()
    again = learn(episode.task, epochs[29].weights, training, range(30, 60))
    assert torch.equal(again[-1].weights.hidden, epochs[-1].weights.hidden)
    assert torch.equal(again[-1].van_rossum_other, epochs[-1].van_rossum_other)


def test_pairs_may_be_presented_one_after_the_other():
    episode = random_episode()
    (online,) = learn(episode.task, episode.weights, small_training(batch_size=1), range(1))
    (first,) = learn(episode.task.pairs(0, 1), episode.weights, small_training(), range(1))
    (then,) = learn(episode.task.pairs(1, 2), first.weights, small_training(), range(1))
    torch.testing.assert_close(online.weights.hidden, then.weights.hidden)
    assert online.van_rossum.shape == (1, 2)


def test_a_diverging_run_stops_with_the_last_good_weights():
    episode = random_episode(dtype=torch.float32)
    learner = Learner(episode.task, episode.weights, small_training(lr_o=1e38))
    with pytest.raises(UserError, match="weights are not finite"):
        learner(0)
    assert torch.equal(learner.weights.output, episode.weights.output)


def test_modes_are_those_of_the_published_flags():
    assert spike_mode(False) == SpikeMode(Step(), Step())
    assert spike_mode(True, True) == SpikeMode(Sigmoid(10.0), Sigmoid(100.0))
    assert spike_mode(True, False) == SpikeMode(Exponential(2 / 3, 0.133), Exponential(2 / 3, 0.013))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_surrogate("supraspike", 10.0), "sg_mode='supraspike' is unknown; allowed: superspike"),
        (lambda: small_training(update="hebb"), "update='hebb' is unknown; allowed: three_factor, autograd, full"),
        (lambda: small_training(nb_trials=0), "nb_trials=0"),
        (lambda: Neurons(tau_mem=-1.0), "tau_mem=-1.0 must be positive"),
        (lambda: poisson_input(5, 1, 2, -3.0, 1e-3, torch.Generator()), "fi=-3.0 Hz is not allowed"),
        (lambda: poisson_input(5, 1, 2, 1001.0, 1e-3, torch.Generator()), "between 0 and 1000 Hz"),
        (lambda: Task(torch.zeros(5, 1, 2), torch.zeros(6, 1, 2), Neurons()), "differ in steps"),
    ],
)
def test_wrong_values_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
