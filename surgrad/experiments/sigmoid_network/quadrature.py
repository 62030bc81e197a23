"""Adaptive line integrals with error estimate and running integral, all integrands and intervals in one batch."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from surgrad.errors import UserError

Array = NDArray[np.float64]
Integrand = Callable[[Array], Array]

# Gauss-Kronrod pair on [-1, 1] (Kronrod 1965): 15 nodes, of which every second one is a node of the 7-point Gauss rule.
_HALF_NODES = (
    0.9914553711208126,
    0.9491079123427585,
    0.8648644233597691,
    0.7415311855993945,
    0.5860872354676911,
    0.4058451513773972,
    0.2077849550078985,
    0.0,
)
NODES: Array = np.array([*(-x for x in _HALF_NODES[:-1]), *reversed(_HALF_NODES)])
_GAUSS_WEIGHTS: Array = legendre.leggauss(7)[1]


def _interpolatory_weights(upper: Array) -> Array:
    """W[j, k] with int_{-1}^{upper_j} f = sum_k W[j, k] f(x_k), from the polynomial of degree 14 through the nodes."""
    degree = len(NODES) - 1
    antiderivatives = np.stack([legendre.legval(upper, legendre.legint(c, lbnd=-1)) for c in np.eye(degree + 1)])
    return antiderivatives.T @ np.linalg.inv(legendre.legvander(NODES, degree))


WEIGHTS: Array = _interpolatory_weights(np.ones(1))[0]
_RUNNING: Array = _interpolatory_weights(NODES)


@dataclass(frozen=True)
class LineIntegral:
    """Integrals of K functions over [a, b].

    Attributes:
        value: (K,) the integrals.
        error: (K,) estimated absolute error: the sum over intervals of |Kronrod - Gauss|.
        position: (M,) the nodes, increasing.
        integrand: (M, K) the functions at the nodes.
        running: (M, K) integral from a to each node.
        nb_evaluations: number of points at which the functions were evaluated.
    """

    value: Array
    error: Array
    position: Array
    integrand: Array
    running: Array
    nb_evaluations: int

    @property
    def peak_to_peak(self) -> Array:
        """(K,) range of the running integral, its start (0) and end included."""
        return np.maximum(self.running.max(0), np.maximum(self.value, 0)) - np.minimum(
            self.running.min(0), np.minimum(self.value, 0)
        )


def _evaluate(f: Integrand, left: Array, right: Array, chunk: int = 1 << 16) -> Array:
    """f at the 15 nodes of every interval, (n, 15, K)."""
    half = (right - left) / 2
    points = ((left + right)[:, None] / 2 + half[:, None] * NODES).reshape(-1)
    values = np.concatenate([np.asarray(f(points[k : k + chunk])) for k in range(0, len(points), chunk)])
    return values.reshape(len(left), len(NODES), -1)


def integrate(
    f: Integrand,
    edges: Array,
    *,
    tolerance: float = 1e-10,
    max_evaluations: int = 2_000_000,
) -> LineIntegral:
    """Integral of f from edges[0] to edges[-1], bisecting every interval whose Gauss-Kronrod error is above its share.

    The error of an interval, |K15 - G7|, bounds that of the Kronrod value from far above wherever f is smooth, so the
    reported error is conservative. Steep places need no care beyond an edge near them: bisection reaches them.

    Args:
        f: maps positions (M,) to values (M,) or (M, K).
        edges: (n+1,) increasing first guess of the intervals; put one at each known jump of f.
        tolerance: absolute error allowed on each of the K integrals.
        max_evaluations: points after which an unreached tolerance is an error.

    Returns:
        LineIntegral.

    Raises:
        UserError: for edges that do not increase, a non-positive tolerance, or a tolerance not reached.
    """
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise UserError("edges of an integral must be at least two increasing numbers")
    if not tolerance > 0:
        raise UserError(f"tolerance={tolerance} must be positive")
    pending_left, pending_right = edges[:-1], edges[1:]
    done: list[tuple[Array, Array, Array, Array]] = []  # left, right, values, error
    nb_evaluations, allowance = 0, tolerance
    resolution = 64 * np.finfo(np.float64).eps * np.abs(edges).max()
    while len(pending_left):
        values = _evaluate(f, pending_left, pending_right)
        nb_evaluations += values.shape[0] * values.shape[1]
        half = (pending_right - pending_left)[:, None] / 2
        error = half * np.abs(
            np.einsum("k,nkf->nf", WEIGHTS, values) - np.einsum("k,nkf->nf", _GAUSS_WEIGHTS, values[:, 1::2])
        )
        # Half of what is still allowed is shared by the pending intervals; the rest is kept for their successors.
        share = allowance / 2 / len(pending_left)
        good = (error.max(1) <= share) | (half[:, 0] < resolution)
        done.append((pending_left[good], pending_right[good], values[good], error[good]))
        allowance -= error[good].sum(0).max() if good.any() else 0.0
        middle = (pending_left[~good] + pending_right[~good]) / 2
        pending_left, pending_right = (
            np.concatenate([pending_left[~good], middle]),
            np.concatenate([middle, pending_right[~good]]),
        )
        if nb_evaluations + len(pending_left) * len(NODES) > max_evaluations:
            raise UserError(
                f"the integral did not reach tolerance={tolerance} in {max_evaluations} evaluations;"
                " raise one of the two"
            )
    left, right, values, error = (np.concatenate(parts) for parts in zip(*done, strict=True))
    return _assemble(left, right, values, error, nb_evaluations)


def _assemble(left: Array, right: Array, values: Array, error: Array, nb_evaluations: int) -> LineIntegral:
    order = np.argsort(left)
    left, right, values = left[order], right[order], values[order]
    half = (right - left)[:, None] / 2
    pieces = half * np.einsum("k,nkf->nf", WEIGHTS, values)
    before = np.cumsum(pieces, 0) - pieces
    running = before[:, None] + half[:, None] * np.einsum("jk,nkf->njf", _RUNNING, values)
    nb_functions = values.shape[-1]
    return LineIntegral(
        value=pieces.sum(0),
        error=error.sum(0),
        position=((left + right)[:, None] / 2 + half * NODES).reshape(-1),
        integrand=values.reshape(-1, nb_functions),
        running=running.reshape(-1, nb_functions),
        nb_evaluations=nb_evaluations,
    )


def periodic_rule(f: Integrand, period: float, nb_points: int) -> Array:
    """Equal-weight rule h sum_k f(k h), h = period / nb_points: spectral for smooth f, first order across jumps.

    Args:
        f: maps (M,) to (M,) or (M, K).
        period: of ``f``.
        nb_points: >= 1.

    Returns:
        (K,) the integral over one period.

    Raises:
        UserError: if nb_points < 1.
    """
    if nb_points < 1:
        raise UserError(f"nb_points={nb_points} must be at least 1")
    h = period / nb_points
    total: Array = np.zeros(())
    chunk = 1 << 16
    for start in range(0, nb_points, chunk):
        values = np.asarray(f(h * np.arange(start, min(start + chunk, nb_points), dtype=np.float64)))
        total = total + values.reshape(len(values), -1).sum(0)
    return h * total


def trapezoid_running(y: Array, x: Array) -> Array:
    """Running trapezoidal integral of y over x, (M, ...), zero at x[0]."""
    steps = np.diff(x).reshape(-1, *(1,) * (y.ndim - 1))
    return np.concatenate([np.zeros_like(y[:1]), np.cumsum((y[1:] + y[:-1]) / 2 * steps, 0)])
