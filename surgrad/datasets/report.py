"""What a data set is like, in numbers: samples, events, rates, durations, and what a time grid leaves out."""

from typing import NamedTuple

import numpy as np

from surgrad.datasets.events import EventDataset


class Report(NamedTuple):
    """Numbers of one data set on one grid.

    Attributes:
        samples: number of samples.
        per_class: samples of every class, (classes,).
        speakers: who spoke, or None.
        events: events of every sample, (N,).
        lasting: time of the last event of every sample (s), (N,); nan without one.
        rate: of the input units within the window, mean over samples and units (Hz).
        unit_rates: the same of every unit, (units,).
        silent_units: share of units that never spike in the window.
        outside: share of the events that lie outside the window.
        merged: share of the events in the window that share step and unit with another one.
    """

    samples: int
    per_class: np.ndarray
    speakers: int | None
    events: np.ndarray
    lasting: np.ndarray
    rate: float
    unit_rates: np.ndarray
    silent_units: float
    outside: float
    merged: float

    def lines(self, nb_steps: int, dt: float) -> list[tuple[str, str]]:
        """Names and values to read, on a grid of ``nb_steps`` steps of ``dt`` seconds."""
        few, many = int(self.per_class.min()), int(self.per_class.max())
        half, nearly = (float(np.nanquantile(self.lasting, q)) for q in (0.5, 0.99))
        each = str(few) if few == many else f"{few} to {many}"
        rows = [
            ("samples", f"{self.samples}, {each} of each of {len(self.per_class)} classes"),
            ("speakers", "-" if self.speakers is None else str(self.speakers)),
            ("events per sample", f"{np.median(self.events):.0f} (median; {self.events.min()} to {self.events.max()})"),
            ("samples without events", str(int((self.events == 0).sum()))),
            ("last event", f"{half:.3g} s (median), {nearly:.3g} s (99 % of the samples)"),
            ("outside the window", f"{self.outside:.2%} of the events, beyond {nb_steps * dt:g} s"),
            ("merged", f"{self.merged:.2%} of those inside share unit and step of {dt:g} s with another"),
            (
                "rate of a unit",
                f"{self.rate:.3g} Hz (mean), {self.silent_units:.1%} of {len(self.unit_rates)} units are silent",
            ),
        ]
        return rows


def report(dataset: EventDataset, *, dt: float, nb_steps: int) -> Report:
    """The numbers of a data set on a grid of ``nb_steps`` steps of ``dt`` seconds."""
    duration, nb = nb_steps * dt, max(1, len(dataset))
    binned = dataset.binned(dt, nb_steps)
    inside = dataset.nb_events - binned.dropped
    lasting = np.full(len(dataset), np.nan)
    np.fmax.at(lasting, dataset.samples(), dataset.times)
    unit_rates = np.bincount(binned.units, minlength=dataset.nb_units) / (nb * duration)
    return Report(
        samples=len(dataset),
        per_class=np.bincount(dataset.labels, minlength=dataset.nb_classes),
        speakers=None if dataset.speakers is None else len(np.unique(dataset.speakers)),
        events=np.diff(dataset.offsets),
        lasting=lasting,
        rate=float(unit_rates.mean()),
        unit_rates=unit_rates,
        silent_units=float((unit_rates == 0).mean()),
        outside=binned.dropped / max(1, dataset.nb_events),
        merged=1 - len(binned.steps) / max(1, inside),
    )
