"""The Yin-Yang generator: equal to the published arrays, balanced, and the figure it claims to be."""

import numpy as np
import pytest

from surgrad.datasets.sources.yin_yang import YinYang, published_splits
from surgrad.runs.record import REPO


def test_generated_arrays_are_the_published_ones_to_the_bit():
    for name, points in zip(("train", "validation", "test"), published_splits(), strict=True):
        for part, array in zip(("samples", "labels"), points, strict=True):
            np.testing.assert_array_equal(array, np.load(REPO / "data" / "yin_yang" / f"{name}_{part}.npy"))


def test_the_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    YinYang(10, 3).points()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_turning_the_disc_by_half_swaps_yin_and_yang_and_keeps_the_dots():
    yin_yang = YinYang(400, 7)
    features, labels = yin_yang.points()
    turned = np.array([yin_yang.label(1 - x, 1 - y) for x, y in features[:, :2]])
    np.testing.assert_array_equal(turned, np.array([1, 0, 2])[labels])


def test_classes_are_balanced():
    counts = np.bincount(YinYang(3000, 0).points().labels)
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(3000 * 2 / 9))


@pytest.mark.parametrize("arguments", [{"size": 0}, {"r_small": 0.3}, {"r_small": 0.0}])
def test_sizes_that_make_no_figure_are_refused(arguments):
    with pytest.raises(ValueError, match="yin_yang"):
        YinYang(**{"size": 10, "seed": 0} | arguments)
