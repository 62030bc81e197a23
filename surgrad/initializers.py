"""Initial weights: the public names of `surgrad.network.initializers`."""

from surgrad.network.initializers import (
    ByConnection,
    Distribution,
    FluctuationDriven,
    FluctuationDrivenCentered,
    FluctuationDrivenExponential,
    Kaiming,
    kernel_moments,
)

__all__ = [
    "ByConnection",
    "Distribution",
    "FluctuationDriven",
    "FluctuationDrivenCentered",
    "FluctuationDrivenExponential",
    "Kaiming",
    "kernel_moments",
]
