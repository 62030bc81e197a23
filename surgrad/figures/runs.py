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


def confusion(counts: np.ndarray, names: Sequence[str] | None = None) -> Figure:
    """Which class was taken for which: shares of the samples of each class, a row for it, a column for each answer.

    Args:
        counts: samples by class and answer, (classes, classes).
        names: of the classes; None for their numbers.
    """
    nb_classes = len(counts)
    labels = list(names) if names is not None else [str(k) for k in range(nb_classes)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with style():
        figure, ((ax,),) = panels(1, 1, (1.4 + 0.17 * nb_classes, 1.0 + 0.17 * nb_classes))
        image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            color = "white" if share > 0.5 else "black"
            ax.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=5, color=color)
        ax.set_xticks(range(nb_classes), labels, rotation=90)
        ax.set_yticks(range(nb_classes), labels)
        ax.set(xlabel="answer", ylabel="class")
        figure.colorbar(image, ax=ax, label="share of the class (numbers: %)", shrink=0.6)
    return figure
