"""Delta modulation: what spikes say about a signal, and when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgrad.datasets.encoding.threshold_crossing import ThresholdCrossing
from surgrad.errors import UserError

DT = 10e-3


def walk(seed, shape=(3, 40, 2)):
    return np.random.default_rng(seed).normal(size=shape).cumsum(1)


def test_a_ramp_spikes_whenever_it_has_risen_by_a_threshold():
    ramp = np.linspace(0, 1, 11)[None, :, None]  # 1 in 10 samples: a threshold of 0.25 takes 25 ms
    times, units, offsets = ThresholdCrossing(0.25, DT)(ramp)
    np.testing.assert_allclose(times, [0.025, 0.05, 0.075, 0.1], rtol=1e-9)
    assert units.tolist() == [0, 0, 0, 0]
    assert offsets.tolist() == [0, 4]
    times, units, _ = ThresholdCrossing(0.25, DT)(-ramp)
    np.testing.assert_allclose(times, [0.025, 0.05, 0.075, 0.1], rtol=1e-9)
    assert units.tolist() == [1, 1, 1, 1]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), threshold=st.floats(0.05, 3))
def test_the_signal_is_known_to_a_threshold_from_its_spikes(seed, threshold):
    x = walk(seed)
    times, units, offsets = ThresholdCrossing(threshold, DT)(x)
    sign = np.where(units < 2, 1, -1) * threshold
    signal = np.repeat(np.arange(3), np.diff(offsets))
    for n in range(3):
        for channel in range(2):
            mine = (signal == n) & (units % 2 == channel)
            for t in range(x.shape[1]):
                told = x[n, 0, channel] + sign[mine][times[mine] <= t * DT + 1e-9].sum()
                assert abs(told - x[n, t, channel]) <= threshold * (1 + 1e-6)


def test_spikes_lie_where_the_line_between_samples_meets_the_level():
    x = walk(5, (4, 30, 3))
    times, units, offsets = ThresholdCrossing(0.4, DT)(x)
    assert len(times) > 100
    for n in range(4):
        mine = slice(offsets[n], offsets[n + 1])
        assert (np.diff(times[mine]) >= 0).all()
        for channel in range(3):
            one = units[mine] % 3 == channel
            level = x[n, 0, channel] + np.cumsum(np.where(units[mine][one] < 3, 0.4, -0.4))
            met = np.interp(times[mine][one], np.arange(30) * DT, x[n, :, channel])
            np.testing.assert_allclose(met, level, atol=1e-6)


def test_a_constant_and_a_single_sample_are_silent():
    for x in (np.full((2, 9, 3), 0.7), np.ones((2, 1, 3))):
        times, units, offsets = ThresholdCrossing(0.1, DT)(x)
        assert len(times) == len(units) == 0
        assert offsets.tolist() == [0, 0, 0]
    assert ThresholdCrossing(0.1, DT).nb_units(3) == 6


@pytest.mark.parametrize("options", [{"threshold": 0, "dt": DT}, {"threshold": 1, "dt": -1}])
def test_values_out_of_range_are_named(options):
    with pytest.raises(UserError, match="must be positive"):
        ThresholdCrossing(**options)


def test_samples_that_are_not_finite_are_counted():
    x = walk(0)
    x[1, 3, 0], x[2, 5, 1] = np.nan, np.inf
    with pytest.raises(UserError, match="2 samples of the signal"):
        ThresholdCrossing(0.1, DT)(x)
