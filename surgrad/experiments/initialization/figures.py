"""Figures of the initialisation study, drawn from its run folder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgrad.analysis.rows import Point, Row, grouped, points
from surgrad.figures.plots import POSITIVE, SHARE, STYLE, chance_line, legend_outside, panels, style
from surgrad.figures.sweeps import interval_ends
from surgrad.runs.record import RunRecord

CYCLE = STYLE["axes.prop_cycle"].by_key()["color"]
#: Initialisers of the sweep, as figures call them.
RULES = {"FluctuationDrivenCentered": "one rate for all layers", "RatePropagated": "rate-propagated"}


def _band(ax: Axes, x: np.ndarray, values: np.ndarray, **options: Any) -> None:
    """Mean over draws with a band from the smallest to the largest.

    Args:
        ax: the axes.
        x: (x,).
        values: (draws, x).
        options: of the line.
    """
    (line,) = ax.plot(x, np.nanmean(values, 0), **options)
    ax.fill_between(x, np.nanmin(values, 0), np.nanmax(values, 0), color=line.get_color(), alpha=0.2, linewidth=0)


def _names(run: RunRecord, where: str) -> list[str]:
    """Names of the initialisers recorded at ``where``, in the order of the configuration."""
    found = {name.removeprefix(f"{where}/").rsplit("/", 1)[0] for name in run.states if name.startswith(f"{where}/")}
    order = list(run.get("initializers", {}))
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def grid(run: RunRecord) -> Figure:
    """One layer: deviation against target, against the theory of binary spikes, mean, and rate against crossings."""
    m = run.metrics
    with style():
        figure, ((deviation, theory, mean, rate),) = panels(1, 4, (8.4, 2.2))
        for k, nu in enumerate(np.unique(m["nu"])):
            here = m["nu"] == nu
            options = {"linestyle": "", "marker": ".", "color": CYCLE[k], "markersize": 3, "alpha": 0.5}
            deviation.plot(m["sigma_u"][here], m["std"][here] / m["sigma_u"][here], label=f"{nu:g} Hz", **options)
            theory.plot(m["sigma_u"][here], m["std"][here] / m["predicted_std"][here], **options)
            mean.plot(m["predicted_mean"][here], m["mean"][here], **options)
            open_loop = here & np.isnan(m["alpha"])
            rate.plot(m["predicted_rate"][open_loop], m["rate"][open_loop], **options)
        for ax in (deviation, theory):
            ax.axhspan(0.95, 1.05, color="0.92", zorder=0, linewidth=0)
            ax.set(xlabel=r"$\sigma_U$ asked for", ylim=(0.88, 1.12), xscale="log")
            ax.set_xticks([0.2, 0.5, 1], ["0.2", "0.5", "1"])
            ax.minorticks_off()
        deviation.set(ylabel=r"measured $\sigma_U$ / asked for", title="fluctuation-driven rule")
        theory.set(ylabel=r"measured $\sigma_U$ / predicted", title="one spike per step at most")
        mean.set(xlabel=r"predicted mean $\mu_U$", ylabel="measured", title="mean over the layer")
        rate.set(xlabel="threshold crossings (Hz)", ylabel="firing rate (Hz)", title="rate, no recurrence")
        for ax in (mean, rate):
            ends = ax.get_xlim()
            ax.plot(ends, ends, color="0.6", linewidth=0.6, zorder=0)
        deviation.legend(
            title="input rate", title_fontsize=6, ncols=3, columnspacing=0.6, handletextpad=0.1, loc="upper left"
        )
    return figure


def steps(run: RunRecord) -> Figure:
    """Firing rate against the time step: synapses of several time constants, theory, and compensated weights."""
    dts, rate = run.state("steps/dts") * 1e3, run.state("steps/rate")
    with style():
        figure, ((ax,),) = panels(1, 1, (5.2, 2.5))
        ax.axhline(run.summary["steps/continuous_rate"], color="0.6", linestyle="--", linewidth=0.8)
        ax.text(
            dts[-1],
            run.summary["steps/continuous_rate"],
            "continuous time",
            fontsize=6,
            va="bottom",
            ha="right",
            color="0.4",
        )
        for k, tau_syn in enumerate(run.state("steps/tau_syns")):
            label = "instantaneous synapses" if tau_syn < 1e-5 else rf"$\tau_{{syn}}$ = {tau_syn * 1e3:g} ms"
            ax.plot(dts, rate[k], "o", color=CYCLE[k], markersize=3, label=label)
        ax.plot(dts, run.state("steps/predicted"), color=CYCLE[0], linewidth=0.8, label="theory: missed crossings")
        ax.plot(dts, run.state("steps/compensated"), "x", color=CYCLE[0], markersize=4, label="compensated weights")
        ax.set(xscale="log", xlabel="time step (ms)", ylabel="firing rate (Hz)")
        ax.set_ylim(0, 1.15 * max(run.summary["steps/continuous_rate"], run.state("steps/compensated").max()))
        ax.set_xticks(dts, [f"{dt:g}" for dt in dts])
        ax.minorticks_off()
        figure.legend(loc="outside right center")
    return figure


def depth(run: RunRecord) -> Figure:
    """Deviation, firing rate and gradient norm of every layer, and the gradient over time, for every initialiser."""
    names = _names(run, "depth")
    with style():
        figure, ((deviation, rate, gradient),) = panels(1, 3, (7.4, 2.2))
        for k, name in enumerate(names):
            shown = {"color": CYCLE[k], "marker": "o", "markersize": 2.5}
            layers = np.arange(run.state(f"depth/{name}/rate").shape[1])
            _band(deviation, layers, run.state(f"depth/{name}/std"), label=name, **shown)
            _band(rate, layers, run.state(f"depth/{name}/rate"), **shown)
            _band(gradient, layers, run.state(f"depth/{name}/weight_gradient")[:, :-1], **shown)
        deviation.set(ylabel=r"$\sigma_U$ of the free membrane", ylim=(0, None))
        rate.set(ylabel="firing rate (Hz)")
        rate.set_yscale("symlog", linthresh=1)
        rate.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        gradient.set_yscale("symlog", linthresh=1e-11)
        gradient.set(
            ylabel=r"$\Vert \partial L / \partial W \Vert$", yticks=[0, 1e-10, 1e-7, 1e-4, 1e-1], ylim=(-3e-12, 1)
        )
        for ax in (deviation, rate, gradient):
            ax.set(xlabel="hidden layer", xticks=layers)
            ax.minorticks_off()
        figure.legend(*deviation.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def gradients_over_time(run: RunRecord) -> Figure:
    """Root mean square of dL/dI[t] of each layer, one panel per initialiser."""
    names = _names(run, "depth")
    dt = run.get("time_step")
    with style():
        figure, (axes,) = panels(1, len(names), (0.5 + 1.6 * len(names), 1.9), sharex=True, sharey=True)
        for ax, name in zip(axes, names, strict=True):
            gradients = run.state(f"depth/{name}/current_gradient")
            for layer, over_steps in enumerate(gradients):
                shade = str(0.75 * (1 - layer / max(1, len(gradients) - 1)))
                ax.plot(np.arange(len(over_steps)) * dt * 1e3, over_steps, color=shade, linewidth=0.6)
            ax.set(xlabel="time (ms)", yscale="log")
            ax.set_title(name, fontsize=7)
        axes[0].set(ylabel=r"rms $\partial L / \partial I[t]$")
        largest = max(run.state(f"depth/{name}/current_gradient").max() for name in names)
        axes[0].set_ylim(1e-12 * largest, 2 * largest)
        axes[0].text(0.03, 0.97, "light: lowest layer", transform=axes[0].transAxes, fontsize=6, va="top")
    return figure


def collapse(run: RunRecord) -> Figure:
    """Rate of the top layer against the deviation asked for, and the rate of a layer against that of its inputs."""
    with style():
        figure, ((top, passed),) = panels(1, 2, (5.6, 2.3))
        for k, name in enumerate(("one rate", "rate-propagated")):
            sigma_us = run.attributes(f"collapse/{name}")["sigma_us"]
            rates = run.state(f"collapse/{name}")[:, :, -1]
            _band(top, sigma_us, rates.T, color=CYCLE[k], marker="o", markersize=2.5, label=name)
        top.axhline(run.get("depth.nu"), color="0.6", linewidth=0.8, zorder=0, label="rate of the inputs")
        top.set_yscale("symlog", linthresh=0.1)
        top.set(xlabel=r"$\sigma_U$ asked for", ylabel="rate of the top layer (Hz)", ylim=(-0.02, None))
        top.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
        top.minorticks_off()
        top.legend(loc="upper left", bbox_to_anchor=(0.0, 1.25))
        attributes = run.attributes("transfer")
        rates = np.asarray(attributes["rates"])
        for k, sigma_u in enumerate(attributes["sigma_us"]):
            passed.plot(rates, run.state("transfer")[k], color=CYCLE[k + 2], label=rf"$\sigma_U$ = {sigma_u:g}")
        passed.plot(rates, rates, color="0.6", linewidth=0.8, zorder=0, label="unchanged")
        passed.set(xlabel="input rate (Hz)", ylabel="output rate (Hz)")
        passed.legend()
    return figure


def real(run: RunRecord) -> Figure:
    """Deviation and rate of every layer on the data set's spikes and on the same spikes at random times."""
    with style():
        figure, ((deviation, rate),) = panels(1, 2, (7.2, 2.3))
        for k, name in enumerate(_names(run, "real/data")):
            for kind, line in (("data", "-"), ("random times", ":")):
                shown = {"color": CYCLE[k], "linestyle": line, "marker": "o", "markersize": 2.5}
                values = run.state(f"real/{kind}/{name}/std")
                layers = np.arange(values.shape[1])
                _band(deviation, layers, values, label=f"{name}, {kind}", **shown)
                _band(rate, layers, run.state(f"real/{kind}/{name}/rate"), **shown)
        deviation.axhline(run.get("real.sigma_u"), color="0.6", linewidth=0.8, zorder=0, label="asked for")
        deviation.set(ylabel=r"$\sigma_U$ of the free membrane", ylim=(0, None))
        rate.set(ylabel="firing rate (Hz)", ylim=(0, None))
        for ax in (deviation, rate):
            ax.set(xlabel="hidden layer", xticks=layers)
        figure.legend(*deviation.get_legend_handles_labels(), loc="outside right center")
    return figure


