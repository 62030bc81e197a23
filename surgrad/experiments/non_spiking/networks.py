"""A GRU and a convolution over time, of PyTorch's own modules, called and trained as spiking networks are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.kernels.state import NetworkOutput


class NonSpiking(nn.Module):
    """From the binned input (T, B, inputs) to a readout (T, B, classes); it has no spiking layers."""

    layers: Sequence[Any] = ()

    def readout(self, x: Tensor) -> Tensor:
        """(T, B, inputs) -> (T, B, classes)."""
        raise NotImplementedError

    def forward(self, x: Tensor | EventBatch, **options: Any) -> NetworkOutput:
        """As `surgrad.network.network.Network.forward`; its options are about spikes and have no effect."""
        x = x.dense() if isinstance(x, EventBatch) else x
        return NetworkOutput(self.readout(x), [], None, None)


class GRU(NonSpiking):
    """Gated recurrent units under a linear readout of every step (Cho et al. 2014; `torch.nn.GRU`).

    Args:
        nb_inputs: channels.
        nb_classes: readout units.
        nb_units: of each layer.
        nb_layers: one above the other.
        dropout: between layers and before the readout, probability.
    """

    def __init__(self, nb_inputs: int, nb_classes: int, nb_units: int = 128, nb_layers: int = 2, dropout: float = 0.0):
        super().__init__()
        require(nb_units=nb_units, nb_layers=nb_layers, dropout=dropout)
        self.gru = nn.GRU(nb_inputs, nb_units, nb_layers, dropout=dropout if nb_layers > 1 else 0.0)
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(nb_units, nb_classes)

    def readout(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(self.gru(x)[0]))


class Convolutional(NonSpiking):
    """Convolutions over time with batch normalisation and ReLU under a linear readout of every step.

    Args:
        nb_inputs: channels.
        nb_classes: readout units.
        nb_filters: of each layer.
        nb_layers: one above the other.
        kernel_size: steps, an odd number.
        dropout: after each layer, probability.
    """

    def __init__(
        self,
        nb_inputs: int,
        nb_classes: int,
        nb_filters: int = 128,
        nb_layers: int = 2,
        kernel_size: int = 9,
        dropout: float = 0.0,
    ):
        super().__init__()
        require(nb_filters=nb_filters, nb_layers=nb_layers, dropout=dropout)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"kernel_size={kernel_size}: must be an odd number of steps")
        parts: list[nn.Module] = []
        for k in range(nb_layers):
            below = nb_inputs if k == 0 else nb_filters
            parts += [nn.Conv1d(below, nb_filters, kernel_size, padding=kernel_size // 2, bias=False)]
            parts += [nn.BatchNorm1d(nb_filters), nn.ReLU(), nn.Dropout(dropout)]
        self.body, self.linear = nn.Sequential(*parts), nn.Linear(nb_filters, nb_classes)

    def readout(self, x: Tensor) -> Tensor:
        return self.linear(self.body(x.permute(1, 2, 0)).permute(2, 0, 1))


def require(*, dropout: float, **sizes: int) -> None:
    """Raises: UserError for a size below 1, or a dropout that is no probability below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name}={size}: must be at least 1")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout={dropout}: must be a probability from 0 to below 1")


def begin_epoch(seed: int, number: int) -> None:
    """Let PyTorch's own dropout draw what belongs to this epoch, so that a run that goes on draws the same.

    Args:
        seed: of the run.
        number: of the epoch, 1, 2, …
    """
    torch.manual_seed((seed << 20) + number)
