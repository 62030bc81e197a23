"""What can be told from spike counts alone: the yardstick a spiking network has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from surgrad.datasets.events import EventDataset
from surgrad.errors import UserError

STRENGTHS = tuple(10.0**k for k in range(0, -7, -1))


def count_features(dataset: EventDataset) -> np.ndarray:
    """log(1 + spike count) of every sample and unit, (N, nb_units) float64."""
    return np.log1p(dataset.counts().astype(np.float64))


def fit_logistic(
    x: np.ndarray, labels: np.ndarray, nb_classes: int, strength: float, start: np.ndarray | None = None
) -> np.ndarray:
    """Multinomial logistic regression: mean cross entropy + strength/2 |W|^2 (offsets are free), by L-BFGS.

    Args:
        x: (N, D) features.
        labels: (N,) 0..nb_classes-1.
        nb_classes: number of classes.
        strength: of the L2 penalty.
        start: (D+1, nb_classes) to begin from; default 0.

    Returns:
        (D+1, nb_classes): weights, the offsets in the last row.
    """
    nb_samples, shape = len(x), (x.shape[1] + 1, nb_classes)
    target = np.zeros((nb_samples, nb_classes))
    target[np.arange(nb_samples), labels] = 1

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(shape)
        logits = x @ w[:-1] + w[-1]
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        error = (np.exp(log_p) - target) / nb_samples
        gradient = np.vstack([x.T @ error + strength * w[:-1], error.sum(0)])
        loss = -np.vdot(target, log_p) / nb_samples + strength / 2 * np.vdot(w[:-1], w[:-1])
        return float(loss), gradient.ravel()

    start = np.zeros(shape) if start is None else start
    found = minimize(
        loss_and_gradient, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-5}
    )
    return found.x.reshape(shape)


def accuracy(weights: np.ndarray, x: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples whose largest logit is their label's."""
    return float(np.mean((x @ weights[:-1] + weights[-1]).argmax(1) == labels))


def count_baseline(
    train: EventDataset,
    valid: EventDataset,
    test: EventDataset,
    strengths: Sequence[float] = STRENGTHS,
) -> dict[str, float]:
    """Logistic regression on spike counts, its L2 strength chosen on the validation set.

    Features are log(1 + count) per unit over the whole sample, standardised with the training set's mean
    and deviation: when a spike came is not seen. The test set is looked at once. Nothing is random.

    Args:
        train: data sets with the same units.
        valid: data sets with the same units.
        test: data sets with the same units.
        strengths: L2 strengths to try; of equally good ones the first counts.

    Returns:
        ``train_acc``, ``valid_acc``, ``test_acc`` and the chosen ``strength``.
    """
    for part, dataset in {"training": train, "validation": valid, "test": test}.items():
        if not len(dataset):
            raise UserError(f"{dataset.name}: the {part} set is empty")
        if dataset.nb_units != train.nb_units:
            raise UserError(f"{dataset.name}: {dataset.nb_units} units, the training set has {train.nb_units}")
    nb_classes = max(d.nb_classes for d in (train, valid, test))
    features = count_features(train)
    mean, scale = features.mean(0), features.std(0)
    scale[scale == 0] = 1  # a unit that never varies carries nothing
    x_train, x_valid, x_test = ((count_features(d) - mean) / scale for d in (train, valid, test))
    weights: np.ndarray | None = None
    best: tuple[float, float, np.ndarray] | None = None
    for strength in strengths:
        weights = fit_logistic(x_train, train.labels, nb_classes, strength, start=weights)
        valid_acc = accuracy(weights, x_valid, valid.labels)
        if best is None or valid_acc > best[0]:
            best = (valid_acc, strength, weights)
    if best is None:
        raise UserError("strengths is empty; give at least one L2 strength")
    valid_acc, strength, weights = best
    return {
        "train_acc": accuracy(weights, x_train, train.labels),
        "valid_acc": valid_acc,
        "test_acc": accuracy(weights, x_test, test.labels),
        "strength": strength,
    }


def in_words(acc: float, train: EventDataset, test: EventDataset, counts: Mapping[str, float] | None = None) -> str:
    """What a test accuracy has to be held against: on whose recordings, chance, and what spike counts alone tell.

    Args:
        acc: test accuracy of a network.
        train: training set.
        test: test set.
        counts: what `count_baseline` found, None to leave it out.
    """
    whose = ""
    if train.speakers is not None and test.speakers is not None:
        voices, heard = np.unique(test.speakers), np.unique(train.speakers)
        unseen = "unseen " if not np.isin(voices, heard).any() else ""
        whose = f" by {len(voices)} {unseen}speaker{'s' if len(voices) > 1 else ''}"
    parts = [f"test accuracy {acc:.3f} on {len(test)} samples{whose}", f"chance {1 / train.nb_classes:.3f}"]
    if counts is not None:
        parts.append(f"spike counts alone, without their times (logistic regression) {counts['test_acc']:.3f}")
    return "; ".join(parts)
