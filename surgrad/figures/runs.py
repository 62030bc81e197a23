"""Figures of runs beside each other, in the suite's style."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from surgrad.figures.plots import POSITIVE, SHARE, STYLE, band, legend_outside, panels, style

_IN_LEGEND = 16  # more names than this are not read

Runs = Sequence[Mapping[str, np.ndarray]]
Means = Mapping[str, Sequence[np.ndarray]]


def curves(groups: Mapping[str, tuple[Runs, Means]], columns: Sequence[str]) -> Figure:
    """Columns of metrics.csv over epochs: one panel per column, one colour per group.

    A group of several runs, such as the seeds of a setting, is the mean with its interval as a band, its runs thin
    beside it; the legend says how many they are.

    Args:
        groups: by name the columns of each run, "epoch" among them, and (epochs, mean, low, high) of each column.
        columns: the columns to draw.
    """
    cycle = STYLE["axes.prop_cycle"].by_key()["color"]
    many = mpl.colormaps["viridis"](np.linspace(0, 0.95, len(groups)))
    colors = cycle if len(groups) <= len(cycle) else many
    repeated = any(len(runs) > 1 for runs, _ in groups.values())
    with style():
        figure, ((*axes,),) = panels(1, len(columns), (max(3.6, 0.6 + 2.4 * len(columns)), 2.6))
        for ax, column in zip(axes, columns, strict=True):
            for k, (name, (runs, means)) in enumerate(groups.items()):
                color, above = colors[k], len(groups) - 1 - k
                several = len(runs) > 1
                for run in runs:
                    thin: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.4} if several else {"label": name}
                    _run(ax, run, column, color=color, **thin)
                if several and column in means:
                    label = f"{name} (n = {len(runs)})"
                    limits = _limits(column, runs)
                    band(ax, *means[column], color=color, label=label, limits=limits, above=above)
            ax.set(xlabel="epoch", ylabel=column)
        if len(groups) <= _IN_LEGEND:
            title = "mean and 95 % interval over n runs; thin: single runs" if repeated else None
            legend_outside(figure, axes, title=title, title_fontsize=7)
    return figure


def _run(ax: Any, run: Mapping[str, np.ndarray], column: str, **style_: Any) -> None:
    """The values that there are; a single one as a dot."""
    if column in run:
        there = ~np.isnan(run[column].astype(float))
        ax.plot(run["epoch"][there], run[column][there], marker="." if there.sum() < 2 else None, **style_)


def _limits(column: str, runs: Runs) -> tuple[float, float]:
    """What an interval is cut at: accuracies are shares, and what is never negative cannot be."""
    if "acc" in column.split("_"):
        return SHARE
    lowest = min(np.nanmin(run[column].astype(float), initial=np.inf) for run in runs if column in run)
    return POSITIVE if lowest >= 0 else (-np.inf, np.inf)
