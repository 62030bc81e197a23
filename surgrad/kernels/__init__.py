"""The scan over time, in several rooms with one contract: same spikes, gradients to rounding.

`reference` is the specification in plain PyTorch, `cpu` is compiled, `cuda` is written in Triton. Losses, data sets
and scripts do not know which one ran.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.kernels import cpu, cuda, reference
from surgrad.kernels.build import library
from surgrad.neurons import LIF, LIFState

if TYPE_CHECKING:
    from surgrad.datasets.events import EventBatch
    from surgrad.network import Network

KERNELS = {"reference": reference.run, "cpu": cpu.run, "cuda": cuda.run}


def _cpu_obstacle(neurons: list[LIF], dtype: torch.dtype, device: torch.device) -> str | None:
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


def select(kernel: str, network: "Network", x: "Tensor | EventBatch") -> Callable:
    """The function that runs ``network`` on ``x``: the named kernel, or for "auto" the fastest one that can.

    Raises: UserError for an unknown name, or a named kernel that cannot run this network.
    """
    if kernel not in ("auto", *KERNELS):
        raise UserError(f"kernel={kernel!r} is unknown; allowed: auto, {', '.join(KERNELS)}")
    if kernel == "reference":
        return reference.run
    weight = next(network.parameters())
    find_obstacle = cuda.obstacle if kernel == "cuda" or weight.device.type == "cuda" else _cpu_obstacle
    obstacle = find_obstacle([layer.neuron for layer in network.layers], weight.dtype, weight.device)
    if kernel == "cpu" and find_obstacle is cuda.obstacle:
        obstacle = f"the network is on {weight.device}"
    if obstacle is None:
        return cuda.run if find_obstacle is cuda.obstacle else cpu.run
    if kernel != "auto":
        raise UserError(f"kernel={kernel!r} cannot run this network: {obstacle}; use kernel=auto")
    return reference.run


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

    The membranes are returned by the compiled kernel only with ``return_membrane=True``; they carry no gradient there.
    """
    if kernel != "reference" and _cpu_obstacle([neuron], current.dtype, current.device) is None:
        return cpu.lif(current, a, b, neuron, recurrence=recurrence, **kw)
    kw.pop("return_membrane", None)
    return reference.lif(current, a, b, neuron, recurrence=recurrence, **kw)


def readout(current: Tensor, a: Tensor, b: Tensor, *, kernel: str = "auto", **kw) -> tuple[Tensor, LIFState]:
    """Scan a leaky integrator driven by ``current`` (T, B, C): arguments as `reference.readout`."""
    if kernel != "reference" and _cpu_obstacle([], current.dtype, current.device) is None:
        return cpu.readout(current, a, b, **kw)
    return reference.readout(current, a, b, **kw)
