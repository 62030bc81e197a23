"""Random spikes with random labels: nothing to understand, everything to learn by heart."""

from dataclasses import dataclass

import numpy as np

from surgrad.datasets.events import EventDataset
from surgrad.errors import UserError


@dataclass(frozen=True)
class RandomTask:
    """Spikes of independent units, one in each step with probability rate dt, and labels drawn whatever the spikes.

    Tutorial 1 of Neftci et al. (2019): a network that classifies the samples it was trained on has moved its hidden
    weights; on other samples it is at chance.

    Args:
        nb_samples: number of samples.
        nb_units: of units.
        nb_classes: of classes.
        nb_steps: of steps.
        rate: of every unit, Hz.
        dt: time step, s.
        seed: of spikes and labels.

    Raises:
        UserError: for numbers below 1, or a rate that is not between 0 and 1 / dt.
    """

    nb_samples: int = 256
    nb_units: int = 100
    nb_classes: int = 2
    nb_steps: int = 200
    rate: float = 5.0
    dt: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("nb_samples", "nb_units", "nb_classes", "nb_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: at least 1")
        if not (self.dt > 0 and 0 < self.rate * self.dt < 1):
            raise UserError(f"rate={self.rate} Hz with steps of {self.dt} s: the rate must lie between 0 and 1 / dt")

    def draw(self, part: int = 0) -> EventDataset:
        """Samples; those of another ``part`` are independent of them, and numbered after them."""
        rng = np.random.default_rng([self.seed, part])
        fired = rng.random((self.nb_samples, self.nb_steps, self.nb_units)) < self.rate * self.dt
        sample, step, unit = fired.nonzero()
        return EventDataset(
            times=(step + 0.5) * self.dt,  # in the middle of the step, where no rounding moves a spike to another
            units=unit,
            offsets=np.searchsorted(sample, np.arange(self.nb_samples + 1)),
            labels=rng.integers(self.nb_classes, size=self.nb_samples),
            nb_units=self.nb_units,
            nb_classes=self.nb_classes,
            ids=np.arange(self.nb_samples) + part * self.nb_samples,
            name="random",
        )
