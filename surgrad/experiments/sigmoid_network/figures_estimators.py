"""Figures of the theory: one neuron, and gradient estimators. Functions take results and return a Figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgrad.experiments.sigmoid_network.estimator_study import ChainCurve, SampleCurve, Study
from surgrad.experiments.sigmoid_network.estimators import ESTIMATORS
from surgrad.experiments.sigmoid_network.figures_sigmoid import NEUTRAL, SURROGATE, TRUE, letter, style
from surgrad.experiments.sigmoid_network.neuron_study import LIFCurves, PerceptronCurve
from surgrad.experiments.sigmoid_network.quadrature import Array

# Biased estimators warm and dashed, unbiased ones cool and solid.
_LINES: dict[str, tuple[str, str, str]] = {
    "sg": ("#D55E00", "--", "o"),
    "smoothed_right": ("#E69F00", "--", "v"),
    "smoothed_left": ("#F0B860", "--", "^"),
    "straight_through": ("#CC79A7", "--", "P"),
    "deterministic_sg": ("#882255", "--", "X"),
    "finite_difference": ("#7A7A7A", ":", "D"),
    "stochastic_ad": ("#0072B2", "-", "o"),
    "stochastic_ad_pruned": ("#56B4E9", "-", "s"),
    "stochastic_ad_both": ("#003F66", "-", "d"),
    "score": ("#8CC5A8", "-", "v"),
    "score_running": ("#4DB38A", "-", "^"),
    "score_loo": ("#009E73", "-", "P"),
}


def _line(name: str) -> dict[str, Any]:
    color, dashes, marker = _LINES[name]
    return {"color": color, "ls": dashes, "marker": marker, "ms": 3.2, "lw": 1.1, "label": ESTIMATORS[name].label}


def _median_line(ax: Axes, x: Array, y: Array, name: str) -> None:
    """Median over networks (last axis), with the quartiles as a faint band."""
    low, middle, high = np.quantile(y, [0.25, 0.5, 0.75], axis=-1)
    ax.fill_between(x, low, high, color=_LINES[name][0], alpha=0.06, lw=0)
    ax.plot(x, middle, **_line(name))


def _chain_panel(ax: Axes, chain: ChainCurve) -> None:
    ax.plot(chain.v, chain.exact, color=TRUE, label=r"exact $dE[y]/du$")
    ax.plot(chain.v, chain.sg, color=SURROGATE, ls="--", label="mean SG")
    ax.errorbar(
        chain.v_sampled,
        chain.sampled,
        chain.half_width,
        fmt="o",
        color="#003F66",
        ms=3,
        lw=1,
        label="stochastic AD, 95 %",
    )
    ax.set(xlabel="weight v of the chain", ylabel=r"$dE[y]/du$", title="two-neuron chain")
    ax.set_ylim(top=1.5 * ax.get_ylim()[1])
    ax.legend(loc="upper left", fontsize=6.5)


def _positive_line(ax: Axes, x: Array, y: Array, name: str) -> None:
    """As _median_line, without the values at which y vanishes (an exact estimator has no place on a log axis)."""
    keep = np.median(y, -1) > 1e-9
    if keep.any():
        _median_line(ax, x[keep], np.maximum(y[keep], 1e-9), name)


def _bias_panel(ax: Axes, study: Study) -> None:
    for m, name in enumerate(study.methods):
        if not ESTIMATORS[name].unbiased:
            _positive_line(ax, study.values, study.bias[:, m], name)
    ax.axhline(1, color="0.6", lw=0.6)
    ax.set(yscale="log", ylabel=r"bias / $|g|$", ylim=(1e-3, 2e3))
    ax.text(0.03, 0.92, "the unbiased ones are not shown", transform=ax.transAxes, fontsize=6.5, color=NEUTRAL)


def _spread_panel(ax: Axes, study: Study) -> None:
    for m, name in enumerate(study.methods):
        _positive_line(ax, study.values, study.std[:, m], name)
    ax.set(yscale="log", ylabel=r"s.d. of one sample / $|g|$", ylim=(0.05, 300))


def _cosine_panel(ax: Axes, study: Study) -> None:
    for m, name in enumerate(study.methods):
        _median_line(ax, study.values, study.cosine[:, m], name)
    ax.axhline(0, color="0.6", lw=0.6)
    ax.set(ylabel=f"cosine to $g$, mean of {study.nb_averaged}", ylim=(-0.1, 1.03))


def estimator_comparison(chain: ChainCurve, curve: SampleCurve, studies: Sequence[Study]) -> Figure:
    """The chain; cosine against samples and network runs; bias, spread and cosine against each study's variable."""
    with style():
        fig, axes = plt.subplots(1 + len(studies), 3, figsize=(10.5, 3.0 * (1 + len(studies)) + 0.8))
        _chain_panel(axes[0, 0], chain)
        for m, name in enumerate(curve.methods):
            _median_line(axes[0, 1], curve.nb_samples, curve.cosine[:, m], name)
            _median_line(axes[0, 2], curve.nb_samples * curve.runs[m], curve.cosine[:, m], name)
        for ax, text in zip(axes[0, 1:], ("samples averaged", "network runs spent"), strict=True):
            ax.set(xscale="log", xlabel=text, ylabel="cosine to exact gradient", ylim=(-0.1, 1.03))
            ax.axhline(0, color="0.6", lw=0.6)
        for row, study in zip(axes[1:], studies, strict=True):
            for ax, panel in zip(row, (_bias_panel, _spread_panel, _cosine_panel), strict=True):
                panel(ax, study)
                ax.set_xlabel(study.variable)
                if study.values.max() / study.values.min() > 10:
                    ax.set_xscale("log", base=2)
                ax.set_xticks(study.values, [f"{v:g}" for v in study.values])
                ax.minorticks_off()
        for ax, name in zip(axes.flat, "abcdefghi", strict=False):
            letter(ax, name, -0.2)
        handles = axes[0, 1].get_lines()
        named = {h.get_label(): h for h in handles if not str(h.get_label()).startswith("_")}
        title = "median over networks; bands: quartiles"
        fig.legend(named.values(), named, loc="outside lower center", ncols=3, handlelength=3, title=title)
    return fig


