"""The scan over time, in several rooms with one contract: same spikes, gradients to rounding.

`reference` is the specification in plain PyTorch, `cpu` is compiled (`layerwise` where neurons adapt or delays are
learned), `cuda` is written in Triton. Losses, data sets and scripts do not know which one ran.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.kernels import reference
from surgrad.kernels.cpu import layerwise
from surgrad.kernels.cpu import network as cpu
from surgrad.kernels.cpu.build import library
from surgrad.kernels.gpu import network as cuda
from surgrad.neurons.lif import LIF, LIFState

if TYPE_CHECKING:
    from surgrad.datasets.events import EventBatch
    from surgrad.network.network import Network

KERNELS = {"reference": reference, "cpu": cpu, "cuda": cuda}


def _cpu_obstacle(neurons: Sequence[LIF], dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the compiled CPU kernel cannot run this, or None."""
    if device.type != "cpu":
        return f"the data is on {device}"
    if dtype != torch.float32:
        return f"it computes in float32, not {dtype}"
    unknown = [n for n in neurons if not cpu.supports(n)]
    if unknown:
        return f"it does not know {unknown[0].surrogate} with {unknown[0].escape_noise}"
    if library() is None:
        return "it could not be built (see the warning)"
    return None


def _room(kernel: str, neurons: Sequence[LIF], dtype: torch.dtype, device: torch.device) -> ModuleType:
    """The named kernel, or for "auto" the fastest one that can run these neurons.

    Raises: UserError for an unknown name, or a named kernel that cannot.
    """
    if kernel not in ("auto", *KERNELS):
        raise UserError(f"kernel={kernel!r} is unknown; allowed: auto, {', '.join(KERNELS)}")
    if kernel == "reference":
        return reference
    name = kernel if kernel != "auto" else "cuda" if device.type == "cuda" else "cpu"
    obstacle = {"cpu": _cpu_obstacle, "cuda": cuda.obstacle}[name](neurons, dtype, device)
    if obstacle is None:
        return KERNELS[name]
    if kernel != "auto":
        raise UserError(f"kernel={kernel!r} cannot run this network: {obstacle}; use kernel=auto")
    return reference


def select(kernel: str, network: "Network", x: "Tensor | EventBatch") -> Callable:
    """The function that runs ``network`` on ``x``: the named kernel, or for "auto" the fastest one that can.

    Raises: UserError for an unknown name, or a named kernel that cannot run this network.
    """
    weight = next(network.parameters())
    if kernel in ("auto", "cpu", "cuda") and layerwise.needed(network):
        obstacle = layerwise.obstacle(network, weight.dtype, weight.device)
        if kernel == "cuda":
            obstacle = "it knows neither adaptive neurons nor learned delays"
        if obstacle is None:
            return layerwise.run
        if kernel != "auto":
            raise UserError(f"kernel={kernel!r} cannot run this network: {obstacle}; use kernel=auto")
        return reference.run
    return _room(kernel, [layer.neuron for layer in network.layers], weight.dtype, weight.device).run


def lif(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    neuron: LIF,
    *,
    recurrence: nn.Module | None = None,
    kernel: str = "auto",
    **kw,
) -> tuple[Tensor, Tensor | None, LIFState]:
    """Scan one LIF layer driven by ``current`` (T, B, *units): arguments as `reference.lif`, and ``return_membrane``.

    The membranes are returned by compiled kernels only with ``return_membrane=True``; they carry no gradient there.
    """
    room = _room(kernel, [neuron], current.dtype, current.device)
    if room is reference:
        kw.pop("return_membrane", None)
    return room.lif(current, a, b, neuron, recurrence=recurrence, **kw)


def readout(current: Tensor, a: Tensor, b: Tensor, *, kernel: str = "auto", **kw) -> tuple[Tensor, LIFState]:
    """Scan a leaky integrator driven by ``current`` (T, B, C): arguments as `reference.readout`."""
    return _room(kernel, [], current.dtype, current.device).readout(current, a, b, **kw)
