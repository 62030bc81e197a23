"""What trained and drawn time constants change: accuracy, stretched time, the distributions that are learned.

Perez-Nieves et al. 2021, on the runs of configs/dense/heterogeneity.yaml. Rows as in `surgrad.analysis.rows`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from scipy.optimize import brentq
from scipy.special import digamma, gammaln

from surgrad.analysis.rows import (
    Point,
    Row,
    chosen,
    column,
    grouped,
    only_data_set,
    paired_difference,
    rows_of,
    table,
)
from surgrad.config.check import check
from surgrad.config.trust import read_back
from surgrad.datasets.augment import TimeStretch
from surgrad.datasets.events import EventDataset
from surgrad.errors import UserError
from surgrad.experiments.dense.config import DenseConfig
from surgrad.experiments.trained import trained_network
from surgrad.network.network import Network
from surgrad.network.time_constants import BOUNDS, Bounds
from surgrad.runs.intervals import Interval, interval
from surgrad.runs.record import REPO, RunRecord
from surgrad.training.evaluation import evaluate
from surgrad.training.loop import BatchGrid, Compute, Objective
from surgrad.training.optimizers import trained

SWEEPS = ("heterogeneity", "heterogeneity_fashion")
PUBLISHED = REPO / "Classification" / "analysis" / "heterogeneity.csv"
PUBLISHED_TAUS = REPO / "Classification" / "analysis" / "heterogeneity_tau.csv"

#: Factors by which the test stretches time.
STRETCHES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
TAUS = ("tau_mem", "tau_syn")


def condition(run: RunRecord) -> str:
    """How time constants start and whether they are trained: "HomInit-StdTr", "gamma-HetTr", …"""
    start = str(run.get("time_constants._target_", "homogeneous")).rpartition(".")[2]
    start = {"homogeneous": "HomInit", "gamma": "HetInit"}.get(start, start)
    return f"{start}-{'HetTr' if run.get('time_constants.trainable') else 'StdTr'}"


def stretched_accuracy(
    network: Network, dataset: EventDataset, grid: BatchGrid, objective: Objective, factor: float, compute: Compute
) -> float:
    """Accuracy where every event time, and the time the network is given, is ``factor`` times as long."""
    slow = TimeStretch(factor, factor)(dataset, torch.Generator())
    longer = BatchGrid(grid.batch_size, grid.dt, max(1, round(grid.nb_steps * factor)), grid.unit_shape, grid.device)
    return evaluate(network, slow, longer, objective, compute=compute).acc


def rows(run: RunRecord) -> list[Row]:
    """The one row of a run: scores of the best validation epoch, on the test set also at the speeds of `STRETCHES`."""
    network = trained_network(run)
    with read_back():
        cfg: DenseConfig = check(OmegaConf.create(run.config), DenseConfig)
        data, objective = cfg.dataset, cfg.objective()
        test = data.splits()[2]
    grid = BatchGrid(cfg.batch_size, data.time_step, data.nb_steps)
    options = (test, grid, objective)
    speeds = {f: stretched_accuracy(network, *options, f, cfg.compute()) for f in STRETCHES}
    row = {
        "dataset": data.name,
        "condition": condition(run),
        "seed": cfg.seed,
        "valid_acc": run.summary["valid_acc_best_valid"],
        "test_acc": run.summary["test_acc_best_valid"],
        "nb_weights": run.summary["nb_weights"],
        "nb_taus": sum(constant.log_tau.numel() for constant in trained(network)),
        "spikes": run.summary["test_spikes_per_sample"],
        "chance": 1 / run.summary["nb_classes"],
        **{f"test_acc_x{factor:g}": acc for factor, acc in speeds.items()},
    }
    return [row]


def tau_rows(run: RunRecord) -> list[Row]:
    """The time constants of every hidden neuron of a run, in s, with the weights of the best validation epoch."""
    layers = trained_network(run).layers
    return [
        {
            "dataset": run.get("dataset.name"),
            "condition": condition(run),
            "seed": int(run.get("seed")),
            "layer": k,
            "tau_mem": mem,
            "tau_syn": syn,
        }
        for k, layer in enumerate(layers)
        for mem, syn in zip(*(getattr(layer, name).tau.tolist() for name in TAUS), strict=True)
    ]


def load(where: str | Path, dataset: str | None = None) -> tuple[list[Row], str]:
    """Rows of all finished runs of the sweep below a folder, else those published; and which of the two they are.

    Args:
        where: folder.
        dataset: data set, by default the one that most runs used.
    """
    found, source = rows_of(where, SWEEPS, rows, PUBLISHED)
    return only_data_set(found, dataset), source


def load_taus(where: str | Path, dataset: str | None = None) -> list[Row]:
    """Rows of all time constants, one per neuron, of the same runs as `load`."""
    return only_data_set(rows_of(where, SWEEPS, tau_rows, PUBLISHED_TAUS)[0], dataset)


# ---------------------------------------------------------------- comparisons
def by_condition(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows of each condition: HomInit before others, StdTr before HetTr."""
    groups = grouped(rows, "condition")
    return dict(
        sorted(groups.items(), key=lambda group: [part not in ("HomInit", "StdTr") for part in group[0][0].split("-")])
    )


