"""Events of event cameras, in the files that cameras and other libraries write; each measured before it is read.

`.bin` of N-MNIST and N-Caltech101, AEDAT 3.1 (DVS-Gesture) and 4, `.raw` and `.dat` of Prophesee, arrays of x, y, t, p
in NumPy or HDF5, CSV.
Formats: Orchard et al. 2015, Frontiers in Neuroscience 9:437; AEDAT 3.1 and 4 as documented by iniVation
(https://docs.inivation.com).
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from surgrad.datasets.sources.hdf5_file import open_hdf5, require
from surgrad.datasets.sources.prophesee import Columns, read_dat, read_raw
from surgrad.errors import UserError

MOST_BYTES = 1 << 31  # of a file, packed or not
MOST_EVENTS = 1 << 28  # of a recording

#: Names under which others keep the columns.
COLUMNS = {
    "t": ("t", "ts", "time", "timestamp", "timestamps"),
    "x": ("x",),
    "y": ("y",),
    "p": ("p", "pol", "polarity", "on"),
}
OVERFLOW_ROW, OVERFLOW = 240, 1 << 13  # N-Caltech101: an event in this row says that the clock went on by so much (µs)

_PACKET = struct.Struct("<hhiiiiii")  # of AEDAT 3.1: type, source, size, offset of the time, overflow, capacity, …
_POLARITY = 1  # type of these packets
_EVENT4 = np.dtype(
    {"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"], "offsets": [0, 8, 10, 12], "itemsize": 16}
)


class CameraEvents(NamedTuple):
    """Events of one recording.

    Attributes:
        t: (E,) int64, µs.
        x: (E,) int64, column of the pixel.
        y: (E,) int64, row of the pixel.
        p: (E,) bool, whether it became brighter.
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray


def read_camera(path: str | Path, *, time_unit: float = 1e-6) -> CameraEvents:
    """The events of a recording, by the suffix of its file: see `READERS`.

    Times are those of the file where it says from when they count (.bin, AEDAT), else from its first event.

    Args:
        path: the file.
        time_unit: s, of the times in arrays and CSV; all other formats count µs.

    Raises:
        UserError: naming the file, and what is missing, damaged, or larger than it may be.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise UserError(f"{path}: no events of a camera are read from {path.suffix or 'such'} files; {_SUFFIXES}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: holds {path.stat().st_size} bytes, at most {MOST_BYTES} are read; cut it into parts")
    try:
        found = READERS[path.suffix](path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if isinstance(found, CameraEvents):
        return found
    if isinstance(found, tuple):
        t, x, y, p = found
        return _joined(path, [t], [x], [y], [p])
    return _from_columns(path, found, time_unit)


def read_bin(path: Path) -> CameraEvents:
    """Five bytes an event, the most significant first: x, y, one bit of polarity, 23 bits of time (µs)."""
    content = path.read_bytes()
    if len(content) % 5:
        raise UserError(f"{path}: {len(content)} bytes are no whole number of events of 5 bytes")
    x, y, high, middle, low = np.frombuffer(content, np.uint8).reshape(-1, 5).astype(np.int64).T
    overflow = y == OVERFLOW_ROW
    t = ((high & 0x7F) << 16 | middle << 8 | low) + OVERFLOW * np.cumsum(overflow)
    kept = ~overflow
    return CameraEvents(t[kept], x[kept], y[kept], (high >> 7 == 1)[kept])


def read_aedat3(path: Path) -> CameraEvents:
    """AEDAT 3.1: lines that begin with #, then packets; of these the polarity events that are marked as valid."""
    content = path.read_bytes()
    start = _end_of_header(path, content)
    t, x, y, p = [], [], [], []
    while start < len(content):
        if start + _PACKET.size > len(content):
            raise UserError(f"{path}: damaged, it ends within the head of a packet at byte {start}")
        kind, _, size, _, overflow, _, number, valid = _PACKET.unpack_from(content, start)
        start += _PACKET.size
        if size < 1 or number < 0 or not 0 <= valid <= number or number * size > len(content) - start:
            raise UserError(
                f"{path}: damaged, the packet at byte {start - _PACKET.size} declares {number} events of {size} bytes"
            )
        if kind == _POLARITY:
            if size != 8:
                raise UserError(f"{path}: polarity events of {size} bytes, wanted 8")
            data, time = np.frombuffer(content, "<u4", 2 * number, start).astype(np.int64).reshape(-1, 2).T
            kept = data & 1 == 1
            t.append((overflow << 31) + time[kept])
            x.append(data[kept] >> 17)
            y.append(data[kept] >> 2 & 0x7FFF)
            p.append(data[kept] >> 1 & 1 == 1)
        start += number * size
    return _joined(path, t, x, y, p)


