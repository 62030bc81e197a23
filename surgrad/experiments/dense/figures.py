"""Figures of sweeps: curves over a setting, categories, sparse nets, distributions.

A point is (values of the runs, (mean, low, high, n)), as `surgrad.analysis.rows` makes them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from surgrad.analysis.rows import Row, chosen, column, grouped
from surgrad.experiments.dense import heterogeneity, robustness
from surgrad.experiments.dense.heterogeneity import FITS, Fit
from surgrad.experiments.dense.robustness import Sparse
from surgrad.figures.plots import SHARE, chance_line, legend_outside, method_color, panels, style
from surgrad.figures.sweeps import categories, cycle_marker, interval_ends, swept
from surgrad.network.time_constants import BOUNDS
from surgrad.runs.intervals import interval
from surgrad.runs.record import RunRecord

#: A surrogate's own colour, in every figure the same.
COLORS = {name: method_color("", k) for k, name in enumerate(robustness.SHAPES.values())}


def colors_of(labels: Iterable[str]) -> dict[str, str]:
    """Colours of labels that begin with a surrogate's name: "SuperSpike", "SuperSpike, beta = 10"."""
    named = {label: str(label).partition(",")[0] for label in labels}
    return {label: COLORS[name] for label, name in named.items() if name in COLORS}


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
        x, x_low, x_high = interval_ends([network.spikes[1] for network in networks])
        y, y_low, y_high = interval_ends([network.accuracy[1] for network in networks], SHARE)
        x_low = np.maximum(x_low, 0.1 * x)  # on a logarithmic axis a bar must not reach 0
        bars: dict[str, Any] = {"yerr": [y - y_low, y_high - y], "xerr": [x - x_low, x_high - x]}
        ax.errorbar(x, y, **bars, fmt="-", color="0.3", linewidth=0.8, capsize=1.5)
        chance_line(ax, chance)
        ax.set(xlabel="hidden spikes per sample", ylabel="test accuracy", xscale="log", ylim=(0, 1.02))
        ticks = [t for t in np.outer(10.0 ** np.arange(5), [1, 2, 5]).ravel() if x.min() / 1.3 < t < x.max() * 1.3]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
    return figure


def ladder_figure(rungs: Mapping[str, Sequence[RunRecord]], *, chance: float, counts: float) -> Figure:
    """Test accuracy at the best validation epoch against parameters, and against operations of a sample.

    Args:
        rungs: runs by the name of their rung, those without spikes too.
        chance: accuracy by chance.
        counts: accuracy from spike counts alone.
    """
    axes_of = {
        "nb_weights": ("parameters (thousands)", 1e-3),
        "test_synaptic_operations": ("synaptic operations per sample (millions)", 1e-6),
    }
    with style():
        figure, (axes,) = panels(1, 2, (6.6, 3.4), sharey=True)
        for ax, (x, (label, unit)) in zip(axes, axes_of.items(), strict=True):
            for k, (name, runs) in enumerate(rungs.items()):
                at, accuracy = unit * column(runs, x), interval(column(runs, "test_acc_best_valid"))
                half = 0.0 if accuracy.n < 2 else accuracy.high - accuracy.mean
                if np.isfinite(at).all():
                    spiking = np.isfinite(column(runs, "test_synaptic_operations")).all()
                    marker = cycle_marker(k) if spiking else "s"
                    color = method_color("", k)
                    ax.errorbar(at.mean(), accuracy.mean, half, fmt=marker, color=color, label=name, markersize=4)
            ax.axhline(counts, color="0.5", linewidth=0.8, linestyle=":", label="spike counts")
            chance_line(ax, chance)
            ax.set(xlabel=label, ylim=(0, 1.02))
            ax.set_xlim(left=0)
        axes[0].set_ylabel("test accuracy, unseen speakers")
        legend_outside(figure, axes, ncols=2)
    return figure


def delay_distributions(before: Mapping[str, Tensor], after: Mapping[str, Tensor], nb_bins: int = 40) -> Figure:
    """Histograms of the delays of every connection, before training in grey and after.

    Args:
        before: delays in s by the name of the connection.
        after: the same connections after training.
        nb_bins: of every histogram.
    """
    with style():
        figure, (axes,) = panels(1, len(after), (0.3 + 1.9 * len(after), 1.8))
        for ax, (name, delays) in zip(axes, after.items(), strict=True):
            bins = np.linspace(0, 1e3 * max(float(before[name].max()), float(delays.max())), nb_bins + 1)
            ax.hist(1e3 * before[name].flatten().numpy(), bins, histtype="step", color="0.5", label="before")
            ax.hist(1e3 * delays.flatten().numpy(), bins, color="#0072b2", alpha=0.6, label="after")
            ax.set(xlabel="delay (ms)", title=name, yticks=[])
        axes[0].set_ylabel("synapses")
        axes[0].legend(frameon=False)
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
        figure, axes = panels(1, len(panels_of), (0.6 + 2.3 * len(panels_of), 2.6), sharex=True)
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
        legend_outside(figure, axes[0])
    return figure


#: Names of the robustness figures, and how each is drawn from the rows of its sweep and the score by chance.
ROBUSTNESS: dict[str, tuple[str, Callable[[Sequence[Row], float], Figure]]] = {
    "robustness": (
        "slope",
        lambda rows, chance: swept(
            {"Randman": robustness.by_slope(rows)}, "slope beta", chance=chance, colors=COLORS, size=(3.4, 2.8)
        ),
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
    "robustness_reset": (
        "paths",
        lambda rows, chance: categories(by_path := robustness.by_path(rows), chance=chance, colors=colors_of(by_path)),
    ),
    "robustness_depth": (
        "depth",
        lambda rows, chance: swept(
            {"": (by_depth := robustness.by_depth(rows))},
            "hidden layers",
            xscale="linear",
            chance=chance,
            colors=colors_of(by_depth),
        ),
    ),
    "robustness_sparse": ("sparse", lambda rows, chance: sparse(robustness.by_spikes(rows), chance=chance)),
    "robustness_digits": (
        "digits",
        lambda rows, chance: swept(
            {"spoken digits": robustness.by_slope(rows, "robustness_digits")},
            "slope beta",
            chance=chance,
            colors=COLORS,
        ),
    ),
}


def of_robustness(rows: Sequence[Row]) -> dict[str, Figure]:
    """The figure of every sweep that there is, by the names in `ROBUSTNESS`.

    Args:
        rows: of `robustness.py`.
    """
    sweeps = {name for (name,) in grouped(rows, "sweep")}
    chance = {name: max(column(chosen(rows, sweep=name), "chance")) for name in sweeps}
    return {name: draw(rows, chance[sweep]) for sweep, (name, draw) in ROBUSTNESS.items() if sweep in sweeps}


def of_heterogeneity(rows: Sequence[Row], taus: Sequence[Row]) -> dict[str, Figure]:
    """Accuracy by condition, in stretched time, and learned time constants, if any.

    Args:
        rows: of runs.
        taus: of neurons.
    """
    both = {"validation": heterogeneity.accuracy(rows, "valid_acc"), "test": heterogeneity.accuracy(rows)}
    chance, learned = max(column(rows, "chance")), heterogeneity.learned_distributions(taus)
    figures = {
        "accuracy": categories(both, "accuracy", chance=chance),
        "stretch": swept({"": heterogeneity.stretch_curves(rows)}, "time stretched by", chance=chance, size=(3.8, 2.8)),
    }
    return figures | ({"tau": distributions(learned, BOUNDS)} if learned else {})
