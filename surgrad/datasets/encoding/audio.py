"""Recordings on disk: wav files, spoken commands as wav or FLAC, the archive of the Free Spoken Digit Dataset."""

from __future__ import annotations

import csv
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import scipy.io.wavfile
import scipy.signal

from surgrad.errors import UserError

_FILE_NAME = re.compile(r"(?P<label>[^_]+)_(?P<speaker>[^_]+)_(?P<index>\d+)")
#: Of the Arabic Speech Commands Dataset: names of its recordings, its partition, and its sampling rate (Hz).
COMMAND_FILE = re.compile(r"dataset/(?P<word>[^/]+)/(?P<speaker>[0-9]{8})_NO_(?P<take>[0-9]{2})\.wav")
COMMAND_PARTS, COMMAND_RATE = ("train", "val", "test"), 16_000
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz
# What scipy was seen to raise on wav files with flipped bytes or a missing end.
_WAV_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, LookupError, ArithmeticError, TypeError, MemoryError, UnboundLocalError),
    *(struct.error, scipy.io.wavfile.WavFileWarning),
)
_ARCHIVE_KEYS = {"audio", "offsets", "label", "speaker", "index", "speakers", "rate"}


@dataclass(frozen=True)
class Recording:
    """One labelled recording of a source; `position` finds it there."""

    name: str
    label: str
    speaker: str | None
    position: int
    split: str | None = None  # of the published partition, where there is one


