"""Numbers as spike times: one spike per input unit, the larger the earlier or the later."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.idx import Images
from surgrad.errors import UserError


@dataclass(frozen=True)
class BrightFirst:
    """T(x) = late (1 - x), the brighter the earlier; x up to the threshold stay silent (Wunderlich & Pehle 2021).

    Args:
        late: in s.
        threshold: in units of x, by default the darkest byte but one.

    Raises:
        UserError: unless late is positive and the threshold in 0..1.
    """

    late: float = 20e-3
    threshold: float = 1 / 255

    def __post_init__(self) -> None:
        if not (self.late > 0 and 0 <= self.threshold < 1):
            raise UserError(f"late={self.late} s must be positive, threshold={self.threshold} in 0..1")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Spike times in s, float64, inf where silent.

        Args:
            x: brightnesses in 0..1, any shape.
        """
        x = np.asarray(x, np.float64)
        return np.where(x > self.threshold, self.late * (1 - x), np.inf)


@dataclass(frozen=True)
class ChargingLatency:
    """T(x) = tau ln(x / (x - threshold)): when a leaky integrator that the current x charges reaches the threshold.

    Currents up to the threshold never reach it: T = inf (Neftci, Mostafa & Zenke 2019, tutorials 2 and 3).

    Args:
        tau: in s.
        threshold: in units of x.

    Raises:
        UserError: unless both are positive.
    """

    tau: float = 20e-3
    threshold: float = 0.2

    def __post_init__(self) -> None:
        if not (self.tau > 0 and self.threshold > 0):
            raise UserError(f"tau={self.tau} s, threshold={self.threshold}: both must be positive")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Spike times in s, float64, inf where silent.

        Args:
            x: currents, any shape.
        """
        x = np.asarray(x, np.float64)
        reached = np.where(x > self.threshold, x, np.inf)  # -log1p(-0) = 0 stands in where T is inf
        return np.where(x > self.threshold, -self.tau * np.log1p(-self.threshold / reached), np.inf)


def image_events(
    images: Images, code: Callable[[np.ndarray], np.ndarray], *, name: str, class_names: tuple[str, ...]
) -> EventDataset:
    """One spike per pixel, at the time that ``code`` gives to its brightness x / 255; infinite times are silence.

    Args:
        images: pixels 0 to 255 and labels.
        code: numbers in 0..1 to times (s).
        name: of the data set.
        class_names: one for each label.
    """
    time_of = code(np.arange(256) / 255)  # a byte has 256 values: everything else is looking up
    fires = np.isfinite(time_of)[pixels := images.pixels.reshape(len(images.pixels), -1)]
    return EventDataset(
        times=time_of.astype(np.float32)[pixels[fires]],
        units=np.flatnonzero(fires) % pixels.shape[1],
        offsets=np.concatenate([[0], np.cumsum(fires.sum(1))]),
        labels=images.labels,
        nb_units=pixels.shape[1],
        nb_classes=len(class_names),
        name=name,
        class_names=class_names,
    )
