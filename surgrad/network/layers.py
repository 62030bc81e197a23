"""Layers: a connection, a neuron and its time constants. The loop over time is in `surgrad.kernels`."""

from collections.abc import Sequence
from typing import Any, Self, Unpack

from torch import Tensor, nn

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.kernels import dispatch
from surgrad.kernels.call import RunOptions
from surgrad.kernels.contract import LayerSpec, NetworkSpec, ReadoutSpec, connection_spec
from surgrad.kernels.inputs import InputSpec
from surgrad.kernels.state import NetworkOutput, NetworkState
from surgrad.network.parameters import Adaptation, TimeConstant, decays
from surgrad.network.pooling import Pool
from surgrad.network.residual import Residual
from surgrad.neurons.lif import LIF, AdaptiveLIF


def _shape_of(connection: nn.Module | None, end: str, otherwise: Sequence[int] | None = None) -> tuple[int, ...]:
    """``in_shape`` or ``out_shape`` of a connection, of the library or not. Raises: UserError if neither is known."""
    if isinstance(connection, nn.Linear):
        return (connection.in_features if end == "in_shape" else connection.out_features,)
    shape = getattr(connection, end, otherwise)
    if shape is None:
        found = "no connection" if connection is None else f"a {type(connection).__name__}, which has no {end}"
        raise UserError(f"unit_shape is needed: the layer has {found}")
    return tuple(shape)


def _dropout(p: float) -> float:
    if not 0 <= p < 1:
        raise UserError(f"dropout={p}: must be a probability from 0 to below 1")
    return p


def _time_constant(tau: "float | TimeConstant") -> TimeConstant:
    return tau if isinstance(tau, TimeConstant) else TimeConstant(tau)


class _Callable(nn.Module):
    """A layer that can be called by itself: what a network of this one layer gives.

    Attributes:
        dt: time step in s; a `surgrad.network.network.Network` gives its layers its own.
        delay: steps from a spike below to its arrival, 1, or that of the network.
        index: number of the layer, part of the address of its random numbers.
        pool: of the spikes below (`surgrad.network.pooling`), or None.
    """

    dt: float | None
    tau_mem: TimeConstant
    tau_syn: TimeConstant
    feedforward: nn.Module | None
    pool: Pool | None
    delay: int = 1
    index: int = 0

    def _alone(self, dt: float) -> NetworkSpec:
        """The network of this layer."""
        raise NotImplementedError

    def behind(self, pool: Pool | None) -> Self:
        """Itself, the spikes below pooled before its feed-forward connection; None: as they are.

        Raises:
            UserError: for a pool that gives something else than the connection takes.
        """
        if pool is not None and _shape_of(self.feedforward, "in_shape", pool.out_shape) != pool.out_shape:
            takes = _shape_of(self.feedforward, "in_shape")
            raise UserError(f"a pool gives {pool.out_shape}, but the connection behind it takes {takes}")
        self.pool = pool
        return self

    @property
    def connections(self) -> list[nn.Module]:
        """Those with weights, from the bottom up."""
        return [] if self.feedforward is None else [self.feedforward]

    @property
    def in_shape(self) -> tuple[int, ...] | None:
        """Units of the spikes that the layer takes; None where its connection does not say."""
        shape = getattr(self.pool or self.feedforward, "in_shape", None)
        return None if shape is None else tuple(shape)

    @property
    def _draws(self) -> bool:
        """Whether a call draws random numbers."""
        raise NotImplementedError

    @property
    def method(self) -> str:
        """How the decays follow from the time constants."""
        raise NotImplementedError

    def decays(self, dt: float) -> tuple[Tensor, Tensor]:
        """Decays a of the synapse and b of the membrane over a step of dt seconds."""
        return self.tau_syn.decay(dt, self.method), self.tau_mem.decay(dt, self.method)

    def _result(self, out: NetworkOutput) -> Tensor:
        """What a call returns of the network's output."""
        raise NotImplementedError

    def forward(
        self,
        x: Tensor | EventBatch,
        state: NetworkState | None = None,
        *,
        seed: int | None = None,
        draw: int | Tensor = 0,
        ids: Tensor | None = None,
        **options: Unpack[RunOptions],
    ) -> Any:
        """Run the layer by itself over all time steps of ``x``, as in a `torch.nn.Sequential`.

        Args:
            x: spikes of the layer below (T, B, *in_shape), or an `EventBatch`.
            state: of an earlier call, to go on from; zeros if None.
            seed: key of the random numbers; needed by what draws any.
            draw: see `surgrad.network.network.Network.forward`.
            ids: see there.
            options: see `surgrad.kernels.call.RunOptions`.

        Returns:
            of a spiking layer its spikes (T, B, *units), which carry gradients, of a readout y (T, B, classes); with
            ``return_state`` a pair of them and the state.

        Raises:
            UserError: for a layer without dt, random numbers without a seed, and arguments that do not fit.
        """
        if self.dt is None:
            raise UserError(f"a {type(self).__name__} that is called by itself needs a time step: give it dt=…, in s")
        if seed is None and self._draws:
            raise UserError(f"this {type(self).__name__} draws random numbers: call it with seed=… and draw=…")
        if isinstance(x, EventBatch):
            ids, x = x.ids if ids is None else ids, x.dense()
        options["record"] = True
        out = dispatch.run(self._alone(self.dt), x, seed=seed or 0, state=state, draw=draw, ids=ids, **options)
        return (self._result(out), out.state) if options.get("return_state") else self._result(out)