def _end_of_header(path: Path, content: bytes) -> int:
    if not content.startswith(b"#!AER-DAT3.1"):
        raise UserError(f"{path}: begins with {content[:12]!r}, not with #!AER-DAT3.1 (.aedat4 is another format)")
    position = 0
    while content[position : position + 1] == b"#":
        end = content.find(b"\n", position, position + 4096)
        if end < 0:
            break
        line, position = content[position:end].strip(), end + 1
        if line.startswith(b"#Format:") and line.split(b":")[1].strip() != b"RAW":
            raise UserError(f"{path}: {line.decode('ascii', 'replace')[1:]}; only RAW is read, write it again as that")
        if line == b"#!END-HEADER":
            return position
    raise UserError(f"{path}: damaged, its header has no end (#!END-HEADER)")


def read_aedat4(path: Path) -> CameraEvents:
    """AEDAT 4: a header and packets in FlatBuffers; packed ones are read where the package lz4 is installed."""
    content = path.read_bytes()
    first = b"#!AER-DAT4.0\r\n"
    if not content.startswith(first) or len(content) < len(first) + 12:
        raise UserError(f"{path}: begins with {content[:14]!r}, not with #!AER-DAT4.0")
    (size,) = struct.unpack_from("<I", content, len(first))
    header, start = _Table(path, content[len(first) + 4 : len(first) + 4 + size]), len(first) + 4 + size
    packing, table = header.number(0, "<i", 0), header.number(1, "<q", -1)
    end = table if 0 < table <= len(content) else len(content)
    parts = []
    while start + 8 <= end:
        _, length = struct.unpack_from("<ii", content, start)
        start += 8
        if length < 0 or length > end - start:
            raise UserError(f"{path}: damaged, the packet at byte {start - 8} declares {length} bytes")
        packet = _unpacked(path, content[start : start + length], packing)
        start += length
        if packet[8:12] == b"EVTS":
            parts.append(_Table(path, packet[4:]).structs(0, _EVENT4))
    events = np.concatenate(parts) if parts else np.empty(0, _EVENT4)
    return _joined(path, *([events[name].astype(np.int64)] for name in "txy"), [events["p"] != 0])


