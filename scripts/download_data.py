"""Fetches a public data set into data/<name>, checks it and unpacks it.

    python3 scripts/download_data.py shd            # Heidelberg spoken digits
    python3 scripts/download_data.py ssc            # spiking speech commands
    python3 scripts/download_data.py mnist
    python3 scripts/download_data.py fashion_mnist
    python3 scripts/download_data.py spoken_commands --full     # recordings, and all of them as spikes

A broken download goes on where it stopped. Without a network, put the archives (or the unpacked files) into
the folder by hand and run the command again: it checks and unpacks them. The checksum of every unpacked file is kept
in SHA256SUMS beside it; the next run, and sha256sum -c, find what has changed since.

spoken_commands are the recordings behind data/spoken_commands, which holds 3 of 10 takes as spikes. --full makes all
ten spikes, data/spoken_commands_full/{train,val,test}.h5, on all cores; if it is stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import http.client
import os
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from surgrad.datasets.encoding import arabic_commands
from surgrad.datasets.encoding.audio import COMMAND_PARTS, PublishedCommands
from surgrad.datasets.encoding.cochlea import Cochlea
from surgrad.datasets.encoding.conversion import Converter, by_part, convert
from surgrad.datasets.sources.hdf5_file import open_hdf5, require
from surgrad.datasets.sources.idx import CHECKSUMS
from surgrad.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
SUMS = "SHA256SUMS"
BLOCK = 1 << 20
TIMEOUT = 30  # s without a byte
ATTEMPTS = 3
# what zip and gzip files with flipped bytes or a missing end raise
DAMAGED = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Archive:
    """A packed file on a server.

    Args:
        name: of the archive.
        content: name of the file inside.
        md5: of the archive, or None.
        sha256: of the file inside, or None.
    """

    name: str
    content: str
    md5: str | None = None
    sha256: str | None = None

    def extract(self, packed: Path, target: Path) -> None:
        """Writes the content to the target."""
        opener = OPENERS[Path(self.name).suffix]
        with opener(packed, self.content) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, BLOCK)


@dataclass(frozen=True)
class Recordings(Archive):
    """The zip of the Arabic Speech Commands Dataset; the content is a folder, sha256 that of all that is used of it."""

    def extract(self, packed: Path, target: Path) -> None:
        """Writes what is used to the target, a folder."""
        arabic_commands.unpack(packed, target)


@dataclass(frozen=True)
class DataSet:
    """Archives of one data set, the address of their folder, their licence, and where in data/ if not in <name>."""

    url: str
    licence: str
    archives: tuple[Archive, ...]
    folder: str | None = None


def _hdf5(name: str, md5: str) -> Archive:
    return Archive(f"{name}.h5.zip", f"{name}.h5", md5=md5)


def _idx(data_set: str) -> tuple[Archive, ...]:
    return tuple(Archive(f"{name}.gz", name, sha256=sha256) for name, sha256 in CHECKSUMS[data_set].items())


DATA_SETS = {
    "shd": DataSet(
        "https://zenkelab.org/datasets/",
        "CC BY 4.0, Cramer, Stradmann, Schemmel & Zenke 2020",
        (
            _hdf5("shd_train", "f3252aeb598ac776c1b526422d90eecb"),
            _hdf5("shd_test", "1503a5064faa34311c398fb0a1ed0a6f"),
        ),
    ),
    "ssc": DataSet(
        "https://zenkelab.org/datasets/",
        "CC BY 4.0, Cramer, Stradmann, Schemmel & Zenke 2020",
        (
            _hdf5("ssc_train", "d102be95e7144fcc0553d1f45ba94170"),
            _hdf5("ssc_valid", "b4eee3516a4a90dd0c71a6ac23a8ae43"),
            _hdf5("ssc_test", "a35ff1e9cffdd02a20eb850c17c37748"),
        ),
    ),
    "mnist": DataSet(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "CC BY-SA 3.0, LeCun, Cortes & Burges",
        _idx("mnist"),
    ),
    "fashion_mnist": DataSet(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "MIT, Xiao, Rasul & Vollgraf (Zalando) 2017",
        _idx("fashion_mnist"),
    ),
    "spoken_commands": DataSet(
        "https://github.com/abdulkaderghandoura/arabic-speech-commands-dataset/archive/",
        "CC BY 4.0, Ghandoura, Hjabo & Al Dakkak 2021",
        (Recordings(f"{arabic_commands.COMMIT}.zip", "recordings", sha256=arabic_commands.SHA256),),
        "spoken_commands_full",
    ),
}


def fetch(archive: Archive, base_url: str, folder: Path) -> str:
    """Makes the archive's content appear in the folder, checked; returns what was done.

    Raises:
        UserError: no network, wrong checksum, damaged file.
    """
    content = folder / archive.content
    packed = next(folder.glob(f"*{archive.name}"), folder / archive.name)  # browsers may put more before the name
    if content.exists():
        recorded = read_sums(folder).get(archive.content)
        check_content(replace(archive, sha256=archive.sha256 or recorded), content)
        if archive.sha256 or recorded:
            return "is there, unchanged"
        record_sum(content)
        return "is there; nobody publishes its checksum, so it is taken as it is, and recorded"
    if packed.exists():
        check_sum(packed, "md5", archive.md5)
        unpack(archive, packed, content)
        return f"unpacked from {packed.name}"
    part = folder / f"{archive.name}.part"
    download(base_url + archive.name, part, archive, folder)
    try:
        check_sum(part, "md5", archive.md5)
        unpack(archive, part, content)
    except UserError:
        part.unlink(missing_ok=True)  # a new attempt has to start from nothing
        raise
    part.unlink()
    return "fetched"


def download(url: str, part: Path, archive: Archive, folder: Path) -> None:
    """Reads the address into ``part``, going on after the bytes that are there already."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download_rest(url, part)
            return
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            break
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if isinstance(error, urllib.error.URLError) and attempt == 1 and not part.exists():
                break  # nobody there at all: asking again will not help
    done = f" ({part.stat().st_size} bytes are kept, run again to go on)" if part.exists() else ""
    digest = f", md5 {archive.md5}" if archive.md5 else ""
    raise UserError(
        f"cannot fetch {url}: {reason}{done}. Without a network: get this file elsewhere ({archive.name}{digest},"
        f" or {archive.content} itself), put it into {folder} and run the command again."
    )


