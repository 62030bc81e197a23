"""Figures of sweeps: curves over a setting, categories, sparse nets, distributions.

A point is (values of the runs, (mean, low, high, n)), as `surgrad.analysis.rows` makes them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgrad.analysis.rows import Point, Row, chosen, column, grouped_rows
from surgrad.experiments.dense import heterogeneity, robustness
from surgrad.experiments.dense.heterogeneity import FITS, Fit
from surgrad.experiments.dense.robustness import Sparse
from surgrad.figures.plots import interval_points, method_color, panels, style
from surgrad.network.time_constants import BOUNDS

Curve = Mapping[Any, Point]


def swept(
    figures: Mapping[str, Mapping[Any, Curve]],
    xlabel: str,
    ylabel: str = "test accuracy",
    *,
    xscale: str = "log",
    chance: float | None = None,
    label: str = "{}",
) -> Figure:
    """A score against a swept setting: one panel per title, one line per label; dots are runs, bars 95 % intervals.

    Args: curves by title and label; labels of the axes; scale of x; score by chance; format of the labels.
    """
    with style():
        figure, axes = panels(1, len(figures), (0.8 + 2.6 * len(figures), 2.3), sharey=True)
        for ax, (title, curves) in zip(axes[0], figures.items(), strict=True):
            for k, (name, curve) in enumerate(curves.items()):
                _line(ax, curve, color=_color(name, k), label=label.format(name))
            if chance is not None:
                ax.axhline(chance, color="0.8", linewidth=0.6, zorder=0)
            ax.set(xlabel=xlabel, xscale=xscale, title=title, ylim=(0, 1.02))
            ticks = sorted({x for curve in curves.values() for x in curve})
            ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
            ax.minorticks_off()
        axes[0, 0].set_ylabel(ylabel)
        axes[0, -1].legend(loc="best")
    return figure


def _color(label: Any, index: int) -> str:
    """A surrogate's own colour, in every figure the same; for other labels that of the cycle at ``index``."""
    names = list(robustness.SURROGATES.values())
    surrogate = str(label).partition(",")[0]
    return method_color("", names.index(surrogate) if surrogate in names else index)


def _line(ax: Axes, curve: Curve, *, color: Any, label: str) -> None:
    x = list(curve)
    means, half = _bars([interval for _, interval in curve.values()])
    ax.errorbar(x, means, half, fmt="o-", color=color, markersize=3, capsize=2, linewidth=1, label=label)
    for position, (values, _) in curve.items():
        ax.plot(np.full(len(values), position), values, ".", color=color, alpha=0.35, markersize=3)


