"""Each penalty against its definition, on dense and convolutional counts."""

import pytest
import torch

from surgrad.errors import UserError
from surgrad.training.regularizers import REGULARIZERS, UpperBoundL2, build_regularizer, penalty

FORMULA = {
    "UpperBoundL1": lambda n, theta: max(n - theta, 0.0),
    "UpperBoundL2": lambda n, theta: max(n - theta, 0.0) ** 2,
    "LowerBoundL1": lambda n, theta: max(theta - n, 0.0),
    "LowerBoundL2": lambda n, theta: max(theta - n, 0.0) ** 2,
    "ActivityL1": lambda n, theta: abs(n - theta),
    "ActivityL2": lambda n, theta: (n - theta) ** 2,
}


def make_counts(*shape):
    return torch.randint(0, 12, shape, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("shape", [(5, 8), (5, 4, 6), (3, 2, 3, 4)])
def test_penalty_is_its_definition(name, shape):
    counts = make_counts(*shape)
    per_neuron = [FORMULA[name](float(n), 5.5) for n in counts.flatten()]
    per_sample = [FORMULA[name](float(n), 5.5) for n in counts.flatten(1).mean(1)]
    options = {"strength": 0.3, "threshold": 5.5}
    neuron = build_regularizer(name, dims="neuron", **options)(counts)
    population = build_regularizer(name, dims="population", **options)(counts)
    assert float(neuron) == pytest.approx(0.3 * sum(per_neuron) / len(per_neuron))
    assert float(population) == pytest.approx(0.3 * sum(per_sample) / len(per_sample))


def test_axes_average_over_those_axes():
    counts = make_counts(5, 4, 6)
    expected = torch.relu(counts.mean(-1) - 5).square().mean()
    torch.testing.assert_close(UpperBoundL2(1.0, 5.0, dims=-1)(counts), expected)
    torch.testing.assert_close(UpperBoundL2(1.0, 5.0, dims=False)(counts), UpperBoundL2(1.0, 5.0, "neuron")(counts))
    torch.testing.assert_close(UpperBoundL2(1.0, 5.0, dims=[-2, -1])(counts), UpperBoundL2(1.0, 5.0)(counts))


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("dims", ["population", "neuron"])
def test_gradient(name, dims):
    counts = (make_counts(3, 4, 2) + 0.25).requires_grad_()
    assert torch.autograd.gradcheck(build_regularizer(name, strength=2.0, threshold=5.0, dims=dims), counts)


def test_penalties_add_up_over_layers():
    counts = [make_counts(4, 6), make_counts(4, 2, 3)]
    regularizers = [build_regularizer("UpperBoundL2", threshold=4), build_regularizer("LowerBoundL1", threshold=9)]
    expected = sum(float(r(c)) for r in regularizers for c in counts)
    assert float(penalty(regularizers, counts)) == pytest.approx(expected)
    for some in (counts, counts[:1], []):
        assert float(penalty([], some)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": "layer"}, "dims='layer' is unknown; allowed: population, neuron"),
        ({"strength": -1}, "must not be negative"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        UpperBoundL2(**options)


@pytest.mark.parametrize("dims", [0, -3, 3, [-2, -1]])
def test_axes_that_are_not_units_are_refused(dims):
    with pytest.raises(UserError, match="does not fit counts of shape"):
        UpperBoundL2(dims=dims)(make_counts(4, 6))


def test_unknown_regularizer_names_the_allowed():
    with pytest.raises(UserError, match="'L3' is unknown; allowed: UpperBoundL1"):
        build_regularizer("L3")


def test_batch_averages_each_neuron_over_samples():
    counts = make_counts(5, 4, 6)
    expected = sum((float(n) - 1) ** 2 for n in counts.mean(0).flatten()) / 24
    assert float(build_regularizer("ActivityL2", threshold=1.0, dims="batch")(counts)) == pytest.approx(expected)


def test_silent_neurons_feel_the_cost_of_a_spike():
    counts = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    build_regularizer("ActivityL1", strength=12.0, dims="neuron")(counts).backward()
    torch.testing.assert_close(counts.grad, torch.ones_like(counts))
