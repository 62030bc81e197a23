"""Figures of sweeps: a score against a setting, and for categories. Dots are runs, marks with bars mean and interval.

A point is (values of the runs, (mean, low, high, n)).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgrad.figures.plots import (
    SHARE,
    STYLE,
    chance_line,
    interval_points,
    legend_outside,
    method_color,
    panels,
    style,
)

Point = tuple[np.ndarray, tuple[float, ...]]
Curve = Mapping[Any, Point]


def cycle_marker(index: int) -> str:
    """A marker for the curve or point at ``index``: another one each time that the colours begin again."""
    return "o^Dv"[index // len(STYLE["axes.prop_cycle"]) % 4]


def swept(
    figures: Mapping[str, Mapping[Any, Curve]],
    xlabel: str,
    ylabel: str = "test accuracy",
    *,
    xscale: str = "log",
    chance: float | None = None,
    label: str = "{}",
    colors: Mapping[Any, Any] | None = None,
    limits: tuple[float, float] = SHARE,
    size: tuple[float, float] = (2.6, 2.6),
) -> Figure:
    """A score against a swept number: one panel per title, one line per label.

    Lines lie a little beside each other, so that none hides another where they are equal.

    Args:
        figures: curves by title and label.
        xlabel: label of the axis.
        ylabel: label of the axis.
        xscale: log | linear.
        chance: score by chance.
        label: format of the labels.
        colors: by label; the others take the cycle's.
        limits: values that the score can have; intervals are cut there.
        size: of a panel (inches).
    """
    with style():
        figure, axes = panels(1, len(figures), (0.8 + size[0] * len(figures), size[1]), sharey=True)
        for ax, (title, curves) in zip(axes[0], figures.items(), strict=True):
            ticks = sorted({x for curve in curves.values() for x in curve})
            for k, (name, curve) in enumerate(curves.items()):
                aside = _aside(ticks, xscale, (k - (len(curves) - 1) / 2) / max(1, len(curves) - 1))
                color = (colors or {}).get(name, method_color(str(name), k))
                _line(ax, [aside(x) for x in curve], curve, color=color, label=label.format(name), limits=limits)
            chance_line(ax, chance)
            ax.set(xlabel=xlabel, xscale=xscale, title=title)
            if np.isfinite(limits).all():
                ax.set_ylim(limits[0], limits[1] + 0.02 * (limits[1] - limits[0]))
            ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
            ax.minorticks_off()
        axes[0, 0].set_ylabel(ylabel)
        legend_outside(figure, axes[0])
    return figure


def _aside(ticks: list[float], xscale: str, share: float) -> Any:
    """Moves a value a little, less than half the way to the next.

    Args:
        ticks: the values.
        xscale: "log" or "linear".
        share: -0.5 to 0.5.
    """
    if len(ticks) < 2:
        return lambda x: x
    places = np.log(ticks) if xscale == "log" else np.array(ticks, dtype=float)
    shift = share * min(0.35 * float(np.diff(places).min()), 0.06 * float(places[-1] - places[0]))
    return lambda x: x * np.exp(shift) if xscale == "log" else x + shift


def _line(
    ax: Axes, x: list[float], curve: Curve, *, color: Any, label: str, limits: tuple[float, float] = SHARE
) -> None:
    means, low, high = interval_ends([interval for _, interval in curve.values()], limits)
    ax.errorbar(x, means, [means - low, high - means], fmt="o-", color=color, markersize=3, capsize=2, label=label)
    for position, (values, _) in zip(x, curve.values(), strict=True):
        ax.plot(np.full(len(values), position), values, ".", color=color, alpha=0.35, markersize=3)


def interval_ends(
    intervals: list[tuple[float, ...]], limits: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means and ends of intervals, cut at the limits; an interval that is not defined has no length."""
    means, low, high = (np.array([interval[k] for interval in intervals], dtype=float) for k in range(3))
    low, high = np.where(np.isnan(low), means, low), np.where(np.isnan(high), means, high)
    return means, np.minimum(low.clip(*limits), means), np.maximum(high.clip(*limits), means)


def categories(
    values: Mapping[str, Mapping[str, Point]],
    ylabel: str = "test accuracy",
    *,
    chance: float | None = None,
    colors: Mapping[Any, Any] | None = None,
    limits: tuple[float, float] = SHARE,
) -> Figure:
    """A score for each category and label.

    Args:
        values: points by label and category.
        ylabel: label of the axis.
        chance: score by chance; None: no line.
        colors: by label.
        limits: smallest and largest possible value.
    """
    names = list(dict.fromkeys(name for points in values.values() for name in points))
    with style():
        figure, ((ax,),) = panels(1, 1, (1.2 + 1.0 * len(names), 2.6))
        for k, (label, points) in enumerate(values.items()):
            color = (colors or {}).get(label, method_color(str(label), k))
            for name, (runs, interval) in points.items():
                position = names.index(name) + 0.6 / max(len(values), 2) * (k - (len(values) - 1) / 2)
                shown = label if name == next(iter(points)) and len(values) > 1 else ""
                interval_points(ax, position, runs, interval, color=color, label=shown, limits=limits)
        chance_line(ax, chance)
        ax.set(xticks=range(len(names)), xticklabels=names, ylabel=ylabel)
        if np.isfinite(limits).all():
            ax.set_ylim(limits[0], limits[1] + 0.02 * (limits[1] - limits[0]))
        legend_outside(figure, [ax])
    return figure
