"""The spike-count baseline: it finds what counts tell, and nothing that only timing tells."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from surgrad.datasets import baselines
from surgrad.datasets.baselines import accuracy, count_baseline, fit_logistic, in_words
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.randman import Randman
from surgrad.errors import UserError


def make_counts(seed, nb_samples, rates):
    """Poisson counts with class-dependent rates (classes, units)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(nb_samples) % len(rates)
    counts = rng.poisson(rates[labels])
    units = np.concatenate([np.repeat(np.arange(counts.shape[1]), c) for c in counts])
    return EventDataset(
        times=rng.random(len(units)),
        units=units,
        offsets=np.concatenate([[0], np.cumsum(counts.sum(1))]),
        labels=labels,
        nb_units=counts.shape[1],
        nb_classes=len(rates),
        name=f"counts{seed}",
    )


def test_counts_that_tell_the_class_are_read():
    rates = np.random.default_rng(0).uniform(1, 20, (5, 30))
    parts = [make_counts(seed, n, rates) for seed, n in ((1, 300), (2, 100), (3, 200))]
    found = count_baseline(*parts)
    assert set(found) == {"train_acc", "valid_acc", "test_acc", "strength"}
    assert found["test_acc"] > 0.95
    assert found["strength"] in baselines.STRENGTHS
    assert count_baseline(*parts) == found


def test_timing_alone_is_not_read():
    """In Randman every unit fires once: counts say nothing."""
    found = count_baseline(*Randman(nb_classes=5, nb_samples=60, alpha=2.0).splits())
    assert found["test_acc"] < 0.45


def test_strength_is_chosen_on_the_validation_set():
    rates = np.random.default_rng(0).uniform(2, 4, (3, 80))
    train, valid, test = (make_counts(seed, 45, rates) for seed in (1, 2, 3))
    each = [count_baseline(train, valid, test, strengths=[s]) for s in baselines.STRENGTHS]
    best = count_baseline(train, valid, test)
    assert best["valid_acc"] >= max(f["valid_acc"] for f in each) - 0.03
    other_test = count_baseline(train, valid, make_counts(4, 45, rates[::-1]))
    assert (other_test["valid_acc"], other_test["strength"]) == (best["valid_acc"], best["strength"])
    assert other_test["test_acc"] != best["test_acc"]


def test_solution_is_stationary_and_shrinks_with_strength():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(80, 6)), rng.integers(0, 3, 80)

    def penalised(flat, strength):
        w = flat.reshape(7, 3)
        logits = x @ w[:-1] + w[-1]
        cross_entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(80), labels]
        return cross_entropy.mean() + strength / 2 * (w[:-1] ** 2).sum()

    norms = []
    for strength in (1.0, 0.1, 0.01):
        w = fit_logistic(x, labels, 3, strength)
        slope = check_grad(lambda v, s=strength: penalised(v, s), lambda v: 0 * v, w.ravel())
        assert slope < 1e-4
        norms.append(np.linalg.norm(w[:-1]))
    assert norms == sorted(norms)
    assert accuracy(w, x, labels) > 1 / 3


def test_silent_units_and_unseen_units_do_no_harm():
    rates = np.zeros((2, 4))
    rates[0, 0] = rates[1, 1] = 5
    train, valid = make_counts(1, 40, rates), make_counts(2, 40, rates)
    test = make_counts(3, 40, rates + np.array([0, 0, 1, 0]))
    found = count_baseline(train, valid, test)
    assert found["test_acc"] > 0.9


def test_sets_that_do_not_fit_are_named():
    rates = np.ones((2, 4))
    good = make_counts(1, 10, rates)
    with pytest.raises(UserError, match="5 units"):
        count_baseline(good, good, make_counts(2, 10, np.ones((2, 5))))
    with pytest.raises(UserError, match="validation set is empty"):
        count_baseline(good, good.subset([]), good)


@pytest.mark.parametrize(
    ("heard", "voices", "whose"),
    [
        (None, None, ""),
        ([0, 1], [2], " by 1 unseen speaker"),
        ([0], [1, 2], " by 2 unseen speakers"),
        ([0, 1], [1], " by 1 speaker"),
    ],
)
def test_a_test_accuracy_is_said_beside_what_it_has_to_beat(heard, voices, whose):
    train, test = (make_counts(seed, 6, np.ones((4, 5))) for seed in (0, 1))
    for data, speakers in ((train, heard), (test, voices)):
        data.speakers = None if speakers is None else np.resize(speakers, len(data))
    said = f"test accuracy 0.750 on {len(test)} samples{whose}; chance 0.250"
    assert in_words(0.75, train, test) == said
    counts = {"test_acc": 1 / 3}
    assert (
        in_words(0.75, train, test, counts)
        == f"{said}; spike counts alone, without their times (logistic regression) 0.333"
    )
