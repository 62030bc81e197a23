"""Where a surrogate gradient (SG) points the wrong way, and where descent along it ends.

One weight is swept while the others stay fixed; the SG is compared with the true gradient of the network, with that of
the network smoothed to beta_SG, and with the landscape that integrating it would give (Gygax & Zenke 2025).
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.quadrature import Array, trapezoid_running
from surgrad.experiments.sigmoid_network.sigmoid import SigmoidNet
from surgrad.training.resume import Keep, compute_now


@dataclass(frozen=True)
class Sweep:
    """One weight over a grid of M values, K slopes beta_SG.

    Attributes:
        grid: (M,) the weight.
        betas_sg: (K,).
        output: (M,) of the network itself.
        true: (M,) its true derivative.
        surrogate: (K, M) SG at each beta_SG.
        smoothed_output, smoothed: (K, M) output of the network whose every slope is beta_SG, and its true derivative.
    """

    grid: Array
    betas_sg: tuple[float, ...]
    output: Array
    true: Array
    surrogate: Array
    smoothed_output: Array
    smoothed: Array

    @property
    def integrated(self) -> Array:
        """(K, M) running integral of the SG: the landscape it would descend if it were a gradient, 0 at the left."""
        return trapezoid_running(self.surrogate.T, self.grid).T

    def crossings(self) -> list[Array]:
        """Zeros of the SG at each beta_SG, by linear interpolation between grid points of different sign."""
        found = []
        for g in self.surrogate:
            k = np.flatnonzero(np.sign(g[:-1]) * np.sign(g[1:]) < 0)
            found.append(self.grid[k] - g[k] * (self.grid[k + 1] - self.grid[k]) / (g[k + 1] - g[k]))
        return found

    def wrong_sign_share(self) -> Array:
        """(K,) share of the grid on which the SG and the true derivative have opposite signs."""
        return (self.surrogate * self.true < 0).mean(1)

    def integrated_minima(self) -> Array:
        """(K,) where the integrated SG is lowest."""
        return self.grid[self.integrated.argmin(1)]

    def smoothed_minima(self) -> Array:
        """(K,) where the smoothed network's output is lowest."""
        return self.grid[self.smoothed_output.argmin(1)]


def sweep(net: SigmoidNet, weights: Array, index: int, grid: Array, x: Tensor, betas_sg: tuple[float, ...]) -> Sweep:
    """Sweep weight ``index`` of ``weights`` (nb_weights,) over ``grid`` (M,), increasing.

    Raises:
        UserError: for an index outside the weights or a grid that does not increase.
    """
    if not 0 <= index < net.nb_weights:
        raise UserError(f"index={index} must name a weight, 0 to {net.nb_weights - 1}")
    grid = np.asarray(grid, dtype=np.float64)
    if len(grid) < 2 or not np.all(np.diff(grid) > 0):
        raise UserError("a sweep needs at least two increasing values")
    points = torch.from_numpy(np.tile(np.asarray(weights, dtype=np.float64), (len(grid), 1)))
    points[:, index] = torch.from_numpy(grid)
    smooth = [SigmoidNet(b, net.sizes) for b in betas_sg]
    return Sweep(
        grid=grid,
        betas_sg=tuple(betas_sg),
        output=net.output(points, x).numpy(),
        true=net.surrogate_gradient(points, x, net.beta)[:, index].numpy(),
        surrogate=np.stack([net.surrogate_gradient(points, x, b)[:, index].numpy() for b in betas_sg]),
        smoothed_output=np.stack([s.output(points, x).numpy() for s in smooth]),
        smoothed=np.stack([s.surrogate_gradient(points, x, s.beta)[:, index].numpy() for s in smooth]),
    )


