"""A stack of spiking layers and a readout, run over time by one of the kernels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.kernels import dispatch
from surgrad.kernels.call import RunOptions
from surgrad.kernels.contract import NetworkSpec
from surgrad.kernels.events import Events
from surgrad.kernels.state import NetworkOutput, NetworkState
from surgrad.network.delays import Delayed
from surgrad.network.layers import Readout, SpikingLayer, decays_of


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within it, normalisation takes its running averages, nothing is dropped, delays are as they are evaluated."""
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)


class SpikingLayers(nn.ModuleList):
    """The spiking layers of a network, bottom to top."""

    if TYPE_CHECKING:  # PyTorch knows modules only

        def __iter__(self) -> Iterator[SpikingLayer]: ...

        def __getitem__(self, index: int) -> SpikingLayer: ...  # type: ignore[override]


class Network(nn.Module):
    """A stack of `SpikingLayer`s and a `Readout`. Modules hold parameters only; state goes in and comes out.

    Args:
        layers: spiking layers, bottom to top.
        readout: readout layer, or None.
        dt: time step in s.
        delay: steps d between a spike below and its arrival, I_l[t] = W s_{l-1}[t-d]: 1 in classification, 0 in
            spike-train matching. Recurrent spikes arrive after one step, and the delays of their connection.

    Raises:
        UserError: where shapes do not fit or delay is not 0 or 1.
    """

    def __init__(self, layers: Sequence[SpikingLayer], readout: Readout | None, dt: float, delay: int = 1):
        super().__init__()
        if delay not in (0, 1):
            raise UserError(f"delay={delay} steps is not allowed; allowed: 0 or 1")
        if not dt > 0:
            raise UserError(f"dt={dt} s must be positive")
        self.layers, self.readout = SpikingLayers(layers), readout
        self.dt, self.delay = dt, delay
        for below, above in pairwise(self.stack):
            expected = above.in_shape
            if expected not in (None, below.unit_shape):
                raise UserError(f"a layer expects input {expected}, but gets {below.unit_shape}")
        for k, layer in enumerate(layers):
            if (residual := layer.residual) is None:
                continue
            if not 0 <= residual.source < k or residual.in_shape != layers[residual.source].unit_shape:
                raise UserError(f"layer {k}: {residual} is none of a layer below it with such units")
        self._place_layers()
        for part in self.stack:
            part.decays(dt)  # refuses, on the host, those that are none
        for layer in layers:
            if layer.adaptation is not None:
                b = layer.decays(dt)[1].detach()
                layer.adaptation.require_stable(dt, b, 1 - b if layer.neuron.unit_gain else torch.ones_like(b))

    def forward(
        self,
        x: Tensor | EventBatch,
        *,
        seed: int = 0,
        draw: int | Tensor = 0,
        ids: Tensor | None = None,
        state: NetworkState | None = None,
        **options: Unpack[RunOptions],
    ) -> NetworkOutput:
        """Run the network over all time steps of ``x``.

        Args:
            x: spikes (T, B, *in_shape), or an `EventBatch`.
            seed: key of the escape noise.
            draw: the epoch or the repetition, part of that key.
            ids: (B,) int64 global sample indices that address the noise; by default those of the batch, else 0..B-1.
            state: of an earlier call, to go on from; zeros if None.
            options: record, return_state, truncate, memory, precision and kernel, see
                `surgrad.kernels.call.RunOptions`.

        Returns:
            readout (T, B, classes), spike counts of every layer (B, *units), and what was asked for.

        Raises:
            UserError: that names the argument that does not fit.
        """
        if any(map(has_own_call, self.stack)):
            return self._called(x, state, {"seed": seed, "draw": draw, "ids": ids, **options})
        if isinstance(x, EventBatch):
            ids = x.ids if ids is None else ids
            events = Events(x.steps, x.units, x.offsets, x.nb_steps, x.unit_shape, x.counts)
        spikes = events if isinstance(x, EventBatch) else x
        if state is None and not options.get("return_state") and isinstance(spikes, Events | Tensor):
            nb_steps = spikes.nb_steps if isinstance(spikes, Events) else len(spikes)
            for layer in self.stack:
                for connection in (layer.feedforward, getattr(layer, "recurrent", None)):
                    if isinstance(connection, Delayed):
                        connection.require_within(self.dt, nb_steps)
        return dispatch.run(self.spec(), spikes, seed=seed, draw=draw, ids=ids, state=state, **options)

    def _place_layers(self) -> None:
        """Tell the layers what they need to be called by themselves."""
        for k, layer in enumerate(self.stack):
            layer.dt, layer.delay, layer.index = self.dt, self.delay, k

    def _called(self, x: Tensor | EventBatch, state: NetworkState | None, options: dict[str, Any]) -> NetworkOutput:
        """As `forward`, every layer called as a module, so that its hooks, or a forward of its own, take part."""
        self._place_layers()  # another network may share them
        record, return_state = options.pop("record", False), options.pop("return_state", False)
        if isinstance(x, EventBatch):
            options["ids"] = x.ids if options["ids"] is None else options["ids"]
            x = x.dense()
        populations, ends = [x], []
        for k, layer in enumerate(self.stack):
            before = None if state is None else _part(state, k, len(self.layers))
            out = layer(populations[-1], before, return_state=return_state, **options)
            populations.append(out[0] if return_state else out)
            ends += [out[1]] if return_state else []
        spikes = populations[1 : len(self.layers) + 1]
        end = None
        if return_state:
            pending = tuple(part.pending[0] if part.pending else None for part in ends)
            layers = tuple(part.layers[0] for part in ends[: len(self.layers)])
            end = NetworkState(layers, ends[-1].readout, ends[0].last_input, ends[0].step, pending)
        y = populations[-1] if self.readout is not None else None
        return NetworkOutput(y, [s.sum(0) for s in spikes], spikes if record else None, end)

    @property
    def stack(self) -> list[SpikingLayer | Readout]:
        """Layers, then the readout."""
        return [*self.layers, *([self.readout] if self.readout is not None else [])]

    def spec(self) -> NetworkSpec:
        """What kernels are given of this network."""
        pairs = decays_of(self.stack, self.dt)
        layers = tuple(layer.spec(f"layers[{k}]", self.dt, k, *pairs[k : k + 1]) for k, layer in enumerate(self.layers))
        readout = None
        if self.readout is not None:
            readout = self.readout.spec("readout", self.dt, len(layers), *pairs[-1:])
        return NetworkSpec(layers, readout, self.delay)

    def extra_repr(self) -> str:
        return f"dt={self.dt:g} s, delay={self.delay}"

    def summary(self, kernel: str = "auto") -> str:
        """A table of shapes, parameters and time constants, and the kernel that will run and why."""
        rows: list[tuple[str, ...]] = [("", "connection", "units", "weights", "tau_mem", "tau_syn", "neuron")]
        for name, layer in zip(
            [*(f"layers[{k}]" for k in range(len(self.layers))), "readout"], self.stack, strict=False
        ):
            rows.append(_row(name, layer))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        choice = dispatch.choose(kernel, self.spec())
        lines.append(f"{trained} trained parameters, dt = {self.dt:g} s, a spike arrives after {self.delay} step(s)")
        lines.append(f"kernel: {choice.name} ({choice.why})")
        return "\n".join(lines)


