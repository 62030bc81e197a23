"""Activity regularisers: penalties on the spike counts (B, *units) of a layer, summed over layers by `penalty`.

With n the count of a neuron over the whole sample, averaged over ``dims`` first:

    upper bound   strength * mean(relu(n - threshold)^p)
    lower bound   strength * mean(relu(threshold - n)^p)
    activity      strength * mean(|n - threshold|^p)

with p = 1 (L1) or 2 (L2), and the mean over samples and over whatever units are left (Rossbroich et al. 2022).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgrad.errors import UserError

Dims = str | int | Sequence[int]
DIMS = ("population", "neuron", "batch")


@dataclass(frozen=True)
class ActivityRegularizer:
    """Base of the penalties.

    Args:
        strength: factor of the penalty.
        threshold: in spikes per neuron and sample, not a rate.
        dims: "population" averages the count over all units of a layer, so that single neurons may fire more;
            "neuron" (or False, the published spelling) bounds each neuron on its own; "batch" averages the count of
            each neuron over the samples (Neftci et al. 2019, tutorial 3); or the axes of (B, *units) to average over,
            such as -1 or [-2, -1].

    Raises:
        UserError: for other dims, a negative strength or threshold.
    """

    strength: float = 1.0
    threshold: float = 0.0
    dims: Dims = "population"

    def __post_init__(self) -> None:
        if isinstance(self.dims, str) and self.dims not in DIMS:
            raise UserError(f"dims={self.dims!r} is unknown; allowed: {', '.join(DIMS)}, or axes such as [-2, -1]")
        if self.strength < 0 or self.threshold < 0:
            raise UserError(
                f"{type(self).__name__}: strength={self.strength}, threshold={self.threshold} must not be negative"
            )

    def __call__(self, counts: Tensor) -> Tensor:
        """Penalty of one layer, a scalar.

        Args:
            counts: (B, *units), spikes per neuron and sample.
        """
        return self.strength * self._penalize(self._average(counts)).mean()

    def _average(self, counts: Tensor) -> Tensor:
        if self.dims == "population":
            return counts.flatten(1).mean(1)
        if self.dims == "neuron" or self.dims is False:
            return counts
        if self.dims == "batch":
            return counts.mean(0)
        assert not isinstance(self.dims, str)  # see __post_init__
        dims = (self.dims,) if isinstance(self.dims, int) else tuple(self.dims)
        if any(d == 0 or not -counts.dim() < d < counts.dim() for d in dims):
            raise UserError(
                f"dims={self.dims} does not fit counts of shape {tuple(counts.shape)} = (B, *units); allowed: axes of "
                f"the units, -1 to {1 - counts.dim()}; dims=population averages over all of them"
            )
        return counts.mean(dims)

    def _penalize(self, n: Tensor) -> Tensor:
        raise NotImplementedError


class UpperBoundL1(ActivityRegularizer):
    """strength * mean(relu(n - threshold))."""

    def _penalize(self, n: Tensor) -> Tensor:
        return torch.relu(n - self.threshold)


class UpperBoundL2(ActivityRegularizer):
    """strength * mean(relu(n - threshold)^2)."""

    def _penalize(self, n: Tensor) -> Tensor:
        return torch.relu(n - self.threshold).square()


class LowerBoundL1(ActivityRegularizer):
    """strength * mean(relu(threshold - n))."""

    def _penalize(self, n: Tensor) -> Tensor:
        return torch.relu(self.threshold - n)


class LowerBoundL2(ActivityRegularizer):
    """strength * mean(relu(threshold - n)^2)."""

    def _penalize(self, n: Tensor) -> Tensor:
        return torch.relu(self.threshold - n).square()


class ActivityL1(ActivityRegularizer):
    """strength * mean(|n - threshold|): with threshold 0, the cost of every spike (Neftci et al. 2019).

    A count at the threshold has the slope 1 of those above: with threshold 0 silent neurons, too, feel the cost of a
    spike, through their surrogate.
    """

    def _penalize(self, n: Tensor) -> Tensor:
        return torch.where(n < self.threshold, self.threshold - n, n - self.threshold)


class ActivityL2(ActivityRegularizer):
    """strength * mean((n - threshold)^2)."""

    def _penalize(self, n: Tensor) -> Tensor:
        return (n - self.threshold).square()


REGULARIZERS: dict[str, type[ActivityRegularizer]] = {
    cls.__name__: cls for cls in (UpperBoundL1, UpperBoundL2, LowerBoundL1, LowerBoundL2, ActivityL1, ActivityL2)
}


def build_regularizer(name: str, **options: Any) -> ActivityRegularizer:
    """The regulariser called ``name``, as in ``UpperBoundL2``. Raises: UserError for an unknown one."""
    if name not in REGULARIZERS:
        raise UserError(f"regularizer={name!r} is unknown; allowed: {', '.join(REGULARIZERS)}")
    return REGULARIZERS[name](**options)


def penalty(regularizers: Iterable[ActivityRegularizer], counts: Sequence[Tensor]) -> Tensor:
    """Sum of every penalty over every layer, a scalar.

    Args:
        regularizers: penalties with their strengths.
        counts: one (B, *units) per spiking layer.
    """
    terms = [regularizer(layer_counts) for regularizer in regularizers for layer_counts in counts]
    nothing = torch.zeros((), device=counts[0].device if counts else None)
    return torch.stack(terms).sum() if terms else nothing
