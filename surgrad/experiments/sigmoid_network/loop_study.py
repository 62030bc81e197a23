"""The closed-loop study: is the surrogate gradient (SG) the gradient of anything, around one loop in weight space."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.quadrature import Array, LineIntegral, periodic_rule
from surgrad.experiments.sigmoid_network.sigmoid import Circle, SigmoidNet, curl, curl_in_disc, loop_integral, work
from surgrad.training.resume import Keep, compute_now


@dataclass(frozen=True)
class LoopSettings:
    """How accurately a loop is studied, and on which grid.

    Args:
        nb_points: point counts of the equal-weight rule; published_points is added to them.
        published_points: the point count of the published notebook.
        extent: half-width of the maps, around the origin of the plane.
        nb_grid: points per side of the maps.
        nb_radii: radii of the rule that integrates the curl.
        tolerance: absolute, of every loop integral.
        max_evaluations: points at which every loop integral may look.
    """

    nb_points: Sequence[int]
    published_points: int = 1500
    extent: float = 2.5
    nb_grid: int = 201
    nb_radii: int = 24
    tolerance: float = 1e-10
    max_evaluations: int = 2_000_000


class Maps(NamedTuple):
    """Over the plane of the loop: axis (G,); landscapes (K+1, G, G), output at each beta_SG, then at beta; curl
    (K, G, G) of the SG by automatic differentiation."""

    axis: Array
    landscapes: Array
    curl: Array


class InDisc(NamedTuple):
    """Integral of the curl over the disc and its error, (K,) each."""

    value: Array
    error: Array


class EqualWeightRule(NamedTuple):
    """Loop integrals (S, K) by the equal-weight rule with nb_points (S,) points, among them the published number."""

    nb_points: Array
    value: Array
    published_points: int

    @property
    def published(self) -> Array:
        """(K,) the rule at the published point count."""
        return self.value[list(self.nb_points).index(self.published_points)]


@dataclass(frozen=True)
class LoopResult:
    """What a closed-loop study found for forward slope beta and K surrogate slopes.

    Attributes:
        beta: slope of the network.
        betas_sg: K slopes of the surrogate.
        circle: the loop.
        surrogate: loop integrals of the SG in the network of slope beta, K columns.
        controls: per beta_SG, the loop integral of the true gradient of the network smoothed to it.
        output: (M,) y at the nodes of ``surrogate``, from its value at 0.
        smoothed_output: K times (M',) y at the nodes of ``controls``, from its value at 0.
        maps: output and curl over the plane.
        inside: integral of the curl over the disc.
        rule: the equal-weight rule.
    """

    beta: float
    betas_sg: tuple[float, ...]
    circle: Circle
    surrogate: LineIntegral
    controls: tuple[LineIntegral, ...]
    output: Array
    smoothed_output: tuple[Array, ...]
    maps: Maps
    inside: InDisc
    rule: EqualWeightRule


def loop_study(
    net: SigmoidNet,
    circle: Circle,
    x: Tensor,
    betas_sg: Sequence[float],
    settings: LoopSettings,
    keep: Keep = compute_now,
) -> LoopResult:
    """Loop integrals with controls, curl, landscapes and the convergence of the equal-weight rule.

    Args:
        net: the network of slope beta.
        circle: the loop in the space of its weights.
        x: (n_0,) its input.
        betas_sg: K surrogate slopes.
        settings: accuracy and grid.
        keep: keeps the pieces of the study.

    Raises:
        UserError: for a plane of another dimension, an empty list of slopes, or a tolerance not reached.
    """
    betas = tuple(float(b) for b in betas_sg)
    if not betas:
        raise UserError("betas_sg is empty; give at least one surrogate slope")
    integral = partial(loop_integral, tolerance=settings.tolerance, max_evaluations=settings.max_evaluations)
    surrogate = keep("loop", lambda: integral(net, circle, x, betas))
    smooth = [SigmoidNet(b, net.sizes) for b in betas]
    controls = tuple(keep(f"control at {s.beta:g}", partial(integral, s, circle, x, (s.beta,))) for s in smooth)

    def rise(of: SigmoidNet, angle: Array) -> Array:
        start = of.output(circle.weights(np.zeros(1)), x).numpy()
        return of.output(circle.weights(angle), x).numpy() - start

    axis = np.linspace(-settings.extent, settings.extent, settings.nb_grid)
    plane_weights = circle.plane.points(*np.meshgrid(axis, axis))
    counts = np.array(sorted({*settings.nb_points, settings.published_points}))
    integrand = work(net, circle, x, betas)
    inside = InDisc(*curl_in_disc(net, circle, x, betas, nb_radii=settings.nb_radii, keep=keep))
    landscapes = np.stack([s.output(plane_weights, x).numpy() for s in (*smooth, net)])
    curls = keep("curl", lambda: np.stack([curl(net, plane_weights, x, b, circle.plane).numpy() for b in betas]))
    rule = keep("rules", lambda: np.stack([periodic_rule(integrand, 2 * np.pi, int(n)) for n in counts]))
    return LoopResult(
        beta=net.beta,
        betas_sg=betas,
        circle=circle,
        surrogate=surrogate,
        controls=controls,
        output=rise(net, surrogate.position),
        smoothed_output=tuple(rise(s, c.position) for s, c in zip(smooth, controls, strict=True)),
        maps=Maps(axis, landscapes, curls),
        inside=inside,
        rule=EqualWeightRule(counts, rule, settings.published_points),
    )