@dataclass(frozen=True)
class Window:
    """Two weights over a rectangle, all others fixed.

    Args:
        weights: (nb_weights,) the fixed values; those of the two axes are ignored.
        axes: indices of the weights on the two axes.
        lower: (2,) corners.
        upper: (2,) corners.

    Raises:
        UserError: for equal axes, axes that name no weight, or an empty rectangle.
    """

    weights: tuple[float, ...]
    axes: tuple[int, int]
    lower: tuple[float, float]
    upper: tuple[float, float]

    def __post_init__(self) -> None:
        if self.axes[0] == self.axes[1] or not all(0 <= k < len(self.weights) for k in self.axes):
            raise UserError(f"axes={list(self.axes)} must be two different weights, 0 to {len(self.weights) - 1}")
        if not all(a < b for a, b in zip(self.lower, self.upper, strict=True)):
            raise UserError(f"lower={list(self.lower)} must lie below upper={list(self.upper)} on both axes")

    def grid(self, nb_points: int) -> tuple[Array, Array]:
        """Axis values (nb_points,) each."""
        p, q = (np.linspace(a, b, nb_points) for a, b in zip(self.lower, self.upper, strict=True))
        return p, q

    def points(self, p: Array, q: Array) -> Tensor:
        """Weights (..., nb_weights) at axis values p and q (...,)."""
        p, q = np.broadcast_arrays(p, q)
        points = np.tile(np.asarray(self.weights, dtype=np.float64), (*p.shape, 1))
        points[..., self.axes[0]], points[..., self.axes[1]] = p, q
        return torch.from_numpy(points)

    def field(self, net: SigmoidNet, x: Tensor, beta_sg: float, p: Array, q: Array) -> Array:
        """SG along the two axes at axis values p and q (...,), (..., 2)."""
        return net.surrogate_gradient(self.points(p, q), x, beta_sg)[..., list(self.axes)].numpy()

    def output(self, net: SigmoidNet, x: Tensor, p: Array, q: Array) -> Array:
        """y at axis values p and q (...,)."""
        return net.output(self.points(p, q), x).numpy()


@dataclass(frozen=True)
class Path:
    """A descent path: points (M, 2) on the window's axes, and whether it ended on the window's edge."""

    points: Array
    left_window: bool

    @property
    def end(self) -> Array:
        return self.points[-1]


def descend(
    net: SigmoidNet,
    window: Window,
    x: Tensor,
    beta_sg: float,
    starts: NDArray[np.float64],
    *,
    duration: float = 1e6,
    tolerance: float = 1e-8,
) -> list[Path]:
    """Gradient flow d(p, q)/dt = -SG within the window, from each start, until it leaves or ``duration`` has passed.

    Descent with an infinitesimal learning rate: where it ends is a property of the field, not of a step size.

    Args:
        net: the network.
        window: the two weights and their range.
        x: (n_0,) its input.
        beta_sg: slope of the surrogate.
        starts: (S, 2) within the window.
        duration: in units of 1 / learning rate.
        tolerance: of the integrator.

    Returns:
        one Path per start.

    Raises:
        UserError: for a start outside the window.
    """
    lower, upper = np.asarray(window.lower), np.asarray(window.upper)

    def velocity(_: float, point: Array) -> Array:
        return -window.field(net, x, beta_sg, point[0], point[1])

    def inside(_: float, point: Array) -> float:
        return float(np.minimum(point - lower, upper - point).min())

    inside.terminal = True  # type: ignore[attr-defined]  # solve_ivp stops where this function reaches zero
    paths = []
    for start in np.atleast_2d(starts):
        if inside(0.0, start) < 0:
            raise UserError(f"start {start.tolist()} lies outside the window {window.lower} to {window.upper}")
        flow = solve_ivp(
            velocity, (0.0, duration), start, method="LSODA", events=inside, rtol=tolerance, atol=tolerance * 1e-2
        )
        left = bool(len(flow.t_events[0]))
        points = np.vstack([flow.y.T, flow.y_events[0]]) if left else flow.y.T
        paths.append(Path(points, left))
    return paths


@dataclass(frozen=True)
class PlaneResult:
    """Over axes p, q of two weights: output (K, G, G) smoothed to each slope; SG (K, 2) and truth (2,) at a probe."""

    names: tuple[str, str]
    p: Array
    q: Array
    smoothed: Array
    betas: tuple[float, ...]
    beta: float
    probe: Array
    gradients: Array
    true: Array

    @property
    def angles(self) -> Array:
        """(K,) angle between the SG and the true gradient, degrees; nan where one of them underflows to zero."""
        lengths = np.linalg.norm(self.gradients, axis=1) * np.linalg.norm(self.true)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.degrees(np.arccos(np.clip(self.gradients @ self.true / lengths, -1, 1)))


