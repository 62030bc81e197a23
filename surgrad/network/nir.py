"""Networks written in the Neuromorphic Intermediate Representation (Pedersen et al. 2024, Nat. Commun. 15:8122).

NIR's CubaLIF and CubaLI are differential equations,

    tau_syn dI/dt = -I + w_in S        tau_mem dv/dt = (v_leak - v) + r I        v > v_threshold: spike, v = v_reset,

without a time step, an order of updates or a delay. With every right-hand side held over a step, and states read at
its beginning, they become (`decay` "exponential": a = exp(-dt/tau); "euler": a = 1 - dt/tau)

    z[t] = v[t] > v_threshold      v = v_reset where z[t]
    v[t+1] = b v + (1 - b) (v_leak + r I[t])      I[t+1] = a I[t] + (1 - a) w_in S[t]

which are the equations of `surgrad.neurons.lif` with w_in = 1 / (1 - a), r = c / (1 - b), v_leak = v_reset = 0 and the
reset "multiplicative_leak". Delays of a step, and whole steps of axons and dendrites, are nir.Delay nodes. What the
graph cannot hold is in its metadata, and said by `statements`: the time step, this discretisation, the reset
"multiplicative" (which also clamps the step after a spike) and the start of the readout. Noise, other resets,
adaptation, delays between whole steps and delays per synapse are refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.network.connections import Conv, Dense
from surgrad.network.delays import Delayed
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.neuron_delays import NeuronDelays
from surgrad.network.pooling import AveragePool
from surgrad.neurons.lif import DECAYS, AdaptiveLIF
from surgrad.runs import files

#: Resets that end at v_reset, and what else an importer must do.
NIR_RESETS = {
    "multiplicative_leak": "",
    "multiplicative": "a neuron that spikes in step t does not integrate the current of that step: v[t+1] = v_reset",
}


class Dialect(NamedTuple):
    """What of NIR a simulator reads.

    Attributes:
        name: of the simulator.
        dt: time step that it assumes, s; time constants are written for it. None: that of the network.
        unscaled: it wants w_in = 1 / (1 - a) and r = 1 / (1 - b), the membrane in other units, and one time constant
            for all neurons of a layer.
        one_axis: whether it knows convolutions over one axis.
    """

    name: str
    dt: float | None = None
    unscaled: bool = False
    one_axis: bool = False


#: Simulators that read feed-forward networks: by Euler's rule, without Delay and CubaLI, so that every layer is earlier
#: by two steps and the network's delay, and the output are the currents of the readout. As of norse 1.1.0, snntorch
#: 1.0.0 and spikingjelly 2.0.0; sinabs 3.1.3 reads no CubaLIF.
DIALECTS = {
    "norse": Dialect("Norse"),
    "snntorch": Dialect("snnTorch", 1e-4, unscaled=True),
    "spikingjelly": Dialect("SpikingJelly", 1e-4, unscaled=True, one_axis=True),
}


def to_nir(network: Network, decay: str = "exponential", dialect: str | None = None) -> nir.NIRGraph:
    """The graph of a deterministic network: input, hid_0, hid_1, …, readout, output.

    Args:
        network: of `Dense` and `Conv` connections and `LIF` neurons.
        decay: rule by which an importer turns time constants into decays, "exponential" or "euler"; the time constants
            written are those that give the network's own decays by that rule.
        dialect: one of `DIALECTS`, which decide the rule; None for all that NIR can say.

    Raises:
        UserError: naming what NIR, or the dialect, cannot say.
    """
    if decay not in DECAYS:
        raise UserError(f"decay={decay}: unknown; allowed: {', '.join(DECAYS)}")
    _require_expressible(network)
    spoken = None
    if dialect is not None:
        spoken, decay = _require_spoken(network, dialect), "euler"
    graph = _Graph(network, decay, spoken)
    for k, layer in enumerate(network.layers):
        graph.population(f"hid_{k}", layer, network.delay)
    if network.readout is not None:
        graph.population("readout", network.readout, network.delay)
    return graph.finished(_metadata(network, decay, dialect))


def write(network: Network, path: str | Path, decay: str = "exponential", dialect: str | None = None) -> list[str]:
    """Write the graph to a file, atomically; returns what an importer must know beyond it (`statements`)."""
    graph = to_nir(network, decay, dialect)
    with files.replacing(Path(path)) as temporary:
        nir.write(str(temporary), graph)
    return statements(network, decay, dialect)


def statements(network: Network, decay: str = "exponential", dialect: str | None = None) -> list[str]:
    """What is true of the network and not of its graph, one sentence each."""
    if dialect is not None:
        spoken, earlier = DIALECTS[dialect], 2 + network.delay
        dt = network.dt if spoken.dt is None else spoken.dt
        said = [
            f"for {spoken.name}, which must take dt = {dt:g} s; a step stands for {network.dt:g} s",
            f"spikes of layer k come {earlier} (k + 1) steps earlier than here, counted from 0, and are the same",
        ]
        if network.readout is not None:
            said.append("the output is the current into the readout, which is to be integrated as docs/nir.md says")
        return said
    rules = {"exponential": "exp(-dt / tau)", "euler": "1 - dt / tau"}
    said = [
        f"time step: dt = {network.dt:g} s, decays {rules[decay]}, right-hand sides held over a step",
        "a spike in step t is S[t] = 1; it changes I[t+1], v[t+2] and so z[t+2] first",
    ]
    resets = {layer.neuron.reset for layer in network.layers}
    said += [f"reset: {NIR_RESETS[reset]}" for reset in sorted(resets) if NIR_RESETS[reset]]
    if network.readout is not None:
        said.append(f"readout: the output of step t is v[t+1], from v[0] = {network.readout.u0:g}")
    return said


def _require_spoken(network: Network, dialect: str) -> Dialect:
    """The dialect, if it can say the network. Raises: UserError naming what it cannot."""
    if dialect not in DIALECTS:
        raise UserError(f"dialect={dialect}: unknown; allowed: {', '.join(DIALECTS)}")
    spoken = DIALECTS[dialect]
    if any(part.pool is not None for part in network.stack):
        raise UserError(f"pooled spikes are not written for {spoken.name}: only the plain file has them")
    if any(isinstance(part.feedforward, Delayed) for part in network.stack):
        raise UserError(f"connections with delays: {spoken.name} reads no Delay; train connection=dense")
    for k, layer in enumerate(network.layers):
        if layer.recurrent is not None:
            raise UserError(f"layer {k} is recurrent: {spoken.name}'s loop is two steps shorter; train recurrent=false")
        if layer.neuron.reset != "multiplicative_leak":
            raise UserError(
                f"layer {k} has reset={layer.neuron.reset}: {spoken.name} knows no such reset; train with "
                "neuron.reset=multiplicative_leak"
            )
        if isinstance(layer.feedforward, Conv) and len(layer.feedforward.kernel_size) == 1 and not spoken.one_axis:
            raise UserError(f"layer {k} is a convolution over one axis, which {spoken.name} does not read")
        if spoken.unscaled and max(len(tau.tau.unique()) for tau in (layer.tau_mem, layer.tau_syn)) > 1:
            raise UserError(f"layer {k} has a time constant for each neuron: {spoken.name} reads one for a layer")
    return spoken


def _metadata(network: Network, decay: str, dialect: str | None) -> dict[str, Any]:
    resets = [layer.neuron.reset for layer in network.layers]
    if len(set(resets)) > 1:
        raise UserError(f"resets {', '.join(resets)}: a graph names one for all layers")
    metadata = {
        "dt": network.dt,
        "decay": decay,
        "reset": resets[0],
        "statements": "\n".join(statements(network, decay, dialect)),
    }
    return metadata if network.readout is None or dialect is not None else metadata | {"readout_v0": network.readout.u0}


def _require_expressible(network: Network) -> None:
    for k, layer in enumerate(network.layers):
        neuron = layer.neuron
        if neuron.escape_noise.stochastic:
            raise UserError(
                f"layer {k} spikes at random ({type(neuron.escape_noise).__name__} escape noise): NIR's thresholds are "
                "deterministic; export a run with deterministic neurons, such as method=superspike"
            )
        if isinstance(neuron, AdaptiveLIF):
            raise UserError(f"layer {k} has adaptive neurons: NIR has no adaptation current")
        if neuron.reset not in NIR_RESETS:
            raise UserError(
                f"layer {k} has reset={neuron.reset}: NIR resets to a value; allowed: {', '.join(NIR_RESETS)}"
            )
        if layer.residual is not None:
            raise UserError(f"layer {k} has a residual connection: the graphs written here are chains")
        if layer.feedforward is None:
            raise UserError(f"layer {k} has no feed-forward connection: NIR needs one from its input")
    for part in network.stack:
        if part.pool is not None and (not isinstance(part.pool, AveragePool) or len(part.pool.size) != 2):
            raise UserError(
                f"{type(part.pool).__name__} over {len(part.pool.size)} axes: NIR has averages over two alone"
            )
        if part.normalization is not None:
            raise UserError(f"{type(part.normalization).__name__}: a constant current per step has no equal in NIR")
        for connection in (part.feedforward, getattr(part, "recurrent", None)):
            if isinstance(connection, NeuronDelays):
                _whole_steps(connection, network.dt)
            elif isinstance(connection, Delayed):
                raise UserError("a delay per synapse: NIR's Delay is one per neuron; train axonal or dendritic delays")
            if isinstance(connection, Conv) and len(set(connection.kernel_size)) > 1:
                raise UserError(
                    f"kernel_size={connection.kernel_size}: the nir package knows shapes of square ones only"
                )
            if connection is not None:
                _known(connection)


@torch.no_grad()
def _whole_steps(connection: NeuronDelays, dt: float) -> np.ndarray:
    """Delays of axons or dendrites in steps, of units (N,) or channels (channels, 1, …).

    Raises:
        UserError: for shares of several arrivals.
    """
    steps = connection.delay().double() / dt
    whole = steps.round()
    if not connection.rounded and not torch.allclose(steps, whole, rtol=0, atol=1e-3):
        between = float(steps.flatten()[(steps - whole).abs().argmax()])
        raise UserError(
            f"a delay of {between:.4g} steps: NIR's Delay does not interpolate; evaluate with connection.rounded=true"
        )
    axes = len(connection.kernel_size) if isinstance(connection, Conv) else 0
    return whole.reshape(-1, *(1,) * axes).cpu().numpy()


def _known(connection: nn.Module | None) -> Dense | Conv:
    if not isinstance(connection, Dense | Conv):
        raise UserError(f"{type(connection).__name__} connections: NIR export knows Dense and Conv")
    return connection


class _Graph:
    """Nodes and edges as they grow from the input to the output."""

    def __init__(self, network: Network, decay: str, dialect: Dialect | None) -> None:
        self.dt, self.decay, self.dialect = network.dt, decay, dialect
        shape = network.layers[0].in_shape or _known(network.layers[0].feedforward).in_shape
        self.nodes: dict[str, nir.NIRNode] = {"input": nir.Input({"input": np.array(shape)})}
        self.edges: list[tuple[str, str]] = []
        self.last, self.shape = "input", tuple(shape)

    def population(self, name: str, layer: SpikingLayer | Readout, delay: int) -> None:
        """Add a layer above the last one: delay, connection, neurons, and the loop through the recurrent connection."""
        below, shape = self.last, self.shape
        if layer.pool is not None:
            size = np.array(layer.pool.size)
            below = self._add(below, f"{name}_pool", nir.AvgPool2d(size, size.copy(), np.zeros_like(size)))
            shape = layer.pool.out_shape
        source = self._path(below, shape, f"{name}_in", layer.feedforward, 0 if self.dialect else delay)
        if self.dialect and isinstance(layer, Readout):
            self.last, self.shape = source, tuple(layer.unit_shape)
            return
        self.nodes[name] = self._neurons(layer)
        self.edges.append((source, name))
        if (recurrent := getattr(layer, "recurrent", None)) is not None:
            self.edges.append((self._path(name, layer.unit_shape, f"{name}_rec", recurrent, 1), name))
        self.last, self.shape = name, tuple(layer.unit_shape)

    def finished(self, metadata: dict[str, Any]) -> nir.NIRGraph:
        self.nodes["output"] = nir.Output({"output": np.array(self.shape)})
        self.edges.append((self.last, "output"))
        return nir.NIRGraph(nodes=self.nodes, edges=self.edges, metadata=metadata)

    def _path(self, source: str, shape: Sequence[int], name: str, connection: nn.Module | None, delay: int) -> str:
        """Nodes from ``source`` through delay and connection; the name of the last."""
        connection = _known(connection)
        before, after = np.full(shape, float(delay)), None  # steps that the connection's inputs, and its sums, are late
        if isinstance(connection, NeuronDelays) and connection.kind == "dendritic":
            after = np.broadcast_to(_whole_steps(connection, self.dt), connection.out_shape).copy()
        elif isinstance(connection, NeuronDelays):
            steps = _whole_steps(connection, self.dt)
            before += steps if isinstance(connection, Conv) else steps.reshape(shape)
        if before.any():
            source = self._add(source, f"{name}_delay", nir.Delay(before * self.dt))
        source = self._sums(source, name, connection)
        return source if after is None else self._add(source, f"{name}_dendrites", nir.Delay(after * self.dt))

    def _sums(self, source: str, name: str, connection: Dense | Conv) -> str:
        """Nodes of a connection without its delays; the name of the last."""
        if isinstance(connection, Dense):
            if len(connection.in_shape) > 1:
                start = -len(connection.in_shape) if self.dialect else 0  # some importers count that of the batch
                flatten = nir.Flatten({"input": np.array(connection.in_shape)}, start_dim=start)
                source = self._add(source, f"{name}_flatten", flatten)
            return self._add(source, name, nir.Linear(_array(connection.weight)))
        options = {
            "padding": connection.padding,
            "stride": connection.stride,
            "dilation": (1,) * len(connection.stride),
        }
        lengths, weight = tuple(connection.in_shape[1:]), _array(connection.weight)
        bias = np.zeros(connection.out_shape[0], np.float32)
        if len(lengths) > 1:
            return self._add(source, name, nir.Conv2d(lengths, weight, groups=1, bias=bias, **options))
        one_axis = {key: value[0] for key, value in options.items()}
        return self._add(source, name, nir.Conv1d(lengths[0], weight, groups=1, bias=bias, **one_axis))

    def _add(self, source: str, name: str, node: nir.NIRNode) -> str:
        self.nodes[name] = node
        self.edges.append((source, name))
        return name

    @property
    def _step(self) -> float:
        """Time step that the importer assumes, s."""
        return self.dt if self.dialect is None or self.dialect.dt is None else self.dialect.dt

    def _neurons(self, layer: SpikingLayer | Readout) -> nir.CubaLIF | nir.CubaLI:
        rule = layer.neuron.decay if isinstance(layer, SpikingLayer) else layer.decay
        unit_gain = layer.neuron.unit_gain if isinstance(layer, SpikingLayer) else layer.unit_gain
        tau_syn, tau_mem = (self._time_constant(tau.log_tau, rule, layer) for tau in (layer.tau_syn, layer.tau_mem))
        a, b = (DECAYS[self.decay](self._step / torch.from_numpy(tau)).numpy() for tau in (tau_syn, tau_mem))
        unit = 1 / (1 - b) if self.dialect and self.dialect.unscaled else np.ones_like(b)  # of the membrane
        values = {
            "tau_syn": tau_syn,
            "tau_mem": tau_mem,
            "r": unit if unit_gain else unit / (1 - b),
            "v_leak": np.zeros_like(b),
            "w_in": 1 / (1 - a),
        }
        if isinstance(layer, Readout):
            return nir.CubaLI(**values)
        return nir.CubaLIF(**values, v_threshold=unit, v_reset=np.zeros_like(b))

    def _time_constant(self, log_tau: Tensor, rule: str, layer: SpikingLayer | Readout) -> np.ndarray:
        """tau (*units) in s, float64, whose decay by the importer's rule is the layer's decay by its own."""
        tau = torch.exp(log_tau.detach().double())
        if rule != self.decay:
            decay = DECAYS[rule](self.dt / tau)
            tau = self.dt / (1 - decay) if self.decay == "euler" else -self.dt / torch.log(decay)
        tau = tau * (self._step / self.dt)
        return tau.expand(layer.unit_shape).numpy().copy()


def _array(weight: Tensor) -> np.ndarray:
    return weight.detach().cpu().numpy().copy()