def input_spec(layer: "SpikingLayer | Readout", name: str, dt: float, number: int) -> InputSpec | None:
    """What kernels are given of a population's input; None where nothing happens to it.

    Args:
        layer: the population.
        name: of the population.
        dt: time step, s.
        number: of the population, the readout's after all layers.
    """
    part, pool, residual = layer.normalization, layer.pool, getattr(layer, "residual", None)
    dropout = layer.dropout if layer.training else 0.0
    if part is None and not dropout and pool is None and residual is None:
        return None
    tensors: list[tuple[str, Tensor]] = []
    if part is not None:
        named = (*part.named_parameters(), *part.named_buffers())
        tensors = [(f"{name}.normalization.{own}", x) for own, x in named if x.is_floating_point()]
    below, past, source = () if pool is None else pool.in_shape, None, 0
    if residual is not None:
        past, source = connection_spec(residual, f"{name}.residual", dt), residual.source
        tensors += [(f"{name}.residual.{own}", x) for own, x in residual.named_parameters()]
    return InputSpec(name, dropout, part, tuple(tensors), number, pool, below, past, source)


def decays_of(layers: Sequence[_Callable], dt: float) -> list[tuple[Tensor, Tensor]]:
    """`decays` of layers on a GPU, in few launches; none where they compute their own, or on a CPU."""
    if any(
        layer.tau_mem.log_tau.device.type == "cpu" or type(layer).decays is not _Callable.decays for layer in layers
    ):
        return []
    constants = [(tau, layer.method) for layer in layers for tau in (layer.tau_syn, layer.tau_mem)]
    found = iter(decays(constants, dt))
    return list(zip(found, found, strict=True))