def plane_study(
    net: SigmoidNet,
    window: Window,
    x: Tensor,
    betas_sg: tuple[float, ...],
    names: tuple[str, str],
    probe: Array,
    nb: int,
) -> PlaneResult:
    """Output of the network smoothed to each slope over a square window, and the SG at ``probe`` (2,)."""
    p, q = window.grid(nb)
    grid = np.meshgrid(p, q)
    return PlaneResult(
        names=names,
        p=p,
        q=q,
        smoothed=np.stack([window.output(SigmoidNet(b, net.sizes), x, *grid) for b in betas_sg]),
        betas=betas_sg,
        beta=net.beta,
        probe=np.asarray(probe, float),
        gradients=np.stack([window.field(net, x, b, *np.asarray(probe, float)) for b in betas_sg]),
        true=window.field(net, x, net.beta, *np.asarray(probe, float)),
    )


class OnGrid(NamedTuple):
    """Values (…, Q, P, …) over axes p (P,) and q (Q,)."""

    p: Array
    q: Array
    value: Array


@dataclass(frozen=True)
class FlowResult:
    """Descent in a plane of two weights at K slopes, the last the true gradient's, from S starts.

    Attributes:
        names: of the two weights.
        output: (G, G) of the network.
        field: (K, G', G', 2) the SG along the axes.
        betas_sg: K slopes.
        beta: slope of the network.
        paths: K times S.
        start_outputs: (S,) output of the network itself at the start.
        end_outputs: (K, S) output of the network itself at the end.
    """

    names: tuple[str, str]
    output: OnGrid
    field: OnGrid
    betas_sg: tuple[float, ...]
    beta: float
    paths: tuple[tuple[Path, ...], ...]
    start_outputs: Array
    end_outputs: Array


def flow_study(
    net: SigmoidNet,
    window: Window,
    x: Tensor,
    betas_sg: tuple[float, ...],
    names: tuple[str, str],
    *,
    nb_starts: tuple[int, int],
    duration: float,
    nb_grid: int = 121,
    keep: Keep = compute_now,
) -> FlowResult:
    """Descent along the SG at each slope (and along the true gradient) from the same grid of starts.

    Raises:
        UserError: for fewer than one start on an axis or a non-positive duration.
    """
    if min(nb_starts) < 1 or not duration > 0:
        raise UserError(f"nb_starts={list(nb_starts)} and duration={duration} must be positive")
    betas = (*(b for b in betas_sg if b != net.beta), net.beta)
    p, q = window.grid(nb_grid)
    field_p, field_q = window.grid(25)
    start_p, start_q = (
        np.linspace(a, b, n + 2)[1:-1] for a, b, n in zip(window.lower, window.upper, nb_starts, strict=True)
    )
    field = np.stack([window.field(net, x, b, *np.meshgrid(field_p, field_q)) for b in betas])
    starts = np.stack(np.meshgrid(start_p, start_q), -1).reshape(-1, 2)

    def path(beta_sg: float, start: Array) -> Path:
        return descend(net, window, x, beta_sg, start, duration=duration)[0]

    paths = tuple(
        tuple(keep(f"beta_sg={b:g}, start {k}", partial(path, b, start)) for k, start in enumerate(starts))
        for b in betas
    )
    ends = np.array([[path.end for path in of_slope] for of_slope in paths])
    return FlowResult(
        names=names,
        output=OnGrid(p, q, window.output(net, x, *np.meshgrid(p, q))),
        field=OnGrid(field_p, field_q, field),
        betas_sg=betas,
        beta=net.beta,
        paths=paths,
        start_outputs=window.output(net, x, *starts.T),
        end_outputs=window.output(net, x, ends[..., 0], ends[..., 1]),
    )
