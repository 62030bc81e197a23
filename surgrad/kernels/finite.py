"""NaN never becomes a finite answer, without a pass over the data; parameters are looked at before a kernel runs.

A membrane that is NaN never crosses its threshold: a broken neuron is silent, and whatever reads it is finite. But its
synaptic current, i[t+1] = a i[t] + I[t], is never reset, so a NaN or inf that entered at any step is still there after
the last one. On the CPU it is refused and named; on a GPU, where looking would make the host wait, it marks the result.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.kernels.cpu import build

if TYPE_CHECKING:
    from surgrad.kernels.contract import NetworkSpec
    from surgrad.kernels.events import Events
    from surgrad.kernels.state import NetworkOutput


def confirmed(
    output: "NetworkOutput", network: "NetworkSpec", currents: Sequence[Tensor], x: "Tensor | Events"
) -> "NetworkOutput":
    """``output``, if the synaptic currents after the last step are finite; on a GPU NaN where they are not.

    Args:
        output: what the network returned.
        network: layers and readout, for their names.
        currents: synaptic currents after the last step, of every layer and of the readout.
        x: the input, to name the culprit.

    Raises:
        UserError: that names what is not finite, on the CPU.
    """
    if network.device.type != "cpu":
        mark = _mark([*currents, *(p for _, p in network.tensors)])
        y = None if output.readout is None else output.readout + mark
        return output._replace(readout=y, counts=[c + mark for c in output.counts])
    if all_finite(currents):
        return output
    if isinstance(x, Tensor):
        require_finite("x", x)
    for layer, i in zip(network.stack, currents, strict=True):
        require_finite(f"the synaptic current of {layer.name}", i)
    return output  # finite numbers whose sum is not


def require_finite(name: str, x: Tensor) -> None:
    """Raises: UserError unless all values are finite."""
    bad = ~x.detach().isfinite()
    if bool(bad.any()):
        where = tuple(bad.nonzero()[0].tolist())
        raise UserError(f"{name} is not finite: {int(bad.sum())} values are NaN or inf, the first at {where}")


def require_parameters(named: Sequence[tuple[str, Tensor]]) -> None:
    """Raises: UserError unless all values are finite; on the CPU only, see `confirmed`."""
    if named[0][1].device.type == "cpu" and not all_finite(x for _, x in named):
        for name, x in named:
            require_finite(name, x)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all values of tensors on the CPU are finite; in one pass of compiled code if that is loaded."""
    for x in tensors:
        lib = build.loaded() if x.dim() and x.dtype is torch.float32 else None
        if not x.dim():
            good = math.isfinite(x.item())
        elif lib is not None and x.is_contiguous():
            good = lib.surgrad_is_finite(x.data_ptr(), 1, x.numel(), 0)
        elif lib is not None and x.dim() == 2 and x.stride(1) == 1:
            good = lib.surgrad_is_finite(x.data_ptr(), *x.shape, x.stride(0))
        else:
            good = math.isfinite(float(x.detach().sum())) or bool(x.detach().isfinite().all())
        if not good:
            return False
    return True


@torch.no_grad()
def _mark(tensors: Sequence[Tensor]) -> Tensor:
    """0, or NaN where a value is not finite; on the device."""
    filled = [x.detach() for x in tensors if x.numel()]
    return torch.stack(torch._foreach_norm(filled, math.inf)).sum() * 0
