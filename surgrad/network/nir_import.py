"""Networks read from the Neuromorphic Intermediate Representation: chains of connections and neurons, recurrent or not.

A neuron of NIR, tau dv/dt = (v_leak - v) + r I with v_threshold, is one of `surgrad.neurons.lif` with the membrane in
units of its threshold: u = v / v_threshold, and weights that take up w_in, r and the threshold. LIF without a synapse
becomes one whose synapse holds a spike for a single step: it is a step later than in the file's equations. LI and
CubaLI at the end become the readout. Equations and order of updates within a step: `surgrad.network.nir`.
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
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays, ConvAxonalDelays, ConvDendriticDelays, DendriticDelays
from surgrad.network.parameters import TimeConstant
from surgrad.network.pooling import AveragePool
from surgrad.neurons.lif import DECAYS, LIF

NEURONS = (nir.CubaLIF, nir.LIF, nir.CubaLI, nir.LI)
INSTANT = 1e-3  # a synaptic time constant, in steps, whose exponential decay is 0
JUST_ABOVE = 1 + 2e-6  # one whose decay by Euler's rule is 0, and not below, after rounding


class Biased(nn.Module):
    """A connection with a constant current for each unit or channel.

    Args:
        connection: `Dense` or `Conv`.
        bias: (units,) or (channels,).
    """

    def __init__(self, connection: Dense | Conv, bias: Tensor):
        super().__init__()
        self.connection, self.bias = connection, nn.Parameter(bias)
        self.in_shape, self.out_shape = connection.in_shape, connection.out_shape

    def forward(self, s: Tensor) -> Tensor:
        """(..., *in_shape) -> (..., *out_shape)."""
        current: Tensor = self.connection(s)
        return current + self.bias.view(-1, *(1,) * (len(self.out_shape) - 1))


def read(
    path: str | Path,
    dt: float | None = None,
    *,
    decay: str | None = None,
    reset: str | None = None,
    dialect: str | None = None,
) -> Network:
    """The network of a nir file; arguments and errors as of `from_nir`, UserError also for a file that is none."""
    try:
        graph = nir.read(
            str(path), type_check=False
        )  # shapes are looked at below, and some writers count samples to them
    except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a NIR graph ({' '.join(str(error).split())[:200]})") from error
    return from_nir(graph, dt, decay=decay, reset=reset, dialect=dialect)


def from_nir(
    graph: nir.NIRGraph,
    dt: float | None = None,
    *,
    decay: str | None = None,
    reset: str | None = None,
    dialect: str | None = None,
) -> Network:
    """A network with the connections and neurons of a graph.

    Args:
        graph: a chain from input to output; a neuron population may drive itself through one connection.
        dt: time step, s; None for that of the graph's metadata.
        decay: rule that turns time constants into decays, "exponential" or "euler"; None for that of the metadata, else
            "exponential".
        reset: see `surgrad.neurons.lif.LIF`; None for that of the metadata, else "multiplicative_leak", which is NIR's.
        dialect: "norse" for a file of Norse's exporter, which writes time constants multiplied with its dt, and 1 for
            the weight of a spike that is not scaled there; None for one that says what NIR says.

    Raises:
        UserError: naming the node that is not known, or the constant that has no equal here.
    """
    about = graph.metadata
    dt = float(about["dt"]) if dt is None and "dt" in about else dt
    if dt is None:
        raise UserError("dt: the graph does not say its time step; give one, in s")
    if dialect not in (None, "norse"):
        raise UserError(f"dialect={dialect}: unknown; allowed: norse, or none")
    chain = _Chain(_flat(graph), dt, decay or str(about.get("decay", "exponential")), reset, dialect)
    layers, readout, delay = chain.populations(float(about.get("readout_v0", 0.0)))
    return Network(layers, readout, dt, delay)


def _flat(graph: nir.NIRGraph) -> nir.NIRGraph:
    """A graph with the nodes of graphs inside it in the place of those, under names with a dot."""
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    begins, ends = {}, {}
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.NIRGraph):
            nodes[name] = node
            continue
        inner = _flat(node)
        at = {part: f"{name}.{part}" for part in inner.nodes}
        outer = {part for part, one in inner.nodes.items() if isinstance(one, nir.Input | nir.Output)}
        nodes |= {at[part]: one for part, one in inner.nodes.items() if part not in outer}
        edges += [(at[a], at[b]) for a, b in inner.edges if not {a, b} & outer]
        begins[name] = [at[b] for a, b in inner.edges if isinstance(inner.nodes[a], nir.Input)]
        ends[name] = [at[a] for a, b in inner.edges if isinstance(inner.nodes[b], nir.Output)]
    for source, target in graph.edges:
        edges += [(a, b) for a in ends.get(source, [source]) for b in begins.get(target, [target])]
    return nir.NIRGraph(nodes, edges, metadata=graph.metadata, type_check=False)


class _Link(NamedTuple):
    """A connection, its constant current, and the delays of its axons and dendrites in steps.

    Attributes:
        name: of its first node.
        connection: with its weights.
        bias: current of every unit or channel, or None.
        before: delays of what it takes, (presynaptic units,) or (1,).
        after: delays of its sums, (postsynaptic units,) or (1,).
        pool: of what it takes, or None.
    """

    name: str
    connection: Dense | Conv
    bias: Tensor | None
    before: np.ndarray
    after: np.ndarray
    pool: AveragePool | None = None

    @property
    def shortest(self) -> int:
        return int(self.before.min() + self.after.min())

    def built(self, delay: int, dt: float) -> Any:
        """The connection of a network whose spikes take ``delay`` steps of dt seconds anyway."""
        before, after = np.unique(self.before), np.unique(self.after)
        if self.shortest < delay:
            raise UserError(f"{self.name}: a loop of {self.shortest} steps; the shortest here is {delay}")
        if len(before) == len(after) == 1 and self.shortest == delay:
            return self.connection if self.bias is None else Biased(self.connection, self.bias)
        if self.bias is not None:
            raise UserError(
                f"{self.name}: delays beyond {delay} steps beside {type(self.connection).__name__}; delays without a "
                "bias are known"
            )
        if len(before) > 1 and len(after) > 1:
            raise UserError(f"{self.name}: delays of axons and of dendrites; one kind on a connection is known")
        dendritic, old = len(after) > 1, self.connection
        late = self.after + before if dendritic else self.before + after
        steps = self._each(late - delay, old.out_shape if dendritic else old.in_shape)
        options: dict[str, Any] = {"max_delay": float(steps.max() + 1) * dt, "rounded": True}
        connection: AxonalDelays | ConvAxonalDelays
        if isinstance(old, Conv):
            make = ConvDendriticDelays if dendritic else ConvAxonalDelays
            connection = make(old.in_shape, old.out_shape[0], old.kernel_size, old.stride, old.padding, **options)
        else:
            connection = (DendriticDelays if dendritic else AxonalDelays)(old.in_shape, old.out_shape[0], **options)
        start = torch.from_numpy(np.maximum(steps, 1e-3)) / (steps.max() + 1)
        with torch.no_grad():
            connection.weight.copy_(old.weight)
            connection.delay.logit.copy_(start.view_as(connection.delay.logit)).logit_()
        return connection

    def _each(self, steps: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Delays of all units, or one for each channel beside a convolution."""
        steps = np.broadcast_to(steps, (int(np.prod(shape)),))
        if not isinstance(self.connection, Conv):
            return steps.copy()
        steps = steps.reshape(shape[0], -1)
        if not (steps == steps[:, :1]).all():
            raise UserError(f"{self.name}: delays that differ within a channel of a convolution")
        return steps[:, 0].copy()


