"""Images in the idx format of MNIST and Fashion-MNIST: read, written, checked against the published files."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from surgrad.errors import UserError

#: Third byte of the magic number and the type of the numbers that follow, most significant byte first.
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

#: Files of both data sets: (images, labels) of each part.
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

#: sha256 of the uncompressed files as published (MNIST: LeCun & Cortes; Fashion-MNIST: Zalando).
CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}

CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt", "trousers", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
}


class Images(NamedTuple):
    """Pictures: pixels (N, height, width) uint8, 0 is background; labels (N,) int64, 0..9."""

    pixels: np.ndarray
    labels: np.ndarray


def read_idx(path: str | Path, *, sha256: str | None = None) -> np.ndarray:
    """The array in an idx file, plain or gzipped: magic number 0 0 type dims, the sizes as int32, then the numbers.

    Args:
        path: of the file, plain or .gz.
        sha256: of the uncompressed content, checked if given.

    Raises:
        UserError: naming the file if it is missing, damaged, not idx, or has another checksum.
    """
    path = Path(path)
    content = _content(path)
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(f"{path}: sha256 is {found}, expected {sha256}: damaged or another version, fetch it again")
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise UserError(f"{path}: not an idx file, it starts with {content[:4].hex(' ') or 'nothing'}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise UserError(f"{path}: damaged, it ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", content[3], 4))
    dtype = np.dtype(_TYPES[content[2]])
    wanted = math.prod(shape) * dtype.itemsize
    if len(content) - start != wanted:
        raise UserError(f"{path}: damaged, shape {shape} needs {wanted} bytes, there are {len(content) - start}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: damaged gzip file ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def write_idx(path: str | Path, array: np.ndarray) -> None:
    """Writes uint8 numbers as idx, gzipped where the name ends in .gz; the same array gives the same bytes.

    The file appears complete or not at all. Raises: UserError for another type.
    """
    path = Path(path)
    if array.dtype != np.uint8:
        raise UserError(f"{path}: numbers are {array.dtype}, wanted uint8")
    content = bytes([0, 0, 0x08, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    if path.suffix == ".gz":
        content = gzip.compress(content, 9, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_images(folder: str | Path, name: str, *, subset: bool = False) -> tuple[Images, Images]:
    """Training and test part of ``mnist`` or ``fashion_mnist``.

    Args:
        folder: holds the published files, plain or as .gz, and in ``subset/`` the balanced extract that ships with the
            repository.
        name: "mnist" or "fashion_mnist".
        subset: read the extract, else the published files, held to their checksums.

    Raises:
        UserError: for another name; naming the file, and the command that fetches it, where one is missing or wrong.
    """
    if name not in CHECKSUMS:
        raise UserError(f"name={name}: there are checksums of {', '.join(CHECKSUMS)} only")
    folder = Path(folder) / "subset" if subset else Path(folder)
    checksums = {} if subset else CHECKSUMS[name]
    train, test = (_part(folder, name, *files, checksums) for files in FILES.values())
    return train, test


def find_images(folder: str | Path, name: str, *, subset: bool = False) -> list[Path]:
    """The files that `read_images` would read. Raises: UserError as there, if one is missing."""
    if name not in CHECKSUMS:
        raise UserError(f"name={name}: there are checksums of {', '.join(CHECKSUMS)} only")
    folder = Path(folder) / "subset" if subset else Path(folder)
    return [_find(folder, name, file) for files in FILES.values() for file in files]


def balanced(images: Images, per_class: int) -> Images:
    """The first ``per_class`` images of every class, in their order.

    Raises:
        UserError: if a class has fewer.
    """
    rank = np.empty(len(images.labels), np.int64)  # how many of its class come before each image
    for label in np.unique(images.labels):
        of_class = images.labels == label
        if of_class.sum() < per_class:
            raise UserError(f"per_class={per_class}: there are only {of_class.sum()} images of class {label}")
        rank[of_class] = np.arange(of_class.sum())
    return Images(images.pixels[rank < per_class], images.labels[rank < per_class])


def _part(folder: Path, name: str, images: str, labels: str, checksums: dict[str, str]) -> Images:
    pixels, classes = (read_idx(_find(folder, name, file), sha256=checksums.get(file)) for file in (images, labels))
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise UserError(f"{folder / images}: {pixels.dtype} of shape {pixels.shape}, wanted uint8 (N, height, width)")
    if classes.shape != pixels.shape[:1]:
        raise UserError(f"{folder / labels}: labels of shape {classes.shape} for {len(pixels)} images")
    if len(classes) and classes.max() >= len(CLASSES[name]):
        raise UserError(f"{folder / labels}: label {classes.max()}, allowed are 0 to {len(CLASSES[name]) - 1}")
    return Images(pixels, classes.astype(np.int64))


def _find(folder: Path, name: str, file: str) -> Path:
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    raise UserError(
        f"{folder / file}: there is no such file, nor {file}.gz: run `python3 scripts/download_data.py {name}`, "
        "put the files there by hand, or take the extract that ships with the repository (dataset.subset=true)"
    )
