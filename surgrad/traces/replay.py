"""Replay of golden traces: what a published implementation computed, computed again by this library and compared.

A trace is recognised by its content, not by its name. Every kind of `KINDS` compares spikes one by one and every other
array by its largest error relative to its largest entry. A spike that differs where |u - 1| < 1e-6 is rounding, which
no implementation can reproduce: it is counted, its membrane is nudged across the threshold by as little, and the replay
goes on from there, so that everything after it can still be compared.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surgrad.datasets.sources.randman import Randman
from surgrad.errors import UserError
from surgrad.experiments.spike_train_matching.rules import Episode, three_factor
from surgrad.experiments.spike_train_matching.task import Activity, Neurons, SpikeMode, Task, Weights, build_surrogate
from surgrad.kernels import dispatch, reference
from surgrad.kernels.cpu.build import library
from surgrad.kernels.philox import NoiseKey
from surgrad.network.connections import Conv, Dense
from surgrad.network.initializers import kernel_moments
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.neurons.lif import LIF, LIFState, lif_step
from surgrad.neurons.surrogate import (
    AsymptoticSuperSpike,
    Esser,
    ScaledSigmoidPrime,
    SigmoidPrime,
    SuperSpike,
    Surrogate,
)
from surgrad.traces.golden import (
    Decay,
    Layer,
    Report,
    Trace,
    cross,
    first_line,
    near_threshold,
    read_trace,
    relative_error,
    settle,
)
from surgrad.training.losses import MaxOverTimeCrossEntropy, double_exponential_kernel
from surgrad.training.optimizers import SMORMS3
from surgrad.training.regularizers import build_regularizer, penalty

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
TOLERANCE = {"float32": 1e-4, "float64": 1e-6}
SURROGATES: dict[str, Callable[[float], Surrogate]] = {
    "superspike": SuperSpike,
    "sigmoid": SigmoidPrime,
    "scaled_sigmoid": ScaledSigmoidPrime,
    "asymptotic_superspike": AsymptoticSuperSpike,
    "esser": Esser,
}


def _decay(dt: float, tau: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.tensor(np.exp(-np.float64(dt) / np.asarray(tau, np.float64)), dtype=dtype)


def _surrogate(name: str, beta: float) -> Surrogate:
    if name not in SURROGATES:
        raise UserError(f"surrogate {name!r} is unknown; allowed: {', '.join(SURROGATES)}")
    return SURROGATES[name](beta)


# ---------------------------------------------------------------- one layer driven by a current
def replay_lif(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """Spikes, i[t+1], u[t+1] and d(sum c s)/dI of one layer. States are carried from step to step."""
    report, scan = Report("lif"), partial(dispatch.lif, kernel=kernel, return_membrane=True)
    current = torch.tensor(trace["current"], dtype=dtype, requires_grad=True)
    decay = Decay(*(_decay(trace["dt"], trace[tau], dtype) for tau in ("tau_syn", "tau_mem")))
    surrogate = _surrogate(str(trace["surrogate"]), float(trace["beta"]))
    reset = str(trace.get("reset", "multiplicative"))
    neuron = LIF(surrogate, reset=reset, diff_reset=bool(trace["diff_reset"]))
    golden = torch.tensor(trace["spikes"], dtype=dtype)
    nudged = current

    def run(nudges: Sequence[Tensor]) -> list[Layer]:
        nonlocal nudged
        nudged = current + nudges[0]
        return [Layer(*scan(nudged, *decay, neuron)[:2])]

    (layer,), report.spike_mismatches, report.near_threshold_flips = settle(run, [decay], [golden])
    (layer.spikes * torch.tensor(trace["cotangent"], dtype=dtype)).sum().backward()
    report.compare("grad_current", current.grad, trace["grad_current"])
    state, states = LIFState(torch.zeros_like(nudged[0]), torch.zeros_like(nudged[0])), []
    with torch.no_grad():
        for t in range(len(nudged)):
            _, _, state = scan(nudged[t : t + 1], *decay, neuron, state=state)
            states.append(state)
    report.compare("membrane", torch.stack([s.u for s in states]), trace["membrane"])
    report.compare("synapse", torch.stack([s.i for s in states]), trace["synapse"])
    return report


# ---------------------------------------------------------------- whole networks
def _unpack(packed: np.ndarray, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Packed bits of (B, T, ...) -> (T, B, ...)."""
    shape = [int(n) for n in shape]
    bits = np.unpackbits(packed.reshape(shape[0], -1), axis=1, count=math.prod(shape[1:])).reshape(shape)
    return torch.tensor(bits, dtype=dtype).transpose(0, 1).contiguous()


