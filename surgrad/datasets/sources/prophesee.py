"""Recordings of Prophesee's cameras: .raw in EVT 2.0 and EVT 3.0, and .dat.

A recording is a stream of words, most of which say what holds for those behind them: the row, the high bits of the
time, where a run of pixels begins. Formats: https://docs.prophesee.ai/stable/data/encoding_formats.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from surgrad.errors import UserError

_DAT = np.dtype([("t", "<u4"), ("data", "<u4")])
_CHANGES = (0x00, 0x0C)  # types of .dat files whose events are changes of a pixel

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # t (µs), x, y, p


def read_raw(path: Path) -> Columns:
    """A header that names the format, then words of EVT 2.0 (32 bits) or EVT 3.0 (16 bits)."""
    content = path.read_bytes()
    lines, start = _header(content)
    named = [found for line in lines if (found := re.match(r"(?:format )?evt ?([\d.]+)", line, re.IGNORECASE))]
    decode = _DECODERS.get(named[0][1].replace(".0", "") if named else "")
    if decode is None:
        raise UserError(
            f"{path}: its header names {named[0][0] if named else 'no format'}; EVT 2.0 and EVT 3.0 are read, others "
            "once Prophesee's metavision_file_to_csv has written them as CSV"
        )
    return _from_first(decode(path, content[start:]))


def read_dat(path: Path) -> Columns:
    """A header, the type and size of events, then eight bytes an event."""
    content = path.read_bytes()
    _, start = _header(content)
    if len(content) < start + 2:
        raise UserError(f"{path}: damaged, it ends before its first event")
    kind, size = content[start], content[start + 1]
    if kind not in _CHANGES or size != _DAT.itemsize:
        raise UserError(
            f"{path}: events of type {kind} and {size} bytes; those of pixels have type 0 or 12, and 8 bytes"
        )
    events = np.frombuffer(_whole(path, content[start + 2 :], size), _DAT)
    data = events["data"].astype(np.int64)
    t = _unwrapped(events["t"].astype(np.int64), 32)
    return _from_first((t, data & 0x3FFF, data >> 14 & 0x3FFF, data >> 28 & 1))


def _header(content: bytes) -> tuple[list[str], int]:
    """The lines that begin with %, without it, and where they end."""
    lines, position = [], 0
    while content[position : position + 1] == b"%":
        end = content.find(b"\n", position, position + 4096)
        if end < 0:
            break
        line, position = content[position + 1 : end].decode("ascii", "replace").strip(), end + 1
        if line == "end":
            break
        lines.append(line)
    return lines, position


def _whole(path: Path, content: bytes, size: int) -> bytes:
    if len(content) % size:
        raise UserError(f"{path}: damaged, its last word has {len(content) % size} of {size} bytes")
    return content


def _evt2(path: Path, content: bytes) -> Columns:
    """Kind (4 bits), then low time (6), x (11) and y (11), or the high 28 bits of the time."""
    words = np.frombuffer(_whole(path, content, 4), "<u4").astype(np.int64)
    kind = words >> 28
    high = _latest(kind == 0x8, _unwrapped_at(kind == 0x8, words & 0xFFFFFFF, 28))
    kept = (kind <= 1) & (high >= 0)
    words, kind = words[kept], kind[kept]
    return high[kept] << 6 | words >> 22 & 0x3F, words >> 11 & 0x7FF, words & 0x7FF, kind


def _evt3(path: Path, content: bytes) -> Columns:
    """Kind (4 bits) and 12 bits: y, a pixel, the first of a run, 12 or 8 pixels of a run, low or high time."""
    words = np.frombuffer(_whole(path, content, 2), "<u2").astype(np.int64)
    kind, value = words >> 12, words & 0xFFF
    high = _latest(kind == 0x8, _unwrapped_at(kind == 0x8, value, 12))
    low = _latest(kind == 0x6, value)
    y = _latest(kind == 0x0, value & 0x7FF)
    begins = kind == 0x3
    passed = np.cumsum(np.select([kind == 0x4, kind == 0x5], [12, 8], 0))  # pixels of runs up to and with this word
    first = _latest(begins, (value & 0x7FF) - passed)
    brighter = _latest(begins, value >> 11)
    known = (high >= 0) & (low >= 0) & (y >= 0)  # a recording may begin anywhere in the stream

    single = np.flatnonzero((kind == 0x2) & known)
    runs = np.flatnonzero(((kind == 0x4) | (kind == 0x5)) & known & (brighter >= 0))
    length = np.where(kind[runs] == 0x4, 12, 8)
    pixels = (value[runs, None] >> np.arange(12) & 1).astype(bool) & (np.arange(12) < length[:, None])
    run, pixel = np.nonzero(pixels)
    word = np.concatenate([single, runs[run]])
    x = np.concatenate([value[single] & 0x7FF, (first + passed)[runs[run]] - length[run] + pixel])
    p = np.concatenate([value[single] >> 11, brighter[runs[run]]])
    order = np.argsort(word, kind="stable")
    word = word[order]
    return high[word] << 12 | low[word], x[order], y[word], p[order]


_DECODERS = {"2": _evt2, "3": _evt3}


def _latest(here: np.ndarray, value: np.ndarray) -> np.ndarray:
    """At every word, the value of the latest one up to it where ``here``; -1 before the first."""
    index = np.maximum.accumulate(np.where(here, np.arange(len(here)), -1))
    return np.where(index >= 0, value[index], -1)


def _unwrapped(values: np.ndarray, bits: int) -> np.ndarray:
    """A counter that goes on where its bits begin anew: a step back by more than half of its range."""
    turns = np.cumsum(np.diff(values, prepend=values[:1]) < -(1 << bits - 1))
    return values + (turns << bits)


def _unwrapped_at(here: np.ndarray, values: np.ndarray, bits: int) -> np.ndarray:
    found = np.zeros_like(values)
    found[here] = _unwrapped(values[here], bits)
    return found


def _from_first(columns: Columns) -> Columns:
    """Times from the earliest event on."""
    t, x, y, p = columns
    return t - t.min(initial=np.iinfo(np.int64).max) if len(t) else t, x, y, p
