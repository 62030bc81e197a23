"""Exact, surrogate and online gradients of one small network, side by side: directions, magnitudes, cost, memory.

Poisson input drives a hidden and an output layer of LIF neurons; the loss is the van Rossum distance of the output to
given spike times, with the membrane's own kernel,

    L = 1/2 int sum_o (alpha * (target_o - spike_o))^2 dt.

EventProp differentiates it through spike times, without a grid. Backpropagation through time differentiates the same
network on a grid with a surrogate for the spike, SuperSpike runs forward with eligibility traces.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from surgrad.errors import known
from surgrad.eventprop.grid import GridLayer, GridReadout, on_grid
from surgrad.eventprop.layers import EventLayer, EventLIF, EventReadout, Spikes
from surgrad.experiments.spike_train_matching.leaky_filter import LeakyFilter
from surgrad.experiments.superspike.online import SuperSpikeNetwork, SuperSpikeRule
from surgrad.kernels import reference
from surgrad.neurons.lif import LIF
from surgrad.neurons.surrogate import SuperSpike
from surgrad.runs.record import REPO, RunRecord, load_runs

#: Runs that ship with the repository: -m --config-name=surrogate method=eventprop,surrogate seed=0,1,2
REFERENCE_RUNS = REPO / "Classification" / "analysis" / "reference_runs" / "yin_yang"


class Gradient(NamedTuple):
    """Loss, its gradient by hidden (N_in, N_hid) and output (N_hid, N_out) weights, seconds, bytes kept for it."""

    loss: float
    hidden: Tensor
    output: Tensor
    seconds: float
    nb_bytes: int


@dataclass(frozen=True)
class Problem:
    """A network, its input and its target.

    Args:
        sizes: (N_in, N_hid, N_out).
        duration: s.
        dt: time step, s.
        tau_mem: s.
        tau_syn: s.
        rate: of input and target, Hz.
        seed: of weights, input and target.
    """

    sizes: tuple[int, int, int] = (40, 20, 5)
    duration: float = 0.1
    dt: float = 0.1e-3
    tau_mem: float = 10e-3
    tau_syn: float = 5e-3
    rate: float = 20.0
    seed: int = 0

    @property
    def nb_steps(self) -> int:
        return round(self.duration / self.dt)

    @property
    def neuron(self) -> EventLIF:
        return EventLIF(self.tau_mem, self.tau_syn)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Hidden and output weights, float64, positive on average so that both layers fire."""
        generator = torch.Generator().manual_seed(self.seed)
        n_in, n_hid, n_out = self.sizes
        hidden = torch.randn(n_in, n_hid, generator=generator, dtype=torch.float64) + 0.7
        output = torch.randn(n_hid, n_out, generator=generator, dtype=torch.float64) + 0.7
        return hidden * 3 / n_in**0.5, output * 3 / n_hid**0.5

    def _trains(self, nb_units: int, seed: int) -> Spikes:
        """One sample of Poisson spikes on the grid, so that all methods see the same times."""
        generator = torch.Generator().manual_seed(seed)
        spikes = torch.rand(self.nb_steps, nb_units, generator=generator) < self.rate * self.dt
        steps, units = spikes.nonzero(as_tuple=True)
        times = (steps.double() + 1e-6) * self.dt
        return Spikes(times, units.int(), torch.tensor([0, len(times)]))

    def input(self) -> Spikes:
        return self._trains(self.sizes[0], 1000 + self.seed)

    def target(self) -> Spikes:
        return self._trains(self.sizes[2], 2000 + self.seed)


def exact(problem: Problem) -> Gradient:
    """EventProp without a grid; the integral of the loss is a sum over the grid's points."""
    n_in, n_hid, n_out = problem.sizes
    layers = [EventLayer(n, m, problem.neuron, dtype=torch.float64) for n, m in ((n_in, n_hid), (n_hid, n_out))]
    for layer, weight in zip(layers, problem.weights(), strict=True):
        layer.weight.data = weight
    trace = EventReadout(n_out, n_out, problem.neuron, torch.float64)
    trace.weight = torch.nn.Parameter(torch.eye(n_out, dtype=torch.float64), requires_grad=False)
    at = torch.arange(problem.nb_steps, dtype=torch.float64) * problem.dt
    started = time.perf_counter()
    hidden = layers[0](problem.input(), problem.duration)
    output = layers[1](hidden, problem.duration)
    distance = trace.voltage(problem.target(), at) - trace.voltage(output, at)
    loss = 0.5 * distance.square().sum() * problem.dt
    loss.backward()
    seconds = time.perf_counter() - started
    kept = 24 * (
        len(problem.input().times) + len(hidden.times) + len(output.times)
    )  # times, units, currents, intervals
    return Gradient(float(loss.detach()), *_gradients(layers[0].weight, layers[1].weight), seconds, kept)


