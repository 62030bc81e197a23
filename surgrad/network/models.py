"""The networks of the Classification suite, and the spiking methods of Gygax & Zenke (2025)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from torch import nn

from surgrad.errors import UserError
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.network.pooling import POOLS, Pool
from surgrad.network.residual import Residual
from surgrad.neurons.lif import LIF


@dataclass(frozen=True)
class ConvStack:
    """Shapes of a stack of convolutional layers, bottom to top; one entry per layer, or more than are used.

    On inputs of two spatial axes every number holds for both.

    Args:
        nb_filters: of the feed-forward convolutions.
        kernel_size: of the feed-forward convolutions.
        stride: of the feed-forward convolutions.
        padding: of the feed-forward convolutions.
        pool_size: of the windows that the spikes of each layer are pooled in on their way up, 1 for none; empty: none.
        pool_kind: one of `surgrad.network.pooling.POOLS`.
        residual: pairs of hidden layers, counted from 0: the spikes of the first also drive the second, further above.
        rec: whether every layer is recurrently connected to itself.
        rec_kernel_size: of the recurrent convolutions.
        rec_stride: of the recurrent convolutions.
        rec_padding: of the recurrent convolutions.

    Raises:
        UserError: if a list is shorter than ``nb_hidden_layers``.
    """

    nb_hidden_layers: int = 3
    nb_filters: Sequence[int] = (16, 32, 64)
    kernel_size: Sequence[int] = (21, 7, 7)
    stride: Sequence[int] = (10, 3, 3)
    padding: Sequence[int] = (0, 0, 0)
    rec: bool = True
    rec_kernel_size: int = 5
    rec_stride: int = 1
    rec_padding: int = 2
    pool_size: Sequence[int] = ()
    pool_kind: str = "max"
    residual: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        if self.nb_hidden_layers < 1:
            raise UserError(f"nb_hidden_layers={self.nb_hidden_layers}: at least one layer is needed")
        for name in ("nb_filters", "kernel_size", "stride", "padding", "pool_size"):
            value = getattr(self, name)
            if len(value) < self.nb_hidden_layers and (value or name != "pool_size"):
                raise UserError(
                    f"{name}={list(value)} has {len(value)} entries, nb_hidden_layers={self.nb_hidden_layers} needs "
                    "one for each layer"
                )
        if self.pool_kind not in POOLS:
            raise UserError(f"pool_kind={self.pool_kind} is unknown; allowed: {', '.join(POOLS)}")

        for pair in self.residual:
            if not isinstance(pair, Sequence) or len(pair) != 2 or not 0 <= pair[0] < pair[1] < self.nb_hidden_layers:
                raise UserError(
                    f"residual={list(self.residual)}: pairs of a layer and one above it are wanted, "
                    f"of the layers 0 to {self.nb_hidden_layers - 1}"
                )
        if len({pair[1] for pair in self.residual}) < len(self.residual):
            raise UserError(f"residual={list(self.residual)}: one for each layer above is known")

    def beside(self, k: int, shapes: Sequence[Sequence[int]]) -> Residual | None:
        """The residual connection of hidden layer k; None where it has none.

        Unit j of a layer has the centre n (s j + (kernel - 1) / 2 - padding) + (n - 1) / 2 among the units below, with
        s the stride and n the size of the pool.

        Args:
            k: number of the layer.
            shapes: of the units of hidden layers 0 to k.
        """
        source = next((pair[0] for pair in self.residual if pair[1] == k), None)
        if source is None:
            return None
        stride, centre = 1, 0.0
        for layer in range(k, source, -1):
            n = self.pool_size[layer - 1] if self.pool_size else 1
            within = self.stride[layer] * centre + (self.kernel_size[layer] - 1) / 2 - self.padding[layer]
            stride, centre = stride * n * self.stride[layer], n * within + (n - 1) / 2
        axes = len(shapes[k]) - 1
        return Residual(source, shapes[source], shapes[k], (stride,) * axes, (math.floor(centre),) * axes)

    def pool(self, k: int, shape: Sequence[int]) -> Pool | None:
        """The pool of the spikes of hidden layer k on their way up; None where there is none, and of the input.

        Args:
            k: number of the layer, -1 for the input.
            shape: (channels, *spatial).
        """
        size = self.pool_size[k] if k >= 0 and self.pool_size else 1
        return POOLS[self.pool_kind](shape, size) if size != 1 else None


#: What may have a time constant of its own in a convolutional layer.
TIME_CONSTANTS_OF = ("channel", "neuron")


def one_per_layer(tau: float, nb_units: int) -> TimeConstant:
    """One fixed time constant (s) for all neurons of a layer."""
    return TimeConstant(tau)


class HiddenParts(NamedTuple):
    """What the layers of `dense_snn` are made of, and in part those of `conv_snn`.

    Attributes:
        connection: makes the feed-forward connection of a hidden layer from (in_shape, nb_units).
        time_constants: makes the membrane time constants of a hidden layer from (tau in s, nb_units).
        normalization: makes the map of a hidden layer's feed-forward current from its unit_shape; None: none.
        dropout: of the spikes between layers, not of the input: probability.
        readout: makes the connection of the readout from (in_shape, nb_units).
        synaptic: makes the synaptic time constants of a hidden layer as `time_constants`; None: that does.
        recurrent: makes the connection of a hidden layer to itself from (in_shape, nb_units).
        recurrent_dropout: of the spikes that come back to their own layer: probability.
        convolution: makes the feed-forward connection of a convolutional layer from (in_shape, filters, kernel_size,
            stride, padding), in the place of ``connection``.
    """

    connection: Callable[[Sequence[int], int], nn.Module] = Dense
    time_constants: Callable[[float, int], TimeConstant] = one_per_layer
    normalization: Callable[[Sequence[int]], nn.Module] | None = None
    dropout: float = 0.0
    readout: Callable[[Sequence[int], int], nn.Module] = Dense
    synaptic: Callable[[float, int], TimeConstant] | None = None
    recurrent: Callable[[Sequence[int], int], nn.Module] = Dense
    recurrent_dropout: float = 0.0
    convolution: Callable[..., nn.Module] = Conv


def spike_readout(nb_classes: int) -> Readout:
    """Hands on the spikes of a last layer of ``nb_classes`` neurons: y[t] = s[t - 1 - d], d the network's delay.

    Losses of its sum over time are losses of spike counts (`surgrad.losses.SumOverTimeCrossEntropy`).
    """
    each = Dense(nb_classes, nb_classes)
    nn.init.eye_(each.weight).requires_grad_(False)
    return Readout(each, 1e-6, 1e-6, u0=0.0, unit_gain=False)  # forgets everything within a step


def conv_snn(
    stack: ConvStack,
    *,
    in_shape: Sequence[int],
    nb_classes: int,
    neuron: LIF,
    dt: float,
    tau_mem: float,
    tau_syn: float,
    tau_readout: float,
    hidden: HiddenParts | None = None,
    time_constants_of: str = "channel",
) -> Network:
    """A stack of (recurrent) convolutional LIF layers under a leaky readout, weights as new connections have them.

    Args:
        stack: shapes of the layers.
        in_shape: of the input units, (channels, length) or (channels, height, width).
        nb_classes: number of readout units.
        neuron: the spiking neuron.
        dt: time step, s.
        tau_mem: membrane time constant, s.
        tau_syn: synaptic time constant, s.
        tau_readout: membrane time constant of the readout, s.
        hidden: its convolution, time constants, normalization, dropout and readout are those of the layers.
        time_constants_of: what has a time constant of its own, where they differ: "channel" or "neuron".

    Raises:
        UserError: where a kernel is larger than its input.
    """
    parts = hidden or HiddenParts()

    def constants(make: Callable[[float, int], TimeConstant], tau: float) -> TimeConstant:
        own = shape if time_constants_of == "neuron" else (shape[0], *(1,) * (len(shape) - 1))
        return make(tau, math.prod(own)).shaped(own)

    layers: list[SpikingLayer] = []
    shape, shapes = tuple(in_shape), []
    for k in range(stack.nb_hidden_layers):
        try:
            pool = stack.pool(k - 1, shape)
            shape = shape if pool is None else pool.out_shape
            size = stack.nb_filters[k], stack.kernel_size[k], stack.stride[k], stack.padding[k]
            feedforward: Any = parts.convolution(shape, *size)
            shape, recurrent = feedforward.out_shape, None
            if stack.rec:
                recurrent = Conv(shape, shape[0], stack.rec_kernel_size, stack.rec_stride, stack.rec_padding)
            normalization = None if parts.normalization is None else parts.normalization(shape)
            extra: dict[str, Any] = {"normalization": normalization, "dropout": parts.dropout if k else 0.0}
            shapes.append(shape)
            taus = constants(parts.time_constants, tau_mem), constants(parts.synaptic or parts.time_constants, tau_syn)
            layers.append(
                SpikingLayer(feedforward, neuron, *taus, recurrent, **extra)
                .behind(pool)
                .beside(stack.beside(k, shapes))
            )
        except UserError as error:
            raise UserError(f"hidden layer {k}: {error}") from error
    pool = stack.pool(stack.nb_hidden_layers - 1, shape)
    above = parts.readout(shape if pool is None else pool.out_shape, nb_classes)
    return Network(layers, Readout(above, tau_readout, tau_syn, dropout=parts.dropout).behind(pool), dt)


def dense_snn(
    sizes: Sequence[int],
    *,
    neuron: LIF,
    dt: float,
    tau_mem: float,
    tau_syn: float,
    tau_readout: float,
    recurrent: bool = True,
    hidden: HiddenParts | None = None,
    readout_unit_gain: bool = True,
    delay: int = 1,
) -> Network:
    """A stack of dense (recurrent) LIF layers under a leaky readout, weights as new connections have them.

    Args:
        sizes: units of the input, of each hidden layer and of the readout.
        neuron: the spiking neuron.
        dt: time step, s.
        tau_mem: membrane time constant, s.
        tau_syn: synaptic time constant, s.
        tau_readout: membrane time constant of the readout, s.
        recurrent: whether every hidden layer drives itself.
        hidden: connections, time constants and the like, where they are not the usual ones.
        readout_unit_gain: see `surgrad.network.layers.Readout`.
        delay: see `surgrad.network.network.Network`.
    """
    parts = hidden or HiddenParts()
    layers = [
        SpikingLayer(
            parts.connection((below,), units),
            neuron,
            parts.time_constants(tau_mem, units),
            (parts.synaptic or parts.time_constants)(tau_syn, units),
            parts.recurrent((units,), units) if recurrent else None,
            normalization=None if parts.normalization is None else parts.normalization((units,)),
            dropout=parts.dropout if k else 0.0,
            recurrent_dropout=parts.recurrent_dropout,
        )
        for k, (below, units) in enumerate(pairwise(sizes[:-1]))
    ]
    above = parts.readout((sizes[-2],), sizes[-1])
    readout = Readout(above, tau_readout, tau_syn, unit_gain=readout_unit_gain, dropout=parts.dropout)
    return Network(layers, readout, dt, delay)
