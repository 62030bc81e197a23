"""Figures of spike-train matching. Functions take arrays and return a figure; nothing is shown or saved here."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgrad.figures.plots import band, legend_outside, method_color, style


def paint(ax: Axes, spikes: np.ndarray, dt: float, title: str = "") -> None:
    """Spikes (T, N) as black pixels, neuron 0 at the top, against time in ms; a mean over trials gives greys."""
    extent = (0, len(spikes) * dt * 1e3, spikes.shape[1] - 0.5, -0.5)
    ax.imshow(spikes.T, cmap="gray_r", vmin=0, vmax=1, aspect="auto", interpolation="none", extent=extent)
    ax.set_title(title)
    ax.set_yticks([0, spikes.shape[1]])
    ax.set_xlabel("time (ms)")
    for side in ("top", "right"):
        ax.spines[side].set_visible(True)


def rasters(panels: Mapping[str, np.ndarray], dt: float, *, columns: int | None = None) -> Figure:
    """Spike trains side by side, such as the target and the output before and after learning.

    Args:
        panels: title -> spikes (T, N), or their mean over trials.
        dt: time step, s.
        columns: panels per row; None: all.
    """
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    with style():
        figure, axes = plt.subplots(rows, columns, figsize=(0.4 + 1.75 * columns, 0.3 + 1.75 * rows), squeeze=False)
        for ax, (title, spikes) in zip(axes.flat, panels.items(), strict=False):
            paint(ax, spikes, dt, title)
        for ax in axes.flat[len(panels) :]:
            ax.axis("off")
        for row in axes:
            row[0].set_ylabel("neuron")
    return figure


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the epochs before each one: a quarter of them, at most ``window``, so that the steep start stays."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    end = np.arange(1, len(values) + 1)
    start = end - np.minimum(window, 1 + (end - 1) // 4)
    return (total[end] - total[start]) / (end - start)


def losses(
    curves: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    quantities: Mapping[str, str],
    *,
    reference: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    window: int = 25,
    names: Mapping[str, str] | None = None,
) -> Figure:
    """Losses over epochs: mean over runs as a line, their range as a band, a published run as a dotted line.

    Args:
        curves: method -> columns of metrics.csv of each run.
        quantities: column -> label of its axis.
        reference: method -> columns of a published run, where there is one.
        window: epochs over which curves are smoothed.
        names: method -> name in the legend.
    """
    with style():
        figure, axes = plt.subplots(1, len(quantities), figsize=(0.3 + 2.6 * len(quantities), 2.5), squeeze=False)
        for ax, (column, label) in zip(axes[0], quantities.items(), strict=True):
            for k, (method, runs) in enumerate(curves.items()):
                nb = min((len(run[column]) for run in runs if column in run), default=0)
                if not nb:
                    continue
                values = np.stack([smoothed(run[column][:nb], window) for run in runs])
                epochs = np.arange(nb) + 1
                color = method_color(method, k)
                name = (names or {}).get(method, method)
                above = len(curves) - 1 - k
                band(ax, epochs, values.mean(0), values.min(0), values.max(0), color=color, label=name, above=above)
                published = (reference or {}).get(method, {})
                if column in published:
                    values = smoothed(published[column][:nb], window)
                    ax.plot(np.arange(len(values)) + 1, values, color=color, linestyle=":", linewidth=0.9)
            ax.set(xlabel="epoch", ylabel=label, xscale="log")
            if column.startswith("van_rossum"):
                ax.set_yscale("log")
                ax.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
                ax.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        if reference:
            axes[0, 0].plot([], [], color="0.4", linestyle=":", linewidth=0.9, label="published code, seed 17")
        several = any(len(runs) > 1 for runs in curves.values())
        legend_outside(figure, axes[0], title="mean and range over runs" if several else None, title_fontsize=7)
    return figure


def over_epochs(
    curves: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    quantities: Mapping[str, str],
    *,
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Rates or Fano factors over epochs, one panel each; undefined epochs are left out.

    Args:
        curves: method -> columns of each run.
        quantities: column -> label.
        lines: column -> value to compare with, drawn as a line.
    """
    with style():
        figure, axes = plt.subplots(1, len(quantities), figsize=(0.3 + 2.4 * len(quantities), 2.4), squeeze=False)
        for ax, (column, label) in zip(axes[0], quantities.items(), strict=True):
            for k, (method, runs) in enumerate(curves.items()):
                for j, run in enumerate(run for run in runs if column in run):
                    there = ~np.isnan(run[column].astype(float))
                    style_of = {"marker": "o", "markersize": 3} if there.sum() < 50 else {}
                    ax.plot(
                        run["epoch"][there] + 1,
                        run[column][there],
                        color=method_color(method, k),
                        label=method if j == 0 and there.any() else None,
                        linewidth=0.8,
                        **style_of,
                    )
            if lines and column in lines:
                ax.axhline(lines[column], color="0.7", linewidth=0.8, linestyle="--", zorder=0, label="target")
            ax.set(xlabel="epoch", ylabel=label, ylim=(0, None))
        legend_outside(figure, axes[0])
    return figure