def _exact_tau(tau: float, dtype: torch.dtype) -> TimeConstant:
    constant = TimeConstant(tau).to(dtype)
    constant.log_tau.data.fill_(math.log(tau))
    return constant


def _weight_names(trace: Trace) -> list[str]:
    """w0_ff, w1_rec, ... in order of layers."""
    names = [k for k in trace if k.startswith("w") and k.endswith(("_ff", "_rec")) and k[1:].split("_")[0].isdigit()]
    return sorted(names, key=lambda k: int(k[1:].split("_")[0]))


def _connection(weight: np.ndarray, in_shape: Sequence[int], stride: int = 1, padding: int = 0) -> Dense | Conv:
    if weight.ndim == 2:
        return Dense(in_shape, weight.shape[0])
    return Conv(in_shape, weight.shape[0], weight.shape[2:], stride, padding)


def _build_network(trace: Trace, meta: dict, in_shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Network, dict]:
    """The network of a trace, with its weights, and its parameters by their name in the trace."""
    names = _weight_names(trace)
    beta, tau_mem, tau_syn = float(meta["beta"]), float(meta["tau_mem"]), float(meta["tau_syn"])
    neuron = LIF(
        _surrogate(meta["surrogate"], beta),
        reset=meta.get("reset", "multiplicative"),
        diff_reset=bool(meta.get("diff_reset", False)),
    )
    layers: list[SpikingLayer] = []
    connections: dict[str, Dense | Conv] = {}
    below = in_shape
    for k, name in enumerate(names[:-1]):
        if name.endswith("_rec"):
            continue
        number = len(layers)
        stride = meta.get("stride", {number: 1})[number] if trace[name].ndim > 2 else 1
        forward = connections[name] = _connection(trace[name], below, stride, _entry(meta.get("padding", 0), number))
        recurrent = None
        if names[k + 1].endswith("_rec"):
            padding = _entry(meta.get("rec_padding", 0), number)
            recurrent = connections[names[k + 1]] = _connection(trace[names[k + 1]], forward.out_shape, 1, padding)
        layers.append(SpikingLayer(forward, neuron, tau_mem, tau_syn, recurrent))
        below = forward.out_shape
    connections[names[-1]] = Dense(below, trace[names[-1]].shape[0])
    readout = Readout(connections[names[-1]], float(meta["tau_readout"]), tau_syn)
    network = Network(layers, readout, float(trace["dt"])).to(dtype)
    for layer in [*layers, readout]:
        layer.tau_syn = _exact_tau(tau_syn, dtype)
        layer.tau_mem = _exact_tau(float(meta["tau_readout"]) if layer is readout else tau_mem, dtype)
    parameters = {name: connections[name].weight for name in names}
    _load(parameters, {name: trace[name] for name in names})
    return network, parameters


def _entry(value: Any, index: int) -> int:
    return value[index] if isinstance(value, list) else value


@torch.no_grad()
def _load(parameters: dict[str, Tensor], values: Mapping[str, np.ndarray]) -> None:
    for name, parameter in parameters.items():
        if tuple(values[name].shape) != tuple(parameter.shape):
            raise ValueError(f"{name} has shape {values[name].shape}, expected {tuple(parameter.shape)}")
        parameter.copy_(torch.tensor(values[name]))


