"""How fast networks with and without noise learn: accuracy against updates, and against the slope of the noise."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from surgrad.figures.plots import (
    SHARE,
    chance_line,
    interval_points,
    legend_outside,
    method_color,
    panels,
    style,
)

#: The accuracies of some runs, with their (mean, low, high, …).
Scores = tuple[np.ndarray, tuple[float, ...]]


def updates_and_slope(
    curves: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
    by_slope: Mapping[float, Scores],
    without_noise: Scores,
    *,
    nb_updates: int,
    chance: float | None = None,
) -> Figure:
    """Left: accuracy against updates, a line per run. Right: after some updates, against the slope of the escape noise.

    Args:
        curves: for each method its runs as (updates, accuracies).
        by_slope: accuracies of the runs at each slope (in units of 1 / threshold).
        without_noise: accuracies of the deterministic runs after as many updates.
        nb_updates: after which the right panel is.
        chance: accuracy by chance.
    """
    with style():
        figure, ((left, right),) = panels(1, 2, (5.8, 2.7), sharey=True)
        for k, (method, runs) in enumerate(curves.items()):
            for n, (updates, accuracy) in enumerate(runs):
                left.plot(updates, accuracy, color=method_color(method, k), linewidth=0.9, label="" if n else method)
        left.axvline(nb_updates, color="0.8", linewidth=0.6, zorder=0)
        left.set(xlabel="updates", ylabel="accuracy, validation speakers", xlim=(0, None), ylim=(0, 1.02))
        positions = range(len(by_slope) + 1)
        groups = {**{f"{slope:g}": by_slope[slope] for slope in sorted(by_slope)}, "none": without_noise}
        for position, (name, (values, interval)) in zip(positions, groups.items(), strict=True):
            color = method_color("superspike" if name == "none" else "stochasticsuperspike")
            interval_points(right, position, values, interval, color=color, limits=SHARE)
        right.set(
            xticks=positions,
            xticklabels=groups,
            xlim=(-0.5, len(by_slope) + 0.5),
            xlabel="slope of the noise (steeper: less noise)",
            title=f"after {nb_updates} updates",
        )
        for ax in (left, right):
            chance_line(ax, chance)
        legend_outside(figure, [left])
    return figure
