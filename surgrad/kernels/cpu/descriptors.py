"""What the compiled network is given (`network_run.h`): its layers, its buffers, and the plan of one call."""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgrad.kernels.call import Address
from surgrad.kernels.contract import LayerSpec, ReadoutSpec
from surgrad.kernels.cpu.layout import LANES, Layout, adjoint_weight, geometry
from surgrad.kernels.cpu.memory import empty
from surgrad.neurons import escape_noise, surrogate
from surgrad.neurons.lif import LIF

BLOCK = 32  # steps between checkpoints of the state
GROUP = 4  # samples that one thread takes through a densely recurrent network together; LANES with delays of synapses
DENSE_ABOVE = 0.15  # share of active units above which a product is computed densely

# number in neuron.h, and parameters, of each surrogate and escape noise
SURROGATES: dict[type, Callable[[Any], tuple[int, tuple[float, float]]]] = {
    surrogate.SuperSpike: lambda h: (0, (h.beta, 0.0)),
    surrogate.AsymptoticSuperSpike: lambda h: (1, (h.beta, 0.0)),
    surrogate.SigmoidPrime: lambda h: (2, (h.beta, h.beta)),
    surrogate.ScaledSigmoidPrime: lambda h: (2, (h.beta, 1.0)),
    surrogate.Esser: lambda h: (3, (h.beta, 0.0)),
    surrogate.Exponential: lambda h: (4, (h.p0, h.delta_u)),
    surrogate.MultilayerSpiker: lambda h: (5, (0.0, 0.0)),
    surrogate.TrueGradient: lambda h: (6, (0.0, 0.0)),
    surrogate.ArcTan: lambda h: (7, (math.pi / 2 * h.alpha, h.alpha / 2)),
    surrogate.Slayer: lambda h: (8, (h.alpha, h.c * h.alpha / 2)),
}
NOISES: dict[type, Callable[[Any], tuple[int, tuple[float, float]]]] = {
    escape_noise.Step: lambda p: (0, (0.0, 0.0)),
    escape_noise.Sigmoid: lambda p: (1, (1 / p.beta, 0.0)),
    escape_noise.Exponential: lambda p: (2, (1 / p.p0, p.delta_u)),
}
RESETS = {"multiplicative": 0, "multiplicative_leak": 1, "subtractive": 2, "subtractive_leak": 3}

_int, _float, _pointer = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


def fields(kind: type, *names: str) -> list[tuple[str, Any]]:
    """Entries of a ctypes structure that have one type."""
    return [(name, kind) for name in names]


class ConnectionDesc(ctypes.Structure):
    _fields_ = (
        fields(_int, "exists", "in_channels", "in_stride", "in_height", "in_width")
        + fields(_int, "channels", "stride", "height", "width")
        + fields(_int, "kernel_h", "kernel_w", "step_h", "step_w", "pad_h", "pad_w")
        + fields(_pointer, "forward", "adjoint")
    )


class LayerDesc(ctypes.Structure):
    _fields_ = (
        fields(ConnectionDesc, "feedforward", "recurrent")
        + fields(_int, "channels", "positions", "stride")
        + fields(_int, "is_readout", "reset", "diff_reset", "surrogate", "noise", "unit_gain", "index")
        + [*fields(_float * 2, "surrogate_p", "noise_p"), ("u0", _float), ("trained_tau", ctypes.c_int32)]
        + fields(_pointer, "a", "b", "current", "bits", "checkpoints", "counts", "out", "membranes")
        + fields(_pointer, "i_first", "u_first", "bits_before", "i_last", "u_last")
        + fields(_pointer, "g_counts", "g_out", "g_i_last", "g_u_last", "g_s_last")
        + fields(_pointer, "g_i_first", "g_u_first", "g_first")
        + fields(_int, "g_out_t", "g_out_b")
        + fields(_pointer, "g_current", "g_feedforward", "g_recurrent", "g_a", "g_b")
    )


class NetworkDesc(ctypes.Structure):
    _fields_ = (
        fields(_int, "nb_layers", "T", "B", "delay", "block", "group", "threads", "first_step", "truncate")
        + fields(_int, "in_words")
        + fields(_pointer, "input", "input_before", "ids")
        + fields(ctypes.c_uint32, "seed", "draw")
        + [("dense_above", _float), ("layers", _pointer)]
    )


def knows(neuron: LIF) -> bool:
    """Whether the compiled code knows the surrogate and the escape noise of a neuron."""
    return type(neuron.surrogate) in SURROGATES and type(neuron.escape_noise) in NOISES


@dataclass
class Stage:
    """One layer in one call: ``below`` is the layout of what drives it, None where that is a current."""

    spec: LayerSpec | ReadoutSpec
    layout: Layout
    below: Layout | None = None

    @property
    def neuron(self) -> LIF | None:
        """None of a readout."""
        return self.spec.neuron if isinstance(self.spec, LayerSpec) else None

    @property
    def nb_units(self) -> int:
        return math.prod(self.layout.unit_shape)


