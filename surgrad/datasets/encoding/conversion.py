"""Recordings to spikes: every one by itself, in as many processes as there are cores, going on where it was stopped."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from surgrad.datasets.encoding.audio import CommandFolder, DigitArchive, PublishedCommands, Recording, WavFolder
from surgrad.datasets.encoding.cochlea import Cochlea
from surgrad.errors import UserError

if TYPE_CHECKING:  # the conversion itself does without torch
    from surgrad.datasets.events import EventDataset

Source = CommandFolder | DigitArchive | PublishedCommands | WavFolder

PIPELINE = "1"  # raise it when the cochlea draws other spikes: parts of older conversions are then not reused


@dataclass
class Converter:
    """Converts one recording at a time into a file of its own, unless an equal one is there already."""

    source: Source
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
        jobs = min(jobs, len(recordings))
        if jobs <= 1:
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


class Written(NamedTuple):
    """A file of spikes: where it is, how many recordings and how many events it holds."""

    path: Path
    nb_recordings: int
    nb_events: int

    def __str__(self) -> str:
        size = self.path.stat().st_size / 2**20
        return f"{self.path}: {self.nb_recordings} recordings, {self.nb_events} spikes, {size:.1f} MiB"


def convert(
    converter: Converter,
    files: Mapping[str, list[Recording]],
    out: Path,
    *,
    resolution: float = 0.5e-3,
    jobs: int | None = None,
) -> list[Written]:
    """Writes files of spikes in the compact event format, OUT/{name}.h5, each complete or not at all.

    Every converted recording stays in the converter's folder of parts, from where the same conversion takes it if it
    was stopped; whoever is done removes the folder.

    Args:
        converter: with the source of the recordings; its classes and speakers are those of the whole source.
        files: recordings of each file by its name.
        out: folder of the files.
        resolution: s, of the times.
        jobs: processes; None: one for each core that this process may use. The spikes do not depend on it.

    Raises:
        UserError: naming the recording that cannot be read or converted.
    """
    converter.parts.mkdir(parents=True, exist_ok=True)
    recordings = [recording for chosen in files.values() for recording in chosen]
    parts = list(tqdm(converter.all(recordings, jobs or _cores()), total=len(recordings), unit="clip"))

    from surgrad.datasets.sources.hdf5 import write_compact  # brings torch, which the worker processes do without

    names = _class_names(converter.source.recordings)
    speakers = _speaker_numbers(converter.source.recordings)
    part_of = dict(zip((recording.name for recording in recordings), parts, strict=True))
    written = []
    for name, chosen in files.items():
        channels = converter.cochlea.nb_channels
        dataset = _gather([part_of[r.name] for r in chosen], chosen, names, speakers, channels)
        path = out / f"{name}.h5"
        write_compact(path, dataset, resolution=resolution)
        written.append(Written(path, len(chosen), dataset.nb_events))
    return written


def by_part(recordings: list[Recording]) -> dict[str, list[Recording]]:
    """Recordings of each part of the published partition; "spikes" where there is none."""
    parts = Counter(recording.split or "spikes" for recording in recordings)
    return {part: [r for r in recordings if (r.split or "spikes") == part] for part in parts}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _speaker_numbers(recordings: list[Recording]) -> dict[str, int]:
    """The number of every speaker: its own where all names are numbers, else its place among the sorted names."""
    names = sorted({recording.speaker for recording in recordings if recording.speaker is not None})
    if all(name.isdecimal() for name in names):
        return {name: int(name) for name in names}
    return {name: number for number, name in enumerate(names)}


def _class_names(recordings: list[Recording]) -> list[str]:
    """Names of the classes in the order of their numbers; a label that is a number is its own number."""
    labels = {recording.label for recording in recordings}
    if all(label.isdecimal() and str(int(label)) == label for label in labels):
        return [str(number) for number in range(max(map(int, labels)) + 1)]
    return sorted(labels)


def _gather(
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