def perceptron_curves(curves: Mapping[str, PerceptronCurve], nb_inputs: int) -> Figure:
    """Expected output and its derivative against the deterministic neuron's SG, one column per escape noise."""
    with style():
        fig, axes = plt.subplots(2, len(curves), figsize=(2.3 * len(curves), 3.7), sharex=True, squeeze=False)
        for (top, bottom), (name, curve) in zip(axes.T, curves.items(), strict=True):
            top.plot(curve.weight, curve.value, color=TRUE, lw=3.5, alpha=0.5)
            top.errorbar(curve.sampled, *curve.drawn, fmt="o", ms=2.5, lw=0.8, color="black")
            top.set_title(f"{name} escape noise")
            bottom.plot(
                curve.weight, curve.exact, color=TRUE, lw=3.5, alpha=0.5, label=r"E[S] and $dE[S]/dw$, enumerated"
            )
            bottom.plot(curve.weight, curve.sg, color=SURROGATE, ls="--", label="SG, deterministic neuron")
            bottom.errorbar(
                curve.sampled, *curve.drawn_derivative, fmt="o", ms=2.5, lw=0.8, color="black", label="drawn, 95 %"
            )
            bottom.set_xlabel("weight" if nb_inputs == 1 else f"common weight of {nb_inputs} inputs")
        axes[0, 0].set_ylabel("expected output E[S]")
        axes[1, 0].set_ylabel("derivative")
        handles, labels = axes[1, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=3)
        letter(axes[0, 0], "a", -0.25)
        letter(axes[1, 0], "b", -0.25)
    return fig


