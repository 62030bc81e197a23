"""Turns labelled recordings into spikes of a cochlea, in the compact event format (SHD's: scripts/convert_events.py).

    python3 scripts/audio_to_spikes.py my_wavs my_spikes                          # {label}_{speaker}_{index}.wav
    python3 scripts/audio_to_spikes.py my_wavs my_spikes --labels my_labels.csv   # file,label[,speaker]
    python3 scripts/audio_to_spikes.py fsdd.npz data/spiking_digits --test-speakers theo
    python3 scripts/audio_to_spikes.py arabic_commands data/spoken_commands --limit 6     # {word}.flac and index.csv

Writes one file per part: those of a published partition, OUT/train.h5 and OUT/test.h5 when speakers are named, else
OUT/spikes.h5. A conversion that was stopped goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from surgrad.datasets.encoding.audio import CommandFolder, DigitArchive, Recording, WavFolder
from surgrad.datasets.encoding.cochlea import Cochlea
from surgrad.errors import UserError

if TYPE_CHECKING:  # the conversion itself does without torch
    from surgrad.datasets.events import EventDataset

PIPELINE = "1"  # raise it when the cochlea draws other spikes: parts of older conversions are then not reused


@dataclass
class Converter:
    """Converts one recording at a time into a file of its own, unless an equal one is there already."""

    source: CommandFolder | DigitArchive | WavFolder
    cochlea: Cochlea
    seed: int
    parts: Path

    def __call__(self, recording: Recording) -> Path:
        """File with times and units of the recording; its name is the digest of all that determines them."""
        audio, rate = self.source.audio(recording)
        settings = f"{PIPELINE} {self.cochlea!r} {self.seed} {recording.name} {rate}"
        part = self.parts / f"{hashlib.sha256(settings.encode() + audio.tobytes()).hexdigest()[:40]}.npz"
        if not part.exists():
            # a seed of the name alone: other recordings, their order and the number of jobs do not matter
            digest = hashlib.sha256(f"{self.seed}/{recording.name}".encode()).digest()
            try:
                times, units = self.cochlea(audio, rate, int.from_bytes(digest[:8], "little"))
            except UserError as error:
                raise UserError(f"{recording.name}: {error}") from None
            if len(times) == 0:
                raise UserError(f"{recording.name}: the cochlea draws no spike; leave the recording out")
            tmp = part.with_suffix(f".{os.getpid()}.tmp")
            with open(tmp, "wb") as file:
                np.savez(file, times=times, units=units)
            os.replace(tmp, part)
        return part

    def all(self, recordings: list[Recording], jobs: int) -> Iterator[Path]:
        """The files of the recordings, in order, converted by `jobs` processes."""
        if jobs == 1:
            yield from map(self, recordings)
            return
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_start_worker, initargs=(self,))
        try:
            yield from pool.map(_convert, recordings)
        finally:
            pool.shutdown(cancel_futures=True)


_converter: Converter  # of a worker process


def _start_worker(converter: Converter) -> None:
    global _converter
    _converter = converter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, once
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _convert(recording: Recording) -> Path:
    return _converter(recording)


def select(recordings: list[Recording], limit: int | None) -> list[Recording]:
    """The first `limit` recordings of each speaker and label."""
    seen: Counter[tuple[str | None, str]] = Counter()
    chosen = []
    for recording in recordings:
        group = recording.speaker, recording.label
        if limit is None or seen[group] < limit:
            chosen.append(recording)
        seen[group] += 1
    return chosen


def split(recordings: list[Recording], train: list[str] | None, test: list[str] | None) -> dict[str, list[Recording]]:
    """Recordings of each output file; with speakers named on one side only, the others are on the other side."""
    if not train and not test:
        parts = Counter(recording.split or "spikes" for recording in recordings)
        return {part: [r for r in recordings if (r.split or "spikes") == part] for part in parts}
    speakers = sorted({recording.speaker for recording in recordings if recording.speaker is not None})
    if any(recording.speaker is None for recording in recordings):
        raise UserError("--train-speakers/--test-speakers: some recordings have no speaker; add the column to the CSV")
    for speaker in (train or []) + (test or []):
        if speaker not in speakers:
            raise UserError(f"speaker {speaker!r} has no recordings; allowed are {', '.join(speakers)}")
    train = train or [speaker for speaker in speakers if speaker not in (test or [])]
    test = test or [speaker for speaker in speakers if speaker not in train]
    both = sorted(set(train) & set(test))
    if both or not train or not test:
        reason = f"{', '.join(both)} on both sides" if both else "one side has no speaker"
        raise UserError(f"--train-speakers/--test-speakers: {reason}; allowed are {', '.join(speakers)}")
    return {
        "train": [recording for recording in recordings if recording.speaker in train],
        "test": [recording for recording in recordings if recording.speaker in test],
    }


def speaker_numbers(recordings: list[Recording]) -> dict[str, int]:
    """The number of every speaker: its own where all names are numbers, else its place among the sorted names."""
    names = sorted({recording.speaker for recording in recordings if recording.speaker is not None})
    if all(name.isdecimal() for name in names):
        return {name: int(name) for name in names}
    return {name: number for number, name in enumerate(names)}


def class_names(recordings: list[Recording]) -> list[str]:
    """Names of the classes in the order of their numbers; a label that is a number is its own number."""
    labels = {recording.label for recording in recordings}
    if all(label.isdecimal() and str(int(label)) == label for label in labels):
        return [str(number) for number in range(max(map(int, labels)) + 1)]
    return sorted(labels)


def gather(
    parts: list[Path], recordings: list[Recording], names: list[str], speakers: dict[str, int], nb_units: int
) -> EventDataset:
    """Data set of the converted recordings."""
    from surgrad.datasets.events import EventDataset

    trains = []
    for part in parts:
        with np.load(part) as arrays:
            trains.append((arrays["times"], arrays["units"]))
    spoken = all(recording.speaker is not None for recording in recordings)
    return EventDataset(
        times=np.concatenate([times for times, _ in trains]),
        units=np.concatenate([units for _, units in trains]),
        offsets=np.cumsum([0] + [len(times) for times, _ in trains]),
        labels=np.array([names.index(recording.label) for recording in recordings]),
        speakers=np.array([speakers[str(recording.speaker)] for recording in recordings]) if spoken else None,
        nb_units=nb_units,
        nb_classes=len(names),
        class_names=tuple(names),
        name="spikes",
    )


def open_source(path: Path, labels: Path | None) -> CommandFolder | DigitArchive | WavFolder:
    """The source by what lies at the path."""
    if path.suffix != ".npz" and not (path / "index.csv").is_file():
        return WavFolder(path, labels)
    if labels:
        raise UserError("--labels goes with a folder of wav files; an archive and a folder with index.csv hold theirs")
    return DigitArchive(path) if path.suffix == ".npz" else CommandFolder(path)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of wav files or of FLAC files and index.csv, or fsdd.npz")
    parser.add_argument("out", type=Path, help="folder of the HDF5 files")
    parser.add_argument("--labels", type=Path, help="CSV with columns file,label[,speaker] for a folder of wav files")
    parser.add_argument(
        "--train-speakers", nargs="+", metavar="NAME", help="speakers of train.h5 (default: the others)"
    )
    parser.add_argument("--test-speakers", nargs="+", metavar="NAME", help="speakers of test.h5 (default: the others)")
    parser.add_argument("--limit", type=int, help="recordings per speaker and label, lowest index first (default: all)")
    parser.add_argument("--channels", type=int, default=700, help="places on the basilar membrane (default: 700)")
    parser.add_argument("--seed", type=int, default=0, help="of the transmitter releases (default: 0)")
    parser.add_argument("--resolution", type=float, default=0.5e-3, help="s, of the times (default: %(default)s)")
    parser.add_argument("--parts", type=Path, help="folder that keeps every converted clip (default: until the end)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1); the spikes do not depend on it")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    for name in ("jobs", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: at least 1")
    source = open_source(options.source, options.labels)
    files = {
        name: select(recordings, options.limit)
        for name, recordings in split(source.recordings, options.train_speakers, options.test_speakers).items()
    }
    recordings = [recording for chosen in files.values() for recording in chosen]
    converter = Converter(source, Cochlea(options.channels), options.seed, options.parts or options.out / ".parts")
    converter.parts.mkdir(parents=True, exist_ok=True)
    parts = list(tqdm(converter.all(recordings, options.jobs), total=len(recordings), unit="clip"))

    from surgrad.datasets.sources.hdf5 import write_compact  # brings torch, which the worker processes do without

    names = class_names(source.recordings)
    speakers = speaker_numbers(source.recordings)
    part_of = dict(zip((recording.name for recording in recordings), parts, strict=True))
    for name, chosen in files.items():
        dataset = gather([part_of[r.name] for r in chosen], chosen, names, speakers, options.channels)
        path = options.out / f"{name}.h5"
        write_compact(path, dataset, resolution=options.resolution)
        size = path.stat().st_size / 2**20
        print(f"{path}: {len(chosen)} recordings, {len(dataset.times)} spikes, {size:.1f} MiB")
    if not options.parts:
        shutil.rmtree(converter.parts)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    except BrokenProcessPool:
        sys.exit("error: a worker process died (out of memory?); the same command goes on from here")
