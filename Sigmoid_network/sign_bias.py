"""Shows where the surrogate gradient has the wrong sign and where descent along it ends; keys: --help.

python3 Sigmoid_network/sign_bias.py
python3 Sigmoid_network/sign_bias.py sweep.betas_sg=[10,20,50,100] flow.axes=[0,1] flow.lower=[-0.2,-0.1]
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from surgrad.config.entry import entry
from surgrad.experiments.sigmoid_network import figures_sigmoid as figures
from surgrad.experiments.sigmoid_network.config import SignBiasConfig
from surgrad.experiments.sigmoid_network.sigmoid import SigmoidNet
from surgrad.experiments.sigmoid_network.sign_bias import (
    Path,
    PlaneResult,
    Sweep,
    Window,
    flow_study,
    plane_study,
    sweep,
)
from surgrad.runs.folder import Run
from surgrad.training.resume import Keep, Pieces

NAMES = ("w", "v1", "v2", "u1", "u2")

log = logging.getLogger(__name__)

T = TypeVar("T")


@entry("sigmoid_network", SignBiasConfig, run_name="sign_bias")
def main(cfg: SignBiasConfig, run: Run) -> None:
    x = torch.tensor(cfg.x, dtype=torch.float64)
    pieces = Pieces(run, Sweep, PlaneResult, Path)
    sweep_weights(cfg, run, x, pieces)
    probe_planes(cfg, run, x, pieces)
    follow_descent(cfg, run, x, pieces.under("flow"))


def sweep_weights(cfg: SignBiasConfig, run: Run, x: torch.Tensor, keep: Keep) -> None:
    """The SG along one weight: its sign, its zeros, the landscape it integrates to."""
    what = cfg.sweep
    grid = np.linspace(what.lower, what.upper, what.nb_points)
    net, weights = SigmoidNet(what.beta), np.array(what.weights)
    result = keep("sweep", lambda: sweep(net, weights, what.index, grid, x, tuple(what.betas_sg)))
    for k, beta_sg in enumerate(what.betas_sg):
        numbers = {
            "crossings": [float(c) for c in result.crossings()[k]],
            "wrong_sign_share": float(result.wrong_sign_share()[k]),
            "integrated_minimum": float(result.integrated_minima()[k]),
            "smoothed_minimum": float(result.smoothed_minima()[k]),
        }
        run.summary.update({f"sweep/beta_sg={beta_sg:g}/{name}": value for name, value in numbers.items()})
        log.info("%s, beta_SG %g: %s", NAMES[what.index], beta_sg, numbers)
    for name in ("grid", "output", "true", "surrogate", "smoothed_output", "smoothed", "integrated"):
        run.state(f"sweep/{name}", getattr(result, name), betas_sg=what.betas_sg)
    run.figure("sweep", figures.weight_sweep(result, NAMES[what.index]))
    run.figure("phase_line", figures.phase_line(result, NAMES[what.index]))


def probe_planes(cfg: SignBiasConfig, run: Run, x: torch.Tensor, keep: Keep) -> None:
    """The SG at one point of the v plane and of the u plane."""
    what, results = cfg.planes, []
    net, corner = SigmoidNet(what.beta), (what.extent, what.extent)
    for letter, axes in (("v", (1, 2)), ("u", (3, 4))):
        window = Window(tuple(getattr(what, f"{letter}_weights")), axes, (-corner[0], -corner[1]), corner)
        names, probe = (NAMES[axes[0]], NAMES[axes[1]]), np.array(getattr(what, f"{letter}_probe"))
        study = partial(plane_study, net, window, x, tuple(what.betas_sg), names, probe, what.nb_grid)
        plane = keep(f"{letter} plane", study)
        results.append(plane)
        for k, beta_sg in enumerate(what.betas_sg):
            gradient = plane.gradients[k].tolist()
            run.summary[f"{letter}_plane/beta_sg={beta_sg:g}/surrogate_gradient"] = gradient
            run.summary[f"{letter}_plane/beta_sg={beta_sg:g}/angle_to_true_degrees"] = float(plane.angles[k])
            log.info("%s plane, beta_SG %g: SG %s, %.1f degrees off", letter, beta_sg, gradient, plane.angles[k])
        run.state(f"{letter}_plane/output", plane.smoothed, betas=what.betas_sg)
    run.figure("planes", figures.plane_arrows(results))


def _pair(values: Sequence[T]) -> tuple[T, T]:
    first, second = values
    return first, second


def follow_descent(cfg: SignBiasConfig, run: Run, x: torch.Tensor, keep: Keep) -> None:
    """Gradient flow along the SG and along the true gradient from the same starts."""
    what = cfg.flow
    net, axes = SigmoidNet(cfg.sweep.beta), (what.axes[0], what.axes[1])
    window = Window(tuple(cfg.sweep.weights), axes, _pair(what.lower), _pair(what.upper))
    result = flow_study(
        net,
        window,
        x,
        tuple(cfg.sweep.betas_sg),
        (NAMES[axes[0]], NAMES[axes[1]]),
        nb_starts=_pair(what.nb_starts),
        duration=what.duration,
        keep=keep,
    )
    run.summary["flow/median_start_output"] = float(np.median(result.start_outputs))
    for k, beta_sg in enumerate(result.betas_sg):
        ends, paths = result.end_outputs[k], result.paths[k]
        numbers = {
            "median_end_output": float(np.median(ends)),
            "share_ending_higher_than_started": float(np.mean(ends > result.start_outputs)),
            "share_leaving_window": float(np.mean([path.left_window for path in paths])),
        }
        run.summary.update({f"flow/beta_sg={beta_sg:g}/{name}": value for name, value in numbers.items()})
        run.state(f"flow/beta_sg={beta_sg:g}/ends", np.array([path.end for path in paths]))
        log.info("descent, beta_SG %g: %s", beta_sg, numbers)
    run.state("flow/starts", np.array([path.points[0] for path in result.paths[0]]))
    run.state("flow/start_outputs", result.start_outputs)
    run.state("flow/end_outputs", result.end_outputs, betas_sg=result.betas_sg)
    run.figure("phase_portrait", figures.phase_portrait(result))
    run.figure("surface_and_paths", figures.surface_and_paths(result))


if __name__ == "__main__":
    main()
