"""Recordings on disk: wav files and the archive of the Free Spoken Digit Dataset."""

from __future__ import annotations

import csv
import re
import struct
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import scipy.io.wavfile
import scipy.signal

from surgrad.errors import UserError

_FILE_NAME = re.compile(r"(?P<label>[^_]+)_(?P<speaker>[^_]+)_(?P<index>\d+)")
_ARCHIVE_KEYS = {"audio", "offsets", "label", "speaker", "index", "speakers", "rate"}


@dataclass(frozen=True)
class Recording:
    """One labelled recording of a source; `position` finds it there."""

    name: str
    label: str
    speaker: str | None
    position: int


@dataclass
class WavFolder:
    """Folder of wav files, labelled by their names `{label}_{speaker}_{index}.wav` or by a table.

    The table is a CSV with the columns file, label and, optionally, speaker; files are relative to the folder.
    Raises: FileNotFoundError, UserError naming the file that is missing, unlabelled or unreadable.
    """

    folder: Path
    table: Path | None = None
    recordings: list[Recording] = field(init=False)
    files: list[Path] = field(init=False)

    def __post_init__(self):
        rows = self._by_table() if self.table else self._by_name()
        self.files = [self.folder / file for file, _, _ in rows]
        self.recordings = [
            Recording(str(Path(file).with_suffix("")), label, speaker, position)
            for position, (file, label, speaker) in enumerate(rows)
        ]

    def audio(self, recording: Recording) -> tuple[np.ndarray, int]:
        """Samples (n,) and rate (Hz) of one recording."""
        return read_wav(self.files[recording.position])

    def _wav_files(self) -> list[Path]:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder")
        files = [path for path in self.folder.rglob("*") if path.suffix.lower() == ".wav"]
        if not files:
            raise UserError(f"{self.folder}: no wav file in it")
        return sorted(path.relative_to(self.folder) for path in files)

    def _by_name(self) -> list[tuple[str, str, str | None]]:
        rows = []
        for file in self._wav_files():
            match = _FILE_NAME.fullmatch(file.stem)
            if match is None:
                raise UserError(
                    f"{self.folder / file}: the name is not {{label}}_{{speaker}}_{{index}}.wav; "
                    "rename it or give a table of labels"
                )
            rows.append((int(match["index"]), (str(file), match["label"], match["speaker"])))
        return [row for _, row in sorted(rows)]

    def _by_table(self) -> list[tuple[str, str, str | None]]:
        if not self.table.is_file():
            raise UserError(f"{self.table}: no such file")
        with open(self.table, newline="", encoding="utf-8") as lines:
            table = csv.DictReader(lines)
            columns = table.fieldnames or []
            if not {"file", "label"} <= set(columns):
                raise UserError(f"{self.table}: columns are {', '.join(columns)}; expected file,label[,speaker]")
            rows = [(row["file"], row["label"], row.get("speaker") or None) for row in table]
        listed = {str(Path(file)) for file, _, _ in rows}
        if len(listed) < len(rows):
            raise UserError(f"{self.table}: a file is listed twice")
        for file in map(str, self._wav_files()):
            if file not in listed:
                raise UserError(f"{self.table}: no label for {file}; add a row or remove the file")
        for file, label, _ in rows:
            if not label:
                raise UserError(f"{self.table}: the label of {file} is empty")
            if not (self.folder / file).is_file():
                raise UserError(f"{self.table}: {file} is not in {self.folder}")
        return rows


@dataclass
class DigitArchive:
    """`fsdd.npz`: all recordings of the Free Spoken Digit Dataset in one file.

    Arrays: audio (int16, all recordings end to end), offsets (N+1,), label, speaker (index into speakers), index (N,),
    rate (Hz). Raises: UserError naming the file and what it lacks.
    """

    path: Path
    recordings: list[Recording] = field(init=False)

    def __post_init__(self):
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                missing = _ARCHIVE_KEYS - set(archive.files)
                if missing:
                    raise UserError(f"{self.path}: lacks the arrays {', '.join(sorted(missing))}")
                arrays = {key: archive[key] for key in _ARCHIVE_KEYS}
        except (OSError, EOFError, BadZipFile) as error:
            raise UserError(f"{self.path}: cannot be read ({error})") from None
        self._samples, self._offsets, self._rate = arrays["audio"], arrays["offsets"], int(arrays["rate"])
        speakers = [str(arrays["speakers"][s]) for s in arrays["speaker"]]
        rows = [
            (int(index), Recording(f"{label}_{speaker}_{index}", str(label), speaker, position))
            for position, (label, speaker, index) in enumerate(
                zip(arrays["label"], speakers, arrays["index"], strict=True)
            )
        ]
        self.recordings = [row for _, row in sorted(rows, key=lambda row: (row[0], row[1].name))]

    def audio(self, recording: Recording) -> tuple[np.ndarray, int]:
        """Samples (n,) and rate (Hz) of one recording."""
        start, stop = self._offsets[recording.position : recording.position + 2]
        return self._samples[start:stop].astype(np.float64), self._rate


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Samples (n,), channels averaged, and rate (Hz) of a wav file of any sample format.

    Raises: UserError for a file that is not a readable wav.
    """
    try:
        rate, samples = scipy.io.wavfile.read(path)
    except (OSError, EOFError, ValueError, UnboundLocalError, struct.error) as error:
        raise UserError(f"{path}: not a readable wav file ({error})") from None
    samples = samples.astype(np.float64) - (128.0 if samples.dtype == np.uint8 else 0.0)
    return (samples.mean(axis=1) if samples.ndim == 2 else samples), int(rate)


def resample(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Samples (n,) at `rate` brought to `new_rate` (Hz) by a polyphase filter."""
    if rate <= 0 or int(rate) != rate:
        raise UserError(f"rate={rate} Hz: a positive whole number is expected")
    common = gcd(int(rate), new_rate)
    return scipy.signal.resample_poly(audio, new_rate // common, int(rate) // common)