def _gradients(hidden: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    return known("the gradient by the hidden weights", hidden.grad), known("by the output weights", output.grad)


def stepped(problem: Problem) -> Gradient:
    """EventProp on the grid."""
    n_in, n_hid, n_out = problem.sizes
    pairs = ((n_in, n_hid), (n_hid, n_out))
    layers = [GridLayer(n, m, problem.neuron, problem.dt, dtype=torch.float64) for n, m in pairs]
    for layer, weight in zip(layers, problem.weights(), strict=True):
        layer.weight.data = weight
    trace = GridReadout(n_out, n_out, problem.neuron, problem.dt, torch.float64)
    trace.weight = torch.nn.Parameter(torch.eye(n_out, dtype=torch.float64), requires_grad=False)
    kept = _Kept()
    x, z = (
        on_grid(s, n, problem.nb_steps, problem.dt) for s, n in ((problem.input(), n_in), (problem.target(), n_out))
    )
    started = time.perf_counter()
    with kept:
        hidden = layers[0](x)
        output = layers[1](hidden)
        loss = 0.5 * (trace(z) - trace(output)).square().sum() * problem.dt
    nb_bytes = kept.nb_bytes + sum(s.grad_fn.spikes.nb_bytes for s in (hidden, output))
    loss.backward()
    seconds = time.perf_counter() - started
    return Gradient(float(loss.detach()), *_gradients(layers[0].weight, layers[1].weight), seconds, nb_bytes)


def surrogate(problem: Problem, beta: float = 10.0) -> Gradient:
    """Backpropagation through time with the SuperSpike surrogate of slope ``beta``, resets detached."""
    n_in, _, n_out = problem.sizes
    rule = SuperSpikeRule(dt=problem.dt, tau_mem=problem.tau_mem, tau_syn=problem.tau_syn)
    a, b = rule.decay(problem.tau_syn), rule.decay(problem.tau_mem)
    hidden, output = (w.requires_grad_() for w in problem.weights())
    x, z = (
        on_grid(s, n, problem.nb_steps, problem.dt) for s, n in ((problem.input(), n_in), (problem.target(), n_out))
    )
    kept, trace = _Kept(), LeakyFilter(a, b, 1 - b, like=x)
    neuron = LIF(surrogate=SuperSpike(beta), reset="multiplicative_leak")
    decay_a, decay_b = (torch.tensor(v, dtype=x.dtype) for v in (a, b))
    started = time.perf_counter()
    with kept:
        spikes = reference.lif(x @ hidden, decay_a, decay_b, neuron)[0]
        spikes = reference.lif(spikes @ output, decay_a, decay_b, neuron)[0]
        loss = 0.5 * trace(z - spikes).square().sum() * problem.dt
    loss.backward()
    seconds = time.perf_counter() - started
    return Gradient(float(loss.detach()), *_gradients(hidden, output), seconds, kept.nb_bytes)


def online(problem: Problem, beta: float = 10.0) -> Gradient:
    """SuperSpike, forward in time, symmetric feedback; its update with the sign of a gradient."""
    n_in, _, n_out = problem.sizes
    rule = SuperSpikeRule(
        dt=problem.dt,
        tau_mem=problem.tau_mem,
        tau_syn=problem.tau_syn,
        tau_decay=problem.tau_mem,
        tau_rise=problem.tau_syn,
        beta=beta,
        period=2**62,
    )
    hidden, output = problem.weights()
    x, z = (
        on_grid(s, n, problem.nb_steps, problem.dt) for s, n in ((problem.input(), n_in), (problem.target(), n_out))
    )
    network = SuperSpikeNetwork(hidden.T, output.T, rule)
    started = time.perf_counter()
    loss, _, _ = network.run(x[:, 0], z[:, 0])
    seconds = time.perf_counter() - started
    gradients = (-network.hidden.g.T.double() * problem.dt, -network.output.g.T.double() * problem.dt)
    return Gradient(loss * problem.dt, *gradients, seconds, network.nb_bytes)


GRADIENTS = {"EventProp": exact, "EventProp, grid": stepped, "surrogate": surrogate, "SuperSpike online": online}


def trained(where: str | Path | Iterable[str | Path]) -> dict[str, list[RunRecord]]:
    """Finished runs of Yin-Yang with the loss that both methods have, by method; else those of `REFERENCE_RUNS`.

    Args:
        where: as in `load_runs`.
    """
    found: dict[str, list[RunRecord]] = {"eventprop": [], "surrogate": []}
    try:
        runs = load_runs(where)
    except FileNotFoundError:
        runs = []
    for run in runs:
        if run.get("latency") and run.get("loss") == "max_voltage" and run.status == "done":
            found[run.get("method")].append(run)
    return found if all(found.values()) or where == REFERENCE_RUNS else trained(REFERENCE_RUNS)


def cosine(x: Tensor, y: Tensor) -> float:
    """Cosine of the angle between two gradients."""
    return float(torch.cosine_similarity(x.flatten(), y.flatten(), 0))


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of what autograd keeps for its backward pass, every storage once."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}
        super().__init__(self._pack, lambda x: x)

    def _pack(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        return x

    @property
    def nb_bytes(self) -> int:
        return sum(self.storages.values())