def _regularizers(meta: dict) -> list:
    return [
        build_regularizer(
            f"{bound.capitalize()}BoundL2",
            strength=float(meta[f"reg_{bound}_strength"]),
            threshold=float(meta[f"reg_{bound}_threshold"]),
            dims=meta[f"reg_{bound}_dims"],
        )
        for bound in ("upper", "lower")
        if f"reg_{bound}_strength" in meta
    ]


def _decays(network: Network) -> list[Decay]:
    return [Decay(layer.tau_syn.decay(network.dt), layer.tau_mem.decay(network.dt)) for layer in network.layers]


def _layer_by_layer(network: Network, x: Tensor, nudges: Sequence[Tensor]) -> tuple[list[Layer], Tensor]:
    """`Network.forward` by the reference kernel, with currents added to each layer; layers and readout."""
    layers, below = [], x
    for layer, decay, nudge in zip(network.layers, _decays(network), nudges, strict=True):
        current = layer.feedforward(reference.delayed(below, network.delay)) + nudge
        layers.append(Layer(*reference.lif(current, *decay, layer.neuron, recurrence=layer.recurrent)[:2]))
        below = layers[-1].spikes
    out = network.readout
    current = out.feedforward(reference.delayed(below, network.delay))
    y, _ = reference.readout(current, out.tau_syn.decay(network.dt), out.tau_mem.decay(network.dt), u0=out.u0)
    return layers, y


