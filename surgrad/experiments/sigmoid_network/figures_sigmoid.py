"""Figures of the theory: closed loops, curl, sign bias. Functions take results and return a matplotlib Figure."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from surgrad.experiments.sigmoid_network.loop_study import LoopResult
from surgrad.experiments.sigmoid_network.quadrature import Array
from surgrad.experiments.sigmoid_network.sign_bias import FlowResult, PlaneResult, Sweep
from surgrad.figures.plots import style as suite_style

# One colour per meaning, in every figure (Okabe & Ito, distinguishable without colour vision).
TRUE = "#0072B2"
SURROGATE = "#D55E00"
SMOOTHED = "#009E73"
NEUTRAL = "#555555"
SLOPES = ("#E69F00", "#D55E00", "#882255")


@contextmanager
def style() -> Iterator[None]:
    """The suite's style with this chapter's colour map."""
    with suite_style(), plt.rc_context({"image.cmap": "cividis", "savefig.dpi": 200}):
        yield


def letter(ax: Axes, name: str, dx: float = -0.02) -> None:
    """A panel letter above the upper left corner."""
    ax.set_title(name, loc="left", fontweight="bold", fontsize=10, x=dx)


def slope_colors(nb: int) -> list[Any]:
    """Colours for nb surrogate slopes, ordered."""
    return list(SLOPES[:nb]) if nb <= len(SLOPES) else list(plt.get_cmap("plasma")(np.linspace(0.1, 0.85, nb)))


def _slope(value: float) -> str:
    exponent = np.log10(value)
    return rf"10^{{{exponent:.0f}}}" if value >= 1e3 and exponent == round(exponent) else f"{value:g}"


def _angle_axis(ax: Axes) -> None:
    ax.set_xlim(0, 2 * np.pi)
    ax.set_xticks(np.arange(5) * np.pi / 2, ["0", "π/2", "π", "3π/2", "2π"])
    ax.set_xlabel("angle around the loop")


def _circle(ax: Axes, result: LoopResult, color: str = "white") -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    x, y = result.circle.in_plane
    ax.plot(x + result.circle.radius * np.cos(angle), y + result.circle.radius * np.sin(angle), color=color, lw=1.1)
    ax.annotate(
        "",
        (x + result.circle.radius * np.cos(0.30), y + result.circle.radius * np.sin(0.30)),
        (x + result.circle.radius * np.cos(0.18), y + result.circle.radius * np.sin(0.18)),
        arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.1},
    )
    ax.plot(x + result.circle.radius, y, "o", color=color, ms=3.5)
    ax.set_aspect("equal")
    ax.set_xlabel("first direction")


def closed_loop(result: LoopResult) -> Figure:
    """Landscapes with the loop, and running integrals of the SG, of the true gradient and the output along it."""
    nb = len(result.betas_sg)
    with style():
        fig, axes = plt.subplots(2, nb + 1, figsize=(2.15 * (nb + 1), 4.4))
        names = [rf"$\beta = {_slope(b)}$" for b in (*result.betas_sg, result.beta)]
        for ax, landscape, name in zip(axes[0], result.maps.landscapes, names, strict=True):
            image = ax.pcolormesh(result.maps.axis, result.maps.axis, landscape, vmin=0, vmax=1, rasterized=True)
            _circle(ax, result)
            ax.set_title(f"output, {name}")
        axes[0, 0].set_ylabel("second direction")
        fig.colorbar(image, ax=axes[0, -1], label="y", shrink=0.8)
        for k, (ax, color) in enumerate(zip(axes[1, :nb], slope_colors(nb), strict=True)):
            control = result.controls[k]
            ax.axhline(0, color="0.85", lw=0.7)
            smooth_output = result.smoothed_output[k]
            ax.plot(control.position, smooth_output, color="0.75", lw=3, label=r"output, net smoothed to $\beta_{SG}$")
            ax.plot(control.position, control.running[:, 0], color=TRUE, lw=1, label=r"$\int$ its gradient")
            ax.plot(result.surrogate.position, result.surrogate.running[:, k], color=color, label=r"$\int$ SG")
            value = result.surrogate.value[k]
            ax.plot([2 * np.pi], [value], "o", color=color, ms=4, clip_on=False)
            ax.set_title(rf"$\beta_{{SG}}$ = {result.betas_sg[k]:g}:  $\oint$ SG = {value:+.4f}")
            _angle_axis(ax)
        axes[1, 0].set_ylabel("running integral")
        fig.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        ax = axes[1, nb]
        ax.plot(result.surrogate.position, result.output, color=NEUTRAL)
        ax.set_title(rf"output along the loop, $\beta = {_slope(result.beta)}$")
        ax.set_ylabel("y, from its value at angle 0")
        _angle_axis(ax)
        for ax, name in zip(axes[:, 0], "ab", strict=True):
            letter(ax, name, -0.25)
    return fig


def loop_convergence(result: LoopResult) -> Figure:
    """Loop integrals by the equal-weight rule against its number of points, beside the adaptive value."""
    with style():
        fig, axes = plt.subplots(1, 2, figsize=(6.6, 2.7))
        for k, color in enumerate(slope_colors(len(result.betas_sg))):
            exact = result.surrogate.value[k]
            label = rf"$\beta_{{SG}}$ = {result.betas_sg[k]:g}"
            axes[0].semilogx(result.rule.nb_points, result.rule.value[:, k], ".", color=color, ms=2.5, label=label)
            axes[0].axhline(exact, color=color, lw=0.8)
            axes[1].loglog(result.rule.nb_points, np.abs(result.rule.value[:, k] - exact), ".", color=color, ms=2.5)
        last, exact = result.rule.published[-1], result.surrogate.value[-1]
        axes[0].plot(result.rule.published_points, last, "*", color="black", ms=9, zorder=5)
        axes[0].annotate(
            f"{result.rule.published_points} points: {last:.3f}\n({100 * (last / exact - 1):+.0f} % of {exact:.4f})",
            (result.rule.published_points, last),
            (12, -22),
            textcoords="offset points",
            fontsize=7,
        )
        axes[1].plot(result.rule.published_points, abs(last - exact), "*", color="black", ms=9, zorder=5)
        n = np.array([result.rule.nb_points.min(), result.rule.nb_points.max()], float)
        axes[1].loglog(n, 300 / n, color="0.6", lw=0.8, ls="--", label="∝ 1 / points")
        axes[0].set(
            xlabel="points on the loop", ylabel=r"$\oint$ SG", title="equal-weight rule (dots), adaptive (lines)"
        )
        axes[1].set(
            xlabel="points on the loop", ylabel="absolute error", title="first order, until the steps are resolved"
        )
        axes[0].legend(loc="upper right", ncols=1, markerscale=3)
        axes[1].legend()
        for ax, name in zip(axes, "ab", strict=True):
            letter(ax, name, -0.12)
    return fig


def curl_map(result: LoopResult) -> Figure:
    """The curl of the SG over the plane, and its integral within the loop beside the loop integral."""
    nb = len(result.betas_sg)
    with style():
        fig, axes = plt.subplots(1, nb + 1, figsize=(2.15 * nb + 2.3, 2.4), width_ratios=[*[1] * nb, 0.95])
        for k, ax in enumerate(axes[:nb]):
            curl = result.maps.curl[k]
            top = np.quantile(np.abs(curl), 0.995) or 1.0
            norm = SymLogNorm(linthresh=top * 0.1, vmin=-top, vmax=top)
            image = ax.pcolormesh(result.maps.axis, result.maps.axis, curl, norm=norm, cmap="RdBu_r", rasterized=True)
            _circle(ax, result, "black")
            ax.set_title(rf"curl SG, $\beta_{{SG}}$ = {result.betas_sg[k]:g}")
            bar = fig.colorbar(image, ax=ax, shrink=0.75, ticks=[-top, 0, top])
            bar.ax.set_yticklabels([f"{-top:.1g}", "0", f"{top:.1g}"])
            bar.minorticks_off()
        axes[0].set_ylabel("second direction")
        ax, place = axes[nb], np.arange(nb)
        ax.bar(place - 0.2, result.surrogate.value, 0.38, color=SURROGATE, label=r"$\oint$ SG around the loop")
        ax.bar(place + 0.2, result.inside.value, 0.38, color=SMOOTHED, label=r"$\iint$ curl SG inside it")
        ax.axhline(0, color="black", lw=0.7)
        ax.set_xticks(place, [f"{b:g}" for b in result.betas_sg])
        ax.set(xlabel=r"$\beta_{SG}$", title="Stokes: equal")
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.35 * (high - low))
        ax.legend(loc="upper left")
        letter(axes[0], "a", -0.25)
        letter(ax, "b", -0.15)
    return fig


def weight_sweep(sweep: Sweep, name: str = "w") -> Figure:
    """Output, SG against the true derivative, and the landscape the SG would integrate to, along one weight."""
    nb = len(sweep.betas_sg)
    with style():
        fig, axes = plt.subplots(3, nb, figsize=(2.25 * nb, 5.2), sharex=True, squeeze=False)
        wrong = sweep.surrogate * sweep.true < 0
        for k, beta_sg in enumerate(sweep.betas_sg):
            top, middle, bottom = axes[:, k]
            top.plot(sweep.grid, sweep.output, color=TRUE, lw=2.4, alpha=0.6, label="network: output, true derivative")
            top.plot(
                sweep.grid, sweep.smoothed_output[k], color=SMOOTHED, ls="--", label=r"network smoothed to $\beta_{SG}$"
            )
            top.set_title(rf"$\beta_{{SG}} = {beta_sg:g}$")
            middle.axhline(0, color="0.6", lw=0.6)
            curves = (
                (sweep.true, TRUE, 2.4, "-"),
                (sweep.smoothed[k], SMOOTHED, 1, "--"),
                (sweep.surrogate[k], SURROGATE, 1.1, "-"),
            )
            for y, color, width, dashes in curves:
                middle.plot(
                    sweep.grid, y / np.abs(y).max(), color=color, lw=width, ls=dashes, alpha=0.6 if width > 2 else 1
                )
            middle.fill_between(sweep.grid, -1.05, 1.05, where=wrong[k], color="0.88", lw=0)
            middle.set_title(f"wrong sign: {100 * wrong[k].mean():.1f} %", fontsize=7)
            middle.set_ylim(-1.05, 1.05)
            integral, network = sweep.integrated[k], sweep.output - sweep.output[0]
            bottom.plot(sweep.grid, network, color=TRUE, lw=2.4, alpha=0.6)
            bottom.plot(sweep.grid, integral, color=SURROGATE)
            for y, color in ((network, TRUE), (integral, SURROGATE)):
                low = y.argmin()
                bottom.plot(
                    sweep.grid[low], y[low], "v", color=color, mec="white", mew=0.5, ms=7, clip_on=False, zorder=5
                )
            bottom.set_xlabel(name)
        labels = ("output y", rf"$\partial y/\partial {name}$ / max", "integral from the left")
        for ax, text, panel in zip(axes[:, 0], labels, "abc", strict=True):
            ax.set_ylabel(text)
            letter(ax, panel, -0.28)
        axes[0, 0].plot([], [], color=SURROGATE, label="SG and its integral")
        axes[0, 0].fill_between([], [], [], color="0.88", label="SG has the wrong sign")
        axes[0, 0].plot([], [], "v", color=NEUTRAL, label="minimum")
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def plane_arrows(planes: Sequence[PlaneResult]) -> Figure:
    """Output over planes of two weights at each slope, with the direction of descent at a probe point."""
    nb = len(planes[0].betas)
    with style():
        fig, axes = plt.subplots(
            len(planes), nb, figsize=(2.1 * nb + 0.5, 2.15 * len(planes)), squeeze=False, sharex="row", sharey="row"
        )
        for row, plane in zip(axes, planes, strict=True):
            span = min(np.ptp(plane.p), np.ptp(plane.q))
            for k, ax in enumerate(row):
                image = ax.pcolormesh(plane.p, plane.q, plane.smoothed[k], vmin=0, vmax=1, rasterized=True)
                g, true = plane.gradients[k], plane.true
                for vector, color, width in ((true, TRUE, 3.0), (g, SURROGATE, 1.4)):
                    step = -vector / np.linalg.norm(vector) * 0.28 * span
                    ax.annotate(
                        "",
                        plane.probe + step,
                        plane.probe,
                        arrowprops={"arrowstyle": "-|>", "color": color, "lw": width, "shrinkA": 0, "shrinkB": 0},
                    )
                ax.plot(*plane.probe, "o", color="white", mec="black", ms=4)
                ax.set_title(rf"$\beta_{{SG}}$ = {plane.betas[k]:g}, {plane.angles[k]:.0f}° off")
                ax.set_xlabel(plane.names[0])
                ax.set_aspect("equal")
            row[0].set_ylabel(plane.names[1])
        fig.colorbar(image, ax=axes, label=r"output of the net with slope $\beta_{SG}$", shrink=0.7)
        axes[0, 0].plot([], [], color=TRUE, lw=3, label="true descent")
        axes[0, 0].plot([], [], color=SURROGATE, label="SG descent")
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def phase_portrait(result: FlowResult) -> Figure:
    """Streamlines of descent and where paths from the same starts end, at each slope; the last is the true gradient."""
    nb = len(result.betas_sg)
    with style():
        fig, axes = plt.subplots(1, nb, figsize=(2.3 * nb + 0.6, 2.9), sharey=True)
        for k, ax in enumerate(np.atleast_1d(axes)):
            image = ax.pcolormesh(*result.output, vmin=0, rasterized=True)
            flow = -result.field.value[k]
            ax.streamplot(
                result.field.p,
                result.field.q,
                flow[..., 0],
                flow[..., 1],
                color="white",
                linewidth=0.4,
                arrowsize=0.5,
                density=0.9,
            )
            is_true = result.betas_sg[k] == result.beta
            color = TRUE if is_true else SURROGATE
            for path in result.paths[k]:
                ax.plot(*path.points.T, color=color, lw=1.1)
                ax.plot(*path.points[0], "o", color="white", mec="black", mew=0.5, ms=3)
                ax.plot(
                    *path.end,
                    "s" if path.left_window else "*",
                    color=color,
                    mec="white",
                    mew=0.5,
                    ms=5 if path.left_window else 8,
                    zorder=5,
                    clip_on=False,
                )
            kind = "true gradient" if is_true else rf"SG, $\beta_{{SG}}$ = {result.betas_sg[k]:g}"
            ends = np.median(result.end_outputs[k])
            ax.set_title(f"{kind}\nmedian final y = {ends:.1g}")
            ax.set(xlabel=result.names[0], xlim=result.output.p[[0, -1]], ylim=result.output.q[[0, -1]])
        first = np.atleast_1d(axes)[0]
        first.set_ylabel(result.names[1])
        for marker, name in (("o", "start"), ("*", "end"), ("s", "left the window")):
            first.plot([], [], marker, color="white" if marker == "o" else NEUTRAL, mec="black", mew=0.5, label=name)
        fig.legend(loc="outside lower center", ncols=3)
        fig.colorbar(image, ax=axes, label="output y", shrink=0.9)
    return fig


def surface_and_paths(result: FlowResult) -> Figure:
    """The output as a surface, with descent from the same starts drawn on it: one surface per slope."""
    nb = len(result.betas_sg)
    with style():
        fig = plt.figure(figsize=(2.5 * nb, 2.6))
        p, q = np.meshgrid(result.output.p, result.output.q)
        for k in range(nb):
            ax = fig.add_subplot(1, nb, k + 1, projection="3d", computed_zorder=False)
            ax.plot_surface(
                p, q, result.output.value, cmap="cividis", alpha=0.75, rcount=60, ccount=60, linewidth=0, zorder=1
            )
            is_true = result.betas_sg[k] == result.beta
            color = TRUE if is_true else SURROGATE
            for path in result.paths[k]:
                height = _bilinear(result, path.points) + 0.01
                ax.plot(*path.points.T, height, color=color, lw=1.4, zorder=3)
                ax.plot(*path.points[:1].T, height[:1], "o", color="white", mec="black", mew=0.5, ms=3, zorder=4)
                ax.plot(*path.points[-1:].T, height[-1:], "*", color=color, mec="black", mew=0.4, ms=7, zorder=5)
            ax.view_init(elev=38, azim=-62)
            ax.set_box_aspect(None, zoom=0.86)
            ax.set_title("true gradient" if is_true else rf"SG, $\beta_{{SG}}$ = {result.betas_sg[k]:g}", y=0.93)
            ax.set_xlabel(result.names[0], labelpad=-6)
            ax.set_ylabel(result.names[1], labelpad=-6)
            ax.set_zlabel("y", labelpad=-8)
            ax.tick_params(pad=-3, labelsize=6)
            ax.locator_params(nbins=4)
    return fig


def _bilinear(result: FlowResult, points: Array) -> Array:
    """Output (M,) at points (M, 2), interpolated on the grid of the surface."""
    p, q, y = result.output
    i = np.clip(np.searchsorted(p, points[:, 0]) - 1, 0, len(p) - 2)
    j = np.clip(np.searchsorted(q, points[:, 1]) - 1, 0, len(q) - 2)
    s = (points[:, 0] - p[i]) / (p[i + 1] - p[i])
    t = (points[:, 1] - q[j]) / (q[j + 1] - q[j])
    return (1 - t) * ((1 - s) * y[j, i] + s * y[j, i + 1]) + t * ((1 - s) * y[j + 1, i] + s * y[j + 1, i + 1])


def phase_line(sweep: Sweep, name: str = "w") -> Figure:
    """Descent along one weight: velocity -dy/dw, its direction, and where it comes to rest, at each slope."""
    with style():
        fig, axes = plt.subplots(len(sweep.betas_sg), 1, figsize=(4.2, 3.2), sharex=True)
        crossings = sweep.crossings()
        for k, ax in enumerate(np.atleast_1d(axes)):
            velocity = -sweep.surrogate[k] / np.abs(sweep.surrogate[k]).max()
            ax.axhline(0, color="0.6", lw=0.6)
            color = slope_colors(len(sweep.betas_sg))[k]
            ax.plot(sweep.grid, velocity, color=color)
            for at in np.linspace(sweep.grid[0], sweep.grid[-1], 16)[1:-1]:
                to_right = np.interp(at, sweep.grid, velocity) > 0
                ax.plot(at, 0, ">" if to_right else "<", color=color, ms=4)
            rests = crossings[k] if len(crossings[k]) else sweep.grid[[-1 if velocity[-1] > 0 else 0]]
            for rest in rests:
                ax.plot(rest, 0, "o", color="white", mec="black", ms=6, zorder=5, clip_on=False)
                ax.annotate(f"{rest:+.4f}", (rest, 0), (4, 6), textcoords="offset points", fontsize=7)
            ax.set_ylabel(rf"$\beta_{{SG}}$ = {sweep.betas_sg[k]:g}")
            ax.set_ylim(-1.15, 1.15)
            ax.set_yticks([-1, 0, 1])
        np.atleast_1d(axes)[-1].set_xlabel(name)
        fig.supylabel(f"d{name}/dt, normalised", fontsize=8)
    return fig
