"""Initial weights: the public names of `surgrad.network.initializers`."""

from surgrad.network.initializers import (
    ByConnection,
    Distribution,
    FluctuationDriven,
    FluctuationDrivenCentered,
    FluctuationDrivenExponential,
    Initializer,
    Kaiming,
    LayerByLayer,
    kernel_moments,
)

__all__ = [
    "ByConnection",
    "Distribution",
    "FluctuationDriven",
    "FluctuationDrivenCentered",
    "FluctuationDrivenExponential",
    "Initializer",
    "Kaiming",
    "LayerByLayer",
    "kernel_moments",
]
