"""What one call of a kernel is given besides the network: input, state, address of the random numbers, options."""

from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.kernels.checks import INTEGERS, count_of, require_device, require_name, require_shape, state_tensor
from surgrad.kernels.contract import LayerSpec, NetworkSpec
from surgrad.kernels.events import Events
from surgrad.kernels.philox import NoiseKey
from surgrad.kernels.precision import PRECISIONS
from surgrad.kernels.state import AnyLayerState, NetworkState, kind_of
from surgrad.neurons.lif import LIFState

MEMORIES = ("full", "recompute")


@dataclass(frozen=True, eq=False)
class Address:
    """Where the random numbers of a call come from: key, (B,) int64 ids of the samples, number of the first step."""

    noise: NoiseKey
    ids: Tensor
    first_step: int = 0


class RunOptions(TypedDict, total=False):
    """How a network is run, and what it returns besides its readout and its spike counts.

    record: also return the spikes of every layer.
    return_state: also return the state after the last step.
    truncate: if not 0, cut gradients at every multiple of this many steps (truncated backpropagation).
    memory: "full", or "recompute" to keep less for the backward pass, for long T; the gradients are the same.
    precision: of the products; "tf32" and "bf16" only on a GPU (state is always float32, spikes are exact in all).
    kernel: "auto", "reference", "cpu" or "cuda".
    """

    record: bool
    return_state: bool
    truncate: int
    memory: str
    precision: str
    kernel: str


@dataclass(frozen=True, eq=False)
class Options:
    """Everything about one run of a network besides the network and its input (see `RunOptions`)."""

    address: Address
    state: NetworkState | None = None
    record: bool = False
    return_state: bool = False
    truncate: int = 0
    memory: str = "full"
    precision: str = "float32"

    def __post_init__(self) -> None:
        require_name("memory", self.memory, MEMORIES)
        require_name("precision", self.precision, PRECISIONS)
        object.__setattr__(self, "truncate", count_of("truncate", self.truncate))


def noise_key(seed: Any, draw: Any, layer: int = 0) -> NoiseKey:
    """Key of the random numbers. Raises: UserError unless seed and draw are integers; draw may be a 0-d tensor."""

    if type(seed) is type(draw) is type(layer) is int and min(seed, draw, layer) >= -(2**63):
        return NoiseKey(seed, draw, layer)

    def word(name: str, value: Any) -> int:
        return count_of(name, value, lowest=-(2**63))

    if isinstance(draw, Tensor) and (draw.dim() or draw.dtype not in INTEGERS):
        raise UserError(f"draw is a tensor {tuple(draw.shape)} of {draw.dtype}; it must be one integer")
    if isinstance(draw, Tensor) and draw.device.type == "cpu":
        draw = int(draw)
    return NoiseKey(word("seed", seed), draw if isinstance(draw, Tensor) else word("draw", draw), layer)


def sample_ids(ids: Any, nb_samples: int, device: torch.device) -> Tensor:
    """(B,) int64 on the device; 0..B-1 for None. Raises: UserError for other types or another number."""
    if ids is None:
        return torch.arange(nb_samples, device=device)
    if isinstance(ids, Tensor) and ids.dtype not in INTEGERS:
        raise UserError(f"ids are {ids.dtype}; they must be integers, one for each sample")
    require_shape("ids", ids, (nb_samples,), "(B,)")
    if ids.device.type == "meta":
        raise UserError("ids are on the meta device, which holds no values")
    return ids.to(device, torch.int64).contiguous()


def network_input(network: NetworkSpec, x: Tensor | Events) -> Tensor | Events:
    """The input of a network. Raises: UserError naming the expected axes where it does not fit."""
    in_shape = network.in_shape
    axes = "(T, B, *units)" if in_shape is None else f"(T, B, {', '.join(map(str, in_shape))})"
    if isinstance(x, Events):
        require_device("the events", x.steps, network.device)
        if in_shape is not None and x.unit_shape != in_shape:
            raise UserError(f"events have unit_shape {x.unit_shape}, but the network takes {in_shape}")
        nb_steps = x.nb_steps
    else:
        if not isinstance(x, Tensor):
            raise UserError(f"x is {type(x).__name__}; it must be a tensor {axes} or an EventBatch")
        if x.dtype.is_complex:
            raise UserError(f"x is {x.dtype}; it must hold real numbers {axes}")
        if x.dim() < 3 or (in_shape is not None and tuple(x.shape[2:]) != in_shape):
            raise UserError(
                f"x has shape {tuple(x.shape)}; it must be {axes}: time first, then samples, then the input units"
            )
        require_device("x", x, network.device)
        nb_steps = len(x)
    if not nb_steps:
        raise UserError(f"x has no time step (T = 0); it must be {axes} with at least one")
    return x