def _unpacked(path: Path, packet: bytes, packing: int) -> bytes:
    if packing == 0:
        return packet
    if packing not in (1, 2):
        raise UserError(f"{path}: packets are packed by Zstandard; write the file again with LZ4, or without packing")
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ImportError as error:
        raise UserError(f"{path}: packets are packed by LZ4: pip install lz4") from error
    try:
        unpacked: bytes = LZ4FrameDecompressor().decompress(packet, MOST_BYTES // 8)
    except RuntimeError as error:
        raise UserError(f"{path}: damaged, a packet cannot be unpacked ({error})") from error
    return unpacked


class _Table:
    """The root table of a FlatBuffer: its fields are found through offsets, each of which is held to the buffer."""

    def __init__(self, path: Path, buffer: bytes) -> None:
        self.path, self.buffer = path, buffer
        self.position = self._at("<I", 0)
        self.fields = self.position - self._at("<i", self.position)

    def _at(self, code: str, position: int) -> int:
        if not 0 <= position <= len(self.buffer) - struct.calcsize(code):
            raise UserError(f"{self.path}: damaged, an offset leads out of its packet")
        value: int = struct.unpack_from(code, self.buffer, position)[0]
        return value

    def _field(self, index: int) -> int:
        """Position of a field, 0 if it is left out."""
        entry = 4 + 2 * index
        inside = entry + 2 <= self._at("<H", self.fields)
        offset = self._at("<H", self.fields + entry) if inside else 0
        return self.position + offset if offset else 0

    def number(self, index: int, code: str, default: int) -> int:
        """A field that is a number."""
        position = self._field(index)
        return self._at(code, position) if position else default

    def structs(self, index: int, dtype: np.dtype) -> np.ndarray:
        """A field that is a vector of structs."""
        position = self._field(index)
        if not position:
            return np.empty(0, dtype)
        vector = position + self._at("<I", position)
        number = self._at("<I", vector)
        if number * dtype.itemsize > len(self.buffer) - vector - 4:
            raise UserError(f"{self.path}: damaged, a packet declares {number} events")
        return np.frombuffer(self.buffer, dtype, number, vector + 4)


def read_numpy(path: Path) -> Mapping[str, np.ndarray]:
    """The structured array of a .npy file, or the arrays of a .npz file: one structured, or one for each column."""
    if path.suffix == ".npy":
        return _fields(path, _array(path, path.read_bytes()))
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if sum(info.file_size for info in infos) > MOST_BYTES:
                raise UserError(f"{path}: declares more than {MOST_BYTES} bytes")
            arrays = {info.filename[:-4]: _array(path, archive.read(info)) for info in infos}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a .npz file, or damaged ({error})") from error
    structured = [array for array in arrays.values() if array.dtype.names]
    return _fields(path, structured[0]) if structured else arrays


def _array(path: Path, content: bytes) -> np.ndarray:
    """One array of a .npy file, held to the size of the file before there is memory for it."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except ValueError as error:
        raise UserError(f"{path}: not a NumPy array ({' '.join(str(error).split())})") from error
    if dtype.hasobject or len(shape) != 1:
        kind = "objects" if dtype.hasobject else f"shape {shape}"
        raise UserError(f"{path}: an array of {kind}; wanted one of records x, y, t, p, or one for each of them")
    if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise UserError(f"{path}: damaged, it declares {shape[0]} entries of {dtype.itemsize} bytes")
    return np.frombuffer(content, dtype, shape[0], stream.tell())


def _fields(path: Path, array: np.ndarray) -> Mapping[str, np.ndarray]:
    if not array.dtype.names:
        raise UserError(f"{path}: its columns have no names; write a structured array of x, y, t, p")
    return {name: array[name] for name in array.dtype.names}


def read_hdf5_camera(path: Path) -> Mapping[str, np.ndarray]:
    """The data set `events` of records, or the data sets of a group `events`, or those at the top."""
    with open_hdf5(path) as file:
        found = file.get("events")
        if isinstance(found, h5py.Dataset):
            return _fields(path, require(file, path, "events", "V", most=MOST_EVENTS)[:])
        group, prefix = (found, "events/") if isinstance(found, h5py.Group) else (file, "")
        known = {name for names in COLUMNS.values() for name in names}
        keys = [key for key in group if key in known]
        return {key: require(file, path, f"{prefix}{key}", "iufb", most=MOST_EVENTS)[:] for key in keys}


def read_csv(path: Path) -> Mapping[str, np.ndarray]:
    """A table whose first line names its columns."""
    with path.open(encoding="utf-8", errors="replace") as file:
        names = [name.strip().strip('"').lower() for name in file.readline(4096).split(",")]
        try:
            rows = np.loadtxt(file, delimiter=",", ndmin=2, dtype=np.float64)
        except ValueError as error:
            raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    if rows.size and rows.shape[1] != len(names):
        raise UserError(f"{path}: {rows.shape[1]} columns under {len(names)} names")
    return dict(zip(names, rows.T, strict=False))


def _from_columns(path: Path, columns: Mapping[str, np.ndarray], time_unit: float) -> CameraEvents:
    """Events of columns under any of their usual names; times from the first event on."""
    found = {}
    for key, names in COLUMNS.items():
        there = [name for name in columns if name.lower() in names]
        if not there:
            raise UserError(f"{path}: has no column {key}, only {', '.join(columns) or 'none'}")
        found[key] = np.asarray(columns[there[0]])
    lengths = {key: len(column) for key, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{path}: columns of unlike length: {', '.join(f'{k} {n}' for k, n in lengths.items())}")
    for key, column in found.items():
        if column.dtype.kind not in "iufb" or not np.isfinite(column).all():
            raise UserError(f"{path}: column {key} of {column.dtype} holds what is no finite number")
    t = found["t"].astype(np.float64)
    t = np.round((t - t.min(initial=np.inf)) * time_unit * 1e6) if len(t) else t
    if len(t) and t.max() > 2**53:
        raise UserError(f"{path}: times span {t.max() / 1e6:g} s; give their unit (dataset.time_unit, in s)")
    x, y = (found[key].astype(np.int64) for key in "xy")
    return CameraEvents(t.astype(np.int64), x, y, found["p"] > 0)


def _joined(path: Path, *parts: list[np.ndarray]) -> CameraEvents:
    if sum(map(len, parts[0])) > MOST_EVENTS:
        raise UserError(f"{path}: holds more than {MOST_EVENTS} events; cut it into parts")
    t, x, y, p = (np.concatenate([np.empty(0, np.int64), *part]) for part in parts)
    return CameraEvents(t, x, y, p.astype(bool))


#: By the suffix of a file: reads its events, or columns that hold them.
READERS: dict[str, Callable[[Path], CameraEvents | Columns | Mapping[str, np.ndarray]]] = {
    ".bin": read_bin,
    ".aedat": read_aedat3,
    ".aedat4": read_aedat4,
    ".raw": read_raw,
    ".dat": read_dat,
    ".npy": read_numpy,
    ".npz": read_numpy,
    ".h5": read_hdf5_camera,
    ".hdf5": read_hdf5_camera,
    ".csv": read_csv,
}
_SUFFIXES = f"there are {', '.join(READERS)}"
