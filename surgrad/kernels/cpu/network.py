"""The network over time on the CPU: one call into compiled code per forward and backward pass (`lif.cpp`).

Tensors are brought into its layout and back by differentiable operations (`layout.py`); the compiled scan itself is
one autograd function over all layers.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgrad.datasets.events import EventBatch
from surgrad.kernels.cpu.build import library
from surgrad.kernels.cpu.layout import LANES, Layout, adjoint_weight, geometry, pack, pack_events, pack_weight, unpack
from surgrad.kernels.cpu.memory import empty
from surgrad.kernels.philox import NoiseKey
from surgrad.kernels.reference import delayed
from surgrad.kernels.state import LayerState, NetworkOutput, NetworkState
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import Readout
from surgrad.neurons import escape_noise, surrogate
from surgrad.neurons.lif import LIF, LIFState

if TYPE_CHECKING:
    from surgrad.network.network import Network

BLOCK = 32  # steps between checkpoints of the state
GROUP = 4  # samples that one thread takes through a densely recurrent network together
DENSE_ABOVE = 0.15  # share of active units above which a product is computed densely

# number in neuron.h, and parameters, of each surrogate and escape noise
SURROGATES = {
    surrogate.SuperSpike: lambda h: (0, (h.beta, 0.0)),
    surrogate.AsymptoticSuperSpike: lambda h: (1, (h.beta, 0.0)),
    surrogate.SigmoidPrime: lambda h: (2, (h.beta, h.beta)),
    surrogate.ScaledSigmoidPrime: lambda h: (2, (h.beta, 1.0)),
    surrogate.Esser: lambda h: (3, (h.beta, 0.0)),
    surrogate.Exponential: lambda h: (4, (h.p0, h.delta_u)),
    surrogate.MultilayerSpiker: lambda h: (5, (0.0, 0.0)),
    surrogate.TrueGradient: lambda h: (6, (0.0, 0.0)),
}
NOISES = {
    escape_noise.Step: lambda p: (0, (0.0, 0.0)),
    escape_noise.Sigmoid: lambda p: (1, (1 / p.beta, 0.0)),
    escape_noise.Exponential: lambda p: (2, (1 / p.p0, p.delta_u)),
}
RESETS = {"multiplicative": 0, "multiplicative_leak": 1, "subtractive": 2, "subtractive_leak": 3}

_int, _float, _pointer = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class _Connection(ctypes.Structure):
    _fields_ = (
        [(name, _int) for name in ("exists", "in_channels", "in_stride", "in_height", "in_width")]
        + [(name, _int) for name in ("channels", "stride", "height", "width")]
        + [(name, _int) for name in ("kernel_h", "kernel_w", "step_h", "step_w", "pad_h", "pad_w")]
        + [("forward", _pointer), ("adjoint", _pointer)]
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        [("feedforward", _Connection), ("recurrent", _Connection)]
        + [(name, _int) for name in ("channels", "positions", "stride")]
        + [(n, _int) for n in ("is_readout", "reset", "diff_reset", "surrogate", "noise", "unit_gain", "index")]
        + [("surrogate_p", _float * 2), ("noise_p", _float * 2), ("u0", _float), ("trained_tau", ctypes.c_int32)]
        + [(n, _pointer) for n in ("a", "b", "current", "bits", "checkpoints", "counts", "out", "membranes")]
        + [(n, _pointer) for n in ("i_first", "u_first", "bits_before", "i_last", "u_last")]
        + [(n, _pointer) for n in ("g_counts", "g_out")]
        + [(n, _int) for n in ("g_out_t", "g_out_b")]
        + [(n, _pointer) for n in ("g_current", "g_feedforward", "g_recurrent", "g_a", "g_b")]
    )


class _Network(ctypes.Structure):
    _fields_ = (
        [(n, _int) for n in ("nb_layers", "T", "B", "delay", "block", "group", "threads", "first_step", "truncate")]
        + [("in_words", _int), ("input", _pointer), ("input_before", _pointer), ("ids", _pointer)]
        + [("seed", ctypes.c_uint32), ("draw", ctypes.c_uint32), ("dense_above", _float), ("layers", _pointer)]
    )


@dataclass
class Stage:
    """One layer for the kernel: its layout, connections, neuron and decays."""

    layout: Layout
    below: Layout | None
    feedforward: Dense | Conv | None
    recurrent: Dense | Conv | None
    neuron: LIF | None  # None for a readout
    a: Tensor
    b: Tensor
    index: int = 0
    u0: float = 0.0
    unit_gain: bool = True
    state: LayerState | LIFState | None = None


@dataclass
class Plan:
    """Everything about one call that is not a differentiable tensor, and the buffers kept for its backward pass."""

    stages: list[Stage]
    T: int
    B: int
    delay: int
    noise: NoiseKey
    ids: Tensor
    first_step: int = 0
    truncate: int = 0
    memory: str = "full"
    input_bits: Tensor | None = None
    input_before: Tensor | None = None
    input_words: int = 0
    spikes_as_floats: bool = False
    membranes: Tensor | None = None
    bits: list[Tensor] = field(default_factory=list)
    checkpoints: list[Tensor] = field(default_factory=list)
    i_last: list[Tensor] = field(default_factory=list)
    u_last: list[Tensor] = field(default_factory=list)

    @property
    def block(self) -> int:
        """Steps per block: about sqrt(T) where memory counts, a divisor of the length of truncated gradients."""
        if not self.truncate:
            return max(BLOCK, math.ceil(math.sqrt(self.T))) if self.memory == "recompute" else BLOCK
        return max(s for s in range(1, min(BLOCK, self.truncate) + 1) if self.truncate % s == 0)

    @property
    def group(self) -> int:
        dense = any(stage.recurrent is not None and len(stage.layout.unit_shape) == 1 for stage in self.stages)
        return GROUP if dense else 1


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


class Call:
    """The C descriptors of one call; keeps alive the tensors that they point to."""

    def __init__(self, plan: Plan, tensors: Sequence[Tensor | None], backward: bool):
        self.layers = (_Layer * len(plan.stages))()
        self.alive: list[Tensor] = []
        for k, (stage, layer) in enumerate(zip(plan.stages, self.layers, strict=True)):
            w, r, a, b, current = tensors[5 * k : 5 * k + 5]
            for name, packed, connection, below in (
                ("feedforward", w, stage.feedforward, stage.below),
                ("recurrent", r, stage.recurrent, stage.layout),
            ):
                if packed is None:
                    continue
                shape = geometry(connection, below, stage.layout)
                adjoint = adjoint_weight(packed, shape["step_w"]) if backward and below.stride % LANES == 0 else None
                self.alive.append(adjoint)
                described = _Connection(**shape, forward=_address(packed), adjoint=_address(adjoint))
                setattr(layer, name, described)
            layer.channels, layer.positions, layer.stride = (
                stage.layout.channels,
                stage.layout.positions,
                stage.layout.stride,
            )
            layer.index, layer.u0, layer.unit_gain = stage.index, stage.u0, stage.unit_gain
            layer.is_readout = stage.neuron is None
            if stage.neuron is not None:
                layer.reset, layer.diff_reset = RESETS[stage.neuron.reset], stage.neuron.diff_reset
                h, noise = stage.neuron.surrogate, stage.neuron.escape_noise
                layer.surrogate, (layer.surrogate_p[0], layer.surrogate_p[1]) = SURROGATES[type(h)](h)
                layer.noise, (layer.noise_p[0], layer.noise_p[1]) = NOISES[type(noise)](noise)
            layer.a, layer.b, layer.current = _address(a), _address(b), _address(current)
        self.network = _Network(
            nb_layers=len(plan.stages),
            T=plan.T,
            B=plan.B,
            delay=plan.delay,
            block=plan.block,
            group=plan.group,
            threads=torch.get_num_threads(),
            first_step=plan.first_step,
            truncate=plan.truncate,
            in_words=plan.input_words,
            input=_address(plan.input_bits),
            input_before=_address(plan.input_before),
            ids=_address(plan.ids),
            seed=plan.noise.seed & 0xFFFFFFFF,
            draw=plan.noise.draw & 0xFFFFFFFF,
            dense_above=DENSE_ABOVE,
            layers=ctypes.addressof(self.layers),
        )
        self.threads = min(self.network.threads, -(-plan.B // plan.group))

    def point(self, k: int, **tensors: Tensor | None) -> None:
        for name, x in tensors.items():
            self.alive.append(x)
            setattr(self.layers[k], name, _address(x))


def rows(gradient: Tensor | None, T: int, B: int, n: int) -> Tensor:
    """A gradient (T, B, n) with contiguous rows; rows that are the same for all steps or samples are kept once."""
    if gradient is None:
        gradient = torch.zeros(()).expand(T, B, n)
    once = [size if stride else 1 for size, stride in zip(gradient.shape, gradient.stride(), strict=True)]
    kept = gradient[: once[0], : once[1], : once[2]]
    if kept.numel() == T * B * n and not kept.is_contiguous():
        kept = empty(*kept.shape).copy_(kept)
    return kept.expand(once[0], once[1], n).contiguous().expand(T, B, n)


class _Scan(torch.autograd.Function):
    """All layers, all steps. Inputs: the plan and five tensors per layer (W, R, a, b, current), which may be None.

    One output per layer: spike counts (B, places); y (T, B, n) of a readout; spikes (T, B, n) if ``spikes_as_floats``.
    """

    @staticmethod
    def forward(ctx, plan: Plan, *tensors: Tensor | None):
        call = Call(plan, tensors, backward=False)
        outputs = []
        blocks = -(-plan.T // plan.block)
        needs_backward = any(ctx.needs_input_grad)
        for k, stage in enumerate(plan.stages):
            layout = stage.layout
            nb_units = math.prod(layout.unit_shape)
            bits = counts = out = before = None
            if stage.neuron is None:
                out = empty(plan.T, plan.B, nb_units)
            else:
                bits = empty(plan.B, plan.T, layout.words, dtype=torch.int64)
                if plan.spikes_as_floats:
                    out = empty(plan.T, plan.B, nb_units)
                else:
                    counts = torch.empty(plan.B, layout.places)
            keep = needs_backward and (stage.neuron is not None or tensors[5 * k + 2].requires_grad)
            keep = keep or (needs_backward and tensors[5 * k + 3].requires_grad)
            checkpoints = empty(blocks, plan.B, 2, layout.places) if keep else None
            i_last, u_last = torch.empty(plan.B, layout.places), torch.empty(plan.B, layout.places)
            i_first = u_first = None
            if stage.state is not None:
                i_first, u_first = layout.to_places(stage.state.i), layout.to_places(stage.state.u)
                if stage.neuron is not None:
                    before = pack(stage.state.s[None], layout)[:, 0].contiguous()
            call.point(k, bits=bits, checkpoints=checkpoints, counts=counts, out=out, i_last=i_last, u_last=u_last)
            call.point(k, i_first=i_first, u_first=u_first, bits_before=before, membranes=plan.membranes)
            plan.bits.append(bits)
            plan.checkpoints.append(checkpoints)
            plan.i_last.append(i_last)
            plan.u_last.append(u_last)
            outputs.append(counts if counts is not None else out)
            ctx.befores = [*getattr(ctx, "befores", []), before]
        library().surgrad_forward(ctypes.addressof(call.network))
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        plan, tensors = ctx.plan, ctx.saved_tensors
        call = Call(plan, tensors, backward=True)
        returned: list[Tensor | None] = []
        for k, (stage, gradient) in enumerate(zip(plan.stages, gradients, strict=True)):
            wanted = ctx.needs_input_grad[1 + 5 * k : 6 + 5 * k]
            as_out = stage.neuron is None or plan.spikes_as_floats
            if as_out:
                gradient = rows(gradient, plan.T, plan.B, math.prod(stage.layout.unit_shape))
                call.layers[k].g_out_t, call.layers[k].g_out_b = gradient.stride()[:2]
            elif gradient is not None:
                gradient = gradient.contiguous()
            partials = [
                torch.zeros(call.threads, *x.shape) if need and x is not None else None
                for x, need in zip(tensors[5 * k : 5 * k + 4], wanted, strict=False)
            ]
            trained_tau = wanted[2] or wanted[3]
            if trained_tau:
                partials[2:] = [torch.zeros(call.threads, stage.layout.places) for _ in range(2)]
            call.layers[k].trained_tau = trained_tau
            g_current = None
            if wanted[4]:
                g_current = empty(*tensors[5 * k + 4].shape)
            call.point(k, bits=plan.bits[k], checkpoints=plan.checkpoints[k], bits_before=ctx.befores[k])
            call.point(k, g_out=gradient if as_out else None, g_counts=None if as_out else gradient)
            call.point(k, g_feedforward=partials[0], g_recurrent=partials[1], g_a=partials[2], g_b=partials[3])
            call.point(k, g_current=g_current)
            returned += [*partials, g_current]
        library().surgrad_backward(ctypes.addressof(call.network))
        for k in range(len(plan.stages)):
            for j in range(4):
                if returned[5 * k + j] is not None:
                    returned[5 * k + j] = returned[5 * k + j].sum(0)
        return None, *returned


def _places(stage: Stage, decay: Tensor) -> Tensor:
    return stage.layout.to_places(decay.expand(stage.layout.unit_shape))


def _scan(plan: Plan, current: Tensor | None = None) -> tuple[Tensor, ...]:
    tensors: list[Tensor | None] = []
    for k, stage in enumerate(plan.stages):
        w = None if stage.feedforward is None else pack_weight(stage.feedforward, stage.below, stage.layout)
        r = None if stage.recurrent is None else pack_weight(stage.recurrent, stage.layout, stage.layout)
        tensors += [w, r, _places(stage, stage.a), _places(stage, stage.b), current if k == 0 else None]
    return _Scan.apply(plan, *tensors)


def supports(neuron: LIF) -> bool:
    """Whether the compiled kernel knows this neuron, its surrogate and its escape noise."""
    return type(neuron) is LIF and type(neuron.surrogate) in SURROGATES and type(neuron.escape_noise) in NOISES


def channels_last(x: Tensor) -> Tensor:
    """(T, B, channels, *spatial) -> (T, B, n) with the channel running fastest; contiguous."""
    return x.movedim(2, -1).flatten(2).contiguous()


def lif(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    neuron: LIF,
    *,
    recurrence: Dense | Conv | None = None,
    state: LIFState | None = None,
    previous: Tensor | None = None,
    noise: NoiseKey | None = None,
    ids: Tensor | None = None,
    first_step: int = 0,
    return_membrane: bool = False,
) -> tuple[Tensor, Tensor | None, LIFState]:
    """One layer driven by a current, as `surgrad.kernels.reference.lif`; membranes only if asked for."""
    T, B, *units = current.shape
    layout = Layout.padded(units)
    if state is not None:
        state = LayerState(*state, torch.zeros_like(state.u) if previous is None else previous)
    stage = Stage(
        layout, None, None, recurrence, neuron, a, b, (noise or NoiseKey()).layer, 0.0, neuron.unit_gain, state
    )
    ids = torch.arange(B) if ids is None else ids
    plan = Plan([stage], T, B, 0, noise or NoiseKey(), ids, first_step, spikes_as_floats=True)
    if return_membrane:
        plan.membranes = empty(T, B, math.prod(units))
    (spikes,) = _scan(plan, channels_last(current))
    spatial = (*units[1:], units[0])
    spikes = spikes.view(T, B, *spatial).movedim(-1, 2)
    membranes = plan.membranes.view(T, B, *spatial).movedim(-1, 2) if return_membrane else None
    return spikes, membranes, LIFState(layout.from_places(plan.i_last[0]), layout.from_places(plan.u_last[0]))


def readout(
    current: Tensor, a: Tensor, b: Tensor, *, unit_gain: bool = True, state: LIFState | None = None, u0: float = 0.0
) -> tuple[Tensor, LIFState]:
    """A leaky integrator driven by a current (T, B, C), as `surgrad.kernels.reference.readout`."""
    T, B, nb_units = current.shape
    layout = Layout.padded((nb_units,))
    stage = Stage(layout, None, None, None, None, a, b, 0, u0, unit_gain, state)
    plan = Plan([stage], T, B, 0, NoiseKey(), torch.arange(B))
    (y,) = _scan(plan, current.contiguous())
    return y, LIFState(layout.from_places(plan.i_last[0]), layout.from_places(plan.u_last[0]))


def _stages(
    network: "Network", input_shape: Sequence[int], state: NetworkState | None, from_current: bool
) -> list[Stage]:
    stages, below = [], Layout(tuple(input_shape), input_shape[0])
    layers = [*network.layers, *([network.readout] if network.readout is not None else [])]
    for k, layer in enumerate(layers):
        is_readout = isinstance(layer, Readout)
        a, b = layer.decays(network.dt)
        stage = Stage(
            layout=Layout.padded(layer.unit_shape),
            below=below,
            feedforward=None if from_current and k == 0 else layer.feedforward,
            recurrent=None if is_readout else layer.recurrent,
            neuron=None if is_readout else layer.neuron,
            a=a,
            b=b,
            index=k,
            u0=layer.u0 if is_readout else 0.0,
            unit_gain=layer.unit_gain if is_readout else layer.neuron.unit_gain,
        )
        if state is not None:
            stage.state = state.readout if is_readout else state.layers[k]
        stages.append(stage)
        below = stage.layout
    return stages


def run(
    network: "Network",
    x: Tensor | EventBatch,
    noise: NoiseKey,
    ids: Tensor,
    *,
    state: NetworkState | None = None,
    record: bool = False,
    return_state: bool = False,
    truncate: int = 0,
    memory: str = "full",
) -> NetworkOutput:
    """Run a whole network (arguments as in `surgrad.network.network.Network.forward`)."""
    events = isinstance(x, EventBatch)
    input_shape = x.unit_shape if events else tuple(x.shape[2:])
    T, B = (x.nb_steps, len(x)) if events else x.shape[:2]
    binary = events or bool(((x == 0) | (x == 1)).all())
    stages = _stages(network, input_shape, state, from_current=not binary)
    plan = Plan(stages, T, B, network.delay, noise, ids.contiguous(), state.step if state else 0, truncate, memory)
    layout = Layout(tuple(input_shape), input_shape[0])
    current = None
    if binary:
        plan.input_words = layout.words
        plan.input_bits = pack_events(x, layout) if events else pack(x, layout)
        if state is not None:
            plan.input_before = pack(state.last_input[None], layout)[:, 0].contiguous()
    else:
        before = state.last_input if state else None
        first = network.layers[0] if network.layers else network.readout
        current = channels_last(first.feedforward(delayed(x, network.delay, before)))
    outputs = _scan(plan, current)
    nb_hidden = len(network.layers)
    counts = [stage.layout.from_places(c) for stage, c in zip(stages[:nb_hidden], outputs[:nb_hidden], strict=True)]
    end = None
    if return_state:
        ends = [
            LIFState(s.layout.from_places(i), s.layout.from_places(u))
            for s, i, u in zip(stages, plan.i_last, plan.u_last, strict=True)
        ]
        hidden = tuple(
            LayerState(*e, unpack(bits[:, -1:], s.layout)[0])
            for e, bits, s in zip(ends[:nb_hidden], plan.bits, stages, strict=False)
        )
        last = unpack(plan.input_bits[:, -1:], layout)[0] if binary else x[-1]
        end = NetworkState(hidden, ends[-1] if network.readout is not None else None, last, plan.first_step + T)
    y = outputs[-1] if network.readout is not None else None
    spikes = None
    if record:
        spikes = [unpack(bits, stage.layout) for bits, stage in zip(plan.bits[:nb_hidden], stages, strict=False)]
    return NetworkOutput(y, counts, spikes, end)