def network_state(network: NetworkSpec, state: NetworkState | None, x: Tensor | Events) -> NetworkState | None:
    """The state of an earlier call in dtype and layout of the network. Raises: UserError where it does not fit."""
    if state is None:
        return None
    if not isinstance(state, NetworkState):
        raise UserError(f"state is {type(state).__name__}; it must be a NetworkState, as return_state=True gives it")
    if len(state.layers) != len(network.layers) or (state.readout is None) != (network.readout is None):
        raise UserError(
            f"state has {len(state.layers)} layers and {'no' if state.readout is None else 'a'} readout; the network "
            f"has {len(network.layers)} and {'no' if network.readout is None else 'a'} readout"
        )
    nb_samples = len(x) if isinstance(x, Events) else x.shape[1]
    in_shape = x.unit_shape if isinstance(x, Events) else tuple(x.shape[2:])
    layers = []
    for k, (spec, old) in enumerate(zip(network.layers, state.layers, strict=True)):
        layers.append(layer_state(f"state.layers[{k}]", spec, old, nb_samples))
    readout_state = None
    if network.readout is not None and state.readout is not None:
        shape = (nb_samples, *network.readout.unit_shape)
        readout_state = LIFState(
            *(
                state_tensor(f"state.readout.{n}", y, shape, network.readout.a)
                for n, y in zip("iu", state.readout, strict=True)
            )
        )
    last = state_tensor("state.last_input", state.last_input, (nb_samples, *in_shape), network.stack[0].a)
    pending = _pending(network, state.pending, nb_samples)
    return NetworkState(tuple(layers), readout_state, last, count_of("state.step", state.step), pending)


def _pending(network: NetworkSpec, pending: tuple[Tensor | None, ...], nb_samples: int) -> tuple[Tensor | None, ...]:
    stack = network.stack
    delayed = [layer.feedforward is not None and layer.feedforward.has_delays for layer in stack]
    if not pending and not any(delayed):
        return ()
    if len(pending) != len(stack):
        raise UserError(f"state.pending has {len(pending)} entries; the network has {len(stack)} connections")
    found: list[Tensor | None] = []
    for k, (layer, is_delayed, x) in enumerate(zip(stack, delayed, pending, strict=True)):
        if is_delayed != (x is not None):
            raise UserError(
                f"state.pending[{k}] belongs to a connection {'without' if x is not None else 'with'} delays"
            )
        if x is None or layer.feedforward is None:
            found.append(None)
            continue
        reach = layer.feedforward.nb_taps - 1 + network.delay
        found.append(state_tensor(f"state.pending[{k}]", x, (reach, nb_samples, *layer.unit_shape), layer.a))
    return tuple(found)


def layer_state(name: str, layer: LayerSpec, old: AnyLayerState, nb_samples: int) -> AnyLayerState:
    """State of one layer in its dtype and layout. Raises: UserError where it does not fit."""
    kind = kind_of(layer.adaptation is not None, layer.has_recurrent_delays, layer.neuron.State)
    if type(old) is not kind:
        raise UserError(f"{name} is {type(old).__name__}; this layer has a {kind.__name__}")
    shape = (nb_samples, *layer.unit_shape)
    reach = layer.recurrent.nb_taps if layer.recurrent is not None else 0
    shapes = {"pending": (reach, *shape)}
    new: AnyLayerState = kind(
        *(state_tensor(f"{name}.{n}", x, shapes.get(n, shape), layer.a) for n, x in zip(old._fields, old, strict=True))
    )
    s = new.s.detach()
    if s.device.type == "cpu" and not bool(((s == 0) | (s == 1)).all()):
        raise UserError(f"{name}.s must hold the spikes of the last step, 0 or 1")
    return new
