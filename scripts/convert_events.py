"""Converts spike data sets between the HDF5 format of SHD and the compact one, and checks that nothing was lost.

    python3 scripts/convert_events.py compact shd_train.h5 shd_train_compact.h5 --resolution 0.5e-3
    python3 scripts/convert_events.py shd data/spiking_digits/train.h5 train_shd.h5

The compact format keeps the step floor(time / resolution) of every event: its events are those of the original to
within the resolution, and the same on every time grid whose step is a multiple of it. SHD's format keeps times as they
are, sorted. There and back again gives the same compact events.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from surgrad.datasets.binning import time_to_step
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.compact import RESOLUTION
from surgrad.datasets.sources.hdf5 import read_shd, write_compact, write_shd
from surgrad.errors import UserError


def in_order(dataset: EventDataset, *keys: np.ndarray) -> EventDataset:
    """The same samples, the events of each sorted by the keys, the first key first."""
    order = np.lexsort((*reversed(keys), dataset.samples()))
    return dataset.with_events(dataset.times[order], dataset.units[order], dataset.offsets)


def quantized(dataset: EventDataset, resolution: float) -> EventDataset:
    """Times at the beginning of their steps, events sorted by unit and time: what a compact file gives back."""
    step = time_to_step(dataset.times, resolution)
    moved = dataset.with_events((step * resolution).astype(np.float32), dataset.units, dataset.offsets)
    return in_order(moved, moved.units, moved.times)


def require_same(path: Path, expected: EventDataset) -> None:
    """Raises UserError if the file does not hold the expected data set."""
    found = read_shd(path)
    for name in ("times", "units", "offsets", "labels", "speakers"):
        if not np.array_equal(getattr(found, name), getattr(expected, name)):
            raise UserError(f"{path}: {name} differ from the original; the disk or the original is at fault")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=("compact", "shd"), help="of the new file")
    parser.add_argument("source", type=Path, help="file in either format")
    parser.add_argument("target", type=Path, help="the new file")
    parser.add_argument("--resolution", type=float, default=RESOLUTION, help="s, of compact (default: %(default)s)")
    options = parser.parse_args(arguments)
    dataset = read_shd(options.source)
    if options.format == "compact":
        write_compact(options.target, dataset, resolution=options.resolution)
        require_same(options.target, quantized(dataset, options.resolution))
    else:
        dataset = in_order(dataset, dataset.times, dataset.units)
        write_shd(options.target, dataset)
        require_same(options.target, dataset)
    sizes = " -> ".join(f"{path.stat().st_size / 2**20:.2f} MiB" for path in (options.source, options.target))
    print(f"{options.target}: {len(dataset)} samples, {dataset.nb_events} events, {sizes}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