def _download_rest(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and _total(error.headers.get("Content-Range")) == have:
            return  # everything is there
        if error.code != 416:
            raise
        part.unlink()  # more bytes than the server has: another file
        return _download_rest(url, part)
    with response:
        resumed = getattr(response, "status", None) == 206
        if resumed and _start(response.headers.get("Content-Range")) != have:
            raise OSError("the server sends another range than asked for")
        _store(response, part, have if resumed else 0)


def _store(response: http.client.HTTPResponse, part: Path, have: int) -> None:
    """Appends the response after the first ``have`` bytes; OSError if it ends early."""
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    progress = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.name.removesuffix(".part"))
    with part.open("ab" if have else "wb") as file, progress:
        while block := response.read(BLOCK):
            file.write(block)
            progress.update(len(block))
            have += len(block)
    if total is not None and have != total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def _start(content_range: str | None) -> int | None:
    """First byte of ``bytes 5-9/10``."""
    try:
        return int((content_range or "").split()[1].split("-")[0])
    except (IndexError, ValueError):
        return None


def _total(content_range: str | None) -> int | None:
    """Length of the whole file in ``bytes */10``."""
    try:
        return int((content_range or "").rsplit("/", 1)[1])
    except (IndexError, ValueError):
        return None


def read_sums(folder: Path) -> dict[str, str]:
    """Recorded sha256 of the files of a folder, by name."""
    path = folder / SUMS
    lines = path.read_text().splitlines() if path.exists() else []
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines if len(line.split()) == 2)}


def record_sum(path: Path) -> None:
    """Writes the file's sha256 into the list of its folder."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    sums = read_sums(path.parent) | {path.name: digest}
    part = path.with_name(f"tmp-{SUMS}")
    part.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    os.replace(part, path.with_name(SUMS))


def check_sum(path: Path, algorithm: str, expected: str | None, packed: Path | None = None) -> None:
    """Raises UserError, naming the archive that it was packed in, if the file's checksum is not the expected one."""
    if expected is None:
        return
    if path.is_dir():
        found = arabic_commands.digest(path)
    else:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != expected:
        raise UserError(
            f"{packed or path}: {algorithm}{' of the content' if packed else ''} is {found}, expected {expected}:"
            " damaged or another version; delete it and run the command again."
        )


