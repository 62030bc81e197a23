"""Turns labelled recordings into spikes of a cochlea, in the compact event format (SHD's: scripts/convert_events.py).

    python3 scripts/audio_to_spikes.py my_wavs my_spikes                          # {label}_{speaker}_{index}.wav
    python3 scripts/audio_to_spikes.py my_wavs my_spikes --labels my_labels.csv   # file,label[,speaker]
    python3 scripts/audio_to_spikes.py fsdd.npz data/spiking_digits --test-speakers theo
    python3 scripts/audio_to_spikes.py arabic_commands my_spikes --limit 6        # the published layout: train.csv,
                                             # val.csv, test.csv (or {word}.flac and index.csv); 6 takes of 10

Writes one file per part: those of a published partition, OUT/train.h5 and OUT/test.h5 when speakers are named, else
OUT/spikes.h5. A conversion that was stopped goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from surgrad.datasets.encoding.audio import CommandFolder, DigitArchive, PublishedCommands, Recording, WavFolder
from surgrad.datasets.encoding.cochlea import Cochlea
from surgrad.datasets.encoding.conversion import Converter, Source, by_part, convert
from surgrad.errors import UserError


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
        return by_part(recordings)
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


def open_source(path: Path, labels: Path | None) -> Source:
    """The source by what lies at the path."""
    if path.suffix == ".npz":
        source: Source = DigitArchive(path)
    elif (path / "index.csv").is_file():
        source = CommandFolder(path)
    elif PublishedCommands.lies_in(path):
        source = PublishedCommands(path)
    else:
        return WavFolder(path, labels)
    if labels:
        raise UserError("--labels goes with a folder of wav files; an archive and folders with tables hold theirs")
    return source


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of recordings, or fsdd.npz")
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
    parser.add_argument("--jobs", type=int, help="processes (default: one per core); the spikes do not depend on it")
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
    converter = Converter(source, Cochlea(options.channels), options.seed, options.parts or options.out / ".parts")
    for written in convert(converter, files, options.out, resolution=options.resolution, jobs=options.jobs):
        print(written)
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
