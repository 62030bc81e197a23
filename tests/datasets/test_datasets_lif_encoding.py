"""Neurons that encode signals: against the closed form of the firing time and a loop over one neuron."""

import math

import numpy as np
import pytest

from surgrad.datasets.encoding.lif_encoding import LIFEncoding
from surgrad.errors import UserError

DT = 2e-3


def test_constant_drive_fires_at_the_closed_form_interval():
    encoding = LIFEncoding(DT, copies=40, hold=2, seed=3)
    times, units, _ = encoding(np.zeros((1, 400, 1)))
    gain, bias = np.random.default_rng(3).standard_normal((2, 40))
    step, drive = DT / 2, gain * bias
    for neuron, current in enumerate(drive):
        spikes = times[units == neuron]
        if current < 1:
            assert len(spikes) == 0
            continue
        # u[n] = g b (1 - b^n) exceeds 1 first at n; then one step of reset
        first = math.floor(math.log(1 - 1 / current) / math.log(math.exp(-step / 20e-3))) + 1
        np.testing.assert_allclose(spikes[0], (first + 0.5) * step)
        np.testing.assert_allclose(np.diff(spikes), (first + 1) * step)


def test_every_neuron_follows_its_recursion():
    x = 8 * np.random.default_rng(0).normal(size=(2, 30, 3)) + 4
    encoding = LIFEncoding(DT, copies=5, hold=3, seed=1)
    times, units, offsets = encoding(x)
    gain, bias = np.random.default_rng(1).standard_normal((2, 15))
    b = math.exp(-DT / 3 / 20e-3)
    for n in range(2):
        mine = slice(offsets[n], offsets[n + 1])
        for j in range(15):
            u, expected = 0.0, []
            for t in range(90):
                fires = u > 1
                expected += [t] if fires else []
                u = 0.0 if fires else b * u + (1 - b) * gain[j] * (x[n, t // 3, j % 3] + bias[j])
            found = np.floor(times[mine][units[mine] == j] / (DT / 3)).astype(int)
            assert found.tolist() == expected
    assert len(times) > 50


def test_gains_depend_on_the_seed_alone():
    x = np.random.default_rng(0).normal(size=(3, 20, 2))
    whole, alone = LIFEncoding(DT, seed=4)(x), LIFEncoding(DT, seed=4)(x[1:2])
    np.testing.assert_array_equal(whole.units[slice(*whole.offsets[1:3])], alone.units)
    assert not np.array_equal(whole.units, LIFEncoding(DT, seed=5)(x).units)
    assert LIFEncoding(DT, copies=7).nb_units(3) == 21


@pytest.mark.parametrize("options", [{"dt": 0}, {"copies": 0}, {"tau_mem": -1}, {"hold": 0}])
def test_values_out_of_range_are_named(options):
    with pytest.raises(UserError, match="must be positive"):
        LIFEncoding(**({"dt": DT} | options))


def test_samples_that_are_not_finite_are_counted():
    with pytest.raises(UserError, match="1 samples of the signal"):
        LIFEncoding(DT)(np.array([[[0.0], [np.nan]]]))
