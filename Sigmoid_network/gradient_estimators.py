"""Compares gradient estimators for stochastic binary networks with the exact gradient; keys: --help.

python3 Sigmoid_network/gradient_estimators.py
python3 Sigmoid_network/gradient_estimators.py beta=2 gain=1 depths=[1,2,4] methods=[sg,stochastic_ad,score_loo]
"""

import logging
from functools import partial

import numpy as np

from surgrad.config.entry import entry
from surgrad.experiments.sigmoid_network import figures_estimators as figures
from surgrad.experiments.sigmoid_network.config import GradientEstimatorsConfig
from surgrad.experiments.sigmoid_network.estimator_study import (
    ChainCurve,
    Problem,
    chain_curve,
    coverage,
    random_problem,
    sample_curve,
    study,
)
from surgrad.experiments.sigmoid_network.estimators import ESTIMATORS
from surgrad.runs.folder import Run
from surgrad.runs.log import progress
from surgrad.training.resume import Pieces

log = logging.getLogger(__name__)


def networks(cfg: GradientEstimatorsConfig, depth: int, beta: float) -> list[Problem]:
    """The random networks of one depth and slope; the same at every slope."""
    sizes = [cfg.width] * (depth + 1)
    return [random_problem(sizes, beta=beta, gain=cfg.gain, seed=cfg.seed + k) for k in range(cfg.nb_networks)]


@entry("sigmoid_network", GradientEstimatorsConfig, run_name="gradient_estimators")
def main(cfg: GradientEstimatorsConfig, run: Run) -> None:
    pieces = Pieces(run, ChainCurve)
    measure = partial(
        study,
        methods=cfg.methods,
        nb_samples=cfg.nb_samples,
        nb_averaged=cfg.nb_averaged,
        seed=cfg.seed,
        progress=progress,
        keep=pieces,
    )
    chain = pieces(
        "chain",
        lambda: chain_curve(
            np.linspace(0, cfg.chain.v_upper, cfg.chain.nb_points),
            np.array([0.6, 1.2, 2.0]),
            beta=cfg.chain.beta,
            theta=cfg.chain.theta,
            nb_samples=cfg.chain.nb_samples,
            seed=cfg.seed,
        ),
    )
    by_depth = measure("depth", {d: networks(cfg, d, cfg.beta) for d in cfg.depths})
    by_slope = measure("slope β", {b: networks(cfg, cfg.depth, b) for b in cfg.betas})
    middle = networks(cfg, cfg.depth, cfg.beta)
    curve = sample_curve(
        middle,
        cfg.methods,
        cfg.sample_counts,
        repeats=cfg.sample_repeats,
        seed=cfg.seed,
        keep=pieces.under("samples"),
    )
    unbiased = [name for name in ESTIMATORS if ESTIMATORS[name].unbiased]
    shares = coverage(
        middle[0],
        [*unbiased, "sg"],
        repetitions=cfg.coverage_repetitions,
        nb_samples=cfg.coverage_samples,
        seed=cfg.seed,
        keep=pieces.under("coverage"),
    )
    for v in (0.6, 1.2, 2.0):
        run.summary[f"chain/v={v:g}/exact"] = float(np.interp(v, chain.v, chain.exact))
        run.summary[f"chain/v={v:g}/sg"] = float(np.interp(v, chain.v, chain.sg))
    run.summary.update({f"coverage/{name}": share for name, share in shares.items()})
    for result, name in ((by_depth, "depth"), (by_slope, "beta")):
        for quantity in ("bias", "bias_error", "std", "cosine", "runs", "values"):
            run.state(f"{name}/{quantity}", getattr(result, quantity), methods=list(result.methods))
        for v, value in enumerate(result.values):
            for m, method in enumerate(result.methods):
                key = f"{name}={value:g}/{method}"
                run.summary[f"{key}/bias"] = float(np.median(result.bias[v, m]))
                run.summary[f"{key}/bias_error"] = float(np.median(result.bias_error[v, m]))
                run.summary[f"{key}/std"] = float(np.median(result.std[v, m]))
                run.summary[f"{key}/cosine"] = float(np.median(result.cosine[v, m]))
    run.state("samples/cosine", curve.cosine, methods=list(curve.methods))
    run.state("samples/nb_samples", curve.nb_samples)
    for m, method in enumerate(by_depth.methods):
        bias, std, angle = (np.median(a[:, m], -1) for a in (by_depth.bias, by_depth.std, by_depth.cosine))
        log.info("%-22s bias %s  s.d. %s  cosine %s", method, bias.round(3), std.round(2), angle.round(3))
    log.info("coverage %s", shares)
    run.figure("estimators", figures.estimator_comparison(chain, curve, (by_depth, by_slope)))
    run.figure("coverage", figures.coverage_bars(shares, cfg.coverage_repetitions))


if __name__ == "__main__":
    main()
