"""Surrogate derivatives: the public names of `surgrad.neurons.surrogate`."""

from surgrad.neurons.surrogate import (
    ArcTan,
    AsymptoticSuperSpike,
    Esser,
    Exponential,
    MultilayerSpiker,
    ScaledSigmoidPrime,
    SigmoidPrime,
    Slayer,
    SuperSpike,
    Surrogate,
    TrueGradient,
)

__all__ = [
    "ArcTan",
    "AsymptoticSuperSpike",
    "Esser",
    "Exponential",
    "MultilayerSpiker",
    "ScaledSigmoidPrime",
    "SigmoidPrime",
    "Slayer",
    "SuperSpike",
    "Surrogate",
    "TrueGradient",
]
