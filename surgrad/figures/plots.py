"""Every figure of the suite, in one style: functions take arrays and return a figure, neither shown nor saved."""

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

#: One style for the suite, also for notebooks: `with figures.style(): …`.
STYLE: dict[str, Any] = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler(
        color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#000000"]
    ),
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "legend.frameon": False,
    "legend.fontsize": 7,
}

#: Colour of each method, the same in every figure; others take the cycle's.
METHOD_COLORS = {
    "superspike": "#333333",
    "stochasticsuperspike": "#d55e00",
    "multilayerspiker": "#009e73",
    "scaled_sigmoid": "#cc79a7",
    "exponentialstochasticsuperspike": "#56b4e9",
    "exponential": "#e69f00",
}
TWO_CLASSES = ("#d55e00", "#0072b2")


def style() -> AbstractContextManager[None]:
    """The style of the suite as a context."""
    return mpl.rc_context(cast(Any, STYLE))


def panels(nb_rows: int, nb_columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of ``size`` (inches) that no window or notebook holds on to, and its axes (rows, columns)."""
    figure = Figure(figsize=size)
    return figure, figure.subplots(nb_rows, nb_columns, squeeze=False, **options)


def chance_line(ax: Axes, chance: float | None) -> None:
    """A line at the score expected by chance that says what it is; nothing for None."""
    if chance is None:
        return
    ax.axhline(chance, color="0.7", linewidth=0.8, zorder=0)
    place: Any = {"xycoords": ("axes fraction", "data"), "xytext": (0, 1), "textcoords": "offset points"}
    ax.annotate("chance", (1, chance), **place, ha="right", va="bottom", fontsize=6, color="0.45", zorder=0)


def legend_outside(figure: Figure, axes: Sequence[Axes], *, ncols: int | None = None, **options: Any) -> None:
    """One legend below all axes in ``ncols`` columns, by default as many as fit; of equal entries the first counts."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    if not entries:
        return
    width = figure.get_size_inches()[0]
    names = [textwrap.fill(name, int((width - 0.6) / 0.062)) for name in entries]  # inches of a letter
    per_entry = 0.55 + 0.062 * max(len(line) for name in names for line in name.splitlines())
    fitting = max(1, min(len(entries), int(width / per_entry)))
    figure.legend(entries.values(), names, loc="outside lower center", ncols=ncols or fitting, **options)


def class_color(label: int) -> tuple[float, ...]:
    """Colour of a class: ten hues, in darker shades for the next ten, and so on."""
    shade = 0.75 ** (label // 10)
    return tuple(shade * channel for channel in mpl.colormaps["tab10"](label % 10)[:3])


def raster(
    ax: Axes, spikes: np.ndarray, dt: float, *, color: Any = "black", alpha: float = 0.3, size: float = 1.0
) -> None:
    """Dots at spikes (T, *units) of one sample against time in ms (dt in s), larger where there are few units."""
    step, unit = np.nonzero(spikes.reshape(len(spikes), -1))
    nb_units = max(1, spikes[0].size)
    size *= max(1.2, min(4.0, 16 / nb_units**0.4))
    alpha = min(1.0, alpha * max(1.0, 30 / nb_units**0.5))
    ax.plot(step * dt * 1e3, unit, ".", color=color, alpha=alpha, markersize=size, markeredgewidth=0, rasterized=True)


def _stack(nb_layers: int, nb_columns: int, width: float) -> tuple[Figure, np.ndarray]:
    """Axes from the readout at the top down to the input, one column per sample."""
    heights = [1.2] + [1.0] * nb_layers + [1.2]
    size = (width, 1.0 + 0.85 * len(heights))
    figure, axes = panels(len(heights), nb_columns, size, height_ratios=heights, sharex=True, sharey="row")
    return figure, axes


def _finish(axes: np.ndarray, populations: Sequence[np.ndarray], duration: float) -> None:
    """Labels of a stack whose rows are readout, top hidden layer, …, input."""
    names = ["readout $u$", *(f"hidden {k}" for k in reversed(range(len(populations) - 1))), "input"]
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name)
        if row:
            size = int(np.prod(populations[len(names) - 1 - row].shape[2:]))
            axes[row, 0].set_ylim(-0.02 * size, 1.02 * size)
            axes[row, 0].set_yticks([0, size])
    for ax in axes[-1]:
        ax.set(xlabel="time (ms)", xlim=(0, duration * 1e3))


def activity(
    populations: Sequence[np.ndarray],
    readout: np.ndarray,
    labels: Sequence[int],
    dt: float,
    *,
    alpha: float = 0.3,
    names: Sequence[str] | None = None,
) -> Figure:
    """Snapshot of the activity of all layers, one column per sample.

    Args:
        populations: spikes of the input and of every hidden layer, bottom to top, each (T, B, *units).
        readout: (T, B, classes); the true class is drawn in colour, the others in grey.
        labels: (B,) class of each sample.
        dt: time step (s).
        alpha: opacity of a spike.
        names: of the classes; None for their numbers.
    """
    with style():
        figure, axes = _stack(len(populations) - 1, len(labels), 1.1 + 1.25 * len(labels))
        time = (np.arange(len(readout)) + 1) * dt * 1e3
        for column, label in enumerate(labels):
            others = [c for c in range(readout.shape[2]) if c != label]
            axes[0, column].plot(time, readout[:, column, others], color="0.75", linewidth=0.6)
            axes[0, column].plot(time, readout[:, column, label], color=class_color(label), linewidth=1.4)
            axes[0, column].set_title(names[label] if names else f"class {label}", color=class_color(label))
            for row, spikes in enumerate(reversed(populations), start=1):
                raster(axes[row, column], spikes[:, column], dt, color=class_color(label), alpha=alpha)
        _finish(axes, populations, len(readout) * dt)
        axes[0, 0].set_ylabel("readout $u$\n(grey: others)")
    return figure


def two_classes(
    populations: Sequence[np.ndarray], readout: np.ndarray, labels: Sequence[int], dt: float, *, alpha: float = 0.3
) -> Figure:
    """Two samples of different classes, drawn over each other in all layers.

    The arguments are those of `activity`, with two samples. The readout shows the units of the two classes: thick for
    the sample of that class, thin and dashed for the other sample.
    """
    with style():
        figure, axes = _stack(len(populations) - 1, 1, 3.4)
        time = (np.arange(len(readout)) + 1) * dt * 1e3
        for sample, (label, color) in enumerate(zip(labels, TWO_CLASSES, strict=True)):
            for unit in labels:
                own: dict[str, Any] = {"linewidth": 1.4, "label": f"class {label}, its unit"}
                other = {"linewidth": 0.7, "linestyle": "--", "label": f"class {label}, the other unit"}
                axes[0, 0].plot(time, readout[:, sample, unit], color=color, **(own if unit == label else other))
            for row, spikes in enumerate(reversed(populations), start=1):
                raster(axes[row, 0], spikes[:, sample], dt, color=color, alpha=alpha)
        _finish(axes, populations, len(readout) * dt)
        legend_outside(figure, [axes[0, 0]])
    return figure


def trials(spikes: np.ndarray, neurons: Sequence[int], dt: float, *, alpha: float = 0.75, title: str = "") -> Figure:
    """Rasters of single neurons over repeated presentations of one stimulus.

    Args:
        spikes: (T, trials, neurons).
        neurons: numbers of the neurons.
        dt: in s.
        alpha: opacity of a spike.
        title: above the panels, if any.
    """
    with style():
        figure, axes = panels(1, len(neurons), (0.6 + 1.5 * len(neurons), 1.9), sharex=True, sharey=True)
        for k, neuron in enumerate(neurons):
            raster(axes[0, k], spikes[:, :, k], dt, alpha=alpha)
            axes[0, k].set(title=f"neuron {neuron}", xlabel="time (ms)")
        axes[0, 0].set(xlim=(0, len(spikes) * dt * 1e3), ylim=(-1, spikes.shape[1]), ylabel="trial")
        if title:
            figure.suptitle(title, fontsize=8)
    return figure


def training_curves(metrics: Mapping[str, np.ndarray], *, chance: float | None = None) -> Figure:
    """Loss and accuracy over epochs, training and validation, and the firing rates of the layers if they are there.

    Args:
        metrics: columns of metrics.csv.
        chance: accuracy expected by chance, drawn as a line.
    """
    rates = [name for name in metrics if name.startswith("firing_rate-hid_")]
    with style():
        figure, axes = panels(1, 3 if rates else 2, (2.3 * (3 if rates else 2), 2.0))
        for ax, quantity, name in zip(axes[0], ("loss", "acc"), ("loss", "accuracy"), strict=False):
            for part, color in (("train", "0.5"), ("valid", "#d55e00")):
                if f"{part}_{quantity}" in metrics:
                    label = {"train": "training", "valid": "validation"}[part]
                    ax.plot(*_defined(metrics["epoch"], metrics[f"{part}_{quantity}"]), color=color, label=label)
            ax.set(xlabel="epoch", ylabel=name)
        chance_line(axes[0, 1], chance)
        axes[0, 0].set_ylim(0, 1.05 * axes[0, 0].get_ylim()[1])
        axes[0, 1].set_ylim(0, 1.02)
        for k, name in enumerate(rates):
            axes[0, 2].plot(*_defined(metrics["epoch"], metrics[name]), color=str(0.7 - 0.3 * k), label=f"hidden {k}")
        if rates:
            axes[0, 2].set(xlabel="epoch", ylabel="firing rate (Hz)", ylim=(0, None))
        legend_outside(figure, axes[0])
    return figure


def _defined(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the points at which y is a number, so that gaps do not break a curve."""
    there = ~np.isnan(y)
    return x[there], y[there]


#: Values that a share, and a loss or rate, can have: what an interval beyond them would show does not exist.
SHARE, POSITIVE = (0.0, 1.0), (0.0, np.inf)


def band(
    ax: Axes,
    x: np.ndarray,
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    color: Any,
    label: str,
    limits: tuple[float, float] = (-np.inf, np.inf),
    above: int = 0,
) -> None:
    """A mean with its interval as a band, cut at the values that there can be; wider below so many others."""
    ax.plot(x, mean, color=color, label=label, linewidth=1.1 + 0.7 * min(above, 4))
    ax.fill_between(x, np.clip(low, *limits), np.clip(high, *limits), color=color, alpha=0.2, linewidth=0)


def interval_points(
    ax: Axes,
    position: float,
    values: np.ndarray,
    interval: tuple[float, ...],
    *,
    color: Any,
    label: str = "",
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> None:
    """Single runs as faint dots beside their mean and (mean, low, high, …) of their interval, cut at the limits."""
    mean, low, high, *_ = interval
    low, high = np.fmin(np.clip(low, *limits), mean), np.fmax(np.clip(high, *limits), mean)
    ax.plot(np.full(len(values), position + 0.12), values, ".", color=color, alpha=0.45, markersize=4)
    error = np.array([[mean - low], [high - mean]])
    ax.errorbar(position, mean, error, fmt="o", color=color, markersize=4, capsize=2, linewidth=1, label=label or None)


def learning_curves(curves: Mapping[str, Mapping[str, Sequence[np.ndarray]]], *, chance: float | None = None) -> Figure:
    """Loss and accuracy over epochs, one colour per method: validation as a line with its band, training dotted.

    Args:
        curves: for each method its curves by column of metrics.csv, each (epochs, mean, low, high).
        chance: accuracy by chance.
    """
    with style():
        figure, ((*axes,),) = panels(1, 2, (5.6, 2.7))
        for k, (method, columns) in enumerate(curves.items()):
            color = method_color(method, k)
            for ax, quantity in zip(axes, ("loss", "acc"), strict=True):
                if f"train_{quantity}" in columns:
                    epochs, mean, *_ = columns[f"train_{quantity}"]
                    ax.plot(epochs, mean, color=color, linestyle=":", linewidth=0.9)
                if f"valid_{quantity}" in columns:
                    limits = SHARE if quantity == "acc" else POSITIVE
                    above = len(curves) - 1 - k
                    band(ax, *columns[f"valid_{quantity}"], color=color, label=method, limits=limits, above=above)
        axes[0].set(xlabel="epoch", ylabel="loss", ylim=(0, None))
        axes[1].set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
        chance_line(axes[1], chance)
        axes[0].plot([], [], color="0.4", linestyle=":", linewidth=0.9, label="training (no band)")
        legend_outside(figure, axes, title="validation: mean and 95 % interval", title_fontsize=7)
    return figure


def by_layer(
    values: Mapping[str, Sequence[tuple[np.ndarray, tuple[float, float, float]]]],
    ylabel: str,
    *,
    line: float | None = None,
) -> Figure:
    """A quantity per hidden layer and method: dots are runs, marks with bars mean and interval.

    Args:
        values: for each method and layer the values of the runs and their (mean, low, high).
        ylabel: label.
        line: a line to compare with.
    """
    width = 0.8 / max(len(values), 3)
    with style():
        figure, ((ax,),) = panels(1, 1, (3.4, 2.5))
        if line is not None:
            ax.axhline(line, color="0.8", linewidth=0.6, zorder=0)
        for k, (method, layers) in enumerate(values.items()):
            for layer, (runs, interval) in enumerate(layers):
                position = layer + width * (k - (len(values) - 1) / 2)
                label = method if layer == 0 else ""
                color = method_color(method, k)
                interval_points(ax, position, runs, interval, color=color, label=label, limits=POSITIVE)
        nb_layers = max(len(layers) for layers in values.values())
        named = [f"hidden {k}" for k in range(nb_layers)]
        ax.set(xticks=range(nb_layers), xticklabels=named, ylabel=ylabel, ylim=(0, None))
        legend_outside(figure, [ax])
    return figure


def swapped(values: Mapping[str, tuple[tuple[Any, ...], tuple[Any, ...]]], *, chance: float | None = None) -> Figure:
    """Test accuracy with the spikes a network was trained with and with those of the other method.

    Args:
        values: for each training method the pair (own, swapped) of (values of the runs, (mean, low, high)).
        chance: level.
    """
    with style():
        figure, ((ax,),) = panels(1, 1, (0.9 + 1.3 * len(values), 2.2))
        for k, (method, pair) in enumerate(values.items()):
            color = method_color(method, k)
            for side, (runs, interval) in enumerate(pair):
                interval_points(ax, 2.2 * k + side, runs, interval, color=color, limits=SHARE)
            ax.plot([2.2 * k, 2.2 * k + 1], [interval[0] for _, interval in pair], color=color, linewidth=0.7)
        chance_line(ax, chance)
        ticks = [2.2 * k + side for k in range(len(values)) for side in (0, 1)]
        ax.set_xticks(ticks, ["own", "swapped"] * len(values))
        for k, method in enumerate(values):
            ax.text(2.2 * k + 0.5, 1.03, method, ha="center", fontsize=7, color=method_color(method, k))
        ax.set(ylabel="test accuracy", ylim=(0, 1.02), xlim=(-0.6, 2.2 * len(values) - 0.6))
    return figure


def method_color(method: str, index: int = 0) -> str:
    """The method's colour, or the one of the cycle at ``index``."""
    cycle = STYLE["axes.prop_cycle"].by_key()["color"]
    return METHOD_COLORS.get(method, cycle[index % len(cycle)])


def curves_by_layer(curves: Mapping[str, Sequence[Sequence[np.ndarray]]], ylabel: str) -> Figure:
    """A quantity over epochs, one panel per layer, one colour per method.

    Args:
        curves: for each method and layer (epochs, mean, low, high).
        ylabel: label.
    """
    nb_layers = max(len(layers) for layers in curves.values())
    with style():
        figure, axes = panels(1, nb_layers, (0.6 + 1.7 * nb_layers, 2.3), sharey=True)
        for k, (method, layers) in enumerate(curves.items()):
            for layer, values in enumerate(layers):
                shown: dict[str, Any] = {"color": method_color(method, k), "label": method, "limits": POSITIVE}
                band(axes[0, layer], *values, above=len(curves) - 1 - k, **shown)
        for layer, ax in enumerate(axes[0]):
            ax.set(xlabel="epoch", title=f"hidden {layer}")
        axes[0, 0].set(ylabel=ylabel, ylim=(0, None))
        legend_outside(figure, axes[0])
    return figure


def rate_histograms(rates: Mapping[str, Sequence[np.ndarray]], nb_bins: int = 30) -> Figure:
    """Distribution of firing rates over the neurons of each layer, one panel per layer, one colour per method.

    Args:
        rates: for each method and layer the rate of every neuron (Hz).
        nb_bins: number of bins.
    """
    nb_layers = max(len(layers) for layers in rates.values())
    with style():
        figure, axes = panels(1, nb_layers, (0.6 + 1.7 * nb_layers, 2.3))
        for layer, ax in enumerate(axes[0]):
            there = {method: layers[layer].ravel() for method, layers in rates.items() if layer < len(layers)}
            bins = np.linspace(0, max(1.0, *(float(values.max()) for values in there.values())), nb_bins + 1)
            for k, (method, values) in enumerate(there.items()):
                ax.hist(values, bins, histtype="step", color=method_color(method, k), label=method, density=True)
            ax.set(xlabel="firing rate (Hz)", title=f"hidden {layer}", yticks=[])
        axes[0, 0].set_ylabel("share of neurons")
        legend_outside(figure, axes[0])
    return figure