@dataclass
class Plan:
    """Everything about one call that is not a differentiable tensor.

    ``counts``, ``record``: whether spiking layers return their counts and all their spikes. ``return_state``: whether
    the last spikes of every layer are returned.
    """

    stages: list[Stage]
    T: int
    B: int
    delay: int
    address: Address
    truncate: int = 0
    memory: str = "full"
    input_bits: Tensor | None = None
    input_before: Tensor | None = None
    counts: bool = True
    record: bool = False
    return_state: bool = False
    membranes: Tensor | None = None

    @property
    def block(self) -> int:
        """Steps per block: about sqrt(T) where memory counts, a divisor of the length of truncated gradients."""
        if not self.truncate:
            return max(BLOCK, math.ceil(math.sqrt(self.T))) if self.memory == "recompute" else BLOCK
        return max(s for s in range(1, min(BLOCK, self.truncate) + 1) if self.truncate % s == 0)

    @property
    def group(self) -> int:
        looped = [
            (stage.spec.recurrent, stage.layout)
            for stage in self.stages
            if isinstance(stage.spec, LayerSpec) and stage.spec.recurrent is not None
        ]
        if any(loop.kind == "delayed" for loop, _ in looped):
            return LANES
        return GROUP if any(len(layout.unit_shape) == 1 for _, layout in looped) else 1


def address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


class Call:
    """The C descriptors of one call; keeps alive the tensors that they point to.

    Args:
        plan: stages, sizes and addresses of the call.
        tensors: (W, R, a, b, current) of every layer, in the kernel's layout, which may be None.
        backward: whether it goes back.
    """

    def __init__(self, plan: Plan, tensors: Sequence[Sequence[Tensor | None]], backward: bool):
        self.layers = (LayerDesc * len(plan.stages))()
        self.alive: list[Tensor | None] = []
        for stage, layer, (w, r, a, b, current) in zip(plan.stages, self.layers, tensors, strict=True):
            self._connect(stage, layer, w, r, backward)
            layout, spec = stage.layout, stage.spec
            layer.channels, layer.positions, layer.stride = layout.channels, layout.positions, layout.stride
            layer.is_readout = isinstance(spec, ReadoutSpec)
            if isinstance(spec, ReadoutSpec):
                layer.u0, layer.unit_gain = spec.u0, spec.unit_gain
            else:
                neuron = spec.neuron
                layer.index, layer.unit_gain = spec.index, neuron.unit_gain
                layer.reset, layer.diff_reset = RESETS[neuron.reset], neuron.diff_reset
                h, noise = neuron.surrogate, neuron.escape_noise
                layer.surrogate, (layer.surrogate_p[0], layer.surrogate_p[1]) = SURROGATES[type(h)](h)
                layer.noise, (layer.noise_p[0], layer.noise_p[1]) = NOISES[type(noise)](noise)
            layer.a, layer.b, layer.current = address(a), address(b), address(current)
        words = 0 if plan.input_bits is None else plan.input_bits.shape[-1]
        self.network = NetworkDesc(
            nb_layers=len(plan.stages),
            T=plan.T,
            B=plan.B,
            delay=plan.delay,
            block=plan.block,
            group=plan.group,
            threads=torch.get_num_threads(),
            first_step=plan.address.first_step,
            truncate=plan.truncate,
            in_words=words,
            input=address(plan.input_bits),
            input_before=address(plan.input_before),
            ids=address(plan.address.ids),
            seed=plan.address.noise.seed & 0xFFFFFFFF,
            draw=int(plan.address.noise.draw) & 0xFFFFFFFF,
            dense_above=DENSE_ABOVE,
            layers=ctypes.addressof(self.layers),
        )
        self.threads = min(self.network.threads, -(-plan.B // plan.group))

    def _connect(self, stage: Stage, layer: LayerDesc, w: Tensor | None, r: Tensor | None, backward: bool) -> None:
        recurrent = stage.spec.recurrent if isinstance(stage.spec, LayerSpec) else None
        for name, packed, connection, below in (
            ("feedforward", w, stage.spec.feedforward, stage.below),
            ("recurrent", r, recurrent, stage.layout),
        ):
            if packed is None or connection is None or below is None:
                continue
            shape = geometry(connection, below, stage.layout)
            adjoint = adjoint_weight(packed, shape["step_w"]) if backward and below.stride % LANES == 0 else None
            self.alive.append(adjoint)
            setattr(layer, name, ConnectionDesc(**shape, forward=address(packed), adjoint=address(adjoint)))

    def point(self, k: int, **tensors: Tensor | None) -> None:
        """Set pointers of layer k; those not set are null."""
        layer = self.layers[k]
        for name, x in tensors.items():
            if x is not None:
                self.alive.append(x)
                setattr(layer, name, x.data_ptr())


def rows(gradient: Tensor | None, T: int, B: int, n: int) -> Tensor:
    """A gradient (T, B, n) with contiguous rows; rows that are the same for all steps or samples are kept once."""
    if gradient is None:
        gradient = torch.zeros(()).expand(T, B, n)
    once = [size if stride else 1 for size, stride in zip(gradient.shape, gradient.stride(), strict=True)]
    kept = gradient[: once[0], : once[1], : once[2]]
    if kept.numel() == T * B * n and not kept.is_contiguous():
        kept = empty(*kept.shape).copy_(kept)
    return kept.expand(once[0], once[1], n).contiguous().expand(T, B, n)
