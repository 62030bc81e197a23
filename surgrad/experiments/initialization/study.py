"""Measures what initial weights do: membranes, firing rates and gradients of every layer, against their theory.

Rossbroich et al. 2022 choose weights so that the free membrane fluctuates by sigma_U; Perez-Nieves & Goodman 2023 ask
what becomes of firing rates with depth. Spikes are (T, B, units), rates in Hz, membranes in units of threshold.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surgrad.analysis.rows import Row, rows_of
from surgrad.errors import UserError, known
from surgrad.experiments.initialization.membrane import crossing_rate, poisson_membrane
from surgrad.kernels import dispatch
from surgrad.kernels.reference import delayed
from surgrad.network.connections import Dense
from surgrad.network.initializers import (
    FluctuationDriven,
    FluctuationDrivenCentered,
    Initializer,
    initialised,
    kernel_moments,
    layer_moments,
)
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.probing import Trace, bernoulli_spikes, free_membrane, over_time, root_mean_square, run_layer
from surgrad.network.rate_propagation import TRANSIENT
from surgrad.neurons.lif import LIF
from surgrad.runs.record import REPO, RunRecord, last_value, load_runs
from surgrad.training.losses import build_loss
from surgrad.training.resume import Keep, compute_now

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """Constants of the neurons studied, in s."""

    tau_mem: float = 20e-3
    tau_syn: float = 10e-3
    dt: float = 2e-3

    def layer(self, nb_inputs: int, nb_units: int, recurrent: bool) -> SpikingLayer:
        """A layer of these neurons."""
        own = Dense(nb_units, nb_units) if recurrent else None
        return SpikingLayer(Dense(nb_inputs, nb_units), LIF(), self.tau_mem, self.tau_syn, own)

    @property
    def transient(self) -> int:
        """Steps that are left out of averages over time."""
        return math.ceil(TRANSIENT * max(self.tau_mem, self.tau_syn) / self.dt)


#: The run that the documentation shows.
PUBLISHED = REPO / "Classification" / "analysis" / "initialization"
#: Runs of the sweep over the initial deviation, as rows.
PUBLISHED_SWEEP = REPO / "Classification" / "analysis" / "sigma_u.csv"


def study_run(where: str) -> RunRecord:
    """The last finished run of `Classification/initialization.py` below a folder or glob, else the published one."""
    try:
        found = [run for run in load_runs(where) if run.status == "done" and "initializers" in run.config]
    except FileNotFoundError:
        found = []
    return max(found, key=lambda run: run.summary["ended"]) if found else load_runs(PUBLISHED)[0]


def sweep_rows(run: RunRecord) -> list[Row]:
    """The one row of a run of configs/dense/sigma_u.yaml: its initial weights and what came of them.

    Scores are those of the best validation epoch; rates are of the top hidden layer, before and after training.
    """
    rates = run.metrics[f"firing_rate-hid_{len(run.get('hidden')) - 1}"]
    row = {
        "initializer": str(run.get("initializer._target_")).rpartition(".")[2],
        "sigma_u": float(run.get("initializer.sigma_u")),
        "seed": int(run.get("seed")),
        "train_acc": last_value(run, "train_acc"),
        "valid_acc": run.summary["valid_acc_best_valid"],
        "test_acc": run.summary["test_acc_best_valid"],
        "rate_before": float(rates[0]),
        "rate_after": float(rates[-1]),
        "chance": 1 / run.summary["nb_classes"],
    }
    return [row]


def sweep(where: str) -> tuple[list[Row], str]:
    """Rows of all finished runs of the sweep below a folder, else those published; and which of the two they are."""
    return rows_of(where, ["sigma_u"], sweep_rows, PUBLISHED_SWEEP)


# ---------------------------------------------------------------- one layer, over the grid of targets
class Target(NamedTuple):
    """What a layer is initialised for; alpha is NaN without recurrence."""

    mu_u: float
    xi: float
    nu: float
    alpha: float

    @property
    def sigma_u(self) -> float:
        return (1 - self.mu_u) / self.xi


def targets(mu_u: Sequence[float], xi: Sequence[float], nu: Sequence[float], alpha: Sequence[float]) -> list[Target]:
    """The grid of targets: without recurrence, then with each alpha."""
    return [Target(*values) for values in product(mu_u, xi, nu, [math.nan, *alpha])]


class LayerResult(NamedTuple):
    """One target: averages over the neurons of a layer.

    mean, std: of the free membrane, driven by Poisson spikes through all connections; root mean square of the std.
    scatter: deviation of the neurons' means.
    predicted_mean, predicted_std, predicted_rate: theory for the very weights drawn (`membrane.py`).
    spiking_std, rate: with spikes and reset; recurrent weights then carry the layer's own spikes.
    """

    mean: float
    std: float
    scatter: float
    predicted_mean: float
    predicted_std: float
    predicted_rate: float
    spiking_std: float
    rate: float


@torch.no_grad()
def measure_layer(
    target: Target, cell: Cell, generator: torch.Generator, *, nb_inputs: int, nb_units: int, nb_steps: int
) -> LayerResult:
    """Initialise one layer for ``target`` and drive it with independent spikes of the rate that it is initialised for.

    Args:
        target: moments asked for.
        cell: constants of the neurons.
        generator: of weights and spikes.
        nb_inputs: number of inputs.
        nb_units: number of neurons.
        nb_steps: of the measurement.
    """
    recurrent = not math.isnan(target.alpha)
    layer = cell.layer(nb_inputs, nb_units, recurrent)
    share = target.alpha if recurrent else 1.0
    FluctuationDriven(target.mu_u, target.xi, target.nu, share, time_step=cell.dt)(layer, generator)
    pair = [initialised(c) for c in (layer.feedforward, *([layer.recurrent] if recurrent else []))]
    drives = [bernoulli_spikes(target.nu, (nb_steps, 1, c.fan_in), cell.dt, generator) for c in pair]
    currents = [connection(spikes) for connection, spikes in zip(pair, drives, strict=True)]
    current = torch.stack(currents).sum(0)
    mean, std = over_time(free_membrane(layer, current, cell.dt), cell.transient)
    weights = torch.cat([connection.weight for connection in pair], 1)
    moments = layer_moments(layer, cell.dt, "numerical")
    theory = poisson_membrane(weights, torch.full((weights.shape[1],), target.nu), *moments, cell.dt)
    spiking = run_layer(layer, drives[0], cell.dt, delay=0)
    return LayerResult(
        mean=float(mean.mean()),
        std=root_mean_square(std),
        scatter=float(mean.std()),
        predicted_mean=float(theory.mean.mean()),
        predicted_std=root_mean_square(theory.std),
        predicted_rate=float(crossing_rate(*theory, cell.tau_mem, cell.tau_syn).mean()),
        spiking_std=root_mean_square(over_time(spiking.membrane, cell.transient)[1]),
        rate=float(spiking.spikes[cell.transient :].mean()) / cell.dt,
    )


def grid_table(run: RunRecord) -> str:
    """Measured deviations of a run by input rate and recurrence, as Markdown: mean and range over targets and draws."""
    columns, dt = run.metrics, float(run.get("time_step"))
    head = "inputs (Hz) | recurrence | layers | measured / asked for | sqrt(1 - nu dt) | measured / predicted"
    lines = [f"| {head} |", "|---" * 6 + "|"]
    ratio, theory = columns["std"] / columns["sigma_u"], columns["std"] / columns["predicted_std"]
    for nu, recurrent in product(np.unique(columns["nu"]), (False, True)):
        here = (columns["nu"] == nu) & (np.isnan(columns["alpha"]) != recurrent)
        ranges = [f"{x.mean():.3f} ({x.min():.3f} to {x.max():.3f})" for x in (ratio[here], theory[here])]
        binary = f"{math.sqrt(1 - nu * dt):.3f}"
        cells = (f"{nu:g}", "yes" if recurrent else "no", str(here.sum()), ranges[0], binary, ranges[1])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# ---------------------------------------------------------------- a stack of layers
class StackResult(NamedTuple):
    """Every layer of a network, (layers, units) or (layers,), bottom to top.

    mean, std: of the free membrane, driven by the spikes that do arrive. spiking_mean, spiking_std: with the reset.
    predicted_std: theory for the rates that do arrive, as if independent. rate: Hz.
    weight_gradient: norm of dL/dW over all weights of a layer, the readout's last (layers + 1,).
    current_gradient: root mean square of dL/dI[t] over samples and neurons, (layers, T).
    """

    mean: np.ndarray
    std: np.ndarray
    spiking_mean: np.ndarray
    spiking_std: np.ndarray
    predicted_std: np.ndarray
    rate: np.ndarray
    weight_gradient: np.ndarray
    current_gradient: np.ndarray


def measure_stack(network: Network, spikes: Tensor, labels: Tensor, transient: int = 0) -> StackResult:
    """Run a network of equally wide dense layers on ``spikes`` and differentiate its loss (maximum over time).

    Args:
        network: equally wide dense layers and a readout.
        spikes: (T, B, inputs).
        labels: (B,).
        transient: steps that averages over time leave out.
    """
    below, currents, columns, dt = spikes, [], [], network.dt
    for k, layer in enumerate(network.layers):
        trace = run_layer(layer, below, dt, network.delay, k)
        trace.current.retain_grad()
        currents.append(trace.current)
        columns.append(_columns(layer, below.detach(), trace, dt, transient))
        below = trace.spikes
    readout = known("a readout", network.readout)
    current = readout.feedforward(delayed(below, network.delay))
    a, b = readout.tau_syn.decay(dt), readout.tau_mem.decay(dt)
    y, _ = dispatch.readout(current, a, b, unit_gain=readout.unit_gain, u0=readout.u0)
    build_loss("mot_ce")(y, labels).backward()
    gradients = [known("dL/dI", current.grad) for current in currents]
    over_steps = [gradient.square().mean((1, 2)).sqrt().numpy() for gradient in gradients]
    arrays = [np.stack([column.numpy() for column in layers]) for layers in zip(*columns, strict=True)]
    mean, std, spiking_mean, spiking_std, predicted_std, rate = arrays
    return StackResult(
        mean=mean,
        std=std,
        spiking_mean=spiking_mean,
        spiking_std=spiking_std,
        predicted_std=predicted_std,
        rate=rate,
        weight_gradient=np.array([_gradient_norm(layer) for layer in network.stack]),
        current_gradient=np.stack(over_steps),
    )


@torch.no_grad()
def _columns(layer: SpikingLayer, below: Tensor, trace: Trace, dt: float, transient: int) -> tuple[Tensor, ...]:
    """What `StackResult` says of the membranes and rates of one layer."""
    connections, sources = [initialised(layer.feedforward)], [below]
    if layer.recurrent is not None:
        connections, sources = [*connections, initialised(layer.recurrent)], [*sources, trace.spikes]
    weights = torch.cat([connection.weight for connection in connections], 1)
    rates = torch.cat([source[transient:].mean((0, 1)) / dt for source in sources])
    theory = poisson_membrane(weights, rates, *layer_moments(layer, dt, "numerical"), dt)
    free = over_time(free_membrane(layer, trace.total_current, dt), transient)
    return *free, *over_time(trace.membrane, transient), theory.std, trace.spikes[transient:].mean((0, 1)) / dt


def _gradient_norm(layer: SpikingLayer | Readout) -> float:
    connections = (layer.feedforward, layer.recurrent if isinstance(layer, SpikingLayer) else None)
    gradients = [p.grad for c in connections if c is not None for p in c.parameters() if p.grad is not None]
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients))


def by_layer(result: StackResult) -> dict[str, np.ndarray]:
    """One number per layer: root mean squares of deviations, means of the others; gradient norms as they are."""

    def rms(x: np.ndarray) -> np.ndarray:
        return np.sqrt((x**2).mean(1))

    deviations = {name: rms(getattr(result, name)) for name in ("std", "spiking_std", "predicted_std")}
    means = {name: getattr(result, name).mean(1) for name in ("mean", "spiking_mean", "rate")}
    return {**deviations, **means, "scatter": result.mean.std(1), "weight_gradient": result.weight_gradient}


# ---------------------------------------------------------------- from the rate of one layer to that of the next
@torch.no_grad()
def transfer(
    rates: Sequence[float],
    sigma_u: float,
    nu: float,
    cell: Cell,
    generator: torch.Generator,
    *,
    nb_inputs: int,
    nb_units: int,
    nb_steps: int,
) -> np.ndarray:
    """Mean rate (Hz) of a layer initialised for inputs of rate ``nu``, at each rate that its inputs may really have.

    Where this lies below the diagonal a layer emits fewer spikes than it gets, and a stack of them falls silent.

    Args:
        rates: of the inputs, Hz.
        sigma_u: target deviation.
        nu: rate for which the weights are scaled, Hz.
        cell: constants of the neurons.
        generator: of weights and spikes.
        nb_inputs: number of inputs.
        nb_units: number of neurons.
        nb_steps: of the measurement.
    """
    layer = cell.layer(nb_inputs, nb_units, recurrent=False)
    FluctuationDrivenCentered(sigma_u, nu, time_step=cell.dt)(layer, generator)
    found = []
    for rate in rates:
        spikes = bernoulli_spikes(rate, (nb_steps, 1, nb_inputs), cell.dt, generator)
        found.append(float(run_layer(layer, spikes, cell.dt).spikes[cell.transient :].mean()) / cell.dt)
    return np.array(found)


# ---------------------------------------------------------------- time steps
class StepResult(NamedTuple):
    """Neurons driven by white Gaussian current on a grid of ``dt``: rate in Hz, deviation of the free membrane."""

    rate: float
    std: float


@torch.no_grad()
def measure_step(
    mu_u: float, sigma_u: float, cell: Cell, generator: torch.Generator, *, nb_units: int, duration: float
) -> StepResult:
    """Drive independent neurons so that their free membranes have exactly the moments asked for, and count spikes.

    Args:
        mu_u: mean of the free membrane.
        sigma_u: its deviation.
        cell: constants of the neurons.
        generator: of the noise.
        nb_units: number of neurons.
        duration: of each, s.
    """
    eps_bar, eps_hat = (float(m) for m in kernel_moments(cell.tau_mem, cell.tau_syn, cell.dt))
    nb_steps = round(duration / cell.dt)
    noise = torch.randn(nb_steps, 1, nb_units, generator=generator)
    current = mu_u * cell.dt / eps_bar + sigma_u * math.sqrt(cell.dt / eps_hat) * noise
    a, b = (torch.tensor(math.exp(-cell.dt / tau)) for tau in (cell.tau_syn, cell.tau_mem))
    spikes, _, _ = dispatch.lif(current, a, b, LIF())
    u, _ = dispatch.readout(current, a, b)
    rate = float(spikes[cell.transient :].mean()) / cell.dt
    return StepResult(rate, root_mean_square(over_time(u, cell.transient)[1]))


# ---------------------------------------------------------------- real inputs and their surrogates
def shuffled(spikes: Tensor, generator: torch.Generator) -> Tensor:
    """The same number of spikes of every unit and sample, at random times: without correlations. (T, B, units)."""
    order = torch.rand(spikes.shape, generator=generator).argsort(0)
    return spikes.gather(0, order)


def stacks(
    initializers: Mapping[str, Initializer],
    make: Callable[[], Network],
    seeds: Sequence[int],
    spikes: Tensor,
    labels: Tensor,
    transient: int = 0,
    keep: Keep = compute_now,
) -> dict[str, list[StackResult]]:
    """`measure_stack` for every initialiser and seed of the weights; without those that an initialiser refuses.

    Args:
        initializers: initialisers by name.
        make: what makes a network.
        seeds: of the weights.
        spikes: (T, B, inputs).
        labels: (B,).
        transient: steps left out.
    """
    found: dict[str, list[StackResult]] = {name: [] for name in initializers}
    for (name, initialize), seed in product(initializers.items(), seeds):
        result = keep(f"{name}, seed {seed}", partial(_stack, make, initialize, seed, spikes, labels, transient))
        if isinstance(result, str):
            log.info("%s, seed %d: %s", name, seed, result)
        else:
            found[name].append(result)
    return found


def _stack(
    make: Callable[[], Network], initialize: Initializer, seed: int, spikes: Tensor, labels: Tensor, transient: int
) -> StackResult | str:
    """Of one initialiser and seed; what it says if it refuses."""
    network = make()
    try:
        initialize(network, torch.Generator().manual_seed(seed))
    except UserError as error:
        return str(error)
    return measure_stack(network, spikes, labels, transient)
