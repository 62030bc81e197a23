"""Sign bias: wrong-sign shares, zeros, minima and descent, against published numbers."""

import numpy as np
import pytest
import torch

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.sigmoid import SigmoidNet
from surgrad.experiments.sigmoid_network.sign_bias import Window, descend, flow_study, plane_study, sweep

X = torch.ones(1, dtype=torch.float64)
NET = SigmoidNet(100.0)
WEIGHTS = (0.0, 0.05, 0.1, 1.0, -1.0)
GRID = np.linspace(-0.2, 0.2, 10_001)
STEP = GRID[1] - GRID[0]
WINDOW = Window(WEIGHTS, (0, 2), (-0.2, 0.0), (0.2, 0.2))


@pytest.fixture(scope="module")
def swept():
    return sweep(NET, np.array(WEIGHTS), 0, GRID, X, (15.0, 30.0, 100.0))


def test_published_crossings_shares_and_minima(swept):
    none, shifted, true = swept.crossings()
    assert len(none) == 0
    np.testing.assert_allclose(shifted, [0.0088], atol=STEP)
    np.testing.assert_allclose(true, [-0.0131], atol=STEP)
    np.testing.assert_allclose(swept.wrong_sign_share(), [0.533, 0.055, 0], atol=0.002)
    np.testing.assert_allclose(swept.integrated_minima(), [0.2, 0.0088, -0.0131], atol=STEP + 5e-5)
    np.testing.assert_allclose(swept.smoothed_minima(), [0.2, 0.0294, -0.0131], atol=STEP + 5e-5)


def test_integrating_the_true_derivative_gives_the_output(swept):
    np.testing.assert_allclose(swept.surrogate[-1], swept.true, rtol=1e-12)
    np.testing.assert_allclose(swept.integrated[-1], swept.output - swept.output[0], atol=1e-5)
    assert np.abs(swept.integrated[0] - (swept.output - swept.output[0])).max() > 0.1


def test_published_gradients_in_the_v_plane():
    window = Window((1.0, 0.0, 0.0, 1.0, -1.0), (1, 2), (-2.0, -2.0), (2.0, 2.0))
    plane = plane_study(SigmoidNet(20.0), window, X, (2.0, 4.0, 20.0), ("v1", "v2"), np.array([1.7, -1.3]), 5)
    expected = [[0.01313, -0.02703], [3.14e-4, -1.54e-3], [1.4131e-21, -4.2122e-18]]
    np.testing.assert_allclose(plane.gradients, expected, rtol=0.01)
    assert plane.angles[0] > plane.angles[1] > plane.angles[2] == pytest.approx(0, abs=1e-6)
    assert plane.smoothed.shape == (3, 5, 5)


def test_true_descent_reaches_the_valley_and_surrogate_descent_leaves_it():
    flow = flow_study(NET, WINDOW, X, (15.0,), ("w", "v2"), nb_starts=(2, 1), duration=1e6, nb_grid=9)
    assert flow.betas_sg == (15.0, 100.0)
    assert (flow.end_outputs[1] < 1e-8).all()
    assert not any(path.left_window for path in flow.paths[1])
    assert all(path.left_window for path in flow.paths[0])
    assert (flow.end_outputs[0] > 1e-2).all()


def test_output_never_rises_along_true_descent():
    (path,) = descend(NET, WINDOW, X, 100.0, np.array([[0.05, 0.1]]), duration=100.0)
    output = WINDOW.output(NET, X, *path.points.T)
    assert np.all(np.diff(output) < 1e-9)
    assert output[-1] < output[0] / 100


def test_bad_input():
    with pytest.raises(UserError, match="index=5"):
        sweep(NET, np.array(WEIGHTS), 5, GRID, X, (15.0,))
    with pytest.raises(UserError, match="increasing"):
        sweep(NET, np.array(WEIGHTS), 0, GRID[::-1], X, (15.0,))
    with pytest.raises(UserError, match="axes="):
        Window(WEIGHTS, (0, 0), (-1.0, -1.0), (1.0, 1.0))
    with pytest.raises(UserError, match="lower="):
        Window(WEIGHTS, (0, 1), (1.0, -1.0), (1.0, 1.0))
    with pytest.raises(UserError, match="outside the window"):
        descend(NET, WINDOW, X, 15.0, np.array([[0.5, 0.1]]))
    with pytest.raises(UserError, match="has 5 weights, not 4"):
        sweep(NET, np.array(WEIGHTS[:4]), 0, GRID, X, (15.0,))