class SpikingLayer(_Callable):
    """A LIF population with its feed-forward and, if given, recurrent connection: I[t] = W s_in[t-d] + R s[t-1].

    A recurrent connection with delays adds them to the one step.

    Args:
        feedforward: connection from the layer below: `Dense`, `Conv`, `DelayedDense`, or any module that maps
            (..., *in_shape) to (..., *out_shape), as `torch.nn.Linear`.
        neuron: surrogate, escape noise and reset.
        tau_mem: seconds, or a `TimeConstant`.
        tau_syn: seconds, or a `TimeConstant`.
        recurrent: connection from the layer to itself.
        unit_shape: (N,) or (channels, *spatial); needed only where the connection does not say its ``out_shape``.
        normalization: maps the feed-forward current (T, B, *units), as
            `surgrad.network.normalization.TemporalBatchNorm`; None: as it is.
        dropout: probability that a unit of the layer below is silent for a whole sample, while training; what is left
            counts 1 / (1 - dropout).
        recurrent_dropout: probability that a unit is silent in the recurrent connection for a whole sample, likewise.
        dt: time step in s, for a layer that is called by itself; one in a Network has that of the network.
    """

    def __init__(
        self,
        feedforward: nn.Module | None,
        neuron: LIF,
        tau_mem: float | TimeConstant,
        tau_syn: float | TimeConstant,
        recurrent: nn.Module | None = None,
        unit_shape: Sequence[int] | None = None,
        normalization: nn.Module | None = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        dt: float | None = None,
    ):
        super().__init__()
        self.dt, self.recurrent_dropout = dt, _dropout(recurrent_dropout)
        self.feedforward, self.recurrent, self.neuron = feedforward, recurrent, neuron
        self.pool = None
        self.residual: Residual | None = None
        self.normalization, self.dropout = normalization, _dropout(dropout)
        self.tau_mem, self.tau_syn = _time_constant(tau_mem), _time_constant(tau_syn)
        self.unit_shape = _shape_of(feedforward, "out_shape", unit_shape)
        self.adaptation = Adaptation(neuron, self.unit_shape) if isinstance(neuron, AdaptiveLIF) else None
        loop = [_shape_of(recurrent, end, self.unit_shape) for end in ("in_shape", "out_shape")]
        if recurrent is not None and loop != [self.unit_shape] * 2:
            raise UserError(
                f"a recurrent connection maps {loop[0]} to {loop[1]}, but the layer has units "
                f"{self.unit_shape}; use an odd rec_kernel_size with rec_padding = rec_kernel_size // 2"
            )

    def _alone(self, dt: float) -> NetworkSpec:
        if self.residual is not None:
            raise UserError(
                f"layer {self.index} has a residual connection, from the spikes of another layer than that below: "
                "call the network, without hooks on its layers"
            )
        return NetworkSpec((self.spec("layer", dt, self.index),), None, self.delay)

    def _result(self, out: NetworkOutput) -> Tensor:
        return out.recorded[0]

    @property
    def _draws(self) -> bool:
        dropped = self.training and (self.dropout > 0 or self.recurrent_dropout > 0)
        return self.neuron.escape_noise.stochastic or dropped

    @property
    def method(self) -> str:
        return self.neuron.decay

    @property
    def connections(self) -> list[nn.Module]:
        """Those with weights: from the layer below, from one further below, from itself."""
        found = (self.feedforward, None if self.residual is None else self.residual.conv, self.recurrent)
        return [connection for connection in found if connection is not None]

    def beside(self, residual: Residual | None) -> Self:
        """Itself, driven by the spikes of a layer further below, too, behind its normalisation; None: not.

        Raises:
            UserError: for a connection to other units.
        """
        if residual is not None and residual.out_shape != self.unit_shape:
            raise UserError(f"a residual connection to {residual.out_shape}, but the layer has units {self.unit_shape}")
        self.residual = residual
        return self

    def spec(self, name: str, dt: float, index: int, decays: tuple[Tensor, Tensor] | None = None) -> LayerSpec:
        """What kernels are given of this layer.

        Args:
            name: for messages.
            dt: time step, s.
            index: its number among the layers.
            decays: those of `decays`, where they are known.
        """
        return LayerSpec(
            name,
            self.neuron,
            self.unit_shape,
            *(decays or self.decays(dt)),
            feedforward=connection_spec(self.feedforward, f"{name}.feedforward", dt, self.unit_shape),
            recurrent=connection_spec(self.recurrent, f"{name}.recurrent", dt, self.unit_shape),
            adaptation=None if self.adaptation is None else self.adaptation.values(dt),
            index=index,
            input=input_spec(self, name, dt, index),
            recurrent_dropout=self.recurrent_dropout if self.training and self.recurrent is not None else 0.0,
        )

    def extra_repr(self) -> str:
        return f"{self.unit_shape}, {self.neuron}"


class Readout(_Callable):
    """Leaky integrators without spikes: y[t] = u[t+1], u[0] = ``u0``.

    Args:
        feedforward: the connection that drives it.
        tau_mem: membrane time constant, s.
        tau_syn: synaptic time constant, s.
        u0: membrane potential at the first step.
        unit_gain: whether the current is scaled by 1 - b.
        decay: see `surgrad.neurons.lif.LIF`.
        normalization: as in `SpikingLayer`.
        dropout: as in `SpikingLayer`.
        dt: as in `SpikingLayer`.
    """

    feedforward: nn.Module

    def __init__(
        self,
        feedforward: nn.Module,
        tau_mem: float | TimeConstant,
        tau_syn: float | TimeConstant,
        u0: float = -1e-3,
        unit_gain: bool = True,
        decay: str = "exponential",
        normalization: nn.Module | None = None,
        dropout: float = 0.0,
        dt: float | None = None,
    ):
        super().__init__()
        self.dt, self.pool = dt, None
        self.feedforward, self.u0, self.unit_gain, self.decay = feedforward, u0, unit_gain, decay
        self.tau_mem, self.tau_syn = _time_constant(tau_mem), _time_constant(tau_syn)
        self.normalization, self.dropout = normalization, _dropout(dropout)
        self.unit_shape = _shape_of(feedforward, "out_shape")

    def _alone(self, dt: float) -> NetworkSpec:
        return NetworkSpec((), self.spec("readout", dt, self.index), self.delay)

    def _result(self, out: NetworkOutput) -> Tensor:
        return out.y

    @property
    def _draws(self) -> bool:
        return self.training and self.dropout > 0

    @property
    def method(self) -> str:
        return self.decay

    def spec(self, name: str, dt: float, index: int, decays: tuple[Tensor, Tensor] | None = None) -> ReadoutSpec:
        """What kernels are given of this readout; arguments as in `SpikingLayer.spec`, of the layers below it."""
        a, b = decays or self.decays(dt)
        connection = connection_spec(self.feedforward, f"{name}.feedforward", dt, self.unit_shape)
        changed = input_spec(self, name, dt, index)
        return ReadoutSpec(name, self.unit_shape, a, b, connection, self.u0, self.unit_gain, changed)

    def extra_repr(self) -> str:
        return f"{self.unit_shape}, u0={self.u0:g}"
