"""The closed-loop study: is the surrogate gradient (SG) the gradient of anything, around one loop in weight space."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.quadrature import Array, LineIntegral, periodic_rule
from surgrad.experiments.sigmoid_network.sigmoid import Circle, SigmoidNet, curl, curl_in_disc, loop_integral, work
from surgrad.training.resume import Keep, compute_now


@dataclass(frozen=True)
class LoopResult:
    """What a closed-loop study found for forward slope beta and K surrogate slopes.

    Attributes:
        beta, betas_sg, radius, center (2,): the settings; the centre in coordinates of the plane.
        surrogate: loop integrals of the SG in the network of slope beta, K columns.
        controls: per beta_SG, the loop integral of the true gradient of the network smoothed to it.
        output, smoothed_output: (M,) and (K, M') y at the nodes of ``surrogate`` and ``controls``, from its value at 0.
        axis: (G,) coordinates of the landscapes; landscapes: (K+1, G, G) output at each beta_SG, then at beta.
        curl: (K, G, G) curl of the SG by automatic differentiation.
        inside: (K,) integral of the curl over the disc; inside_error: (K,).
        nb_points: (S,) and rule: (S, K), the equal-weight rule with that many points.
        published_points: the point count of the published notebook.
    """

    beta: float
    betas_sg: tuple[float, ...]
    radius: float
    center: Array
    surrogate: LineIntegral
    controls: tuple[LineIntegral, ...]
    output: Array
    smoothed_output: tuple[Array, ...]
    axis: Array
    landscapes: Array
    curl: Array
    inside: Array
    inside_error: Array
    nb_points: Array
    rule: Array
    published_points: int

    @property
    def published(self) -> Array:
        """(K,) the rule at the published point count."""
        return self.rule[list(self.nb_points).index(self.published_points)]


def loop_study(
    net: SigmoidNet,
    circle: Circle,
    x: Tensor,
    betas_sg: Sequence[float],
    *,
    nb_points: Sequence[int],
    published_points: int = 1500,
    extent: float = 2.5,
    nb_grid: int = 201,
    nb_radii: int = 24,
    tolerance: float = 1e-10,
    max_evaluations: int = 2_000_000,
    keep: Keep = compute_now,
) -> LoopResult:
    """Loop integrals with controls, curl, landscapes and the convergence of the equal-weight rule.

    Args:
        net: (n_0,) the network of slope beta, the loop, its input.
        circle: (n_0,) the network of slope beta, the loop, its input.
        x: (n_0,) the network of slope beta, the loop, its input.
        betas_sg: K surrogate slopes.
        nb_points: point counts of the equal-weight rule; published_points is added to them.
        extent: half-width and points per side of the maps, around the origin of the plane.
        nb_grid: half-width and points per side of the maps, around the origin of the plane.
        nb_radii: radii of the rule that integrates the curl.
        tolerance: absolute, of every loop integral.
        max_evaluations: absolute, of every loop integral.

    Raises:
        UserError: for a plane of another dimension, an empty list of slopes, or a tolerance not reached.
    """
    betas = tuple(float(b) for b in betas_sg)
    if not betas:
        raise UserError("betas_sg is empty; give at least one surrogate slope")
    limits = {"tolerance": tolerance, "max_evaluations": max_evaluations}
    surrogate = keep("loop", lambda: loop_integral(net, circle, x, betas, **limits))
    smooth = [SigmoidNet(b, net.sizes) for b in betas]
    controls = tuple(
        keep(f"control at {s.beta:g}", partial(loop_integral, s, circle, x, (s.beta,), **limits)) for s in smooth
    )

    def rise(of: SigmoidNet, angle: Array) -> Array:
        start = of.output(circle.weights(np.zeros(1)), x).numpy()
        return of.output(circle.weights(angle), x).numpy() - start

    axis = np.linspace(-extent, extent, nb_grid)
    plane_weights = circle.plane.points(*np.meshgrid(axis, axis))
    counts = np.array(sorted({*nb_points, published_points}))
    integrand = work(net, circle, x, betas)
    inside, inside_error = curl_in_disc(net, circle, x, betas, nb_radii=nb_radii, keep=keep)
    center = np.zeros(circle.plane.dimension) if circle.center is None else np.asarray(circle.center)
    return LoopResult(
        beta=net.beta,
        betas_sg=betas,
        radius=circle.radius,
        center=np.array([center @ circle.plane.first, center @ circle.plane.second]),
        surrogate=surrogate,
        controls=controls,
        output=rise(net, surrogate.position),
        smoothed_output=tuple(rise(s, c.position) for s, c in zip(smooth, controls, strict=True)),
        axis=axis,
        landscapes=np.stack([s.output(plane_weights, x).numpy() for s in (*smooth, net)]),
        curl=keep("curl", lambda: np.stack([curl(net, plane_weights, x, b, circle.plane).numpy() for b in betas])),
        inside=inside,
        inside_error=inside_error,
        nb_points=counts,
        rule=keep("rules", lambda: np.stack([periodic_rule(integrand, 2 * np.pi, int(n)) for n in counts])),
        published_points=published_points,
    )