def _bars(intervals: Sequence[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """Means and half widths; an interval that is not defined has none."""
    means = np.array([interval[0] for interval in intervals])
    return means, np.nan_to_num(np.array([interval[2] for interval in intervals]) - means)


def categories(
    values: Mapping[str, Mapping[str, Point]], ylabel: str = "test accuracy", *, chance: float | None = None
) -> Figure:
    """A score for each category and label: dots are runs, marks with bars mean and 95 % interval.

    Args:
        values: points by label and category.
        ylabel: label of the axis.
        chance: score by chance.
    """
    names = list(dict.fromkeys(name for points in values.values() for name in points))
    with style():
        figure, ((ax,),) = panels(1, 1, (1.2 + 1.0 * len(names), 2.3))
        for k, (label, points) in enumerate(values.items()):
            for name, (runs, interval) in points.items():
                position = names.index(name) + 0.3 * (k - (len(values) - 1) / 2)
                shown = label if name == next(iter(points)) and len(values) > 1 else ""
                interval_points(ax, position, runs, interval, color=_color(label, k), label=shown)
        if chance is not None:
            ax.axhline(chance, color="0.8", linewidth=0.6, zorder=0)
        ax.set(xticks=range(len(names)), xticklabels=names, ylabel=ylabel, ylim=(0, 1.02))
        if len(values) > 1:
            ax.legend(loc="best")
    return figure


def sparse(networks: Sequence[Sparse], *, chance: float | None = None) -> Figure:
    """Accuracy against spikes per sample: dots are runs, crosses with bars means and 95 % intervals.

    Args:
        networks: by bound of activity.
        chance: accuracy by chance.
    """
    with style():
        figure, ((ax,),) = panels(1, 1, (3.4, 2.3))
        for network in networks:
            ax.plot(network.spikes[0], network.accuracy[0], ".", color="#d55e00", alpha=0.5, markersize=4)
        x, x_half = _bars([network.spikes[1] for network in networks])
        y, y_half = _bars([network.accuracy[1] for network in networks])
        # on a logarithmic axis a bar must not reach 0
        below = np.minimum(x_half, 0.9 * x)
        ax.errorbar(x, y, y_half, np.array([below, x_half]), fmt="-", color="0.3", linewidth=0.8, capsize=1.5)
        if chance is not None:
            ax.axhline(chance, color="0.8", linewidth=0.6, zorder=0)
        ax.set(xlabel="hidden spikes per sample", ylabel="test accuracy", xscale="log", ylim=(0, 1.02))
        ticks = [t for t in np.outer(10.0 ** np.arange(5), [1, 2, 5]).ravel() if x.min() / 1.3 < t < x.max() * 1.3]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
    return figure


def distributions(
    panels_of: Mapping[str, tuple[np.ndarray, Mapping[str, Fit]]], bounds: tuple[float, float], nb_bins: int = 40
) -> Figure:
    """Histograms of time constants with densities over them, one panel per title.

    Args:
        panels_of: for each title the time constants in s and distributions by label, those of cells dashed.
        bounds: of the axis in s.
        nb_bins: number of bins.
    """
    with style():
        figure, axes = panels(1, len(panels_of), (0.6 + 2.3 * len(panels_of), 2.2), sharex=True)
        edges = np.linspace(0, bounds[1], nb_bins + 1)
        tau = np.linspace(edges[1] / 50, bounds[1], 400)
        for ax, (title, (values, fits)) in zip(axes[0], panels_of.items(), strict=True):
            ax.hist(values * 1e3, edges * 1e3, density=True, color="0.85")
            for name, fit in fits.items():
                cells, _, kind = name.rpartition(", ")
                color = method_color("", list(FITS).index(kind))
                density = np.exp(fit.log_density(tau)) * 1e-3
                ax.plot(tau * 1e3, density, "--" if cells else "-", color=color, label=name)
            ax.set(xlabel="time constant (ms)", title=title, yticks=[])
            ax.set_xlim(0, bounds[1] * 1e3)
        axes[0, 0].set_ylabel("density")
        axes[0, 0].legend()
    return figure


#: Names of the robustness figures, and how each is drawn from the rows of its sweep and the score by chance.
ROBUSTNESS: dict[str, tuple[str, Callable[[Sequence[Row], float], Figure]]] = {
    "robustness": (
        "slope",
        lambda rows, chance: swept({"Randman": robustness.by_slope(rows)}, "slope beta", chance=chance),
    ),
    "robustness_lr": (
        "lr",
        lambda rows, chance: swept(
            robustness.by_learning_rate(rows),
            "learning rate",
            "validation accuracy",
            chance=chance,
            label="beta = {:g}",
        ),
    ),
    "robustness_reset": ("paths", lambda rows, chance: categories(robustness.by_path(rows), chance=chance)),
    "robustness_depth": (
        "depth",
        lambda rows, chance: swept({"": robustness.by_depth(rows)}, "hidden layers", xscale="linear", chance=chance),
    ),
    "robustness_sparse": ("sparse", lambda rows, chance: sparse(robustness.by_spikes(rows), chance=chance)),
    "robustness_digits": (
        "digits",
        lambda rows, chance: swept(
            {"spoken digits": robustness.by_slope(rows, "robustness_digits")}, "slope beta", chance=chance
        ),
    ),
}


def of_robustness(rows: Sequence[Row]) -> dict[str, Figure]:
    """The figure of every sweep that there is, by the names in `ROBUSTNESS`. Args: rows of `robustness.py`."""
    sweeps = {name for (name,) in grouped_rows(rows, "sweep")}
    chance = {name: max(column(chosen(rows, sweep=name), "chance")) for name in sweeps}
    return {name: draw(rows, chance[sweep]) for sweep, (name, draw) in ROBUSTNESS.items() if sweep in sweeps}


def of_heterogeneity(rows: Sequence[Row], taus: Sequence[Row]) -> dict[str, Figure]:
    """Accuracy by condition, in stretched time, and learned time constants, if any. Args: rows of runs, of neurons."""
    both = {"validation": heterogeneity.accuracy(rows, "valid_acc"), "test": heterogeneity.accuracy(rows)}
    chance, learned = max(column(rows, "chance")), heterogeneity.learned_distributions(taus)
    figures = {
        "accuracy": categories(both, "accuracy", chance=chance),
        "stretch": swept({"": heterogeneity.stretch_curves(rows)}, "time stretched by", chance=chance),
    }
    return figures | ({"tau": distributions(learned, BOUNDS)} if learned else {})
