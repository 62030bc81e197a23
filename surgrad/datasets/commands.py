"""Recordings that lie end to end in FLAC files, one per word, found by a table."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from surgrad.datasets.audio import Recording
from surgrad.errors import UserError

_COLUMNS = ("word", "start", "samples", "speaker", "take", "split")


@dataclass
class CommandFolder:
    """Folder of `{word}.flac` files with `index.csv`: word, start, samples, speaker, take, split of every recording.

    Takes come first in the order of the recordings, so that a limit keeps the same takes of everybody.
    Raises: UserError naming the row or file that is missing, short or unreadable.
    """

    folder: Path
    recordings: list[Recording] = field(init=False)
    splits: dict[str, str] = field(init=False)

    def __post_init__(self):
        table = self.folder / "index.csv"
        if not table.is_file():
            raise UserError(f"{table}: no such file; it lists {','.join(_COLUMNS)}")
        with open(table, newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            if not set(_COLUMNS) <= set(reader.fieldnames or []):
                raise UserError(f"{table}: columns are {reader.fieldnames}; expected {','.join(_COLUMNS)}")
            self._rows = list(reader)
        order = sorted(
            range(len(self._rows)),
            key=lambda i: (int(self._rows[i]["take"]), int(self._rows[i]["speaker"]), self._rows[i]["word"]),
        )
        self.recordings, self.splits = [], {}
        for position in order:
            row = self._rows[position]
            name = f"{row['word']}/{row['speaker']}/{row['take']}"
            self.recordings.append(Recording(name, row["word"], row["speaker"], position))
            self.splits[name] = row["split"]

    def audio(self, recording: Recording) -> tuple[np.ndarray, int]:
        """Samples (n,) and rate (Hz) of one recording."""
        import soundfile

        row = self._rows[recording.position]
        path, start, samples = self.folder / f"{row['word']}.flac", int(row["start"]), int(row["samples"])
        try:
            audio, rate = soundfile.read(path, frames=samples, start=start, dtype="int16")
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: not a readable FLAC file ({error})") from None
        if len(audio) < samples:
            raise UserError(f"{path}: ends at sample {start + len(audio)}, {recording.name} needs {start + samples}")
        return audio.astype(np.float64), int(rate)
