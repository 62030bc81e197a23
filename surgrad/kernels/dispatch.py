"""The scan over time by one of several kernels with one contract: same spikes, gradients to rounding.

`reference` is the specification in plain PyTorch, `cpu` is compiled, `cuda` is written in Triton. "auto" takes the
fastest one that knows every part of a network, and says so where that is not the fastest there is.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.kernels import finite, reference
from surgrad.kernels.call import MEMORIES, Address, Options, network_input, network_state, noise_key, sample_ids
from surgrad.kernels.checks import count_of, require_alike, require_device, require_name, state_tensor
from surgrad.kernels.contract import LayerSpec, NetworkSpec, ReadoutSpec, connection_spec
from surgrad.kernels.cpu import adaptive, delays
from surgrad.kernels.cpu import layerwise as cpu_layerwise
from surgrad.kernels.cpu import network as cpu
from surgrad.kernels.cpu.build import library
from surgrad.kernels.events import Events
from surgrad.kernels.gpu import layerwise as cuda_layerwise
from surgrad.kernels.gpu import network as cuda
from surgrad.kernels.philox import NoiseKey
from surgrad.kernels.state import LayerState, NetworkOutput, NetworkState
from surgrad.neurons.lif import LIF, AdaptiveLIF, LIFState

logger = logging.getLogger(__name__)

KERNELS = ("auto", "reference", "cpu", "cuda")
# Time of a forward and backward pass relative to compiled code, all layers in one call: one core with AVX-512,
# 700-128-128-20 with recurrence, 350 steps, batch 32. Layer by layer 2.7 to 2.9, in the loop over time 10.5 to 14.3.
LAYERWISE, LOOP = 3, 12


#: network, input, options -> what a kernel gives
Run = Callable[[NetworkSpec, Tensor | Events, Options], NetworkOutput]


class Choice(NamedTuple):
    """Which kernel runs: its name, its function of (network, x, options), and why."""

    name: str
    run: Run
    why: str


def choose(kernel: str, network: NetworkSpec) -> Choice:
    """The named kernel, or for "auto" the fastest one that knows every part of a network.

    Raises:
        UserError: for an unknown name, or a named kernel that cannot run this network.
    """
    require_name("kernel", kernel, KERNELS)
    if kernel == "reference":
        return Choice("reference", reference.run, "it was asked for")
    name = kernel if kernel != "auto" else "cuda" if network.device.type == "cuda" else "cpu"
    knows = _cpu if name == "cpu" else _cuda
    layerwise: Run = cpu_layerwise.run if name == "cpu" else cuda_layerwise.run
    reason = _obstacle(name, network.dtype, network.device, compiled_layers=cpu_layerwise.needed(network))
    if reason is not None:
        if kernel != "auto":
            raise UserError(f"kernel={kernel!r} cannot run this network: {reason}; use kernel=auto")
        _say(f"the reference kernel runs, which takes about {LOOP} times as long as compiled code: {reason}")
        return Choice("reference", reference.run, reason)
    choice, unknown = knows(network)
    if unknown is None:
        return choice
    if kernel != "auto":
        raise UserError(f"kernel={kernel!r} does not know {unknown}; use kernel=auto")
    _say(
        f"kernel={name} does not know {unknown}: the network runs layer by layer, which takes about {LAYERWISE} times "
        f"as long, and layers with unknown neurons or recurrence run in the reference loop, about {LOOP} times as long"
    )
    return Choice(name, layerwise, f"layer by layer, for {unknown} is unknown to the compiled network")


def _cpu(network: NetworkSpec) -> tuple[Choice, str | None]:
    """The compiled code for a network, and what of it that does not know."""
    if cpu_layerwise.needed(network):
        why = "compiled layers, for adaptive neurons or learned delays"
        return Choice("cpu", cpu_layerwise.run, why), cpu_layerwise.obstacle(network)
    return Choice("cpu", cpu.run, "compiled, all layers in one call"), cpu.obstacle(network)


def _cuda(network: NetworkSpec) -> tuple[Choice, str | None]:
    if cuda_layerwise.needed(network):
        why = "Triton kernels layer by layer, for adaptive neurons or learned delays"
        return Choice("cuda", cuda_layerwise.run, why), cuda_layerwise.obstacle(network)
    return Choice("cuda", cuda.run, "Triton kernels, all layers in one call"), cuda.obstacle(network)


def _obstacle(name: str, dtype: torch.dtype, device: torch.device, *, compiled_layers: bool) -> str | None:
    """Why a kernel cannot run in ``dtype`` on ``device``, or None; what is not needed is not compiled."""
    if name == "cuda":
        return _cuda_obstacle(dtype, device)
    return _cpu_obstacle(dtype, device) or (_not_compiled() if compiled_layers else None)


def _cpu_obstacle(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why no compiled CPU code can run in ``dtype`` on ``device``, or None."""
    if device.type != "cpu":
        return f"the data is on {device}"
    if dtype != torch.float32:
        return f"it computes in float32, not {dtype}"
    if library() is None:
        return "it could not be built (see the warning)"
    return None


