"""The files of a run folder, each written so that a kill at any moment leaves a readable file, and read only if whole.

A file written here carries a checksum: JSON under the key "seal", everything else in a trailer behind its own content,

    content | facts as JSON | SHA-256 of all else, 64 hex digits | length of the facts, 8 hex digits | "SGSEAL1\\n",

which neither torch.load nor HDF5 looks at. Nothing is parsed before its checksum is right.
"""

import errno
import hashlib
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from surgrad.errors import UserError

_MAGIC = b"SGSEAL1\n"
_FOOTER = 64 + 8 + len(_MAGIC)  # bytes

_BLOCK = 1 << 20  # bytes read at once
_YAML_BYTES = 1 << 20  # of a YAML file that is read

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Damaged(UserError):
    """A file of a run folder is missing or not what was written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is damaged ({why})")
        self.path, self.why = path, why

    def __reduce__(self) -> tuple[type["Damaged"], tuple[Path, str]]:
        return type(self), (self.path, self.why)


# ---------------------------------------------------------------- atomic writing
@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; once the block has written it, it takes the place of `path`.

    With `sync` it is on the disk then. Raises UserError in one line if the disk is full or the folder is gone.
    """
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        try:
            temporary.unlink(missing_ok=True)  # it might be a link to somewhere else
            yield temporary
            if sync:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if sync:
            sync_folder(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line what keeps a file from being written: a full disk, a folder that is gone, a missing right."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter is what PyTorch says of a full disk
        if isinstance(error, RuntimeError) and not _says_full(error):
            raise
        if not path.parent.exists():
            raise UserError(f"{path.parent} is gone: it was deleted or renamed while the run was writing it") from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "a full disk or a quota?"
        reason = " ".join(reason.split())[:200]
        raise UserError(
            f"{path} could not be written ({reason}): make room, then the same command goes on from the "
            "checkpoint before"
        ) from error


def _says_full(error: RuntimeError) -> bool:
    said = str(error).lower()
    return any(
        word in said for word in ("no space", "file write failed", "enforce fail", "unexpected pos", "too large")
    )


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the operating system offers that."""
    with suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- sealed files
def seal(path: Path, facts: Mapping[str, Any]) -> None:
    """Append the checksum of a file, and `facts` about it, which the checksum covers too."""
    trailer = json.dumps(plain(facts)).encode()
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256")
        tail = f"{len(trailer):08x}".encode() + _MAGIC
        digest.update(trailer + tail)
        file.seek(0, os.SEEK_END)
        file.write(trailer + digest.hexdigest().encode() + tail)


def is_sealed(path: Path) -> bool:
    """Whether a file ends as sealed files do, right or wrong."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - len(_MAGIC)))
            return file.read() == _MAGIC
    except OSError:
        return False


def read_sealed(path: Path) -> tuple[io.BytesIO, dict[str, Any]]:
    """Content and facts of a sealed file. Raises Damaged unless its checksum is right."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(path, str(error.strerror)) from error
    return _unsealed(path, io.BytesIO(content))


def check_sealed(path: Path) -> None:
    """As `read_sealed`, for files larger than memory: raise Damaged unless the checksum is right."""
    try:
        with path.open("rb") as file:
            _unsealed(path, file)
    except OSError as error:
        raise Damaged(path, str(error.strerror)) from error


def _unsealed(path: Path, file: Any) -> tuple[Any, dict[str, Any]]:
    """The file, cut to its content where it is in memory, and the facts in its trailer."""
    size = file.seek(0, os.SEEK_END) - _FOOTER
    file.seek(max(size, 0))
    footer = file.read()
    written, tail = footer[:64], footer[64:]
    if size < 0 or not tail.endswith(_MAGIC):
        raise Damaged(path, "its end, the checksum, is missing")
    file.seek(0)
    digest = hashlib.sha256()
    left = size
    while left and (block := file.read(min(left, _BLOCK))):
        digest.update(block)
        left -= len(block)
    digest.update(tail)
    if digest.hexdigest().encode() != written:
        raise Damaged(path, "wrong checksum")
    nb_facts = int(tail[:8], 16)
    file.seek(size - nb_facts)
    facts = json.loads(file.read(nb_facts))
    if isinstance(file, io.BytesIO):
        file.truncate(size - nb_facts)
        file.seek(0)
    return file, facts


# ---------------------------------------------------------------- JSON
def plain(value: Any, *, finite: bool = False) -> Any:
    """Reduce a value to dicts, lists, numbers and strings; with `finite`, nan and inf become None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v, finite=finite) for k, v in value.items()}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple | set):
        return [plain(v, finite=finite) for v in value]
    if finite and isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def write_json(path: Path, value: Mapping[str, Any], *, finite: bool = True, sync: bool = True) -> None:
    """Write a mapping as JSON with its checksum, atomically; with `finite` as strict JSON (nan and inf as null).

    Where the disk has no room for a second file, the first is written over.
    """
    content = plain({k: v for k, v in value.items() if k != "seal"}, finite=finite)
    text = json.dumps(content | {"seal": _seal_of(content)}, indent=2, allow_nan=not finite) + "\n"
    try:
        with replacing(path, sync=sync) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except UserError as error:
        if getattr(error.__cause__, "errno", None) not in _NO_ROOM or not path.exists():
            raise
        with writing(path), path.open("r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())


def read_json(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """Read a JSON object without its seal. Raises Damaged if it is missing, unreadable, or its checksum is wrong.

    A file without a checksum, as earlier versions wrote it, passes unless `sealed`.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise Damaged(path, str(error.strerror)) from error
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"no JSON: {' '.join(str(error).split())[:80]}") from error
    if not isinstance(content, dict):
        raise Damaged(path, "no JSON object")
    written = content.pop("seal", None)
    if written is None and sealed:
        raise Damaged(path, "its checksum is missing")
    if written is not None and written != _seal_of(content):
        raise Damaged(path, "wrong checksum")
    return content


def _seal_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------- YAML
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Without dates, which no configuration has."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """With quotes around text that some reader might take for a number, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text.replace("_", ""))
        style = "'"
    except ValueError:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as YAML, keys in their order."""
    return str(yaml.dump(plain(content), Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False))


def read_yaml(path: Path) -> Any:
    """Content of a YAML file that may come from anybody: without tags and aliases (which can double at every level).

    Raises Damaged, also over 1 MiB.
    """
    try:
        if path.stat().st_size > _YAML_BYTES:
            raise Damaged(path, f"over {_YAML_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            raise Damaged(path, "it has aliases")
        return yaml.load(text, Loader=_Loader)
    except OSError as error:
        raise Damaged(path, str(error.strerror)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(path, f"no YAML: {' '.join(str(error).split())[:80]}") from error


# ---------------------------------------------------------------- clearing
def set_aside(folder: Path, keep: Callable[[Path], bool]) -> Path:
    """Move what is in a run folder into its `.old/<n>/`, which load_runs() does not look into."""
    old = folder / ".old"
    with writing(old):
        old.mkdir(exist_ok=True)
        target = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=old))
        for entry in folder.iterdir():
            if entry != old and not keep(entry):
                os.replace(entry, target / entry.name)
    return target
