"""Escape noise: the public names of `surgrad.neurons.escape_noise`."""

from surgrad.neurons.escape_noise import (
    EscapeNoise,
    Exponential,
    Sigmoid,
    Step,
)

__all__ = [
    "EscapeNoise",
    "Exponential",
    "Sigmoid",
    "Step",
]
