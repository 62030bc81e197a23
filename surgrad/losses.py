"""Losses: the public names of `surgrad.training.losses`."""

from surgrad.training.losses import (
    LOSSES,
    IntegratedCrossEntropy,
    LastStepCrossEntropy,
    MaxOverTimeCrossEntropy,
    ReadoutCrossEntropy,
    SpikeTrainL2,
    SumOfSoftmaxCrossEntropy,
    SumOverTimeCrossEntropy,
    VanRossum,
    build_loss,
)

__all__ = [
    "LOSSES",
    "IntegratedCrossEntropy",
    "LastStepCrossEntropy",
    "MaxOverTimeCrossEntropy",
    "ReadoutCrossEntropy",
    "SpikeTrainL2",
    "SumOfSoftmaxCrossEntropy",
    "SumOverTimeCrossEntropy",
    "VanRossum",
    "build_loss",
]
