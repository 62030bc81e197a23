"""Braille letters read by an artificial fingertip (Müller-Cleve et al. 2022)."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgrad.datasets.encoding.threshold_crossing import Events
from surgrad.datasets.events import EventDataset
from surgrad.errors import UserError

#: Taxels that the letters move; the other eight are the same in all recordings.
MOVING = (1, 2, 6, 10)

#: Arrays of the file and their number of axes.
_ARRAYS = {"taxels": 2, "offsets": 1, "label": 1, "letters": 1}

Encoding = Callable[[np.ndarray], Events]


@dataclass(frozen=True)
class Braille:
    """Recordings: signals (N, T, C) in 0..1, more pressure is more; labels (N,), index into ``letters``.

    Signals were sampled at 40 Hz and are cut to the shortest recording.
    """

    signals: np.ndarray
    labels: np.ndarray
    letters: tuple[str, ...]

    def subset(self, indices: np.ndarray) -> Braille:
        """The recordings ``indices`` (integers or bools)."""
        return Braille(self.signals[indices], self.labels[indices], self.letters)

    def standardized(self, like: Braille) -> Braille:
        """(x - mean) / (std + 1e-3) of every channel, with mean and deviation of the recordings ``like``."""
        mean, std = like.signals.mean((0, 1)), like.signals.std((0, 1))
        return Braille((self.signals - mean) / (std + 1e-3), self.labels, self.letters)


def read_braille(path: str | Path, taxels: tuple[int, ...] = MOVING) -> Braille:
    """The recordings in ``braille.npz``: taxel values 255 (no pressure) to 0, as 1 - value / 255.

    Args:
        path: of ``braille.npz``.
        taxels: to keep, 0..11.

    Raises:
        UserError: naming the file if it is missing or damaged.
    """
    path = Path(path)
    arrays = _arrays(path)
    values, offsets, labels, letters = (arrays[name] for name in _ARRAYS)
    lengths = np.diff(offsets)
    whole = len(offsets) == len(labels) + 1 > 1 and offsets[0] == 0 and offsets[-1] == len(values)
    if not whole or lengths.min() < 2 or labels.max() >= len(letters):
        raise UserError(f"{path}: damaged, {len(labels)} labels and {len(values)} samples do not fit together")
    if not all(0 <= taxel < values.shape[1] for taxel in taxels):
        raise UserError(f"taxels={list(taxels)}: allowed are 0 to {values.shape[1] - 1}")
    samples = offsets[:-1, None] + np.arange(lengths.min())
    return Braille(1 - values[samples][:, :, list(taxels)] / 255, labels.astype(np.int64), tuple(letters.tolist()))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; it is part of the repository, in data/braille") from None
    except (KeyError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not the Braille recordings ({' '.join(str(error).split())})") from error
    for name, axes in _ARRAYS.items():
        if arrays[name].ndim != axes:
            raise UserError(f"{path}: {name} has {arrays[name].ndim} axes, wanted {axes}")
    return arrays


def encoded(recordings: Braille, encoding: Encoding, nb_units: int, name: str) -> EventDataset:
    """The recordings as spikes.

    Args:
        recordings: signals (N, T, C) and letters.
        encoding: maps signals (N, T, C) to events.
        nb_units: of the encoding.
        name: for messages.
    """
    times, units, offsets = encoding(recordings.signals)
    return EventDataset(
        times=times,
        units=units,
        offsets=offsets,
        labels=recordings.labels,
        nb_units=nb_units,
        nb_classes=len(recordings.letters),
        name=name,
        class_names=recordings.letters,
    )