def distributions(
    panels: Mapping[str, Mapping[str, np.ndarray]], *, colors: Mapping[str, Any] | None = None, nb_bins: int = 30
) -> Figure:
    """Histograms with their means, one panel per quantity: rates, inter-spike intervals, CVs.

    The last bin also holds what lies beyond it, at most 0.5 % of every group.

    Args:
        panels: label of the quantity -> name -> values.
        colors: name -> colour.
        nb_bins: number of bins.
    """
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(0.3 + 2.2 * len(panels), 2.4), squeeze=False)
        for ax, (label, groups) in zip(axes[0], panels.items(), strict=True):
            groups = {name: values[np.isfinite(values)] for name, values in groups.items()}
            largest = max((np.quantile(values, 0.995) for values in groups.values() if len(values)), default=1.0)
            edges = np.linspace(0, largest or 1.0, nb_bins + 1)
            for k, (name, values) in enumerate(groups.items()):
                color = (colors or {}).get(name, method_color(name, k))
                weights = np.full(len(values), 1 / max(len(values), 1))
                ax.hist(values.clip(max=edges[-1]), edges, weights=weights, histtype="step", color=color, label=name)
                if len(values):
                    ax.axvline(values.mean(), color=color, linewidth=0.7, linestyle="--")
            ax.set(xlabel=label, ylabel="share")
        axes[0, 0].plot([], [], color="0.4", linewidth=0.7, linestyle="--", label="mean")
        legend_outside(figure, axes[0])
    return figure


def membranes(traces: Mapping[str, tuple[np.ndarray, np.ndarray]], dt: float, theta: float = 1.0) -> Figure:
    """Membranes with their spikes.

    Args:
        traces: title -> (membrane (T,), spikes (T,)).
        dt: time step, s.
        theta: threshold.
    """
    with style():
        figure, axes = plt.subplots(len(traces), 1, figsize=(3.6, 0.4 + 1.1 * len(traces)), sharex=True, squeeze=False)
        for ax, (title, (membrane, spikes)) in zip(axes[:, 0], traces.items(), strict=True):
            time = np.arange(len(membrane)) * dt * 1e3
            ax.plot(time, membrane, color="black", linewidth=0.8)
            ax.axhline(theta, color="0.7", linewidth=0.6, linestyle="--", label="threshold")
            top = max(theta, membrane.max())
            ax.vlines(time[spikes > 0], top * 1.05, top * 1.25, color="#d55e00", linewidth=0.8, label="spikes")
            ax.set(title=title, ylabel="$u$")
        axes[-1, 0].set_xlabel("time (ms)")
        legend_outside(figure, list(axes[:, 0]))
    return figure
