"""Latency codes against the dynamics they stand for, and images as events."""

import numpy as np
import pytest

from surgrad.datasets.encoding.latency import ChargingLatency, image_events
from surgrad.datasets.sources.idx import Images
from surgrad.errors import UserError


@pytest.mark.parametrize(("tau", "threshold"), [(20e-3, 0.2), (5e-3, 1.0)])
def test_a_charged_membrane_reaches_the_threshold_at_that_time(tau, threshold):
    x = threshold * np.array([1.001, 1.1, 2.0, 5.0])
    t = ChargingLatency(tau, threshold)(x)
    np.testing.assert_allclose(x * (1 - np.exp(-t / tau)), threshold, rtol=1e-12)


def test_published_formula():
    x = np.linspace(0.21, 1, 80)
    np.testing.assert_allclose(ChargingLatency()(x), 20e-3 * np.log(x / (x - 0.2)), rtol=1e-9)


def test_the_brighter_the_earlier_and_the_dark_never():
    x = np.linspace(0, 1, 256)
    t = ChargingLatency()(x)
    assert np.isinf(t[x <= 0.2]).all()
    assert np.isfinite(t[x > 0.2]).all()
    assert (np.diff(t[x > 0.2]) < 0).all()


@pytest.mark.parametrize("options", [{"tau": 0}, {"tau": float("nan")}, {"threshold": -0.1}])
def test_values_out_of_range_are_named(options):
    with pytest.raises(UserError, match=f"{next(iter(options))}={next(iter(options.values()))}"):
        ChargingLatency(**options)


def test_every_bright_pixel_is_one_event_of_its_image():
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (7, 4, 5), np.uint8), np.array([0, 1, 2, 0, 1, 2, 0]))
    images.pixels[3] = 0  # an image without spikes
    code = ChargingLatency(tau=10e-3, threshold=0.3)
    dataset = image_events(images, code, name="pictures", class_names=("a", "b", "c"))
    assert (len(dataset), dataset.nb_units, dataset.nb_classes, dataset.name) == (7, 20, 3, "pictures")
    for n, image in enumerate(images.pixels.reshape(7, 20)):
        times, units, label = dataset[n]
        expected = code(image / 255)
        assert units.tolist() == np.flatnonzero(np.isfinite(expected)).tolist()
        np.testing.assert_allclose(times, expected[units], rtol=1e-6)
        assert label == images.labels[n]