def has_own_call(layer: SpikingLayer | Readout) -> bool:
    """Whether a layer must be called as a module: it has hooks, or a forward of its own."""
    own = vars(layer)
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return bool(hooks) or type(layer).forward is not SpikingLayer.forward


def _part(state: NetworkState, k: int, nb_layers: int) -> NetworkState:
    """The state of one layer of a network, or of its readout behind all layers."""
    last_input = state.layers[k - 1].s if k else state.last_input
    pending = state.pending[k : k + 1]
    if k < nb_layers:
        return NetworkState((state.layers[k],), None, last_input, state.step, pending)
    return NetworkState((), state.readout, last_input, state.step, pending)


def _row(name: str, layer: SpikingLayer | Readout) -> tuple[str, ...]:
    connections = [c for c in (layer.feedforward, getattr(layer, "recurrent", None)) if c is not None]
    kinds = " + ".join(type(c).__name__ for c in connections)
    if layer.pool is not None:
        kinds = f"{type(layer.pool).__name__}, {kinds}"
    residual = getattr(layer, "residual", None)
    if residual is not None:
        kinds += f" + {type(residual).__name__} of layers[{residual.source}]"
    if layer.normalization is not None:
        kinds += f", {type(layer.normalization).__name__}"
    weights = sum(p.numel() for c in layer.connections for p in c.parameters())
    taus = [layer.tau_mem.extra_repr().split(",")[0], layer.tau_syn.extra_repr().split(",")[0]]
    neuron = getattr(layer, "neuron", None)
    described = (
        "leaky integrator" if neuron is None else f"{type(neuron).__name__}, {neuron.surrogate}, {neuron.escape_noise}"
    )
    return name, kinds, str(layer.unit_shape), str(weights), *taus, described
