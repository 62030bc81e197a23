"""What a kernel is given: frozen specifications of a network, checked where they are made.

A kernel takes these and the `Options` of one call (`surgrad.kernels.call`), nothing else, and does not look again at
dtype, device, rank, shape, length or range. What does not fit is refused here, in the same words for every kernel.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from surgrad.errors import UserError, known
from surgrad.kernels import finite
from surgrad.kernels.checks import require_alike, require_shape
from surgrad.kernels.inputs import InputSpec
from surgrad.neurons.lif import LIF, AdaptationValues

DELAYED = ("delayed", "axonal", "dendritic", "conv_axonal", "conv_dendritic")


@dataclass(frozen=True, eq=False)
class ConnectionSpec:
    """How spikes of one population become currents of another.

    Args:
        name: where it stands in its network, for messages.
        kind: "dense", "conv", one of `DELAYED` (a delay for each synapse, presynaptic neuron or channel, postsynaptic
            neuron or channel), or "module", of which only ``function`` is known.
        out_shape: of the units.
        in_shape: in_shape is None where it is not known.
        function: (..., *in_shape) -> (..., *out_shape), with hooks and all; one with delays as `DelayedDense.forward`.
        weight: (out, in), or (filters, channels, *kernel_size).
        kernel_size: of a convolution, one number for each spatial axis.
        stride: of a convolution, one number for each spatial axis.
        padding: of a convolution, one number for each spatial axis.
        delays: of kind "delayed": in steps, shaped as ``weight``.
        shares: of delays of neurons or channels: (nb_taps, N), of a spike that arrive after 0, 1, … steps.
        nb_taps: steps that one spike reaches.
        own: why only ``function`` may be used ("Biased defines forward"), or "".
        own_shares: whether ``own`` is but that the weights of a connection with delays arrive in shares of its own.
        kernel: of kind "delayed": () -> (nb_units, fan_in, nb_taps), the weights that arrive after 0, 1, … steps.
        others: the parameters of a connection of which only ``function`` is known.
    """

    name: str
    kind: str
    out_shape: tuple[int, ...]
    function: Callable[..., Tensor]
    in_shape: tuple[int, ...] | None = None
    weight: Tensor | None = None
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    delays: Tensor | None = None
    shares: Tensor | None = None
    nb_taps: int = 1
    own: str = ""
    own_shares: bool = False
    kernel: Callable[[], Tensor] | None = None
    others: tuple[tuple[str, Tensor], ...] = ()

    def __post_init__(self) -> None:
        if self.own or self.weight is None or self.in_shape is None:
            return
        if self.kernel_size:
            expected: tuple[int, ...] = (self.out_shape[0], self.in_shape[0], *self.kernel_size)
        else:
            expected = (math.prod(self.out_shape), math.prod(self.in_shape))
        for name, x in self.tensors:
            if x is not self.shares and x.shape != expected:
                require_shape(name, x, expected, f"the shape of {self.in_shape} -> {self.out_shape}")
        if self.shares is not None:
            of = self.in_shape if self.kind.endswith("axonal") else self.out_shape
            of = of[:1] if self.kernel_size else of
            require_shape(f"{self.name}.shares", self.shares, (self.nb_taps, math.prod(of)), "(nb_taps, neurons)")

    @property
    def has_delays(self) -> bool:
        """Whether spikes arrive at several steps, so that ``function`` takes ``shift`` and gives further currents."""
        return self.kind in DELAYED

    @property
    def known_weight(self) -> Tensor:
        """``weight`` of a connection that has one. Raises: UserError for another."""
        return known(f"{self.name}.weight", self.weight)

    @property
    def known_in_shape(self) -> tuple[int, ...]:
        """``in_shape`` of a connection that says it. Raises: UserError for another."""
        return known(f"{self.name}.in_shape", self.in_shape)

    @cached_property
    def tensors(self) -> tuple[tuple[str, Tensor], ...]:
        """Every parameter with its name."""
        own = (("weight", self.weight), ("delays", self.delays), ("shares", self.shares), *self.others)
        return tuple((f"{self.name}.{name}", x) for name, x in own if x is not None)


def connection_spec(
    part: Any, name: str, dt: float | None = None, out_shape: tuple[int, ...] = ()
) -> ConnectionSpec | None:
    """The specification of a connection: its own account of itself, else that of any function of spikes.

    Args:
        part: a connection, module, function, specification or None.
        name: for messages.
        dt: time step in s for delays.
        out_shape: of the units that it drives, where it does not say.
    """
    if part is None or isinstance(part, ConnectionSpec):
        return part
    if hasattr(part, "spec"):
        return part.spec(name, dt)
    if not callable(part):
        raise UserError(f"{name} is {type(part).__name__}; it must be a connection or a function of spikes")
    shape = (part.out_features,) if isinstance(part, nn.Linear) else tuple(getattr(part, "out_shape", out_shape))
    known_input = (part.in_features,) if isinstance(part, nn.Linear) else getattr(part, "in_shape", None)
    parameters = tuple(part.named_parameters()) if isinstance(part, nn.Module) else ()
    return ConnectionSpec(
        name,
        "module",
        shape,
        part,
        in_shape=None if known_input is None else tuple(known_input),
        own=f"{getattr(part, '__name__', type(part).__name__)} is not a connection of this library",
        others=parameters,
    )


@dataclass(frozen=True, eq=False)
class LayerSpec:
    """A population of spiking neurons with its connections.

    Args:
        name: where it stands, for messages. ``index``: its number, part of the address of its random numbers.
        neuron: surrogate, escape noise and reset. ``unit_shape``: (N,) or (channels, *spatial).
        a: decays of synapse and membrane over a step, broadcastable to the units.
        b: decays of synapse and membrane over a step, broadcastable to the units.
        feedforward: None where the layer is driven by a current. ``recurrent``: from the layer to itself, or None.
        adaptation: constants of adaptive neurons, else None.
        input: what happens to spikes and currents on their way to the neurons, or None.
        recurrent_dropout: probability that a neuron is silent in ``recurrent`` for a whole sample; what is left counts
            1 / (1 - recurrent_dropout).
    """

    name: str
    neuron: LIF
    unit_shape: tuple[int, ...]
    a: Tensor
    b: Tensor
    feedforward: ConnectionSpec | None = None
    recurrent: ConnectionSpec | None = None
    adaptation: AdaptationValues | None = None
    index: int = 0
    input: InputSpec | None = None
    recurrent_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, x in self.constants:
            _require_broadcast(name, x, self.unit_shape)
        _require_units(self.feedforward, None, self.unit_shape)
        _require_units(self.recurrent, self.unit_shape, self.unit_shape)

    @property
    def incoming(self) -> ConnectionSpec:
        """``feedforward`` of a layer in a network. Raises: UserError for one that is driven by a current."""
        return known(f"the feedforward connection of {self.name}", self.feedforward)

    @property
    def has_recurrent_delays(self) -> bool:
        return self.recurrent is not None and self.recurrent.has_delays

    @cached_property
    def constants(self) -> tuple[tuple[str, Tensor], ...]:
        adaptation = zip(AdaptationValues._fields, self.adaptation or (), strict=False)
        return (*_decays(self), *((f"{self.name}.adaptation {field}", x) for field, x in adaptation))

    @cached_property
    def tensors(self) -> tuple[tuple[str, Tensor], ...]:
        """Every parameter with its name."""
        parts = (self.feedforward, self.recurrent, self.input)
        return self.constants + tuple(named for part in parts if part is not None for named in part.tensors)


@dataclass(frozen=True, eq=False)
class ReadoutSpec:
    """Leaky integrators without spikes: as `LayerSpec`, with their first membrane potential and gain."""

    name: str
    unit_shape: tuple[int, ...]
    a: Tensor
    b: Tensor
    feedforward: ConnectionSpec | None = None
    u0: float = 0.0
    unit_gain: bool = True
    input: InputSpec | None = None

    def __post_init__(self) -> None:
        for name, x in self.constants:
            _require_broadcast(name, x, self.unit_shape)
        _require_units(self.feedforward, None, self.unit_shape)
        if not isinstance(self.u0, int | float) or not math.isfinite(self.u0):
            raise UserError(f"u0={self.u0!r} of {self.name} must be a finite number")

    @property
    def incoming(self) -> ConnectionSpec:
        """``feedforward`` of a readout in a network. Raises: UserError for one that is driven by a current."""
        return known(f"the feedforward connection of {self.name}", self.feedforward)

    @cached_property
    def constants(self) -> tuple[tuple[str, Tensor], ...]:
        return _decays(self)

    @cached_property
    def tensors(self) -> tuple[tuple[str, Tensor], ...]:
        """Every parameter with its name."""
        parts = (self.feedforward, self.input)
        return self.constants + tuple(named for part in parts if part is not None for named in part.tensors)


def _decays(layer: LayerSpec | ReadoutSpec) -> tuple[tuple[str, Tensor], ...]:
    return (f"{layer.name}: decay a of tau_syn", layer.a), (f"{layer.name}: decay b of tau_mem", layer.b)


def _require_units(connection: ConnectionSpec | None, below: tuple[int, ...] | None, above: tuple[int, ...]) -> None:
    if connection is None:
        return
    for what, found, wanted in (("takes", connection.in_shape, below), ("gives", connection.out_shape, above)):
        if found and wanted and tuple(found) != tuple(wanted):
            raise UserError(f"{connection.name} {what} units {tuple(found)}, but its neurons are {tuple(wanted)}")


def _taken(layer: LayerSpec | ReadoutSpec) -> tuple[int, ...] | None:
    """Units whose spikes a population takes, before they are pooled; None where its connection does not say."""
    if layer.input is not None and layer.input.pool is not None:
        return layer.input.below
    return None if layer.feedforward is None else layer.feedforward.in_shape


def _require_broadcast(name: str, x: Tensor, unit_shape: Sequence[int]) -> None:
    if not x.dim() or x.shape == unit_shape:
        return
    lined_up = zip(reversed(x.shape), reversed(unit_shape), strict=False)
    if x.dim() > len(unit_shape) or any(size not in (1, units) for size, units in lined_up):
        raise UserError(
            f"{name} has shape {tuple(x.shape)}, but the layer has units {tuple(unit_shape)}; "
            "give one value for the layer or one for each neuron"
        )


@dataclass(frozen=True, eq=False)
class NetworkSpec:
    """A stack of layers and a readout (or None), ``delay`` steps (0 or 1) between a spike and its arrival above.

    Raises:
        UserError: for parameters of different dtypes or devices, or that are not finite.
    """

    layers: tuple[LayerSpec, ...]
    readout: ReadoutSpec | None
    delay: int = 1

    def __post_init__(self) -> None:
        if not self.stack:
            raise UserError("a network needs at least one layer")
        require_alike(self.tensors)
        finite.require_parameters(self.tensors)
        for k, layer in enumerate(self.layers):
            if layer.input is not None and layer.input.residual is not None:
                source = layer.input.source
                if not 0 <= source < k:
                    raise UserError(f"{layer.name} has a residual connection from layer {source}, not below it")
                _require_units(layer.input.residual, self.layers[source].unit_shape, layer.unit_shape)
        for below, above in pairwise(self.stack):
            taken = _taken(above)
            if taken not in (None, below.unit_shape):
                raise UserError(f"{above.name} takes units {taken}, but its neurons are {below.unit_shape}")

    @cached_property
    def stack(self) -> tuple[LayerSpec | ReadoutSpec, ...]:
        """Layers, then the readout."""
        return self.layers if self.readout is None else (*self.layers, self.readout)

    @cached_property
    def tensors(self) -> tuple[tuple[str, Tensor], ...]:
        """Every parameter with its name."""
        return tuple(named for layer in self.stack for named in layer.tensors)

    @property
    def changed_input(self) -> str | None:
        """The first population whose input is changed on its way, and how; None without one."""
        for layer in self.stack:
            if layer.input is not None:
                return f"{layer.name} ({layer.input.what})"
            if isinstance(layer, LayerSpec) and layer.recurrent_dropout:
                return f"{layer.name} (dropout of {layer.recurrent_dropout:g} in its recurrence)"
        return None

    @cached_property
    def dtype(self) -> torch.dtype:
        return self.stack[0].a.dtype

    @cached_property
    def device(self) -> torch.device:
        return self.stack[0].a.device

    @property
    def in_shape(self) -> tuple[int, ...] | None:
        """Units of the input; None where the first connection does not say."""
        return _taken(self.stack[0])