class _Chain:
    """The nodes of a graph in order, and the loops beside them."""

    def __init__(self, graph: nir.NIRGraph, dt: float, decay: str, reset: str | None, dialect: str | None) -> None:
        if decay not in DECAYS:
            raise UserError(f"decay={decay}: unknown; allowed: {', '.join(DECAYS)}")
        self.nodes, self.dt, self.decay, self.dialect = graph.nodes, dt, decay, dialect
        self.reset = reset or str(graph.metadata.get("reset", "multiplicative_leak"))
        self.after: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in dict.fromkeys(map(tuple, graph.edges)):
            self.after[source].append(target)

    def populations(self, u0: float) -> tuple[list[SpikingLayer], Readout | None, int]:
        """The spiking layers, the readout if the chain ends in one, and the steps that every spike takes at least."""
        (start,) = (name for name, node in self.nodes.items() if isinstance(node, nir.Input))
        shape: tuple[int, ...] = tuple(int(n) for n in self.nodes[start].input_type["input"])
        found: list[tuple[str, _Link, _Link | None]] = []  # populations, what drives them, their loops
        path, name = self._path(start, loop=False)
        while not isinstance(self.nodes[name], nir.Output):
            link = self._link(path, shape, name)
            shape = tuple(link.connection.out_shape)
            loops = [self._path(name, loop=True, first=first)[0] for first in self._loops(name)]
            if len(loops) > 1:
                raise UserError(f"{name}: drives itself through {len(loops)} connections; one is known")
            found.append((name, link, self._link(loops[0], shape, name) if loops else None))
            if isinstance(self.nodes[name], nir.LI | nir.CubaLI):
                break
            path, name = self._path(name, loop=False)
        else:
            if any(not isinstance(self.nodes[part], nir.Flatten) for part in path):
                raise UserError(f"{path[-1]}: a connection to the output without neurons; a network ends in neurons")
        delay = min(1, *(link.shortest for _, link, _ in found)) if found else 1
        layers: list[SpikingLayer] = []
        for name, link, loop in found:
            feedforward = link.built(delay, self.dt)
            tau_mem, tau_syn = self._constants(name, tuple(link.connection.out_shape))
            if isinstance(self.nodes[name], nir.LI | nir.CubaLI):
                return layers, Readout(feedforward, tau_mem, tau_syn, u0=u0, decay=self.decay).behind(link.pool), delay
            neuron = LIF(reset=self.reset, decay=self.decay)
            recurrent = None if loop is None else loop.built(1, self.dt)
            layers.append(SpikingLayer(feedforward, neuron, tau_mem, tau_syn, recurrent).behind(link.pool))
        return layers, None, delay

    def _loops(self, name: str) -> list[str]:
        """The nodes through which a population drives itself."""
        return [first for first in self.after[name] if self._path(name, loop=True, first=first)[1] == name]

    def _path(self, name: str, *, loop: bool, first: str | None = None) -> tuple[list[str], str]:
        """Nodes from one population to the next, or to the output; that one's name."""
        options = [first] if first else self.after[name]
        if not loop and len(options) > 1:
            options = [option for option in options if self._path(name, loop=True, first=option)[1] != name]
        if len(options) != 1 or options[0] is None:
            raise UserError(f"{name}: leads to {', '.join(map(str, options)) or 'nothing'}; a chain is known")
        path, at = [], options[0]
        while not isinstance(self.nodes[at], (*NEURONS, nir.Output)):
            path.append(at)
            if len(self.after[at]) != 1 or len(path) > len(self.nodes):
                raise UserError(f"{at}: leads to {', '.join(self.after[at]) or 'nothing'}; a chain is known")
            (at,) = self.after[at]
        return path, at

    def _link(self, path: Sequence[str], shape: tuple[int, ...], target: str) -> "_Link":
        """The connection that a path is, its weights scaled for the neurons behind it, and its delays."""
        found: tuple[Dense | Conv, np.ndarray | None] | None = None
        before, after = np.zeros(1), np.zeros(1)
        pool, scaled = None, 1.0
        for name in path:
            node = self.nodes[name]
            if isinstance(node, nir.Delay):
                steps = np.round(np.asarray(node.delay, np.float64).reshape(-1) / self.dt)
                before, after = (before + steps, after) if found is None else (before, after + steps)
            elif isinstance(node, nir.Flatten):
                continue  # connections flatten what they take
            elif isinstance(node, nir.AvgPool2d | nir.SumPool2d) and pool is None and found is None:
                pool = _pool(name, node, shape)
                shape, scaled = pool.out_shape, pool.nb_pooled if isinstance(node, nir.SumPool2d) else 1.0
                if len(np.unique(before)) > 1:
                    raise UserError(f"{name}: a pool behind unlike delays; it is known before them")
                before = before[:1]
            elif found is not None:
                raise UserError(f"{name}: a second connection before {target}; one is known")
            else:
                found = _weights(name, node, shape)
        if found is None:
            raise UserError(f"{target}: no connection leads to it")
        connection, bias = found
        scale = torch.from_numpy(self._scale(target, tuple(connection.out_shape)) * scaled)
        rows = scale.flatten(1)[:, 0] if scale.dim() > 1 else scale
        if scale.dim() > 1 and not torch.allclose(scale.flatten(1), rows[:, None], rtol=1e-6, atol=0):
            raise UserError(f"{target}: w_in, r or v_threshold differ within a channel of a convolution")
        with torch.no_grad():
            connection.weight.mul_(rows.view(-1, *(1,) * (connection.weight.dim() - 1)).to(connection.weight.dtype))
        current = None if bias is None or not bias.any() else (torch.from_numpy(bias) * rows / scaled).float()
        return _Link(path[0], connection, current, before, after, pool)

    def _values(self, name: str, key: str, shape: tuple[int, ...]) -> np.ndarray:
        value = np.asarray(getattr(self.nodes[name], key, 1.0), np.float64)
        if self.dialect == "norse" and key.startswith("tau"):
            value = value / self.dt
        if value.size not in (1, int(np.prod(shape))):
            raise UserError(f"{name}: {key} of shape {value.shape}, for units {shape}")
        return np.broadcast_to(value.reshape(shape) if value.size > 1 else value.reshape(()), shape).copy()

    def _scale(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """What weights are multiplied with, (*units): (1 - a) w_in r / v_threshold, or r / v_threshold."""
        node = self.nodes[name]
        for key in ("v_leak", "v_reset"):
            if np.any(self._values(name, key, shape) if hasattr(node, key) else 0):
                raise UserError(f"{name}: {key} is not 0, to which membranes return here")
        threshold = self._values(name, "v_threshold", shape) if isinstance(node, nir.LIF | nir.CubaLIF) else 1.0
        gain = self._values(name, "r", shape) / threshold
        if isinstance(node, nir.CubaLIF | nir.CubaLI):
            forgotten = 1 - self._decayed(self._values(name, "tau_syn", shape))
            gain *= 1.0 if self.dialect == "norse" else self._values(name, "w_in", shape) * forgotten
        return np.asarray(gain)

    def _constants(self, name: str, shape: tuple[int, ...]) -> tuple[TimeConstant, TimeConstant]:
        """tau_mem and tau_syn, one for the layer where all neurons have the same."""
        node = self.nodes[name]
        if isinstance(node, nir.LIF | nir.LI):
            instant = JUST_ABOVE if self.decay == "euler" else INSTANT
            return _constant(self._values(name, "tau", shape)), TimeConstant(instant * self.dt)
        return _constant(self._values(name, "tau_mem", shape)), _constant(self._values(name, "tau_syn", shape))

    def _decayed(self, tau: np.ndarray) -> np.ndarray:
        return DECAYS[self.decay](self.dt / torch.from_numpy(tau)).numpy()


def _constant(tau: np.ndarray) -> TimeConstant:
    return TimeConstant(float(tau.flat[0]) if (tau == tau.flat[0]).all() else torch.from_numpy(tau))


def _weights(name: str, node: Any, shape: tuple[int, ...]) -> tuple[Dense | Conv, np.ndarray | None]:
    """The connection of a node on units of a shape, and its bias."""
    if isinstance(node, nir.Linear | nir.Affine):
        weight = np.asarray(node.weight)
        if weight.ndim != 2 or weight.shape[1] != int(np.prod(shape)):
            raise UserError(f"{name}: weight of shape {weight.shape} on units {shape}")
        connection: Dense | Conv = Dense(shape, weight.shape[0])
    elif isinstance(node, nir.Conv1d | nir.Conv2d):
        weight = np.asarray(node.weight)
        axes = weight.ndim - 2
        stride, padding, dilation = (
            _each(name, key, getattr(node, key), axes) for key in ("stride", "padding", "dilation")
        )
        if set(dilation) != {1} or int(node.groups) != 1:
            raise UserError(f"{name}: dilation={dilation}, groups={node.groups}; 1 is known of each")
        if len(shape) != axes + 1:
            raise UserError(f"{name}: a convolution over {axes} axes on units {shape}")
        connection = Conv(shape, weight.shape[0], weight.shape[2:], stride, padding)
    else:
        raise UserError(f"{name}: {type(node).__name__} nodes are not known; Linear, Affine, Conv1d, Conv2d are")
    with torch.no_grad():
        connection.weight.copy_(torch.from_numpy(np.array(weight)))
    bias = getattr(node, "bias", None)
    return connection, None if bias is None else np.asarray(bias, np.float64)


def _pool(name: str, node: nir.AvgPool2d | nir.SumPool2d, shape: tuple[int, ...]) -> AveragePool:
    """The pool of a node on units of a shape: windows side by side."""
    size, stride, padding = (_each(name, key, getattr(node, key), 2) for key in ("kernel_size", "stride", "padding"))
    if size != stride or any(padding) or len(shape) != 3:
        raise UserError(
            f"{name}: kernel_size={size}, stride={stride}, padding={padding} on units {shape}; windows side by side "
            "over two axes are known"
        )
    return AveragePool(shape, size)


def _each(name: str, key: str, value: Any, axes: int) -> tuple[int, ...]:
    if isinstance(value, str):
        raise UserError(f"{name}: {key}={value}; numbers are known")
    found = tuple(int(n) for n in np.atleast_1d(value))
    return found * axes if len(found) == 1 else found