def check_content(archive: Archive, path: Path, packed: Path | None = None) -> None:
    """Raises UserError if an unpacked file is not what it should be; packed as of `check_sum`."""
    check_sum(path, "sha256", archive.sha256, packed)
    if path.suffix == ".h5":
        with open_hdf5(path, "; delete it and run the command again") as file:
            for key, kinds in (("spikes/times", "f"), ("spikes/units", "iu")):
                require(file, path, key, kinds, rows=True)
            require(file, path, "labels")


def unpack(archive: Archive, packed: Path, content: Path) -> None:
    """Unpacks into the content's folder; the content appears checked and complete or not at all."""
    unpacked = content.with_name(f"tmp-{content.name}")
    _remove(unpacked)
    try:
        archive.extract(packed, unpacked)
        check_content(archive, unpacked, packed)
        os.replace(unpacked, content)
        if content.is_file():
            record_sum(content)
    except DAMAGED as error:
        raise UserError(f"{packed}: damaged archive ({error}); delete it and run the command again.") from error
    finally:
        _remove(unpacked)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _open_zip(packed: Path, content: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(packed) as file:
        names = [name for name in file.namelist() if Path(name).name == content]
        if not names:
            raise KeyError(f"no {content} inside, only {', '.join(file.namelist())}")
        with file.open(names[0]) as source:
            yield source


@contextmanager
def _open_gzip(packed: Path, content: str) -> Iterator[gzip.GzipFile]:
    with gzip.open(packed) as source:
        yield source


OPENERS: dict[str, Callable[..., Any]] = {".zip": _open_zip, ".gz": _open_gzip}


def spikes_are_there(folder: Path) -> bool:
    """Whether all recordings have been made spikes. Raises UserError if a file has changed since."""
    files, sums = [folder / f"{part}.h5" for part in COMMAND_PARTS], read_sums(folder)
    if not all(file.name in sums and file.exists() for file in files):
        return False
    for file in files:
        check_sum(file, "sha256", sums[file.name])
        print(f"{file}: is there, unchanged")
    return True


def make_spikes(folder: Path, jobs: int | None) -> None:
    """Turns the recordings in the folder into spikes, one file for each part; goes on where it was stopped."""
    source = PublishedCommands(folder / "recordings")
    converter = Converter(source, Cochlea(), seed=0, parts=folder / ".parts")
    for written in convert(converter, by_part(source.recordings), folder, jobs=jobs):
        record_sum(written.path)
        print(written)
    shutil.rmtree(converter.parts)
    print(f"train on them with dataset=spoken_commands dataset.datadir={folder}")


def main(arguments: list[str] | None = None) -> int:
    """Fetches what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(DATA_SETS))
    parser.add_argument("--dest", type=Path, help="folder for the files (default: one in data/ of this repository)")
    parser.add_argument("--url", help="address of another folder that holds the same archives")
    parser.add_argument("--full", action="store_true", help="spoken_commands: make all recordings spikes, too")
    parser.add_argument("--jobs", type=int, help="processes of --full (default: one per core)")
    options = parser.parse_args(arguments)
    if options.full and options.name != "spoken_commands":
        parser.error(f"--full goes with spoken_commands; {options.name} is fetched whole")
    if options.jobs is not None and (options.jobs < 1 or not options.full):
        parser.error(f"--jobs {options.jobs}: at least 1, and goes with --full")
    data_set = DATA_SETS[options.name]
    folder = (options.dest or REPOSITORY / "data" / (data_set.folder or options.name)).resolve()
    base_url = (options.url or data_set.url).rstrip("/") + "/"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (options.full and spikes_are_there(folder)):
            for archive in data_set.archives:
                print(f"{folder / archive.content}: {fetch(archive, base_url, folder)}")
            if options.full:
                make_spikes(folder, options.jobs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {folder}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the command again to go on", file=sys.stderr)
        return 130
    except BrokenProcessPool:
        print("error: a worker process died (out of memory?); run the command again to go on", file=sys.stderr)
        return 1
    print(f"licence: {data_set.licence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
