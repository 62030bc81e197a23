"""What choosing an epoch by its test accuracy pretends: the gap to the epoch that the validation set chooses.

Reported accuracies on SHD are often those of the epoch with the best test accuracy, for the data set comes without a
validation set. Of n epochs whose accuracies scatter, the largest is too large even if none of them is better.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from surgrad.errors import UserError
from surgrad.runs.record import RunRecord


class Selection(NamedTuple):
    """Test accuracy of one run at the epoch of the best validation accuracy, of the best test accuracy, at the last."""

    by_validation: float
    by_test: float
    last: float

    @property
    def bias(self) -> float:
        """What choosing by the test set adds."""
        return self.by_test - self.by_validation


def select(valid_acc: np.ndarray, test_acc: np.ndarray, valid_loss: np.ndarray) -> Selection:
    """Of epochs equal in validation accuracy the one of lowest loss counts, then the first.

    Args:
        valid_acc: (epochs,).
        test_acc: (epochs,).
        valid_loss: (epochs,).
    """
    chosen = max(range(len(valid_acc)), key=lambda epoch: (valid_acc[epoch], -valid_loss[epoch], -epoch))
    return Selection(float(test_acc[chosen]), float(test_acc.max()), float(test_acc[-1]))


def selection(run: RunRecord) -> Selection:
    """The selection of a run that watched the test set (`watch_test`). Raises: UserError where it did not."""
    metrics = run.metrics
    missing = [name for name in ("valid_acc", "test_acc") if name not in metrics]
    if missing:
        raise UserError(
            f"{run.folder}: metrics.csv has no column {missing[0]}; run it with watch_test=true and a validation set"
        )
    return select(metrics["valid_acc"], metrics["test_acc"], metrics["valid_loss"])


def expected_bias(acc: float, nb_samples: int, nb_epochs: int) -> float:
    """The bias by chance alone: how far the best of independent test accuracies lies above their mean.

    Every epoch classifies ``nb_samples`` samples, each rightly with probability ``acc``; the largest of ``nb_epochs``
    binomial counts is on average sum_k 1 - F(k)^nb_epochs. Epochs of one run resemble each other, which makes it less.
    """
    below = binom.cdf(np.arange(nb_samples), nb_samples, acc)
    return float((1 - below**nb_epochs).sum()) / nb_samples - acc
