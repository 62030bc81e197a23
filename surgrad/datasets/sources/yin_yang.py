"""The Yin-Yang data set (Kriener, Göltz & Petrovici 2022): three classes in a disc that no linear model separates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

CLASSES = ("yin", "yang", "dot")


class Points(NamedTuple):
    """Samples: features (N, 4) float64, [x, y, 1 - x, 1 - y] in 0..1; labels (N,) int64, index into `CLASSES`."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class YinYang:
    """Points of a disc of radius ``r_big`` about (r_big, r_big), balanced over classes by rejection.

    For every sample its class is drawn first, then points of the square until one lies in that class. The published
    arrays have seeds 42, 41 and 40 and sizes 5000, 1000 and 1000 (training, validation, test).

    Args:
        size: number of samples.
        seed: of NumPy's legacy stream, in which the published arrays were drawn.
        r_big: radii of the disc and of the two dots, in units of the features.
        r_small: radii of the disc and of the two dots, in units of the features.
    """

    size: int
    seed: int
    r_big: float = 0.5
    r_small: float = 0.1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"yin_yang: size = {self.size}, need at least 1")
        if not 0 < self.r_small < self.r_big / 2:
            raise ValueError(f"yin_yang: r_small = {self.r_small} must lie between 0 and r_big / 2 = {self.r_big / 2}")

    def label(self, x: float, y: float) -> int:
        """Class of a point: the dots sit in the middle of the two heads, each head is a disc of half the radius."""
        to_right = np.sqrt((x - 1.5 * self.r_big) ** 2 + (y - self.r_big) ** 2)
        to_left = np.sqrt((x - 0.5 * self.r_big) ** 2 + (y - self.r_big) ** 2)
        if min(to_right, to_left) < self.r_small:
            return 2
        on_the_rim = to_right == self.r_small
        in_left_head = self.r_small < to_left <= 0.5 * self.r_big
        above_right_head = y > self.r_big and to_right > 0.5 * self.r_big
        return int(on_the_rim or in_left_head or above_right_head)

    def points(self) -> Points:
        """All samples, in the order in which they are drawn."""
        rng = np.random.RandomState(self.seed)  # a local stream: the global one stays as it is
        features, labels = np.empty((self.size, 4)), np.empty(self.size, np.int64)
        for row in range(self.size):
            labels[row] = rng.randint(len(CLASSES))
            x, y = self._point_of(labels[row], rng)
            features[row] = x, y, 1 - x, 1 - y
        return Points(features, labels)

    def _point_of(self, label: int, rng: np.random.RandomState) -> np.ndarray:
        while True:
            x, y = point = rng.rand(2) * 2 * self.r_big
            in_disc = np.sqrt((x - self.r_big) ** 2 + (y - self.r_big) ** 2) <= self.r_big
            if in_disc and self.label(x, y) == label:
                return point


def published_splits() -> tuple[Points, Points, Points]:
    """Training, validation and test set of the published arrays: 5000, 1000 and 1000 samples."""
    return YinYang(5000, 42).points(), YinYang(1000, 41).points(), YinYang(1000, 40).points()
