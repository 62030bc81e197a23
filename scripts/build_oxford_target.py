"""Build the Oxford target from the event file of lava-dl's SLAYER tutorial (BSD-3-Clause, see the folder's LICENSE).

The event file holds 10,361 spikes of 200 units over 1.9 s, 5 bytes each, big-endian: unit (16 bit), polarity (1 bit),
time in microseconds (23 bit). In 10 ms bins (189 of them), with unit 199 in the top row, they are a picture of Oxford.

    python scripts/build_oxford_target.py
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from surgrad.datasets.sources.targets import bin_events, write_spike_image

FOLDER = Path(__file__).resolve().parents[1] / "Spike_train_matching" / "dataset"
NB_UNITS, NB_STEPS, BIN_DT = 200, 189, 10e-3


def read_bs1(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times in s and units of a .bs1 event file."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if len(data) % 5:
        raise SystemExit(f"{path} is damaged: {len(data)} bytes are not a multiple of 5")
    high, low, *time = data.reshape(-1, 5).astype(np.int64).T
    return (((time[0] & 0x7F) << 16) | (time[1] << 8) | time[2]) * 1e-6, (high << 8) | low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=Path, default=FOLDER / "oxford_slayer" / "output.bs1")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where oxford.png goes")
    parser.add_argument("--csv", type=Path, help="also write all events as lines time,unit (s; 0 is the top row)")
    args = parser.parse_args()
    times, units = read_bs1(args.events)
    rows = NB_UNITS - 1 - units
    spikes = bin_events(times, rows, BIN_DT, NB_UNITS, NB_STEPS, name=str(args.events))
    write_spike_image(args.folder / "oxford.png", spikes)
    if args.csv:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["time", "unit"])
            writer.writerows((f"{t:.6f}", r) for t, r in sorted(zip(times.tolist(), rows.tolist(), strict=True)))
    print(f"{len(times)} events, {int(spikes.sum())} spikes in {NB_STEPS} steps x {NB_UNITS} units -> {args.folder}")


if __name__ == "__main__":
    main()
