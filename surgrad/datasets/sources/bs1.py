"""Event files of the .bs1 format: five bytes per event, unit (16 bit), polarity (1), time in us (23), big-endian."""

from pathlib import Path

import numpy as np

from surgrad.errors import UserError


def read_bs1(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) and units of all events, (E,) each. Raises: UserError for a missing or damaged file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if len(data) % 5:
        raise UserError(f"{path} is damaged: {len(data)} bytes are not a multiple of 5")
    high, low, *time = data.reshape(-1, 5).astype(np.int64).T
    return (((time[0] & 0x7F) << 16) | (time[1] << 8) | time[2]) * 1e-6, (high << 8) | low