#: Every figure of a run folder by its name.
FIGURES: Mapping[str, Callable[[RunRecord], Figure]] = {
    "grid": grid,
    "steps": steps,
    "depth": depth,
    "gradients_over_time": gradients_over_time,
    "collapse": collapse,
    "real": real,
}


def draw(name: str, run: RunRecord) -> Figure:
    """The figure called ``name`` of a run folder."""
    return FIGURES[name](run)


def accuracy(rows: Sequence[Row]) -> Figure:
    """Test accuracy and rate of the top layer against the initial deviation; dots are runs, bars 95 % intervals.

    Args:
        rows: of `surgrad.experiments.initialization.study.sweep`.
    """
    with style():
        figure, ((acc, rate),) = panels(1, 2, (6.4, 2.6))
        for k, ((name,), group) in enumerate(grouped(rows, "initializer").items()):
            for ax, key, shown in (
                (acc, "test_acc", {"label": RULES.get(name, name)}),
                (rate, "rate_before", {} if k else {"label": "before training"}),
                (rate, "rate_after", {"markerfacecolor": "white"} | ({} if k else {"label": "after training"})),
            ):
                where: dict[str, Any] = {"shift": 1.04 if k else 0.96, "limits": SHARE if ax is acc else POSITIVE}
                _points(ax, points(group, "sigma_u", key), color=CYCLE[k], **where, **shown)
        chance_line(acc, rows[0]["chance"])
        acc.set(ylabel="test accuracy", ylim=(0, 1.02))
        rate.set_yscale("symlog", linthresh=0.1)
        rate.set(ylabel="rate of the top layer (Hz)", ylim=(-0.02, None))
        rate.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
        values = sorted({row["sigma_u"] for row in rows})
        for ax in (acc, rate):
            ax.set(xscale="log", xlabel=r"initial $\sigma_U$")
            ax.set_xticks(values, [f"{value:g}" for value in values])
            ax.minorticks_off()
        legend_outside(figure, [acc, rate])
    return figure


def _points(
    ax: Axes,
    curve: Mapping[float, Point],
    *,
    shift: float,
    color: str,
    limits: tuple[float, float],
    **options: Any,
) -> None:
    """A curve of means with intervals, and its runs as faint dots.

    Args:
        ax: the axes.
        curve: points by x.
        shift: factor beside its x.
        color: of curve and dots.
        limits: smallest and largest possible value.
        options: of the curve.
    """
    x = shift * np.array(list(curve))
    mean, low, high = interval_ends([band for _, band in curve.values()], limits)
    bars = [mean - low, high - mean]
    ax.errorbar(x, mean, bars, marker="o", markersize=3.5, capsize=2, linewidth=0.9, color=color, **options)
    for place, (values, _) in zip(x, curve.values(), strict=True):
        ax.plot(np.full(len(values), place), values, ".", color=color, alpha=0.35, markersize=3)
