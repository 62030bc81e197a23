"""Compares one stochastic neuron's expected output with its deterministic counterpart's SG; keys: --help.

python3 Sigmoid_network/single_neuron.py
python3 Sigmoid_network/single_neuron.py lif.noise=exponential lif.rate=40 perceptron.nb_inputs=1
"""

import logging

import numpy as np
import torch

from surgrad.config.build import build
from surgrad.config.entry import entry
from surgrad.experiments.sigmoid_network import figures_estimators as figures
from surgrad.experiments.sigmoid_network.config import SingleNeuronConfig
from surgrad.experiments.sigmoid_network.neuron_study import (
    PerceptronCurve,
    as_probability,
    lif_study,
    perceptron_study,
)
from surgrad.experiments.sigmoid_network.single_neuron import (
    Derivatives,
    DrivenLIF,
    EscapeProbability,
    Estimate,
    poisson_inputs,
)
from surgrad.runs.folder import Run
from surgrad.training.resume import Keep, Pieces

log = logging.getLogger(__name__)


@entry("sigmoid_network", SingleNeuronConfig, run_name="single_neuron")
def main(cfg: SingleNeuronConfig, run: Run) -> None:
    noises = {name: as_probability(build(node, at=f"noises.{name}")) for name, node in cfg.noises.items()}
    pieces = Pieces(run, PerceptronCurve, Derivatives, Estimate)
    perceptron(cfg, run, noises, pieces.under("perceptron"))
    driven_lif(cfg, run, noises[cfg.lif.noise], pieces.under("LIF"))


def perceptron(cfg: SingleNeuronConfig, run: Run, noises: dict[str, EscapeProbability], keep: Keep) -> None:
    """Derivative of E[S] and SG over a range of weights, for each escape noise."""
    what = cfg.perceptron
    curves = perceptron_study(
        noises,
        nb_inputs=what.nb_inputs,
        rate=what.rate,
        weights=np.linspace(what.lower, what.upper, what.nb_weights),
        sampled=np.linspace(what.lower, what.upper, what.nb_sampled),
        nb_samples=what.nb_samples,
        seed=cfg.seed,
        keep=keep,
    )
    for name, curve in curves.items():
        difference = float(np.abs(curve.sg - curve.exact).max())
        run.summary[f"perceptron/{name}/largest_difference_sg_exact"] = difference
        log.info("perceptron, %s noise: |SG - dE[S]/dw| <= %.1e", name, difference)
        for field in ("weight", "value", "exact", "sg", "sampled", "drawn", "drawn_derivative"):
            run.state(f"perceptron/{name}/{field}", np.array(getattr(curve, field)))
    run.figure("perceptron", figures.perceptron_curves(curves, what.nb_inputs))


def driven_lif(cfg: SingleNeuronConfig, run: Run, p: EscapeProbability, keep: Keep) -> None:
    """Derivative of the spike probability of a driven LIF neuron and SGs, step by step, without and with reset."""
    what = cfg.lif
    generator = torch.Generator().manual_seed(cfg.seed)
    inputs = poisson_inputs(what.nb_steps, what.nb_inputs, what.rate, what.dt, generator)
    weights = 2 * what.weight * torch.rand(what.nb_inputs, generator=generator, dtype=torch.float64)
    lif = DrivenLIF(inputs, p, dt=what.dt, tau_mem=what.tau_mem, tau_syn=what.tau_syn)
    curves = lif_study(lif, weights, nb_samples=what.nb_samples, seed=cfg.seed, keep=keep)
    for name, error in curves.errors().items():
        run.summary[f"lif/relative_error/{name}"] = error
        log.info("LIF, SG %s: relative error %.2g", name, error)
    run.summary["lif/expected_spikes"] = float(curves.reset.expected.sum())
    run.state("lif/time", curves.time, units="s")
    run.state("lif/inputs", curves.inputs.astype(np.uint8))
    for name, sg in curves.sg._asdict().items():
        run.state(f"lif/{name}_sg", sg)
    for name in ("membrane", "membrane_reset"):
        run.state(f"lif/{name}", getattr(curves, name))
    for name in ("free", "reset", "drawn", "drawn_sg", "drawn_through"):
        for part, array in getattr(curves, name)._asdict().items():
            run.state(f"lif/{name}/{part}", array)
    run.figure("lif", figures.lif_curves(curves))


if __name__ == "__main__":
    main()
