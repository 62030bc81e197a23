"""Integrates the surrogate gradient of a sigmoid network around a closed circle; keys: --help.

python3 Sigmoid_network/integrate_closed_circle.py
python3 Sigmoid_network/integrate_closed_circle.py beta=100 betas_sg=[2,10] radius=1 plane.seed=7
python3 Sigmoid_network/integrate_closed_circle.py sizes=[2,4,3,1] x=[1,-0.5] tolerance=1e-8
"""

import logging

import numpy as np
import torch

from surgrad.config.entry import entry
from surgrad.experiments.sigmoid_network import figures_sigmoid as figures
from surgrad.experiments.sigmoid_network.config import ClosedCircleConfig
from surgrad.experiments.sigmoid_network.loop_study import LoopSettings, loop_study
from surgrad.experiments.sigmoid_network.quadrature import LineIntegral
from surgrad.experiments.sigmoid_network.sigmoid import Circle, Plane, SigmoidNet, random_plane
from surgrad.runs.folder import Run
from surgrad.training.resume import Pieces

log = logging.getLogger(__name__)


def circle(cfg: ClosedCircleConfig, net: SigmoidNet) -> Circle:
    """The loop that the configuration describes."""
    plane: Plane = (
        random_plane(net.nb_weights, cfg.plane.seed, (cfg.plane.rows[0], cfg.plane.rows[1]))
        if cfg.plane.first is None
        else Plane(np.array(cfg.plane.first), np.array(cfg.plane.second))
    )
    return Circle(plane, cfg.radius, None if cfg.center is None else np.array(cfg.center))


@entry("sigmoid_network", ClosedCircleConfig, run_name="integrate_closed_circle")
def main(cfg: ClosedCircleConfig, run: Run) -> None:
    net = SigmoidNet(cfg.beta, tuple(cfg.sizes))
    result = loop_study(
        net,
        circle(cfg, net),
        torch.tensor(cfg.x, dtype=torch.float64),
        cfg.betas_sg,
        LoopSettings(
            nb_points=np.unique(np.geomspace(50, cfg.max_points, cfg.nb_rules).astype(int)).tolist(),
            published_points=cfg.published_points,
            extent=cfg.extent,
            nb_grid=cfg.nb_grid,
            nb_radii=cfg.nb_radii,
            tolerance=cfg.tolerance,
            max_evaluations=cfg.max_evaluations,
        ),
        keep=Pieces(run, LineIntegral),
    )
    peaks, angle = result.surrogate.peak_to_peak, result.surrogate.position
    for k, beta_sg in enumerate(result.betas_sg):
        control = result.controls[k]
        numbers = {
            "loop_integral": result.surrogate.value[k],
            "loop_integral_error": result.surrogate.error[k],
            "peak_to_peak": peaks[k],
            "control_true_gradient": control.value[0],
            "control_error": control.error[0],
            "curl_in_disc": result.inside.value[k],
            "curl_in_disc_error": result.inside.error[k],
            f"rule_{result.rule.published_points}_points": result.rule.published[k],
        }
        run.summary.update({f"beta_sg={beta_sg:g}/{name}": float(value) for name, value in numbers.items()})
        log.info(
            "beta_SG %g: loop integral %+.5f (error %.0e), of the true gradient %+.0e, of the curl inside %+.5f,"
            " by %d points %+.5f",
            beta_sg,
            result.surrogate.value[k],
            result.surrogate.error[k],
            control.value[0],
            result.inside.value[k],
            result.rule.published_points,
            result.rule.published[k],
        )
    run.summary["nb_evaluations"] = result.surrogate.nb_evaluations
    run.state("loop/angle", angle, units="rad")
    run.state("loop/running_integral", result.surrogate.running, betas_sg=result.betas_sg)
    run.state("loop/output", result.output)
    run.state("convergence/points", result.rule.nb_points)
    run.state("convergence/integral", result.rule.value, betas_sg=result.betas_sg)
    run.state("plane/axis", result.maps.axis)
    run.state("plane/output", result.maps.landscapes, betas=(*result.betas_sg, result.beta))
    run.state("plane/curl", result.maps.curl, betas_sg=result.betas_sg)
    run.figure("closed_loop", figures.closed_loop(result))
    run.figure("convergence", figures.loop_convergence(result))
    run.figure("curl", figures.curl_map(result))


if __name__ == "__main__":
    main()
