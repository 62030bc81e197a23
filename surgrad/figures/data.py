"""A data set at a glance: rasters of some samples, how many events they have, how often units spike."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from surgrad.figures.plots import class_color, panels, style


def overview(
    samples: Sequence[tuple[np.ndarray, np.ndarray]],
    titles: Sequence[str],
    events: np.ndarray,
    unit_rates: np.ndarray,
    duration: float,
) -> Figure:
    """Rasters above, histogram and rates below.

    Args:
        samples: times (s) and units of the events of each shown sample.
        titles: of the samples.
        events: number of events of every sample, (N,).
        unit_rates: rate of every unit (Hz), (units,).
        duration: of the window (s).
    """
    columns = max(2, len(samples))
    with style():
        figure, axes = panels(2, columns, (1.0 + 1.6 * columns, 3.6))
        for k, ((times, units), title) in enumerate(zip(samples, titles, strict=True)):
            ax = axes[0, k]
            size = float(np.clip(3000 / max(1, len(times)), 0.5, 3))
            ax.plot(times * 1e3, units, ".", color=class_color(k), markersize=size, markeredgewidth=0, rasterized=True)
            ax.set(title=title, xlabel="time (ms)", xlim=(0, duration * 1e3), ylim=(-0.5, len(unit_rates) - 0.5))
            ax.set_yticks([0, len(unit_rates) - 1], [] if k else None)
        axes[0, 0].set_ylabel("unit")
        for ax in (*axes[0, len(samples) :], *axes[1]):
            ax.set_axis_off()
        grid = axes[1, 0].get_gridspec()
        half = columns // 2
        left, right = figure.add_subplot(grid[1, :half]), figure.add_subplot(grid[1, half:])
        left.hist(events, bins=min(40, max(5, len(events) // 5)), color="0.4")
        left.set(xlabel="events of a sample", ylabel="samples")
        right.plot(unit_rates, color="0.3", linewidth=0.6)
        right.set(xlabel="unit", ylabel="rate (Hz)", xlim=(0, len(unit_rates) - 1), ylim=(0, None))
    return figure