def replay_network(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """Spikes, readout, losses, gradients, weights after one SMORMS3 step and the loss with them."""
    meta = json.loads(str(trace["meta"]))
    report = Report(meta["architecture"])
    x = _unpack(trace["X"], trace["X_shape"], dtype)
    if meta["architecture"] == "conv" and x.dim() == 3:
        x = x[:, :, None]
    network, parameters = _build_network(trace, meta, tuple(x.shape[2:]), dtype)
    shapes = [trace[f"spike_shape{k}"] for k in range(len(network.layers))]
    golden = [_unpack(trace[f"spikes{k}"], shape, dtype) for k, shape in enumerate(shapes)]
    labels, loss_of = torch.tensor(trace["y"], dtype=torch.int64), MaxOverTimeCrossEntropy()

    output = network(x, kernel=kernel, record=True)
    readout, counts = output.readout, output.counts
    if not all(torch.equal(s.to(g.dtype), g) for s, g in zip(output.spikes, golden, strict=True)):

        def run(nudges: Sequence[Tensor]) -> list[Layer]:
            nonlocal readout
            layers, readout = _layer_by_layer(network, x, nudges)
            return layers

        layers, report.spike_mismatches, report.near_threshold_flips = settle(run, _decays(network), golden)
        counts = [layer.spikes.sum(0) for layer in layers]
    loss, regularization = loss_of(readout, labels), penalty(_regularizers(meta), counts)
    (loss + regularization).backward()
    report.compare("readout", readout.transpose(0, 1), trace["readout"])
    report.compare("out_loss", loss, trace["out_loss"])
    report.compare("reg_loss", regularization, trace["reg_loss"])
    for name, parameter in parameters.items():
        report.compare(f"grad_{name}", parameter.grad, trace[f"grad_{name}"])
    _replay_updates(report, trace, parameters, meta)
    _load(parameters, {name: trace[f"after1_{name}"] for name in parameters})
    _replay_second_step(report, float(trace["step2_out_loss"]), network, x, lambda y: loss_of(y, labels), kernel)
    return report


def _replay_updates(report: Report, trace: Trace, parameters: dict[str, Tensor], meta: dict) -> None:
    """One SMORMS3 step: on the stored gradients, for all weights, and on ours, where the gradient's sign is resolved.

    The first step of SMORMS3 is lr sqrt(2) sign(grad): a gradient that is rounding noise moves its weight either way.
    """
    lr = float(meta.get("lr", 0.01))
    stored = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    for name, p in stored.items():
        p.grad = torch.tensor(trace[f"grad_{name}"], dtype=p.dtype)
    SMORMS3(stored.values(), lr=lr).step()
    SMORMS3(parameters.values(), lr=lr).step()
    noise = 0
    for name, p in parameters.items():
        golden, g = trace[f"after1_{name}"], np.abs(trace[f"grad_{name}"])
        report.compare(f"smorms3_{name}", stored[name], golden)
        ours = p.detach().numpy().astype(np.float64)
        unresolved = (g <= 1e-4 * g.max(initial=0.0)) & (g > 0)
        noise += int((np.abs(ours - golden) > 1e-4 * np.abs(golden).max(initial=0.0))[unresolved].sum())
        report.compare(f"after1_{name}", np.where(unresolved, golden, ours), golden)
    report.notes["updates_decided_by_rounding"] = noise


@torch.no_grad()
def _replay_second_step(report: Report, golden: float, network: Network, x: Tensor, loss_of, kernel: str) -> None:
    """The loss after the step. Its spikes are not stored, so a decision left open by rounding is tried both ways."""

    def agrees(loss: Tensor) -> bool:
        return abs(float(loss) - golden) <= TOLERANCE["float32"] / 10 * abs(golden)

    ours = loss_of(network(x, kernel=kernel).readout)
    if not agrees(ours):
        for readout in _readouts_within_rounding(network, x):
            other = loss_of(readout)
            if agrees(other):
                ours, report.near_threshold_flips = other, report.near_threshold_flips + 1
                break
    report.compare("step2_out_loss", ours, golden)


def _readouts_within_rounding(network: Network, x: Tensor) -> Iterator[Tensor]:
    """Readout by the reference kernel, and with each of up to 16 decisions near threshold the other way."""
    zeros = [torch.zeros((*x.shape[:2], *layer.unit_shape), dtype=x.dtype) for layer in network.layers]
    layers, readout = _layer_by_layer(network, x, zeros)
    yield readout
    near = [(k, s) for k, layer in enumerate(layers) for s in near_threshold(layer).nonzero()]
    for k, site in near[:16]:
        nudges = [z.clone() for z in zeros]
        mask = torch.zeros_like(zeros[k], dtype=torch.bool)
        mask[tuple(site)] = True
        cross(nudges[k], mask, layers[k], _decays(network)[k])
        yield _layer_by_layer(network, x, nudges)[1]


# ---------------------------------------------------------------- spike-train matching
def replay_matching(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """Traces, update and distances given the stored spikes; spikes and membranes where they are deterministic."""
    report, scan = Report("stm"), partial(dispatch.lif, kernel=kernel, return_membrane=True)
    neurons = Neurons(
        *(float(trace[k]) for k in ("dt", "tau_mem", "tau_syn", "theta", "eps0", "delta_uo")),
        reset="multiplicative" if trace["reset_mode"] else "multiplicative_leak",
    )
    x, z = (torch.tensor(trace[k], dtype=dtype)[:, None] for k in ("x", "target"))
    weights = Weights(*(torch.tensor(trace[k], dtype=dtype) for k in ("w_hidden", "w_output")))
    names = ("spikes_hidden", "mem_hidden", "spikes_output", "mem_output")
    activity = Activity(*(torch.tensor(trace[k], dtype=dtype)[:, None, None] for k in names))
    task, surrogate = Task(x, z, neurons), build_surrogate(str(trace["method"]), float(trace["beta_hidden"]))
    decay = Decay(task.a, task.b)

    for layer, (given, current) in {
        "hidden": (activity.spikes_hidden, x @ weights.hidden),
        "output": (activity.spikes_output, activity.spikes_hidden[:, 0] @ weights.output),
    }.items():
        membrane = _membrane_given_spikes(current / neurons.theta, given[:, 0], decay, neurons.reset) * neurons.theta
        report.compare(f"mem_{layer}", membrane[:, 0], trace[f"mem_{layer}"])
    report.compare("filtered_input", task.psp_input[:, 0], trace["filtered_input"])
    report.compare("filtered_hidden", task.psp(activity.spikes_hidden)[:, 0, 0], trace["filtered_hidden"])
    kernel_eps = double_exponential_kernel(len(x), neurons.dt, neurons.tau_mem, neurons.tau_syn, neurons.eps0, dtype)
    report.compare("epsilon", kernel_eps, trace["epsilon"])
    slope = task.surrogate_hidden(activity, surrogate)
    report.compare("surrogate_hidden", slope[:, 0, 0], trace["surrogate_hidden"])
    update = three_factor(Episode(task, weights, activity, SpikeMode(), NoiseKey(), surrogate))
    report.compare("dw_hidden", update.hidden, trace["dw_hidden"])
    report.compare("dw_output", update.output, trace["dw_output"])
    report.compare("van_rossum", task.van_rossum(activity.spikes_output)[0, 0], trace["van_rossum"])
    report.compare("l2", task.l2(activity.spikes_output)[0, 0], trace["l2"])

    report.notes["spikes_given"] = bool(trace["stochastic"])
    if not trace["stochastic"]:
        neuron = LIF(reset=neurons.reset)

        def run(nudges: Sequence[Tensor]) -> list[Layer]:
            hidden = Layer(*scan(x @ weights.hidden / neurons.theta + nudges[0], *decay, neuron)[:2])
            current = hidden.spikes @ weights.output / neurons.theta + nudges[1]
            return [hidden, Layer(*scan(current, *decay, neuron)[:2])]

        golden = [activity.spikes_hidden[:, 0], activity.spikes_output[:, 0]]
        layers, report.spike_mismatches, report.near_threshold_flips = settle(run, [decay, decay], golden)
        for name, layer in zip(("mem_hidden", "mem_output"), layers, strict=True):
            report.compare(name, layer.membranes[:, 0] * neurons.theta, trace[name])
    return report


def _membrane_given_spikes(current: Tensor, spikes: Tensor, decay: Decay, reset: str) -> Tensor:
    """u[t] of a layer whose spikes are known, (T, B, N)."""
    state, membranes = LIFState(torch.zeros_like(current[0]), torch.zeros_like(current[0])), []
    for drive, s in zip(current, spikes, strict=True):
        membranes.append(state.u)
        state = lif_step(state, drive, s, *decay, LIF(reset=reset))
    return torch.stack(membranes)


# ---------------------------------------------------------------- data and constants
def replay_randman(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """Spike times, units and labels, sample by sample; each difference counts as a spike mismatch."""
    arrays = Randman(**json.loads(str(trace["params"]))).steps()
    golden = (trace["times"], trace["units"], trace["labels"])
    for ours, stored in zip(arrays, golden, strict=True):
        if ours.shape != stored.shape:
            raise ValueError(f"stored array of shape {stored.shape}, replayed {ours.shape}")
    return Report("randman", sum(int((a != b).sum()) for a, b in zip(arrays, golden, strict=True)))


def replay_moments(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """eps_bar and eps_hat of each entry."""
    report = Report("moments")
    for case in trace["cases"]:
        moments = kernel_moments(float(case["tau_mem"]), float(case["tau_syn"]), float(case["dt"]), case["mode"])
        for name, ours in zip(("eps_bar", "eps_hat"), moments, strict=True):
            report.compare(name, ours, float(case[name]))
    return report


def replay_spikes(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """Input and target alone: nothing to compute; both must be 0/1 and of one length."""
    x, target = trace["x"], trace["target"]
    if x.ndim != 2 or target.ndim != 2 or len(x) != len(target) or not np.isin(np.unique(x), (0, 1)).all():
        raise ValueError(f"x {x.shape} and target {target.shape} must be 0/1 of shape (T, units) with the same T")
    return Report("spikes", notes={"compared": "nothing: input and target without results"})


# ---------------------------------------------------------------- kinds and files
class Kind(NamedTuple):
    """How a kind of trace is recognised and replayed."""

    keys: frozenset[str]
    replay: Callable[[Trace, torch.dtype, str], Report]


KINDS: dict[str, Kind] = {
    "lif": Kind(frozenset({"current", "cotangent", "spikes", "membrane", "synapse", "grad_current"}), replay_lif),
    "network": Kind(frozenset({"X", "X_shape", "y", "dt", "meta", "readout", "out_loss"}), replay_network),
    "stm": Kind(frozenset({"x", "target", "w_hidden", "w_output", "dw_hidden"}), replay_matching),
    "randman": Kind(frozenset({"times", "units", "labels", "params"}), replay_randman),
    "moments": Kind(frozenset({"cases"}), replay_moments),
    "spikes": Kind(frozenset({"x", "target"}), replay_spikes),
}


def _tolerances(report: Report, single: Report | None) -> dict[str, float]:
    """Largest error allowed of each quantity.

    1e-4 in float32; 1e-6 in float64, where the trace allows it. Traces were computed in float32, with rounding errors
    of the size of ours: up to ten times the difference between our float32 and float64 replays, the largest among
    quantities of one sort (all gradients, all membranes), is taken as theirs.
    """
    if single is None:
        return dict.fromkeys(report.values, TOLERANCE["float32"])
    rounding: dict[str, float] = {}
    for name, ours in report.values.items():
        sort = name.split("_")[0]
        rounding[sort] = max(rounding.get(sort, 0.0), relative_error(single.values[name], ours))
    low, high = TOLERANCE["float64"], TOLERANCE["float32"]
    return {name: min(max(10 * rounding[name.split("_")[0]], low), high) for name in report.values}


def replay(path: str | Path, precision: str = "float32", kernel: str = "auto") -> dict[str, Any]:
    """Replay one trace.

    Args:
        path: of the trace, .npz or .json.
        precision: "float32" or "float64".
        kernel: "auto", "reference" or "cpu".

    Returns:
        file, kind, precision, spike_mismatches, near_threshold_flips, max_rel_error, pass; in float64 also the
        tolerances above 1e-6; and notes.

    Raises:
        UserError: for a file that cannot be read, is of no known kind, or does not fit together.
    """
    if kernel == "cpu" and precision != "float32":
        raise UserError(f"kernel=cpu computes in float32, not {precision}; use kernel=auto or kernel=reference")
    if kernel == "cpu" and library() is None:
        raise UserError("kernel=cpu could not be built (see the warning); use kernel=auto or kernel=reference")
    path = Path(path)
    trace = read_trace(path)
    name = next((name for name, kind in KINDS.items() if kind.keys <= trace.keys()), None)
    if name is None:
        raise UserError(f"{path}: holds {', '.join(sorted(trace))[:200]}; not a trace of kind {', '.join(KINDS)}")
    try:
        report = KINDS[name].replay(trace, PRECISIONS[precision], kernel)
        single = KINDS[name].replay(trace, torch.float32, "reference") if precision == "float64" else None
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except KeyError as error:
        raise UserError(f"{path}: the trace of kind {name} lacks {error}") from error
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise UserError(f"{path}: the trace of kind {name} does not fit together: {first_line(error)}") from error
    tolerances = _tolerances(report, single)
    line = {
        "file": str(path),
        "kind": report.kind,
        "precision": precision,
        "spike_mismatches": report.spike_mismatches,
        "near_threshold_flips": report.near_threshold_flips,
        "max_rel_error": {key: _rounded(error) for key, error in report.max_rel_error.items()},
        "pass": report.spike_mismatches == 0
        and all(error <= tolerances[key] for key, error in report.max_rel_error.items()),
    }
    raised = {key: _rounded(t) for key, t in tolerances.items() if t > TOLERANCE[precision]}
    return line | ({"tolerance": raised} if raised else {}) | report.notes


def _rounded(error: float) -> float | None:
    """Three digits; None, which JSON can say, for what is not finite."""
    return float(f"{error:.3g}") if math.isfinite(error) else None
