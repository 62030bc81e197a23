"""Validation splits: what is held out of the training set to choose between epochs and settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.hdf5 import read_shd
from surgrad.errors import UserError

logger = logging.getLogger(__name__)

Split = Callable[[EventDataset], tuple[EventDataset, EventDataset | None]]


@dataclass(frozen=True)
class NoValidation:
    """All samples train, none validates."""

    def __call__(self, dataset: EventDataset) -> tuple[EventDataset, None]:
        """Returns (dataset, None)."""
        return dataset, None


@dataclass(frozen=True)
class RandomValidation:
    """A random share validates (the published split: 10 % of the training set).

    Args:
        fraction: share of the samples held out, in (0, 1).
        seed: of the permutation; the split depends on it alone.
        stratified: hold out the same share of every class.
    """

    fraction: float = 0.1
    seed: int = 0
    stratified: bool = False

    def __call__(self, dataset: EventDataset) -> tuple[EventDataset, EventDataset]:
        """Returns (train, valid), each in the order of the data set; raises UserError if one is empty."""
        if not 0 < self.fraction < 1:
            raise UserError(f"validation_split = {self.fraction}: need a share between 0 and 1")
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(dataset), generator=generator).numpy()
        held_out = self._held_out(dataset.labels[order])
        mask = np.zeros(len(dataset), dtype=bool)
        mask[order[held_out]] = True
        return _parted(dataset, mask, f"validation_split = {self.fraction}")

    def _held_out(self, labels: np.ndarray) -> np.ndarray:
        """Positions in the permuted order that validate."""
        if not self.stratified:
            return np.arange(round(self.fraction * len(labels)))
        by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        return np.concatenate([p[: round(self.fraction * len(p))] for p in by_class] or [np.zeros(0, int)])


@dataclass(frozen=True)
class SpeakerValidation:
    """Whole speakers validate, so that validation measures generalisation to new voices.

    Args:
        speakers: numbers of the speakers held out; None holds out the ``nb_speakers`` last ones.
        nb_speakers: how many, where ``speakers`` is None.
    """

    speakers: Sequence[int] | None = None
    nb_speakers: int = 1

    def __call__(self, dataset: EventDataset) -> tuple[EventDataset, EventDataset]:
        """Returns (train, valid); raises UserError without speakers, or if one is unknown or none is left."""
        if dataset.speakers is None:
            raise UserError(f"{dataset.name}: has no speakers (extra/speaker), use validation=random")
        known = np.unique(dataset.speakers)
        chosen = known[len(known) - self.nb_speakers :] if self.speakers is None else np.asarray(self.speakers)
        if self.speakers is None and not 0 < self.nb_speakers < len(known):
            raise UserError(f"{dataset.name}: nb_speakers = {self.nb_speakers}, need 1..{len(known) - 1}")
        return _parted(dataset, _spoken_by(dataset, chosen), f"speakers {chosen.tolist()}")


def of_speakers(dataset: EventDataset, speakers: Sequence[int]) -> EventDataset:
    """The samples of some speakers. Raises: UserError for a data set without speakers, none, or an unknown one."""
    if dataset.speakers is None:
        raise UserError(f"{dataset.name}: has no speakers (extra/speaker) to choose among")
    if not len(speakers):
        raise UserError(f"{dataset.name}: no speaker is named; there are {np.unique(dataset.speakers).tolist()}")
    return dataset.subset(np.flatnonzero(_spoken_by(dataset, np.asarray(speakers))))


def joined(first: EventDataset, second: EventDataset) -> EventDataset:
    """The samples of both, those of the second numbered after those of the first; with speakers if both have them."""
    speakers = None
    if first.speakers is not None and second.speakers is not None:
        speakers = np.concatenate([first.speakers, second.speakers])
    return replace(
        first,
        times=np.concatenate([first.times, second.times]),
        units=np.concatenate([first.units, second.units]),
        offsets=np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        labels=np.concatenate([first.labels, second.labels]),
        speakers=speakers,
        ids=np.concatenate([first.ids, second.ids + int(first.ids.max(initial=-1)) + 1]),
    )


def of_other_speakers(dataset: EventDataset, speakers: Sequence[int]) -> EventDataset:
    """The samples of all speakers but some. Raises: UserError as `of_speakers`, or where nobody is left."""
    tests = of_speakers(dataset, speakers)
    if len(tests) == len(dataset):
        raise UserError(f"{dataset.name}: nobody is left beside the speakers {sorted(speakers)}")
    return dataset.subset(~np.isin(dataset.ids, tests.ids))


def _spoken_by(dataset: EventDataset, speakers: np.ndarray) -> np.ndarray:
    assert dataset.speakers is not None
    known = np.unique(dataset.speakers)
    unknown = np.setdiff1d(speakers, known)
    if len(unknown):
        raise UserError(f"{dataset.name}: no speaker {unknown[0]}, there are {known.tolist()}")
    return np.isin(dataset.speakers, speakers)


@dataclass(frozen=True)
class FileValidation:
    """A file of its own validates (as in SSC).

    Args:
        path: file in the format of `read_shd`.
    """

    path: str | Path | None = None

    def __call__(self, dataset: EventDataset) -> tuple[EventDataset, EventDataset]:
        """Returns (dataset, the file's samples); raises UserError if the file is not to be read."""
        if self.path is None:
            raise UserError("validation=file needs the path of the validation file (valid_path)")
        valid = read_shd(self.path, nb_units=dataset.nb_units, nb_classes=dataset.nb_classes)
        # Numbered after the training samples: counter-based noise must not repeat between the two.
        valid.ids = valid.ids + int(dataset.ids.max(initial=-1)) + 1
        return dataset, valid


VALIDATIONS: dict[str, Callable[..., Split]] = {
    "none": NoValidation,
    "random": RandomValidation,
    "speaker": SpeakerValidation,
    "file": FileValidation,
}


def validation_split(
    dataset: EventDataset, validation: str, **options: object
) -> tuple[EventDataset, EventDataset | None]:
    """Splits off the validation set: (train, valid), valid None for ``none``.

    Args:
        dataset: the training samples.
        validation: ``none``, ``random``, ``speaker`` or ``file``.
        options: fields of `RandomValidation`, `SpeakerValidation` or `FileValidation`.

    Raises:
        UserError: unknown kind, or a split that leaves one side empty.
    """
    if validation not in VALIDATIONS:
        raise UserError(f"validation = {validation!r}: allowed are {', '.join(sorted(VALIDATIONS))}")
    return VALIDATIONS[validation](**options)(dataset)


def check_window(dataset: EventDataset, duration: float, name: str | None = None) -> None:
    """Warns if more than 5 % of the events lie outside [0, duration) s.

    Args:
        dataset: the data set.
        duration: s.
        name: for messages, by default the data set's.

    Raises:
        UserError: if all do: the times are then in another unit.
    """
    if not dataset.nb_events:
        return
    outside = np.count_nonzero((dataset.times < 0) | (dataset.times >= duration))
    lost = f"{name or dataset.name}: {outside} of {dataset.nb_events} events lie outside [0, {duration:g}) s"
    if outside == dataset.nb_events:
        last = dataset.duration
        unit = next((u for u, factor in (("ms", 1e3), ("us", 1e6)) if last / factor <= 10 * duration), None)
        guess = f"; they look like {unit}, divide them by {1000 if unit == 'ms' else 1000000}" if unit else ""
        raise UserError(f"{lost}, the last at {last:g}; times are in seconds{guess}")
    if outside > 0.05 * dataset.nb_events:
        logger.warning("%s and are dropped; a longer duration keeps them", lost)


def first_of_each(dataset: EventDataset, limit: int) -> EventDataset:
    """The first ``limit`` samples of each speaker and class, in the order of the data set."""
    if limit < 1:
        raise UserError(f"dataset.limit={limit}: need at least one recording of each speaker and class")
    speakers = np.zeros(len(dataset), np.int64) if dataset.speakers is None else dataset.speakers
    group = np.unique(np.stack([speakers, dataset.labels]), axis=1, return_inverse=True)[1].ravel()
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(group))])
    rank = np.empty(len(dataset), np.int64)
    rank[order] = np.arange(len(dataset)) - starts[group[order]]
    return dataset.subset(np.flatnonzero(rank < limit))


def _parted(dataset: EventDataset, mask: np.ndarray, what: str) -> tuple[EventDataset, EventDataset]:
    if mask.all() or not mask.any():
        side = "training" if mask.all() else "validation"
        raise UserError(f"{dataset.name}: {what} leaves no sample for {side} out of {len(dataset)}")
    return dataset.subset(~mask), dataset.subset(mask)
