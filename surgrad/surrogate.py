"""Surrogate derivatives: the public names of `surgrad.neurons.surrogate`."""

from surgrad.neurons.surrogate import (
    AsymptoticSuperSpike,
    Esser,
    Exponential,
    MultilayerSpiker,
    ScaledSigmoidPrime,
    SigmoidPrime,
    SuperSpike,
    Surrogate,
    TrueGradient,
)

__all__ = [
    "AsymptoticSuperSpike",
    "Esser",
    "Exponential",
    "MultilayerSpiker",
    "ScaledSigmoidPrime",
    "SigmoidPrime",
    "SuperSpike",
    "Surrogate",
    "TrueGradient",
]