@cache
def _not_compiled() -> str | None:
    """Why the code for adaptive neurons and learned delays is missing, with one warning; or None."""
    try:
        adaptive.library(), delays.library()
    except UserError as error:
        logger.warning("the slow reference kernel runs: %s", error)
        return str(error)
    return None


def _cuda_obstacle(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why no Triton kernel can run in ``dtype`` on ``device``, or None."""
    if device.type != "cuda" and not (device.type == "cpu" and cuda.interpreted()):
        return f"the data is on {device}"
    if not cuda.triton_installed():
        return "Triton is not installed; pip install triton"
    if dtype != torch.float32:
        return f"it computes in float32, not {dtype}"
    return None


@cache
def _say(message: str) -> None:
    """Log a message once."""
    logger.info(message)


def _own_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Without autocast: states need the dtype of the parameters, and compiled code reads no other."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def run(
    network: NetworkSpec,
    x: Tensor | Events,
    *,
    seed: int = 0,
    draw: int | Tensor = 0,
    ids: Tensor | None = None,
    state: NetworkState | None = None,
    record: bool = False,
    return_state: bool = False,
    truncate: int = 0,
    memory: str = "full",
    precision: str = "float32",
    kernel: str = "auto",
) -> NetworkOutput:
    """Run a network over all steps of ``x``; arguments as in `surgrad.network.network.Network.forward`."""
    x = network_input(network, x)
    nb_samples = len(x) if isinstance(x, Events) else x.shape[1]
    state = network_state(network, state, x)
    address = Address(noise_key(seed, draw), sample_ids(ids, nb_samples, network.device), state.step if state else 0)
    options = Options(address, state, bool(record), bool(return_state), truncate, memory, precision)
    choice = choose(kernel, network)
    if options.precision != "float32" and choice.name != "cuda":
        raise UserError(f"precision={precision!r} is for kernel='cuda'; a CPU sums float32 weights, without products")
    with _own_precision(network.device):
        return (choice.run if nb_samples else reference.run)(network, x, options)


def lif(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    neuron: LIF,
    *,
    recurrence: Any = None,
    state: LIFState | None = None,
    previous: Tensor | None = None,
    noise: NoiseKey | None = None,
    ids: Tensor | None = None,
    first_step: int = 0,
    memory: str = "full",
    return_membrane: bool = False,
    kernel: str = "auto",
) -> tuple[Tensor, Tensor | None, LIFState]:
    """Scan one layer of LIF neurons driven by a current (equations in `surgrad.neurons.lif`), on any kernel alike.

    Args:
        current: (T, B, *units) input current I, without the recurrent part.
        a: decays of synapse and membrane over a step, broadcastable to (*units).
        b: decays of synapse and membrane over a step, broadcastable to (*units).
        neuron: surrogate, escape noise and reset.
        recurrence: connection or function from spikes s[t-1] (B, *units) to the recurrent part of I[t].
        state: i and u at the first step, (B, *units) each; zeros if None.
        previous: spikes of the step before the first, (B, *units); zeros if None.
        noise: address of the random numbers and the (B,) global sample indices, 0..B-1 if None.
        ids: address of the random numbers and the (B,) global sample indices, 0..B-1 if None.
        first_step: time index of the first step, which addresses the random numbers.
        memory: "full", or "recompute" to keep less for the backward pass; the gradients are the same.
        return_membrane: whether u[t] at which each spike was drawn is returned, (T, B, *units); without gradient.
        kernel: "auto", "reference", "cpu" or "cuda".

    Returns:
        spikes (T, B, *units) as 0/1, membranes or None, state after the last step.

    Raises:
        UserError: that names the argument that does not fit.
    """
    if not isinstance(neuron, LIF):
        raise UserError(f"neuron is {type(neuron).__name__}; it must be a LIF")
    if isinstance(neuron, AdaptiveLIF):
        raise UserError("neuron is AdaptiveLIF, which has constants of its own: run it in a SpikingLayer of a Network")
    if neuron.State is not LIFState:
        raise UserError(
            f"neuron is {type(neuron).__name__}, which has more states: run it in a SpikingLayer of a Network"
        )
    noise = noise_key(0, 0) if noise is None else noise_key(noise.seed, noise.draw, noise.layer)
    units = _require_current(current)
    a, b = (_decay(name, x, current) for name, x in (("a", a), ("b", b)))
    loop = connection_spec(recurrence, "recurrence", out_shape=units)
    layer = LayerSpec("the layer", neuron, units, a, b, recurrent=loop, index=noise.layer)
    require_alike([("current", current), *layer.tensors])
    finite.require_parameters(layer.tensors)
    nb_samples, old = current.shape[1], None
    if state is not None or previous is not None:
        i, u = (None, None) if state is None else _pair(state)
        old = LayerState(
            *(_earlier(n, x, current) for n, x in (("state.i", i), ("state.u", u), ("previous", previous)))
        )
    address = Address(noise, sample_ids(ids, nb_samples, current.device), count_of("first_step", first_step))
    require_name("memory", memory, MEMORIES)
    scan = _single(kernel, current, layer)
    with _own_precision(current.device):
        spikes, membranes, end = scan(layer, current, old, address, memory, return_membrane)
    _require_finite_end(current, end.i)
    if membranes is not None and membranes.requires_grad:
        membranes = membranes.detach()
    return spikes, membranes, LIFState(end.i, end.u)


def readout(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    unit_gain: bool = True,
    state: LIFState | None = None,
    u0: float = 0.0,
    kernel: str = "auto",
) -> tuple[Tensor, LIFState]:
    """Scan leaky integrators driven by a current (T, B, C), on any kernel alike: y[t] = u[t+1] and the end state.

    Args:
        current: (T, B, C) input current.
        a: decay of the synapse over a step, as in `lif`.
        b: decay of the membrane over a step, as in `lif`.
        unit_gain: whether the current is scaled by 1 - b.
        state: at the first step; by default i = 0 and u = ``u0``.
        u0: membrane potential at the first step.
        kernel: as in `lif`.

    Raises:
        UserError: that names the argument that does not fit.
    """
    units = _require_current(current)
    a, b = (_decay(name, x, current) for name, x in (("a", a), ("b", b)))
    layer = ReadoutSpec("the readout", units, a, b, u0=u0, unit_gain=unit_gain)
    require_alike([("current", current), *layer.tensors])
    finite.require_parameters(layer.tensors)
    if state is not None:
        state = LIFState(*(_earlier(f"state.{n}", x, current) for n, x in zip("iu", _pair(state), strict=True)))
    integrate = _single(kernel, current, layer)
    with _own_precision(current.device):
        y, end = integrate(layer, current, state)
    _require_finite_end(current, end.i)
    return y, end


def _require_current(current: Tensor) -> tuple[int, ...]:
    """The units that a current drives."""
    if not isinstance(current, Tensor) or current.dim() < 3 or not current.dtype.is_floating_point or not len(current):
        found = f"{current.dtype} {tuple(current.shape)}" if isinstance(current, Tensor) else type(current).__name__
        raise UserError(f"current is {found}; it must be floating point (T, B, *units) with at least one time step")
    require_device("current", current, current.device)  # that holds values
    return tuple(current.shape[2:])


def _decay(name: str, x: Any, current: Tensor) -> Tensor:
    """A decay in dtype of the current."""
    if isinstance(x, Tensor) and x.dtype == current.dtype and x.device == current.device:
        return x
    if not isinstance(x, Tensor | float | int):
        raise UserError(f"{name} is {type(x).__name__}; it must be a number, or a tensor that fits the units")
    x = torch.as_tensor(x, device=None if isinstance(x, Tensor) else current.device)
    require_device(name, x, current.device)
    return x.to(current.dtype)


def _pair(state: Any) -> LIFState:
    if not isinstance(state, tuple) or len(state) != 2:
        raise UserError(f"state is {type(state).__name__}; it must be a LIFState of i and u, (B, *units) each")
    return LIFState(*state)


def _earlier(name: str, x: Tensor | None, current: Tensor) -> Tensor:
    """A state (B, *units), zeros for None."""
    if x is None:
        return torch.zeros_like(current[0])
    x = state_tensor(name, x, current.shape[1:], current)
    if name == "previous" and x.device.type == "cpu" and not bool(((x == 0) | (x == 1)).all()):
        raise UserError("previous must hold the spikes of the step before, 0 or 1")
    return x


def _single(kernel: str, current: Tensor, layer: LayerSpec | ReadoutSpec) -> Callable[..., tuple[Any, ...]]:
    """The scan of one layer, or of a readout, by the named kernel, or for "auto" the fastest one that knows it."""
    require_name("kernel", kernel, KERNELS)
    name = kernel if kernel != "auto" else "cuda" if current.device.type == "cuda" else "cpu"
    reason, module = None, reference
    if name != "reference":
        adapts = isinstance(layer, LayerSpec) and layer.adaptation is not None
        reason = _obstacle(name, current.dtype, current.device, compiled_layers=adapts)
        module = cpu if name == "cpu" else cuda
    if reason is None and name != "reference" and isinstance(layer, LayerSpec):
        reason = (cpu_layerwise if name == "cpu" else cuda_layerwise).unknown(layer)
        reason = None if reason is None else f"it does not know {reason}"
    if reason is not None:
        if kernel != "auto":
            raise UserError(f"kernel={kernel!r} cannot run this layer: {reason}; use kernel=auto")
        _say(f"the reference kernel runs, which takes about {LOOP} times as long as compiled code: {reason}")
    if reason is not None or not current.shape[1]:
        module = reference
    return module.scan if isinstance(layer, LayerSpec) else module.integrate


def _require_finite_end(current: Tensor, i: Tensor) -> None:
    """Raises: UserError if NaN or inf entered with the current (`surgrad.kernels.finite`), on the CPU."""
    if i.device.type == "cpu" and not finite.all_finite([i]):
        finite.require_finite("current", current)
        finite.require_finite("the synaptic current", i)