def accuracy(rows: Sequence[Row], key: str = "test_acc") -> dict[str, Point]:
    """Accuracy of each condition."""
    values = {name: column(group, key) for (name,), group in by_condition(rows).items()}
    return {name: (value, interval(value)) for name, value in values.items()}


def gains(rows: Sequence[Row], key: str = "test_acc") -> dict[str, Interval]:
    """HetTr - StdTr for each start, paired by seed, and over all starts: positive where training them helps."""
    starts = sorted({row["condition"].partition("-")[0] for row in rows}, reverse=True)
    return _differences(rows, key, {start: (f"{start}-HetTr", f"{start}-StdTr") for start in starts})


def gains_of_start(rows: Sequence[Row], key: str = "test_acc") -> dict[str, Interval]:
    """HetInit - HomInit for each kind of training, and over both: positive where a drawn start helps."""
    return _differences(rows, key, {kind: (f"HetInit-{kind}", f"HomInit-{kind}") for kind in ("StdTr", "HetTr")})


def _differences(rows: Sequence[Row], key: str, pairs: Mapping[str, tuple[str, str]]) -> dict[str, Interval]:
    """Differences between two conditions each, and "both": their mean, over the seeds that all of them have."""
    there = {name: (chosen(rows, condition=a), chosen(rows, condition=b)) for name, (a, b) in pairs.items()}
    there = {name: pair for name, pair in there.items() if all(pair)}
    found = {name: paired_difference(*pair, key) for name, pair in there.items()}
    if len(there) > 1:
        by_seed = [[{row["seed"]: row[key] for row in half} for half in pair] for pair in there.values()]
        shared = set.intersection(*(set(half) for pair in by_seed for half in pair))
        found["both"] = interval(np.mean([a[seed] - b[seed] for a, b in by_seed]) for seed in sorted(shared))
    return found


def stretch_curves(rows: Sequence[Row]) -> dict[str, dict[float, Point]]:
    """Test accuracy against the factor by which time is stretched, for each condition."""
    found = {}
    for (name,), group in by_condition(rows).items():
        values = {factor: column(group, f"test_acc_x{factor:g}") for factor in STRETCHES}
        found[name] = {factor: (value, interval(value)) for factor, value in values.items()}
    return found


def learned_fits(taus: Sequence[Row], name: str, low: float, high: float) -> Mapping[str, tuple["Fit", float]]:
    """Gamma and log-normal distributions of highest likelihood, and that likelihood (nats per neuron, tau in ms).

    Args:
        taus: rows of `load_taus`.
        name: "tau_mem" or "tau_syn".
        low: lower bound, s; values on it are left out: they were moved there.
        high: upper bound, s; as ``low``.
    """
    values = inside(column(taus, name), low, high)
    fits = {label: fit(values) for label, fit in FITS.items()}
    return {label: (fit, log_likelihood(fit, values)) for label, fit in fits.items()}


