"""Layered sigmoid networks, their surrogate-gradient field, and what shows whether it is the gradient of anything.

A network of slope beta maps an input x through z_l = W_l a_{l-1}, a_l = sigma(beta z_l) to a scalar y. Its surrogate
gradient (SG) is backpropagation with every sigma'(z) taken at another slope beta_SG (Gygax & Zenke 2025). With beta_SG
= beta it is the true gradient; otherwise it is a vector field over the weights that in general is not conservative: its
integral around a closed loop, and its curl, do not vanish. Weights are flat vectors, layer after layer, each matrix row
by row; everything is batched over them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ortho_group
from torch import Tensor

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.quadrature import Array, Integrand, LineIntegral, integrate
from surgrad.training.resume import Keep, compute_now


def sigmoid_prime(z: Tensor, slope: float) -> Tensor:
    """slope sigma(slope z) (1 - sigma(slope z)), without cancellation for large |z|."""
    return slope * torch.sigmoid(slope * z) * torch.sigmoid(-slope * z)


def require_slope(name: str, slope: float) -> None:
    """Raises: UserError unless the slope of a sigmoid is positive and finite."""
    if not 0 < slope < float("inf"):
        raise UserError(f"{name}={slope} must be a positive, finite slope")


@dataclass(frozen=True)
class SigmoidNet:
    """A layered sigmoid network with one output and no biases.

    Args:
        beta: slope of every sigmoid in the forward pass; 1e4 stands for a step.
        sizes: units per layer, input first; (1, 1, 2, 1) is the five-weight net [w, v1, v2, u1, u2] of Gygax & Zenke
            (2025): g = s(w x), h_k = s(v_k g), y = s(u1 h1 + u2 h2).

    Raises:
        UserError: for a non-positive slope, fewer than two layers, an empty layer or several outputs.
    """

    beta: float
    sizes: tuple[int, ...] = (1, 1, 2, 1)

    def __post_init__(self) -> None:
        require_slope("beta", self.beta)
        if len(self.sizes) < 2 or min(self.sizes) < 1 or self.sizes[-1] != 1:
            raise UserError(
                f"sizes={list(self.sizes)} must name at least an input and one layer, end with 1 output"
                " and leave no layer empty"
            )

    @property
    def nb_weights(self) -> int:
        return sum(n * m for n, m in zip(self.sizes[1:], self.sizes[:-1], strict=True))

    def matrices(self, weights: Tensor) -> list[Tensor]:
        """Flat weights (..., nb_weights) as one matrix (..., n_l, n_{l-1}) per layer.

        Raises:
            UserError: for a wrong number of weights.
        """
        if weights.shape[-1] != self.nb_weights:
            raise UserError(
                f"a network of sizes {list(self.sizes)} has {self.nb_weights} weights, not {weights.shape[-1]}"
            )
        shapes = [(n, m) for n, m in zip(self.sizes[1:], self.sizes[:-1], strict=True)]
        parts = weights.split([n * m for n, m in shapes], dim=-1)
        return [p.unflatten(-1, shape) for p, shape in zip(parts, shapes, strict=True)]

    def potentials(self, weights: Tensor, x: Tensor) -> list[Tensor]:
        """z_l (..., n_l) of every layer for weights (..., nb_weights) and input x (n_0,)."""
        if x.shape[-1] != self.sizes[0]:
            raise UserError(f"a network of sizes {list(self.sizes)} takes {self.sizes[0]} inputs, not {x.shape[-1]}")
        a, zs = x, []
        for matrix in self.matrices(weights):
            zs.append((matrix * a.unsqueeze(-2)).sum(-1))
            a = torch.sigmoid(self.beta * zs[-1])
        return zs

    def output(self, weights: Tensor, x: Tensor) -> Tensor:
        """y (...,) for weights (..., nb_weights) and input x (n_0,)."""
        return torch.sigmoid(self.beta * self.potentials(weights, x)[-1]).squeeze(-1)

    def surrogate_gradient(self, weights: Tensor, x: Tensor, beta_sg: float) -> Tensor:
        """dy/dW with every sigma' at slope beta_sg (Gygax & Zenke 2025); the true gradient for beta_sg = beta.

        Args:
            weights: (..., nb_weights).
            x: (n_0,).
            beta_sg: > 0.

        Returns:
            (..., nb_weights).
        """
        require_slope("beta_sg", beta_sg)
        zs, matrices = self.potentials(weights, x), self.matrices(weights)
        inputs = [x.expand(*zs[0].shape[:-1], -1), *(torch.sigmoid(self.beta * z) for z in zs[:-1])]
        delta = sigmoid_prime(zs[-1], beta_sg)
        parts: list[Tensor] = []
        for layer in reversed(range(len(zs))):
            parts.append((delta.unsqueeze(-1) * inputs[layer].unsqueeze(-2)).flatten(-2))
            if layer:
                back = (matrices[layer] * delta.unsqueeze(-1)).sum(-2)
                delta = back * sigmoid_prime(zs[layer - 1], beta_sg)
        return torch.cat(parts[::-1], -1)


@dataclass(frozen=True)
class Plane:
    """An oriented plane through the origin of weight space, from ``first`` to ``second``, made orthonormal.

    Raises:
        UserError: for zero, parallel or non-orthogonal directions, or vectors of different shapes.
    """

    first: Array
    second: Array

    def __post_init__(self) -> None:
        a, b = (np.asarray(d, dtype=np.float64) for d in (self.first, self.second))
        if a.ndim != 1 or a.shape != b.shape:
            raise UserError(f"directions of shape {a.shape} and {b.shape} do not span a plane; give two vectors")
        lengths = np.linalg.norm(a), np.linalg.norm(b)
        if not (np.isfinite(lengths).all() and min(lengths) > 0):
            raise UserError("a direction of length zero (or not finite) spans no plane")
        a, b = a / lengths[0], b / lengths[1]
        cosine = float(a @ b)
        if abs(cosine) > 1 - 1e-10:
            raise UserError("the two directions are parallel and span no plane; give two orthogonal ones")
        if abs(cosine) > 1e-8:
            raise UserError(
                f"the two directions are not orthogonal (cosine {cosine:.3g});"
                " subtract from the second its projection on the first"
            )
        object.__setattr__(self, "first", a)
        object.__setattr__(self, "second", b)

    @property
    def dimension(self) -> int:
        return len(self.first)

    def points(self, p: Array, q: Array) -> Tensor:
        """p first + q second, (..., dimension) for coordinates (...,)."""
        return torch.from_numpy(np.asarray(p)[..., None] * self.first + np.asarray(q)[..., None] * self.second)


def random_plane(dimension: int, seed: int = 124, rows: tuple[int, int] = (1, 0)) -> Plane:
    """Two rows of a random orthogonal matrix (scipy.stats.ortho_group); rows (1, 0) orient it as the published loop.

    Raises:
        UserError: for equal rows or rows outside the matrix, or a dimension below 2.
    """
    if dimension < 2:
        raise UserError(f"a network of {dimension} weight has no plane of weights; it needs at least 2")
    if rows[0] == rows[1] or not all(0 <= r < dimension for r in rows):
        raise UserError(f"rows={list(rows)} must be two different numbers from 0 to {dimension - 1}")
    matrix = ortho_group.rvs(dimension, random_state=seed)
    return Plane(matrix[rows[0]], matrix[rows[1]])


@dataclass(frozen=True)
class Circle:
    """The loop center + radius (cos(angle) first + sin(angle) second), traversed from ``first`` toward ``second``.

    Raises:
        UserError: for a non-positive radius or a centre of the wrong length.
    """

    plane: Plane
    radius: float = 1.8
    center: Array | None = None

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise UserError(f"radius={self.radius} must be positive and finite")
        if self.center is not None and np.shape(self.center) != (self.plane.dimension,):
            raise UserError(f"the centre must have {self.plane.dimension} weights, not {np.size(self.center)}")

    @property
    def in_plane(self) -> Array:
        """(2,) the centre in coordinates of the plane."""
        center = np.zeros(self.plane.dimension) if self.center is None else np.asarray(self.center)
        return np.array([center @ self.plane.first, center @ self.plane.second])

    def weights(self, angle: Array) -> Tensor:
        """Points on the loop, (M, dimension) for angles (M,)."""
        points = self.plane.points(self.radius * np.cos(angle), self.radius * np.sin(angle))
        return points if self.center is None else points + torch.from_numpy(np.asarray(self.center, float))

    def tangent(self, angle: Array) -> Tensor:
        """d weights / d angle, (M, dimension)."""
        return self.plane.points(-self.radius * np.sin(angle), self.radius * np.cos(angle))


def crossings(net: SigmoidNet, circle: Circle, x: Tensor, nb_points: int = 8192) -> Array:
    """Angles at which some unit's potential changes sign: where a steep net, and its SG, jump.

    Found on a grid of ``nb_points`` and refined by bisection to the last bit, so that quadrature can put an edge there.
    """

    def signs(angle: Array) -> NDArray[np.int64]:
        return torch.sign(torch.cat(net.potentials(circle.weights(angle), x), -1)).numpy().astype(np.int64)

    grid = np.linspace(0.0, 2 * np.pi, nb_points + 1)
    at_grid = signs(grid)
    interval, unit = np.nonzero(at_grid[1:] != at_grid[:-1])
    if not len(interval):
        return np.empty(0)
    left, right, reference = grid[interval], grid[interval + 1], at_grid[interval, unit]
    for _ in range(60):
        middle = (left + right) / 2
        same = signs(middle)[np.arange(len(middle)), unit] == reference
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    angles = np.unique((left + right) / 2)
    keep = np.diff(angles, prepend=-1.0) > 1e-12
    return angles[keep & (angles > 1e-12) & (angles < 2 * np.pi - 1e-12)]


def loop_edges(net: SigmoidNet, circle: Circle, x: Tensor, nb_intervals: int = 256) -> Array:
    """Edges for quadrature around the loop: an even grid plus every crossing."""
    even = np.linspace(0.0, 2 * np.pi, nb_intervals + 1)
    edges = np.union1d(even, crossings(net, circle, x))
    return edges[np.diff(edges, prepend=-1.0) > 1e-12]


def work(net: SigmoidNet, circle: Circle, x: Tensor, betas_sg: tuple[float, ...]) -> Callable[[Array], Array]:
    """The integrand of the loop integral, SG . dW/dangle at each beta_sg, as a function of angles (M,): (M, K)."""
    if circle.plane.dimension != net.nb_weights:
        raise UserError(
            f"the plane lies in {circle.plane.dimension} dimensions, the network has {net.nb_weights} weights"
        )

    def integrand(angle: Array) -> Array:
        weights, tangent = circle.weights(angle), circle.tangent(angle)
        return torch.stack([(net.surrogate_gradient(weights, x, b) * tangent).sum(-1) for b in betas_sg], -1).numpy()

    return integrand


def loop_integral(
    net: SigmoidNet,
    circle: Circle,
    x: Tensor,
    betas_sg: tuple[float, ...],
    *,
    tolerance: float = 1e-10,
    max_evaluations: int = 2_000_000,
) -> LineIntegral:
    """Closed-loop integrals of the SG at each beta_sg; zero for a gradient (Gygax & Zenke 2025).

    Args:
        net: the network.
        circle: the loop.
        x: (n_0,) its input.
        betas_sg: K slopes.
        tolerance: absolute.
        max_evaluations: points at which the integrand is evaluated at most.

    Returns:
        LineIntegral with K columns over the angle from 0 to 2 pi.

    Raises:
        UserError: for a plane of the wrong dimension or a tolerance not reached.
    """
    return integrate(
        work(net, circle, x, betas_sg),
        loop_edges(net, circle, x),
        tolerance=tolerance,
        max_evaluations=max_evaluations,
    )


def curl(net: SigmoidNet, weights: Tensor, x: Tensor, beta_sg: float, plane: Plane) -> Tensor:
    """Curl of the SG in the plane: second^T J first - first^T J second, the antisymmetric part of its Jacobian.

    Args:
        net: the network.
        weights: (..., nb_weights).
        x: (n_0,) its input.
        beta_sg: slope of the surrogate.
        plane: its orientation gives the sign.

    Returns:
        (...,). By Stokes' theorem its integral over a disc is the loop integral around it.
    """

    def field(w: Tensor) -> Tensor:
        return net.surrogate_gradient(w, x, beta_sg)

    first, second = (torch.from_numpy(d).expand_as(weights) for d in (plane.first, plane.second))
    along_first = torch.func.jvp(field, (weights,), (first,))[1]
    along_second = torch.func.jvp(field, (weights,), (second,))[1]
    return (along_first * second).sum(-1) - (along_second * first).sum(-1)


def curl_in_disc(
    net: SigmoidNet,
    circle: Circle,
    x: Tensor,
    betas_sg: tuple[float, ...],
    *,
    nb_radii: int = 24,
    tolerance: float = 1e-7,
    keep: Keep = compute_now,
) -> tuple[Array, Array]:
    """Integral of the curl over the disc within the circle: adaptive over the angle, Gauss-Legendre over the radius.

    Returns:
        (K,) integrals, which Stokes' theorem equates to `loop_integral`; (K,) estimated error of the radial rule.

    Raises:
        UserError: for a tolerance not reached.
    """

    def over_disc(nb: int) -> Array:
        nodes, weights = np.polynomial.legendre.leggauss(nb)
        total = np.zeros(len(betas_sg))
        for node, weight in zip(nodes, weights, strict=True):
            ring = Circle(circle.plane, circle.radius * (1 + node) / 2, circle.center)

            def integrand(angle: Array, ring: Circle = ring) -> Array:
                w = ring.weights(angle)
                return torch.stack([curl(net, w, x, b, circle.plane) for b in betas_sg], -1).numpy()

            def around(integrand: Integrand = integrand, ring: Circle = ring) -> Array:
                return integrate(integrand, loop_edges(net, ring, x), tolerance=tolerance).value

            inside = keep(f"curl at radius {ring.radius:.17g}", around)
            total += weight * circle.radius / 2 * ring.radius * inside
        return total

    fine, coarse = over_disc(nb_radii), over_disc(nb_radii // 2)
    return fine, np.abs(fine - coarse)
