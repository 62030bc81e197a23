"""Measures what initial weights do to membranes, rates and gradients, against theory; keys: configs/initialization.

python3 Classification/initialization.py
python3 Classification/initialization.py depth.recurrent=true depth.nb_layers=10 depth.nu=5
python3 Classification/initialization.py dataset=shd tau_syn=5e-3 grid.xi=[0.5,1,2]
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from surgrad.config.entry import entry
from surgrad.experiments.initialization import figures, study
from surgrad.experiments.initialization.config import InitializationConfig
from surgrad.experiments.initialization.membrane import compensating_gain, effective_threshold, white_noise_rate
from surgrad.network.initializers import FluctuationDrivenCentered
from surgrad.network.probing import bernoulli_spikes
from surgrad.network.rate_propagation import RatePropagated
from surgrad.runs.folder import Run
from surgrad.runs.record import RunRecord
from surgrad.training.loop import BatchGrid
from surgrad.training.resume import Keep, Pieces

log = logging.getLogger(__name__)


@entry("initialization", InitializationConfig, run_name="initialization/dataset=${dataset.name}/seed=${seed}")
def main(cfg: InitializationConfig, run: Run) -> None:
    pieces = Pieces(run, study.LayerResult, study.StackResult)
    one_layer(cfg, run, pieces)
    time_steps(cfg, run, pieces.under("steps"))
    with_depth(cfg, run, pieces.under("depth"))
    real_spikes(cfg, run, pieces)
    folder = RunRecord(run.folder)
    run.flush()
    for name in figures.FIGURES:
        run.figure(name, figures.draw(name, folder))


def generator(cfg: InitializationConfig, part: int) -> torch.Generator:
    """Random numbers of one part of the study, so that each is the same whichever others ran."""
    return torch.Generator().manual_seed(4 * cfg.seed + part)


def one_layer(cfg: InitializationConfig, run: Run, pieces: Pieces) -> None:
    """Every target of the grid, a row of metrics.csv for each and draw."""
    what, random = cfg.grid, generator(cfg, 0)
    sizes = {"nb_inputs": what.nb_inputs, "nb_units": what.nb_units, "nb_steps": round(what.duration / cfg.time_step)}
    ratios = []
    for target in study.targets(what.mu_u, what.xi, what.nu, what.alpha):
        measure = partial(study.measure_layer, target, cfg.cell, random, **sizes)
        draws = pieces(f"grid/{tuple(target)}", partial(_repeated, measure, what.nb_draws), random)
        for draw, found in enumerate(draws):
            pieces.log({**target._asdict(), "sigma_u": target.sigma_u, "draw": draw, **found._asdict()})
            ratios.append((target.nu, found.std / target.sigma_u, found.std / found.predicted_std))
    nu, to_target, to_theory = np.array(ratios).T
    for rate in what.nu:
        here = to_target[nu == rate]
        run.summary[f"grid/nu={rate:g}/std_over_target"] = float(here.mean())
        run.summary[f"grid/nu={rate:g}/largest_deviation_from_target"] = float(np.abs(here - 1).max())
    run.summary["grid/share_within_5_percent_of_target"] = float(np.mean(np.abs(to_target - 1) < 0.05))
    run.summary["grid/share_within_5_percent_of_theory"] = float(np.mean(np.abs(to_theory - 1) < 0.05))
    run.summary["grid/largest_deviation_from_theory"] = float(np.abs(to_theory - 1).max())
    log.info("grid: %d layers, deviation over target by rate: %s", len(nu), _by_rate(what.nu, nu, to_target))


def _repeated(measure: Callable[[], study.LayerResult], times: int) -> list[study.LayerResult]:
    return [measure() for _ in range(times)]


def _by_rate(rates: list[float], nu: np.ndarray, ratio: np.ndarray) -> dict[str, str]:
    return {f"{rate:g} Hz": f"{ratio[nu == rate].mean():.3f}" for rate in rates}


def time_steps(cfg: InitializationConfig, run: Run, keep: Keep) -> None:
    """Rates under white noise against the time step, and their theory for instantaneous synapses."""
    what, random = cfg.steps, generator(cfg, 1)

    def measured(name: str, gain: float, **constants: float) -> float:
        cell, sizes = replace(cfg.cell, **constants), {"nb_units": what.nb_units}
        moments = (gain * what.mu_u, gain * what.sigma_u)
        step = partial(study.measure_step, *moments, cell, random, duration=what.duration, **sizes)
        return keep(f"{name}, tau_syn={cell.tau_syn:g}, dt={cell.dt:g}", lambda: step().rate, random)

    rate = [[measured("rate", 1.0, tau_syn=tau, dt=dt) for dt in what.dts] for tau in what.tau_syns]
    predicted, compensated = [], []
    for dt in what.dts:
        threshold = effective_threshold(what.sigma_u, cfg.tau_mem, dt)
        predicted.append(white_noise_rate(what.mu_u, what.sigma_u, cfg.tau_mem, threshold, dt))
        gain = compensating_gain(what.sigma_u, cfg.tau_mem, dt)
        compensated.append(measured("compensated", gain, tau_syn=min(what.tau_syns), dt=dt))
    run.state("steps/dts", what.dts, units="s")
    run.state("steps/tau_syns", what.tau_syns, units="s")
    run.state("steps/rate", rate, units="Hz", axes="tau_syn, dt")
    run.state("steps/predicted", predicted, units="Hz")
    run.state("steps/compensated", compensated, units="Hz")
    continuous = white_noise_rate(what.mu_u, what.sigma_u, cfg.tau_mem)
    run.summary["steps/continuous_rate"] = continuous
    run.summary["steps/rate_kept"] = rate[0][-1] / continuous  # at the last time step, with the first tau_syn
    run.summary["steps/rate_kept_compensated"] = compensated[-1] / continuous
    log.info("steps: %.1f Hz in continuous time, %.1f Hz at dt = %g s", continuous, rate[0][-1], what.dts[-1])


def with_depth(cfg: InitializationConfig, run: Run, keep: Keep) -> None:
    """Stacks under Poisson spikes: initialisers compared, deviations at which rates collapse, rate in, rate out."""
    what, random = cfg.depth, generator(cfg, 2)
    spikes = bernoulli_spikes(
        what.nu, (round(what.duration / cfg.time_step), what.nb_samples, what.nb_units), cfg.time_step, random
    )
    stacks = partial(
        study.stacks,
        make=lambda: cfg.stack(what.nb_units, 10, cfg.time_step, what.duration),
        seeds=[what.nb_draws * cfg.seed + k for k in range(what.nb_draws)],
        spikes=spikes,
        labels=torch.arange(what.nb_samples) % 10,
        transient=min(cfg.cell.transient, len(spikes) // 2),
        keep=keep,
    )
    compared = stacks(cfg.build_initializers())
    _record(run, "depth", compared)
    for name, results in compared.items():
        if results:
            found = {key: np.mean([study.by_layer(r)[key] for r in results], 0) for key in ("std", "rate")}
            run.summary |= {f"depth/{name}/{key}_top": float(found[key][-1]) for key in found}
            run.summary[f"depth/{name}/rate_bottom"] = float(found["rate"][0])
            log.info("depth: %s, rates %s Hz", name, found["rate"].round(2))
    for name, rule in (("one rate", FluctuationDrivenCentered), ("rate-propagated", RatePropagated)):
        rules = {f"{name}, {sigma_u:g}": rule(sigma_u, what.nu) for sigma_u in what.sigma_us}
        by_rule = stacks(rules)
        rates = np.full((len(what.sigma_us), what.nb_draws, what.nb_layers), np.nan)
        for k, results in enumerate(by_rule.values()):
            rates[k, : len(results)] = [result.rate.mean(1) for result in results] or np.nan
        run.state(f"collapse/{name}", rates, units="Hz", axes="sigma_u, draw, layer", sigma_us=what.sigma_us)
    sizes = {"nb_inputs": what.nb_units, "nb_units": what.nb_units, "nb_steps": len(spikes) * 4}
    curves = []
    for sigma_u in what.transfer_sigma_us:
        measure = partial(study.transfer, what.transfer_rates, sigma_u, what.nu, cfg.cell, random, **sizes)
        curves.append(keep(f"transfer, sigma_u={sigma_u:g}", measure, random))
    attributes = {"sigma_us": what.transfer_sigma_us, "rates": what.transfer_rates}
    run.state("transfer", curves, units="Hz", axes="sigma_u, input rate", **attributes)


def real_spikes(cfg: InitializationConfig, run: Run, pieces: Pieces) -> None:
    """The stacks on training samples, and on the same number of spikes per unit and sample at random times."""
    data, what, random = cfg.dataset, cfg.real, generator(cfg, 3)
    train, *_ = data.splits()
    chosen = train.subset(torch.randperm(len(train), generator=random)[: what.nb_samples].numpy())
    batch = next(iter(BatchGrid(len(chosen), data.time_step, data.nb_steps)(chosen)))
    spikes = batch.dense()
    rate = float(spikes.mean()) / data.time_step
    run.summary["real/rate"] = rate
    log.info("%s: %.1f Hz measured, nu = %g Hz assumed", data.name, rate, data.nu)
    rules = {
        "fluctuation-driven": FluctuationDrivenCentered(what.sigma_u, data.nu),
        "rate-propagated": RatePropagated(what.sigma_u, data.nu),
    }
    for kind, shown in (("data", spikes), ("random times", study.shuffled(spikes, random))):
        found = study.stacks(
            rules,
            make=lambda: cfg.stack(train.nb_units, train.nb_classes, data.time_step, data.duration),
            seeds=[cfg.depth.nb_draws * cfg.seed + k for k in range(cfg.depth.nb_draws)],
            spikes=shown,
            labels=batch.labels,
            keep=pieces.under(f"real/{kind}"),
        )
        _record(run, f"real/{kind}", found)
        for name, results in found.items():
            deviation = np.mean([study.by_layer(result)["std"] for result in results], 0)
            run.summary[f"real/{kind}/{name}/std_bottom"] = float(deviation[0])
            log.info("%s, %s: deviations %s", name, kind, deviation.round(2))


def _record(run: Run, where: str, found: dict[str, list[study.StackResult]]) -> None:
    """Arrays (draws, layers) of every initialiser, and the gradients over time of the first draw."""
    for name, results in found.items():
        if not results:
            continue
        columns = [study.by_layer(result) for result in results]
        for key in columns[0]:
            run.state(f"{where}/{name}/{key}", [column[key] for column in columns], axes="draw, layer")
        run.state(f"{where}/{name}/current_gradient", results[0].current_gradient, axes="layer, time")


if __name__ == "__main__":
    main()
