"""Training is a pure function of its configuration: in any batch split, and through any number of interruptions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from classification_suite import GRID, make_network

from surgrad.datasets.augment import Drop
from surgrad.datasets.sources.randman import Randman
from surgrad.errors import UserError
from surgrad.network.methods import METHODS, SpikeParameters, method_neuron, set_neuron
from surgrad.network.models import ConvStack, conv_snn
from surgrad.runs.folder import open_run
from surgrad.runs.record import load_runs
from surgrad.training.evaluation import evaluate, evaluate_repeatedly
from surgrad.training.fit import Best, Fit, Plan, annealed
from surgrad.training.loop import Compute, Objective, train_epoch
from surgrad.training.losses import MaxOverTimeCrossEntropy
from surgrad.training.regularizers import UpperBoundL2
from surgrad.training.schedules import SCHEDULES, build_schedule

OBJECTIVE = Objective(MaxOverTimeCrossEntropy(), [UpperBoundL2(0.1, 1.0)])


@pytest.fixture(scope="module")
def splits():
    return Randman(nb_classes=3, nb_units=12, nb_steps=40, duration=0.08, nb_samples=20, alpha=2.0).splits()


def fit(
    folder,
    splits,
    *,
    nb_epochs=4,
    objective=OBJECTIVE,
    method="stochasticsuperspike",
    valid=True,
    lr=5e-3,
    schedule=None,
    **options,
):
    """Weights and metrics of a run in ``folder``, new or gone on with."""
    network = make_network(method)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    if schedule is not None:
        options["schedule"] = lambda optimizer: build_schedule(optimizer=optimizer, nb_epochs=nb_epochs, **schedule)
    with open_run(folder, {"nb_epochs": nb_epochs}) as run:
        held_out = splits[1] if valid else None
        plan = Plan(nb_epochs, **{"augment": Drop(0.1), "seed": 3} | options)
        best = Fit(network, optimizer, splits[0], held_out, GRID, objective, run, plan)()
    (record,) = load_runs(folder)
    return network.state_dict(), record.metrics, best


def require_equal(a, b):
    """Two runs: same weights, same numbers in every row, up to the seconds they took."""
    (weights, metrics, best), (other_weights, other_metrics, other_best) = a, b
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert metrics.keys() == other_metrics.keys()
    for name in metrics.keys() - {"seconds"}:
        np.testing.assert_array_equal(metrics[name], other_metrics[name])
    assert best.epoch == other_best.epoch
    assert all(torch.equal(best.weights[name], other_best.weights[name]) for name in weights)


class Interrupted(MaxOverTimeCrossEntropy):
    """A loss that is computed ``limit`` times, then the process is told to stop, or returns NaN."""

    def __init__(self, limit: int, value: float | None = None):
        object.__setattr__(self, "left", [limit])
        object.__setattr__(self, "value", value)

    def __call__(self, readout, labels):
        self.left[0] -= 1
        if self.left[0] < 0:
            if self.value is None:
                raise KeyboardInterrupt
            return super().__call__(readout, labels) * self.value
        return super().__call__(readout, labels)


def require_learned(folder, splits, perturbation=0.0, seed=0):
    """Sixteen epochs, before rounding has grown to the size of the weights: the loss falls and most answers are right.

    Args: standard deviation of what is added to every starting weight, and its seed.
    """
    objective, generator = Objective(MaxOverTimeCrossEntropy()), torch.Generator().manual_seed(seed)
    network = make_network("superspike")
    with torch.no_grad():
        for weight in network.parameters():
            weight += perturbation * torch.randn(weight.shape, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    with open_run(folder, {"nb_epochs": 16}) as run:
        Fit(network, optimizer, splits[0], splits[1], GRID, objective, run, Plan(16, seed=3))()
    (record,) = load_runs(folder)
    assert record.metrics["train_loss"][-1] < 0.8 * record.metrics["train_loss"][1]
    assert record.metrics["train_acc"][-1] > 0.5  # chance is 1/3


def test_a_small_problem_is_learned(tmp_path, splits):
    require_learned(tmp_path, splits)


@pytest.mark.slow
def test_rounding_does_not_decide_whether_it_is_learned(tmp_path, splits):
    for seed in range(20):
        require_learned(tmp_path / str(seed), splits, perturbation=1e-6, seed=seed)


def test_two_runs_with_one_seed_are_equal_and_another_seed_is_not(tmp_path, splits):
    first = fit(tmp_path / "a", splits)
    require_equal(first, fit(tmp_path / "b", splits))
    assert not np.array_equal(first[1]["train_loss"], fit(tmp_path / "c", splits, seed=4)[1]["train_loss"])


@pytest.mark.parametrize("nb_losses", [3, 9, 20])
def test_a_run_stopped_within_an_epoch_goes_on_as_if_it_had_not_been(tmp_path, splits, nb_losses):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", splits, objective=replace(OBJECTIVE, loss=Interrupted(nb_losses)))
    require_equal(fit(tmp_path / "a", splits), fit(tmp_path / "b", splits))


def test_a_resumed_run_still_knows_the_best_epoch_before_it_was_stopped(tmp_path, splits, monkeypatch):
    """The best epoch is one that a resumed run does not see again: here the untrained network, whatever comes."""
    monkeypatch.setattr(Best, "beaten_by", lambda *scores: False)
    whole = fit(tmp_path / "whole", splits)
    stopped = replace(OBJECTIVE, loss=Interrupted(1 + 6 + 1 + 6 + 1 + 2))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", splits, objective=stopped)
    resumed = fit(tmp_path / "stopped", splits)
    assert resumed[2].epoch == 0
    assert not all(torch.equal(resumed[2].weights[name], weight) for name, weight in resumed[0].items())
    require_equal(resumed, whole)


@pytest.mark.parametrize(
    "options",
    [
        *({"schedule": {"name": name}} for name in SCHEDULES),
        {"schedule": {"name": "step", "step_size": 1, "gamma": 0.5, "warmup": 2}},
        {"grad_clip": 1e-2},
        {"patience": 4, "nb_epochs": 6},
        {"ema": 0.9},
    ],
    ids=str,
)
@pytest.mark.parametrize("nb_losses", [9, 20])
def test_what_changes_training_goes_on_as_if_it_had_not_been_stopped(tmp_path, splits, options, nb_losses):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", splits, objective=replace(OBJECTIVE, loss=Interrupted(nb_losses)), **options)
    whole = fit(tmp_path / "b", splits, **options)
    require_equal(fit(tmp_path / "a", splits, **options), whole)


def test_schedules_are_those_of_torch(tmp_path, splits):
    """Cosine: lr (1 + cos(pi n / N)) / 2 in epoch n = 0, 1, …; a warm-up rises from a tenth."""
    _, metrics, _ = fit(tmp_path / "a", splits, schedule={"name": "cosine"})
    expected = 5e-3 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    np.testing.assert_allclose(metrics["lr"][1:], expected, rtol=1e-6)
    _, metrics, _ = fit(tmp_path / "b", splits, schedule={"name": "exponential", "gamma": 0.5, "warmup": 2})
    np.testing.assert_allclose(metrics["lr"][1:], [5e-4, 2.75e-3, 5e-3, 2.5e-3], rtol=1e-6)
    for mistake, message in (({"name": "cosin"}, "allowed: cosine"), ({"name": "step", "gama": 1}, "gama")):
        with pytest.raises(UserError, match=message):
            fit(tmp_path / "c", splits, schedule=mistake)


def test_clipped_gradients_change_weights_by_at_most_the_norm(tmp_path, splits):
    network = make_network()
    before = [w.clone() for w in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    batches = replace(GRID, batch_size=len(splits[0]))(splits[0])
    train_epoch(network, batches, OBJECTIVE, optimizer, grad_clip=1e-3)
    change = torch.cat([(a - b).flatten() for a, b in zip(network.parameters(), before, strict=True)])
    assert float(change.detach().norm()) == pytest.approx(1e-3, rel=1e-3)


def test_training_ends_when_validation_does_not_improve(tmp_path, splits):
    _, metrics, best = fit(tmp_path, splits, nb_epochs=50, lr=1e-9, patience=2)
    assert metrics["epoch"][-1] == best.epoch + 2 < 50


def test_the_average_of_weights_that_do_not_move_is_these_weights(tmp_path, splits):
    weights, _, _ = fit(tmp_path, splits, lr=1e-12, ema=0.9)
    for name, start in make_network().state_dict().items():
        torch.testing.assert_close(weights[name], start, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(tmp_path, splits, value):
    whole = fit(tmp_path / "b", splits, nb_epochs=1)
    broken = replace(OBJECTIVE, loss=Interrupted(1 + 6 + 1 + 3, value))  # validation, epoch 1, validation, half of 2
    with pytest.raises(UserError, match=r"epoch 2: the loss is (nan|inf).*keeps epoch 1.*smaller lr$"):
        fit(tmp_path / "a", splits, objective=broken)
    (record,) = load_runs(tmp_path / "a")
    assert record.status == "failed"
    checkpoint = record.checkpoint()
    assert checkpoint["epoch"] == 1
    assert all(torch.equal(checkpoint["model"][name], whole[0][name]) for name in whole[0])


@pytest.mark.parametrize("method", ["superspike", "stochasticsuperspike"])
def test_evaluation_does_not_depend_on_the_batch_size(splits, method):
    network = make_network(method)
    whole = evaluate(network, splits[0], replace(GRID, batch_size=1000), OBJECTIVE, seed=1, draw=5)
    parts = evaluate(network, splits[0], replace(GRID, batch_size=7), OBJECTIVE, seed=1, draw=5)
    assert parts.acc == whole.acc
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.rates == pytest.approx(whole.rates, rel=1e-6)


@pytest.mark.parametrize(("key", "value"), [("kernel", "fast"), ("memory", "less"), ("precision", "bf16")])
def test_training_and_evaluation_run_the_network_as_told(tmp_path, splits, key, value):
    compute = Compute(**{key: value})
    with pytest.raises(UserError, match=f"{key}='{value}' is"):
        fit(tmp_path, splits, valid=False, compute=compute)
    with pytest.raises(UserError, match=f"{key}='{value}' is"):
        evaluate_repeatedly(make_network(), splits[0], GRID, OBJECTIVE, nb_draws=1, compute=compute)


def test_repeated_evaluation_draws_anew_only_where_there_is_noise(splits):
    options = {"nb_draws": 4, "seed": 1}
    stochastic = evaluate_repeatedly(make_network(), splits[0], GRID, OBJECTIVE, **options)
    assert stochastic.acc_std > 0
    certain = evaluate_repeatedly(make_network("superspike"), splits[0], GRID, OBJECTIVE, **options)
    assert certain.acc_std == 0
    assert certain.acc == evaluate(make_network("superspike"), splits[0], GRID, OBJECTIVE).acc


def test_swapping_the_neuron_changes_spikes_but_no_weight(splits):
    network = make_network()
    before = {name: w.clone() for name, w in network.state_dict().items()}
    own = evaluate(network, splits[0], GRID, OBJECTIVE)
    set_neuron(network, method_neuron("superspike", SpikeParameters()))
    assert evaluate(network, splits[0], GRID, OBJECTIVE).rates != own.rates
    assert all(torch.equal(before[name], w) for name, w in network.state_dict().items())


def test_without_validation_the_last_epoch_counts_as_the_best(tmp_path, splits):
    weights, metrics, best = fit(tmp_path, splits, valid=False, nb_epochs=2)
    assert best.epoch == 2
    assert all(torch.equal(best.weights[name], weights[name]) for name in weights)
    assert "valid_acc" not in metrics


def test_the_best_epoch_is_of_highest_accuracy_then_lowest_loss_then_earliest():
    best = Best(3, acc=0.8, loss=1.0, weights={})
    assert best.beaten_by(acc=0.9, loss=2.0)
    assert best.beaten_by(acc=0.8, loss=0.9)
    assert not best.beaten_by(acc=0.8, loss=1.0)
    assert not best.beaten_by(acc=0.7, loss=0.1)


@pytest.mark.parametrize(("start", "interval"), [(0, 5), (3, 2), (0, 1)])
def test_annealing_follows_the_published_rule(start, interval):
    beta = 10.0
    for epoch in range(30):  # counted from 0, raised at the end of an epoch
        assert annealed(10.0, epoch + 1, start=start, step=0.5, interval=interval) == pytest.approx(beta)
        if epoch >= start and (epoch - start) % interval == 0:
            beta += 0.5


def test_methods_differ_in_noise_and_surrogate():
    neurons = {name: method_neuron(name, SpikeParameters()) for name in METHODS}
    assert len({(n.surrogate, n.escape_noise) for n in neurons.values()}) == len(METHODS)
    assert [name for name, n in neurons.items() if not n.escape_noise.stochastic] == ["superspike"]
    x = torch.linspace(-1, 1, 101)
    scaled = neurons["scaled_sigmoid"].surrogate(x, x)
    exact = method_neuron("superspike", SpikeParameters(sigm=True)).surrogate(x, x)
    torch.testing.assert_close(10 * scaled, exact)


def test_unknown_methods_and_short_lists_are_refused():
    with pytest.raises(UserError, match="allowed: superspike, "):
        method_neuron("superspik", SpikeParameters())
    with pytest.raises(UserError, match=r"kernel_size=\[3\] has 1 entries, nb_hidden_layers=2"):
        ConvStack(2, [4, 4], [3], [1, 1], [0, 0])
    with pytest.raises(UserError, match="hidden layer 1: kernel_size=9 is larger than its input of length 4"):
        conv_snn(
            ConvStack(2, [4, 4], [3, 9], [3, 1], [0, 0]),
            **{"in_shape": (1, 12), "nb_classes": 3, "neuron": method_neuron("superspike", SpikeParameters())},
            **{"dt": 1e-3, "tau_mem": 2e-2, "tau_syn": 1e-2, "tau_readout": 0.1},
        )
