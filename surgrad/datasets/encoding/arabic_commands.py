"""What `spoken_commands` uses of the Arabic Speech Commands Dataset: 20 of its 40 words, at one commit, checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from zipfile import ZipFile

from surgrad.datasets.encoding.audio import COMMAND_FILE, COMMAND_PARTS

COMMIT = "72f3438212ff6cf8fbe5ae8068361840646429bd"
#: The classes in the order of their numbers.
WORDS = (
    *("backward", "down", "eight", "five", "forward", "four", "left", "nine", "no", "one"),
    *("right", "seven", "six", "start", "stop", "three", "two", "up", "yes", "zero"),
)
#: `digest` of what `unpack` takes out of the repository.
SHA256 = "6dbbc78869166c7e3e0d6d78bfced7c49a97b839eaa4d0d3d29744b06e5eba13"


def unpack(packed: Path, folder: Path) -> None:
    """Takes the recordings of `WORDS`, the lines that list them and the licence out of GitHub's zip of the repository.

    Args:
        packed: the zip; all lies below one folder in it.
        folder: where it goes, in the repository's layout: see `PublishedCommands`.

    Raises:
        KeyError: there is none of the recordings in it.
        BadZipFile: it is damaged.
    """
    tables = {f"{part}.csv" for part in COMMAND_PARTS}
    found = False
    with ZipFile(packed) as archive:
        for name in archive.namelist():
            path = name.partition("/")[2]
            recorded = _is_used(path)
            if recorded or path in tables or path == "LICENSE":
                content = archive.read(name)
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(_used_lines(content) if path in tables else content)
                found |= recorded
    if not found:
        raise KeyError("no recording of these words inside")


def digest(folder: Path) -> str:
    """sha256 over path, size and content of every table and recording, in the order of their paths."""
    found = hashlib.sha256()
    for name in sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in (".csv", ".wav")):
        content = (folder / name).read_bytes()
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def _is_used(path: str) -> bool:
    match = COMMAND_FILE.fullmatch(path)
    return match is not None and match["word"] in WORDS


def _used_lines(table: bytes) -> bytes:
    """The head of a table and its lines on `WORDS`."""
    head, *lines = table.splitlines(keepends=True) or [b""]
    return head + b"".join(line for line in lines if _is_used(line.partition(b",")[0].decode(errors="replace")))
