"""The scan over time, in several rooms with one contract: same spikes, gradients to rounding.

`reference` is the specification in plain PyTorch. Losses, data sets and scripts do not know which kernel ran.
"""

from collections.abc import Callable

from torch import Tensor

from surgrad.errors import UserError
from surgrad.kernels import reference

KERNELS = {"reference": reference.run}


def select(kernel: str, network, x: Tensor) -> Callable:
    """The function that runs ``network`` on ``x``: the named kernel, or for "auto" the fastest one that can."""
    if kernel == "auto":
        return reference.run
    if kernel not in KERNELS:
        raise UserError(f"kernel={kernel!r} is unknown; allowed: auto, {', '.join(KERNELS)}")
    return KERNELS[kernel]