def inside(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The values that are not on a bound."""
    return values[(values > low * 1.001) & (values < high * 0.999)]


def tables(rows: Sequence[Row], taus: Sequence[Row]) -> str:
    """Markdown: conditions, gains of trained time constants at all speeds, fits of what was learned."""
    groups = by_condition(rows)
    columns = {"validation": "valid_acc", "test": "test_acc", "spikes": "spikes", "parameters": "nb_weights"}
    lines = [table(groups, columns | {"of them time constants": "nb_taus"}, "condition"), ""]
    speeds = {f"test, time x {factor:g}": f"test_acc_x{factor:g}" for factor in STRETCHES}
    lines += [table(groups, speeds, "condition"), ""]
    scores = {"validation": "valid_acc", "test": "test_acc"} | speeds
    for head, difference in (("HetTr - StdTr", gains), ("HetInit - HomInit", gains_of_start)):
        found = {label: difference(rows, key) for label, key in scores.items()}
        names = list(found["test"])
        if names:
            lines += [f"| {head} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            lines += [f"| {label} | {' | '.join(str(by[name]) for name in names)} |" for label, by in found.items()]
            lines += [""]
    lines += [
        "| learned | mean (ms) | at bounds | Gamma: shape, scale (ms), nats | log-normal: sigma, median (ms), nats |",
    ]
    lines += ["|---|---|---|---|---|"]
    for (name,), group in by_condition(taus).items():
        for kind in TAUS if name.endswith("HetTr") else ():
            values = column(group, kind)
            (gamma, gamma_nats), (normal, normal_nats) = learned_fits(group, kind, *BOUNDS).values()
            lines.append(
                f"| {name}, {kind} | {1e3 * values.mean():.1f} | {at_bounds(values, BOUNDS):.3f} "
                f"| {gamma}, {gamma_nats:.3f} | {normal}, {normal_nats:.3f} |"
            )
    return "\n".join(lines)


def learned_distributions(taus: Sequence[Row]) -> dict[str, tuple[np.ndarray, dict[str, "Fit"]]]:
    """Of every condition that trains them, the time constants in s, with fits; membranes beside those of cells."""
    found = {}
    for (name,), group in by_condition(taus).items():
        for kind in TAUS if name.endswith("HetTr") else ():
            fits = {label: fit for label, (fit, _) in learned_fits(group, kind, *BOUNDS).items()}
            fits |= {f"cells, {label}": fit for label, fit in EXPERIMENT.items()} if kind == "tau_mem" else {}
            found[f"{name}, {kind}"] = (column(group, kind), fits)
    return found


# ---------------------------------------------------------------- fits
@dataclass(frozen=True)
class Gamma:
    """p(tau) = tau^(k-1) exp(-tau / s) / (Gamma(k) s^k).

    Args:
        shape: k.
        scale: s, in s.
    """

    shape: float
    scale: float

    def __str__(self) -> str:
        return f"{self.shape:.2f}, {1e3 * self.scale:.2f}"

    @property
    def mean(self) -> float:
        """Seconds."""
        return self.shape * self.scale

    def log_density(self, tau: np.ndarray) -> np.ndarray:
        """log p in 1/s, of time constants in s."""
        x = np.asarray(tau) / self.scale
        return (self.shape - 1) * np.log(x) - x - gammaln(self.shape) - math.log(self.scale)

    @classmethod
    def fit(cls, tau: np.ndarray) -> "Gamma":
        """The parameters of highest likelihood: log k - psi(k) = log(mean tau) - mean(log tau), s = mean tau / k.

        Args:
            tau: time constants, s.

        Raises:
            UserError: for fewer than two different positive values.
        """
        tau = _require_spread(tau)
        excess = math.log(tau.mean()) - np.log(tau).mean()
        # log k - psi(k) falls from infinity to 0 and lies between 1/(2k) and 1/k
        shape = brentq(lambda k: math.log(k) - digamma(k) - excess, 0.4 / excess, 1.1 / excess)
        return cls(float(shape), float(tau.mean() / shape))


@dataclass(frozen=True)
class LogNormal:
    """log tau ~ N(log median, sigma^2).

    Args:
        sigma: deviation of log tau.
        median: s.
    """

    sigma: float
    median: float

    def __str__(self) -> str:
        return f"{self.sigma:.3f}, {1e3 * self.median:.1f}"

    @property
    def mean(self) -> float:
        """Seconds."""
        return self.median * math.exp(self.sigma**2 / 2)

    def log_density(self, tau: np.ndarray) -> np.ndarray:
        """log p in 1/s, of time constants in s."""
        z = np.log(np.asarray(tau) / self.median) / self.sigma
        return -(z**2) / 2 - np.log(np.asarray(tau)) - math.log(self.sigma * math.sqrt(2 * math.pi))

    @classmethod
    def fit(cls, tau: np.ndarray) -> "LogNormal":
        """The parameters of highest likelihood. Args and errors as in `Gamma.fit`."""
        log_tau = np.log(_require_spread(tau))
        return cls(float(log_tau.std()), math.exp(log_tau.mean()))


Fit = Gamma | LogNormal


FITS: dict[str, Callable[[np.ndarray], Fit]] = {"Gamma": Gamma.fit, "log-normal": LogNormal.fit}


#: Fits to the membrane time constants of 2333 cells of the Allen Cell Types Database (mean 19.2 ms).
EXPERIMENT: dict[str, Fit] = {"Gamma": Gamma(3.49, 5.51e-3), "log-normal": LogNormal(0.559, 16.6e-3)}


def _require_spread(tau: np.ndarray) -> np.ndarray:
    tau = np.asarray(tau, dtype=np.float64).ravel()
    if len(tau) < 2 or not (tau > 0).all() or np.ptp(tau) == 0:
        raise UserError("a distribution needs two or more different positive time constants to be fitted to")
    return tau


def log_likelihood(fit: Fit, tau: np.ndarray) -> float:
    """Mean log density of time constants in s under a distribution, per neuron and with tau in ms (nats)."""
    return float(fit.log_density(tau).mean() - math.log(1e3))


def at_bounds(tau: np.ndarray, bounds: Bounds) -> float:
    """Share of time constants that lie on one of their bounds."""
    return float(np.isclose(np.asarray(tau)[..., None], bounds, rtol=1e-4).any(-1).mean())
