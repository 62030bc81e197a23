"""Replay of whole networks: one training step of a published implementation, and the loss after it."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgrad.errors import known
from surgrad.kernels import reference
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.neurons.lif import LIF
from surgrad.traces.golden import (
    TOLERANCE,
    Decay,
    Layer,
    Report,
    Trace,
    cross,
    layer_of,
    near_threshold,
    settle,
    surrogate_of,
)
from surgrad.training.losses import MaxOverTimeCrossEntropy
from surgrad.training.optimizers import SMORMS3
from surgrad.training.regularizers import ActivityRegularizer, build_regularizer, penalty


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


def _build_network(
    trace: Trace, meta: dict[str, Any], in_shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[Network, dict[str, Tensor]]:
    """The network of a trace, with its weights, and its parameters by their name in the trace."""
    names = _weight_names(trace)
    beta, tau_mem, tau_syn = float(meta["beta"]), float(meta["tau_mem"]), float(meta["tau_syn"])
    neuron = LIF(
        surrogate_of(meta["surrogate"], beta),
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
    parameters: dict[str, Tensor] = {name: connections[name].weight for name in names}
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


def _regularizers(meta: dict[str, Any]) -> list[ActivityRegularizer]:
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
        current = known("a connection", layer.feedforward)(reference.delayed(below, network.delay)) + nudge
        scanned = reference.lif(current, decay.a, decay.b, layer.neuron, recurrence=layer.recurrent)
        layers.append(layer_of(scanned))
        below = layers[-1].spikes
    out = known("a readout", network.readout)
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
    readout, counts = output.y, output.counts
    if not all(torch.equal(s.to(g.dtype), g) for s, g in zip(output.recorded, golden, strict=True)):

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
        report.compare(f"grad_{name}", known("the gradient", parameter.grad), trace[f"grad_{name}"])
    _replay_updates(report, trace, parameters, meta)
    _load(parameters, {name: trace[f"after1_{name}"] for name in parameters})
    _replay_second_step(report, float(trace["step2_out_loss"]), network, x, lambda y: loss_of(y, labels), kernel)
    return report


def _replay_updates(report: Report, trace: Trace, parameters: dict[str, Tensor], meta: dict[str, Any]) -> None:
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
def _replay_second_step(
    report: Report, golden: float, network: Network, x: Tensor, loss_of: Callable[[Tensor], Tensor], kernel: str
) -> None:
    """The loss after the step. Its spikes are not stored, so a decision left open by rounding is tried both ways."""

    def agrees(loss: Tensor) -> bool:
        return abs(float(loss) - golden) <= TOLERANCE["float32"] / 10 * abs(golden)

    ours = loss_of(network(x, kernel=kernel).y)
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