def lif_curves(curves: LIFCurves) -> Figure:
    """A driven LIF neuron: input, membrane, derivatives along the gain g of all weights, spike probability."""
    ms = curves.time * 1e3
    with style():
        fig, axes = plt.subplots(5, 1, figsize=(6.6, 7.6), sharex=True, height_ratios=[0.6, 0.9, 1, 1.3, 1])
        step, unit = np.nonzero(curves.inputs)
        axes[0].plot(ms[step], unit, "|", color="black", ms=2.5)
        axes[0].set(ylabel="input")
        axes[1].plot(ms, curves.membrane, color=NEUTRAL, lw=1, ls="--", label="u, no reset")
        axes[1].plot(ms, curves.membrane_reset, color="black", lw=1, label="u, reset")
        axes[1].axhline(1, color="0.6", lw=0.6)
        axes[1].set(ylabel="membrane\n(deterministic)")
        axes[1].legend(loc="upper left", ncols=2)
        axes[1].set_ylim(top=axes[1].get_ylim()[1] * 1.25)
        ax = axes[2]
        ax.plot(ms, curves.free.exact, color=TRUE, lw=3.5, alpha=0.5, label=r"$dE[S(t)]/dg$, exact")
        ax.plot(ms, curves.sg.free, color=SURROGATE, ls="--", label="SG of the deterministic neuron")
        ax.set(ylabel="no reset:\nderivative")
        ax.legend(loc="upper left", ncols=2)
        ax.set_ylim(top=ax.get_ylim()[1] * 1.3)
        ax = axes[3]
        ax.axhline(0, color="0.7", lw=0.6)
        ax.plot(ms, curves.reset.exact, color=TRUE, lw=1.6, label=r"$dE[S(t)]/dg$, exact")
        ax.plot(ms, curves.reset.direct, color=SURROGATE, ls="--", label="mean SG, stochastic neuron, reset detached")
        ax.plot(ms, curves.sg.reset, color="#882255", lw=0.9, ls=":", label="SG, deterministic neuron, reset detached")
        ax.fill_between(
            ms, curves.reset.direct, curves.reset.exact, color="0.88", lw=0, label="history: what the SG omits"
        )
        ax.set(ylabel="reset:\nderivative")
        ax.legend(loc="upper left", ncols=2)
        ax.set_ylim(top=ax.get_ylim()[1] * 1.45)
        ax = axes[4]
        ax.plot(ms, curves.reset.expected, color=TRUE, lw=1.2, label="spike probability, exact")
        mean, half = (np.asarray(v) for v in curves.drawn)
        ax.fill_between(ms, mean - half, mean + half, color="black", alpha=0.35, lw=0, label="drawn, 95 %")
        ax.plot(ms, curves.free.expected, color=NEUTRAL, lw=0.9, ls="--", label="without reset")
        ax.set(ylabel="E[S(t)]", xlabel="time (ms)")
        ax.legend(loc="upper left", ncols=3)
        ax.set_ylim(top=1.3)
        for panel, name in zip(axes, "abcde", strict=True):
            letter(panel, name, -0.11)
    return fig


def coverage_bars(shares: Mapping[str, float], repetitions: int) -> Figure:
    """Share of repetitions whose 95 % interval covers the exact gradient, with what chance alone allows."""
    with style():
        fig, ax = plt.subplots(figsize=(4.6, 0.24 * len(shares) + 1.1))
        place = np.arange(len(shares))[::-1]
        ax.barh(place, list(shares.values()), color=[_LINES[name][0] for name in shares], height=0.7)
        half = 1.96 * (0.95 * 0.05 / repetitions) ** 0.5
        span: dict[str, Any] = {"color": "0.6", "alpha": 0.4, "lw": 0, "label": "95 % in this many repetitions"}
        ax.axvspan(0.95 - half, min(1, 0.95 + half), **span)
        fig.legend(loc="outside lower center")
        ax.set_yticks(place, [ESTIMATORS[name].label for name in shares])
        ax.set(xlim=(0, 1), xlabel=f"share of {repetitions} nominal 95 % intervals\nthat cover the exact gradient")
    return fig
