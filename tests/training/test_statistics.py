"""Statistics of trains whose answer is known: Poisson-like, Bernoulli, regular, silent."""

import math

import numpy as np
import pytest
import torch

from surgrad.training import statistics
from surgrad.training.statistics import (
    binned_counts,
    cv_of_isi,
    defined_mean,
    fano_over_trials,
    firing_rates,
    inter_spike_intervals,
    moving_counts,
)


def bernoulli(p, *shape, seed=0):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < p).to(torch.uint8)


def regular(period, nb_steps, trials, units):
    spikes = torch.zeros(nb_steps, trials, units, dtype=torch.uint8)
    spikes[::period] = 1
    return spikes


def test_rates_are_counts_over_duration():
    spikes = bernoulli(0.3, 50, 4, 3, 5)
    expected = spikes.double().sum(0) / 0.1
    torch.testing.assert_close(firing_rates(spikes, 2e-3).double(), expected)
    torch.testing.assert_close(firing_rates(spikes.numpy(), 2e-3).double(), expected)
    torch.testing.assert_close(firing_rates(spikes.bool(), 2e-3).double(), expected)


def test_windows_are_their_sums():
    spikes = bernoulli(0.4, 23, 3, 2, 4)
    moving, binned = moving_counts(spikes, 5), binned_counts(spikes, 5)
    assert moving.shape == (19, 3, 2, 4)
    assert binned.shape == (4, 3, 2, 4)
    for t in range(19):
        assert torch.equal(moving[t], spikes[t : t + 5].sum(0).float())
    assert torch.equal(binned, moving[:20:5])


def test_counts_beyond_a_byte_do_not_wrap():
    spikes = torch.ones(400, 2, 1, dtype=torch.uint8)
    assert float(moving_counts(spikes, 300).max()) == 300
    assert float(binned_counts(spikes, 300).max()) == 300


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("binned", [False, True])
def test_fano_of_bernoulli_trains_is_one_minus_p(p, binned):
    # p = 0.01 is the Poisson limit, F = 1
    values = fano_over_trials(bernoulli(p, 300, 200, 30), 10, binned)
    # neurons that fired in no trial leave nothing here, and would bias the mean if they did
    mean = defined_mean(values)
    assert mean.nb_defined == mean.nb
    assert mean.value == pytest.approx(1 - p, abs=0.02)


def test_fano_of_poisson_counts_is_one():
    # refine the step at a fixed rate: F -> 1
    fine = bernoulli(1e-3, 5000, 100, 10)
    assert defined_mean(fano_over_trials(fine, 1000, binned=True)).value == pytest.approx(1, abs=0.05)


def test_fano_of_identical_trials_is_zero():
    one = bernoulli(0.2, 100, 1, 40)
    values = fano_over_trials(one.expand(-1, 7, -1), 10)
    defined = values[~values.isnan()]
    assert len(defined) > 0
    assert float(defined.abs().max()) == 0


def test_fano_is_variance_over_mean_window_by_window():
    spikes = bernoulli(0.05, 20, 8, 3, 2)
    values = fano_over_trials(spikes, 4).numpy()
    for t in range(17):
        counts = spikes[t : t + 4].numpy().astype(float).sum(0)
        with np.errstate(invalid="ignore"):
            expected = counts.var(0, ddof=1) / counts.mean(0)
        np.testing.assert_allclose(values[t], expected, rtol=1e-6)


def test_silent_neurons_are_counted_and_left_out():
    spikes = bernoulli(0.3, 100, 50, 4)
    alone = defined_mean(fano_over_trials(spikes, 10))
    padded = defined_mean(fano_over_trials(torch.cat([spikes, torch.zeros(100, 50, 6, dtype=torch.uint8)], 2), 10))
    assert padded.value == alone.value
    assert padded.nb_defined == alone.nb_defined == alone.nb
    assert padded.undefined_share == pytest.approx(0.6)
    nothing = defined_mean(fano_over_trials(torch.zeros(100, 50, 6), 10))
    assert math.isnan(nothing.value)
    assert nothing.nb_defined == 0


def test_slices_of_units_give_the_same_result(monkeypatch):
    spikes = bernoulli(0.2, 60, 5, 3, 7)
    whole = fano_over_trials(spikes, 6)
    monkeypatch.setattr(statistics, "_CHUNK_ELEMENTS", 60 * 5 * 4)
    torch.testing.assert_close(whole, fano_over_trials(spikes, 6), equal_nan=True)


def test_intervals_are_differences_of_spike_times():
    spikes = bernoulli(0.2, 40, 3, 2, 2)
    intervals, train = inter_spike_intervals(spikes)
    flat = spikes.flatten(1)
    for k in range(flat.shape[1]):
        assert torch.equal(intervals[train == k], flat[:, k].nonzero()[:, 0].diff())


@pytest.mark.parametrize("p", [0.02, 0.2, 0.6])
def test_cv_of_bernoulli_trains_is_geometric(p):
    # intervals are geometric: mean 1/p, standard deviation sqrt(1-p)/p
    cv = defined_mean(cv_of_isi(bernoulli(p, 20_000, 1, 20)))
    assert cv.value == pytest.approx(math.sqrt(1 - p), abs=0.02)


def test_cv_of_regular_and_of_bursting_trains():
    assert float(cv_of_isi(regular(7, 300, 2, 3)).abs().max()) == 0
    spikes = torch.zeros(1000, 1, 1)
    spikes[::100] = spikes[1::100] = 1
    # intervals alternate between 1 and 99, starting and ending with 1
    intervals = np.array([1, 99] * 9 + [1])
    assert float(cv_of_isi(spikes)) == pytest.approx(intervals.std() / intervals.mean())
    assert float(cv_of_isi(spikes)) > 0.9


def test_cv_needs_enough_intervals():
    spikes = torch.zeros(30, 1, 4)
    spikes[[3, 9], :, 1] = 1
    spikes[[3, 9, 21], :, 2] = 1
    spikes[5, :, 3] = 1
    assert cv_of_isi(spikes).isnan().tolist() == [[True, True, False, True]]
    assert cv_of_isi(spikes, min_intervals=1).isnan().tolist() == [[True, False, False, True]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: firing_rates(torch.zeros(10, 3), 1e-3), r"\(10, 3\) must be \(T, trials, \*units\)"),
        (lambda: fano_over_trials(torch.zeros(10, 1, 3), 2), "at least 2"),
        (lambda: fano_over_trials(torch.zeros(10, 2, 3), 11), "allowed: 1 to 10"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
