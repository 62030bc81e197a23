"""Figures of the tutorials: surrogates, learning under several conditions, latency codes, tactile signals."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from surgrad.datasets.encoding.latency import ChargingLatency
from surgrad.datasets.encoding.threshold_crossing import Events
from surgrad.figures.plots import chance_line, panels, style
from surgrad.neurons.surrogate import Surrogate


def surrogates(shapes: Mapping[str, Surrogate], reach: float = 0.5) -> Figure:
    """The step a neuron takes at threshold, and what stands for its derivative.

    Args:
        shapes: surrogates by name.
        reach: how far from the threshold to look.
    """
    x = torch.linspace(-reach, reach, 1001, dtype=torch.float64)
    s = (x > 0).double()
    with style():
        figure, ((step, slope),) = panels(1, 2, (6.4, 1.9))
        step.plot(1 + x, s, color="black")
        step.set(xlabel="membrane $u$", ylabel="spike $H(u - 1)$", yticks=[0, 1])
        for name, h in shapes.items():
            slope.plot(1 + x, h(x, s), label=name)
        slope.set(xlabel="membrane $u$", ylabel="taken for $dS/du$")
        figure.legend(*slope.get_legend_handles_labels(), loc="outside right center")
    return figure


def learning(conditions: Mapping[str, Mapping[str, np.ndarray]], *, chance: float | None = None) -> Figure:
    """Loss and accuracy over epochs under several conditions: training as lines, test, if there, dashed.

    Args:
        conditions: for each condition the columns of `surgrad.experiments.tutorials.learn.learn`.
        chance: accuracy expected by chance.
    """
    with style():
        figure, (axes,) = panels(1, 2, (6.8, 2.0))
        for name, columns in conditions.items():
            for ax, quantity in zip(axes, ("loss", "acc"), strict=True):
                (line,) = ax.plot(columns["epoch"], columns[f"train_{quantity}"], label=name)
                if f"test_{quantity}" in columns:
                    ax.plot(columns["epoch"], columns[f"test_{quantity}"], "--", color=line.get_color(), linewidth=0.9)
        axes[0].set(xlabel="epoch", ylabel="loss", ylim=(0, None))
        axes[1].set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
        for ax in axes:
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        chance_line(axes[1], chance)
        title = "dashed: test" if any("test_acc" in columns for columns in conditions.values()) else None
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", title=title, title_fontsize=7)
    return figure


def charging(code: ChargingLatency, currents: Sequence[float] = (0.15, 0.25, 0.4, 1.0)) -> Figure:
    """Where the latency code comes from: charging membranes, and the time of their first spike.

    Args:
        code: latency code.
        currents: brightnesses whose membranes are drawn.
    """
    time, x = np.linspace(0, 100e-3, 401), np.linspace(0, 1, 1001)
    with style():
        figure, ((membrane, latency),) = panels(1, 2, (5.2, 2.0))
        for current, grey in zip(currents, np.linspace(0.75, 0, len(currents)), strict=True):
            reached = float(code(np.asarray(current)))
            u = current * (1 - np.exp(-time / code.tau)) / code.threshold
            before = time <= reached
            membrane.plot(time[before] * 1e3, u[before], color=str(grey), label=f"$x$ = {current:g}")
            if np.isfinite(reached):
                membrane.plot(reached * 1e3, 1, "o", color=str(grey), markersize=3)
        membrane.axhline(1, color="#d55e00", linewidth=0.8, zorder=0, label="threshold")
        membrane.set(xlabel="time (ms)", ylabel="membrane / threshold", ylim=(0, 1.1))
        membrane.legend(loc="lower right")
        latency.plot(x, code(x) * 1e3)
        latency.axvspan(0, code.threshold, color="0.93", linewidth=0)
        latency.text(code.threshold / 2, 50, "silent", ha="center", va="center", rotation=90, fontsize=7, color="0.4")
        latency.set(xlabel="brightness $x$", ylabel="time of the spike (ms)", xlim=(0, 1), ylim=(0, 100))
    return figure


def images(pixels: np.ndarray, code: ChargingLatency, names: Sequence[str], duration: float = 100e-3) -> Figure:
    """Pictures, the latencies of their pixels, and the spikes that a network gets.

    Args:
        pixels: (N, height, width) uint8.
        code: latency code.
        names: of the pictures.
        duration: simulated time (s).
    """
    times = code(pixels / 255)
    colors = mpl.colormaps["viridis_r"].with_extremes(bad="white")
    with style():
        figure, axes = panels(3, len(pixels), (1.0 + 1.2 * len(pixels), 3.9), height_ratios=[1, 1, 1.1])
        for column, (picture, when, name) in enumerate(zip(pixels, times, names, strict=True)):
            axes[0, column].imshow(picture, cmap="gray_r", vmin=0, vmax=255)
            axes[0, column].set_title(name)
            shown = axes[1, column].imshow(np.ma.masked_invalid(when * 1e3), cmap=colors, vmin=0, vmax=40)
            flat = when.ravel()
            there = np.flatnonzero(flat < duration)
            axes[2, column].scatter(
                flat[there] * 1e3, there, s=0.6, c=flat[there] * 1e3, cmap=colors, vmin=0, vmax=40, linewidths=0
            )
            axes[2, column].set(xlabel="time (ms)", xlim=(0, 1e3 * duration), ylim=(flat.size, 0), yticks=[])
            for row in (0, 1):
                axes[row, column].set(xticks=[], yticks=[])
                axes[row, column].spines[:].set_visible(False)
        axes[1, 0].set_ylabel("latency")
        axes[2, 0].set_ylabel("pixel")
        figure.colorbar(shown, ax=axes[1, :], label="ms", shrink=0.9, pad=0.01)
    return figure


def trade_off(spikes: Sequence[float], accuracy: Sequence[float], strength: Sequence[float]) -> Figure:
    """Accuracy against activity, one point for each price of a spike.

    Args:
        spikes: per sample.
        accuracy: on the test set.
        strength: price, as a multiple of the published one.
    """
    with style():
        figure, ((ax,),) = panels(1, 1, (3.0, 2.1))
        ax.plot(spikes, accuracy, "o-", markersize=4)
        for x, y, price in zip(spikes, accuracy, strength, strict=True):
            ax.annotate(f"x {price:g}", (x, y), xytext=(4, -10), textcoords="offset points", fontsize=6)
        ax.set(xlabel="hidden spikes per sample", ylabel="test accuracy", xlim=(0, None), ylim=(0, 1))
        ax.set_title("price of a spike, relative to the published one", fontsize=7)
        ax.margins(x=0.15)
    return figure


def tactile(signal: np.ndarray, dt: float, encodings: Mapping[str, Events], names: Sequence[str]) -> Figure:
    """A recording and the spikes that encodings make of it.

    Args:
        signal: (T, C).
        dt: between its samples (s).
        encodings: spikes of this one signal by encoding.
        names: of its channels.
    """
    with style():
        figure, axes = panels(1 + len(encodings), 1, (4.6, 1.5 + 1.1 * len(encodings)), sharex=True)
        time = np.arange(len(signal)) * dt * 1e3
        for channel, name in enumerate(names):
            axes[0, 0].plot(time, signal[:, channel], label=name)
        axes[0, 0].set_ylabel("pressure")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
        for ax, (name, events) in zip(axes[1:, 0], encodings.items(), strict=True):
            _spikes(ax, events, len(names))
            ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            ax.set_ylabel(name)
        axes[-1, 0].set(xlabel="time (ms)", xlim=(0, time[-1]))
    return figure


def _spikes(ax: Axes, events: Events, nb_channels: int) -> None:
    """Spikes as ticks in the colours of the channels that they come from."""
    color = np.array([f"C{unit % nb_channels}" for unit in events.units])
    size = 4 if len(set(events.units.tolist())) > 20 else 30
    ax.scatter(events.times * 1e3, events.units, s=size, marker="|", c=color, linewidths=0.7)