@dataclass
class WavFolder:
    """Folder of wav files, labelled by their names `{label}_{speaker}_{index}.wav` or by a table.

    The table is a CSV with the columns file, label and, optionally, speaker; files are relative to the folder.

    Raises:
        FileNotFoundError: UserError naming the file that is missing, unlabelled or unreadable.
    """

    folder: Path
    table: Path | None = None
    recordings: list[Recording] = field(init=False)
    files: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        rows = self._by_table(self.table) if self.table else self._by_name()
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

    def _by_table(self, table: Path) -> list[tuple[str, str, str | None]]:
        if not table.is_file():
            raise UserError(f"{table}: no such file")
        with open(table, newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            columns = reader.fieldnames or []
            if not {"file", "label"} <= set(columns):
                raise UserError(f"{table}: columns are {', '.join(columns)}; expected file,label[,speaker]")
            rows = [(row["file"], row["label"], row.get("speaker") or None) for row in reader]
        listed = {str(Path(file)) for file, _, _ in rows}
        if len(listed) < len(rows):
            raise UserError(f"{table}: a file is listed twice")
        for file in map(str, self._wav_files()):
            if file not in listed:
                raise UserError(f"{table}: no label for {file}; add a row or remove the file")
        for file, label, _ in rows:
            if not label:
                raise UserError(f"{table}: the label of {file} is empty")
            if not (self.folder / file).is_file():
                raise UserError(f"{table}: {file} is not in {self.folder}")
        return rows


@dataclass
class DigitArchive:
    """`fsdd.npz`: all recordings of the Free Spoken Digit Dataset in one file.

    Arrays: audio (int16, all recordings end to end), offsets (N+1,), label, speaker (index into speakers), index (N,),
    rate (Hz). Raises: UserError naming the file and what it lacks.
    """

    path: Path
    recordings: list[Recording] = field(init=False)

    def __post_init__(self) -> None:
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


@dataclass
class _Commands:
    """Words by numbered speakers, several takes of each.

    Recordings are ordered by take, speaker and word, so that a limit keeps the same takes of everybody, and are named
    by word, speaker and take, so that the same recording has the same spikes wherever it was read.
    """

    folder: Path
    recordings: list[Recording] = field(init=False)

    def __post_init__(self) -> None:
        self._rows = sorted(self._read_tables(), key=lambda row: (row["take"], row["speaker"], row["word"]))
        self.recordings = [
            Recording(f"{r['word']}/{r['speaker']}/{r['take']}", r["word"], str(r["speaker"]), position, r["split"])
            for position, r in enumerate(self._rows)
        ]

    def _read_tables(self) -> list[dict[str, Any]]:
        """Rows with word, speaker, take, split and what finds the audio; each recording once."""
        raise NotImplementedError


@dataclass
class CommandFolder(_Commands):
    """Folder of `{word}.flac` files and `index.csv`, which says where each recording lies in them.

    The table has the columns word, start, samples (both in samples), speaker, take, split. FLAC is read by the package
    soundfile.

    Raises:
        UserError: naming the row or file that is missing, wrong or unreadable.
    """

    def audio(self, recording: Recording) -> tuple[np.ndarray, int]:
        """Samples (n,) and rate (Hz) of one recording."""
        try:
            import soundfile
        except ImportError:
            raise UserError("FLAC files are read by the package soundfile: pip install 'surgrad[audio]'") from None
        row = self._rows[recording.position]
        path = self.folder / f"{row['word']}.flac"
        try:
            audio, rate = soundfile.read(path, frames=row["samples"], start=row["start"], dtype="int16")
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: cannot be read as FLAC ({error})") from None
        if audio.shape != (row["samples"],):
            raise UserError(f"{path}: {recording.name} has shape {audio.shape} there, expected ({row['samples']},)")
        return audio.astype(np.float64), int(rate)

    def _read_tables(self) -> list[dict[str, Any]]:
        rows, seen = [], set()
        for where, line in _lines(self.folder / "index.csv", "word,start,samples,speaker,take,split"):
            row: dict[str, Any] = dict(line)
            try:
                row |= {key: int(line[key]) for key in ("start", "samples", "speaker", "take")}
            except (TypeError, ValueError):
                raise UserError(f"{where}: a number is missing in {row}") from None
            key = row["word"], row["speaker"], row["take"]
            if key in seen or row["start"] < 0 or row["samples"] < 1 or not (row["word"] and row["split"]):
                raise UserError(f"{where}: listed twice, empty or out of range: {row}")
            seen.add(key)
            rows.append(row)
        return rows


@dataclass
class PublishedCommands(_Commands):
    """The Arabic Speech Commands Dataset as published (Ghandoura, Hjabo & Al Dakkak 2021), or some of its words.

    Recordings are `dataset/{word}/{speaker}_NO_{take}.wav`, 16 kHz; `train.csv`, `val.csv` and `test.csv` list them in
    the columns file, class.

    Raises:
        UserError: naming the row or file that is missing, wrong or unreadable.
    """

    @staticmethod
    def lies_in(folder: Path) -> bool:
        """Whether the folder has recordings named in this way."""
        return any(folder.glob("dataset/*/*_NO_*.wav"))

    def audio(self, recording: Recording) -> tuple[np.ndarray, int]:
        """Samples (n,) and rate (Hz) of one recording."""
        path = self.folder / self._rows[recording.position]["file"]
        audio, rate = read_wav(path)
        if rate != COMMAND_RATE:
            raise UserError(f"{path}: {rate} Hz; the recordings of this data set have {COMMAND_RATE} Hz")
        return audio, rate

    def _read_tables(self) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for split in COMMAND_PARTS:
            for where, line in _lines(self.folder / f"{split}.csv", "file,class"):
                match = COMMAND_FILE.fullmatch(file := line["file"] or "")
                if match is None or match["word"] != line["class"]:
                    expected = "dataset/{class}/{8 digits}_NO_{2 digits}.wav"
                    raise UserError(f"{where}: {file!r} of class {line['class']!r}; expected {expected}")
                if file in rows:
                    raise UserError(f"{where}: {file} is listed twice")
                if not (self.folder / file).is_file():
                    raise UserError(f"{where}: {file} is not in {self.folder}")
                numbers = {key: int(match[key]) for key in ("speaker", "take")}
                rows[file] = {"file": file, "word": match["word"], "split": split} | numbers
        for path in sorted(self.folder.glob("dataset/*/*.wav")):
            if path.relative_to(self.folder).as_posix() not in rows:
                raise UserError(f"{path}: no table lists it; add a row or remove the file")
        return list(rows.values())


def _lines(table: Path, columns: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where it stands, for messages, and content of every line of a CSV file that has the columns."""
    if not table.is_file():
        raise UserError(f"{table}: no such file; expected a table of the columns {columns}")
    try:
        with open(table, newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            if not set(columns.split(",")) <= set(reader.fieldnames or []):
                raise UserError(f"{table}: columns are {reader.fieldnames}; expected {columns}")
            for line in reader:
                yield f"{table}, line {reader.line_num}", line
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: cannot be read as CSV ({error})") from None


def read_wav(path: str | Path) -> tuple[np.ndarray, int]:
    """Samples (n,), channels averaged, and rate (Hz) of a wav file of any sample format.

    Raises:
        UserError: for a file that is not a readable wav, or that is shorter than its header says.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Reached EOF prematurely")
            warnings.filterwarnings("ignore", message="Chunk .non-data. not understood")
            _require_whole(path)
            rate, samples = scipy.io.wavfile.read(path)
    except _WAV_ERRORS as error:
        raise UserError(f"{path}: not a readable wav file ({error or type(error).__name__})") from None
    if not len(samples) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(
            f"{path}: {len(samples)} samples at {rate} Hz; need some, at {LOWEST_RATE} to {HIGHEST_RATE} Hz"
        )
    samples = samples.astype(np.float64) - (128.0 if samples.dtype == np.uint8 else 0.0)
    return (samples.mean(axis=1) if samples.ndim == 2 else samples), int(rate)


def _require_whole(path: Path) -> None:
    """Raises ValueError if a chunk of the file is longer than the file: scipy would return what is there."""
    size, order = path.stat().st_size, {b"RIFF": "<", b"RIFX": ">", b"RF64": "<"}
    with open(path, "rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] not in order or head[8:] != b"WAVE":
            raise ValueError("no RIFF header")
        found, start = set(), 12
        while start + 8 <= size:
            file.seek(start)
            name, length = struct.unpack(f"{order[head[:4]]}4sI", file.read(8))
            if head[:4] == b"RF64" and name == b"data":
                return  # longer than 4 GiB: its length stands elsewhere
            if start + 8 + length > size:
                raise ValueError(f"truncated: {name.decode('latin-1')!r} ends at byte {start + 8 + length} of {size}")
            found.add(name)
            start += 8 + length + length % 2
    missing = {b"fmt ", b"data"} - found
    if missing:
        raise ValueError(f"no chunk {sorted(missing)[0].decode()!r}")


def resample(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Samples (n,) at `rate` brought to `new_rate` (Hz) by a polyphase filter.

    Raises:
        UserError: for a rate outside of `LOWEST_RATE` to `HIGHEST_RATE`, which would take hours.
    """
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or int(rate) != rate:
        raise UserError(f"rate={rate} Hz: a whole number from {LOWEST_RATE} to {HIGHEST_RATE} is expected")
    common = gcd(int(rate), new_rate)
    return scipy.signal.resample_poly(audio, new_rate // common, int(rate) // common)
