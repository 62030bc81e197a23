"""The data that a run was computed on: size and SHA-256 of the files that its configuration names.

The files of one's own code are among them: a value such as `my_module.MySurrogate` names the file of a module that the
run has imported.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Keys whose folder is data as a whole; elsewhere a folder only says where files are.
FOLDERS = ("folder",)


def fingerprints(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each file that a flattened configuration names by its key: {"size": bytes, "sha256": hex digits}.

    Digests are kept under the user's cache folder beside size and time of change, so that a file is read once.
    """
    known = _known()
    found, before = {}, dict(known)
    for key, path in _files(flat):
        with suppress(OSError):
            found[key] = {"size": path.stat().st_size, "sha256": _digest(path, known)}
    if known != before:
        _remember(known)
    return found


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys whose file is there in both, and is another one."""
    return sorted(key for key in then.keys() & now.keys() if then[key]["sha256"] != now[key]["sha256"])


def _files(flat: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    for key, value in flat.items():
        if not isinstance(value, str) or not value or len(value) > 4096 or "\0" in value:
            continue
        path = Path(value).expanduser()
        with suppress(OSError):
            if code := _module_file(value):
                yield key, code
            elif path.is_file():
                yield key, path
            elif key.rpartition(".")[2] in FOLDERS and path.is_dir():
                yield from ((f"{key}/{entry.name}", entry) for entry in sorted(path.iterdir()) if entry.is_file())


def _module_file(value: str) -> Path | None:
    """The file of the imported module that a value names something of; None for the library's, PyTorch's and others."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value) or value.startswith(("surgrad.", "torch.")):
        return None
    file = getattr(sys.modules.get(value.rpartition(".")[0]), "__file__", None)
    return Path(file) if isinstance(file, str) and file.endswith(".py") else None


def _digest(path: Path, known: dict[str, Any]) -> str:
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    entry = known.get(str(path.absolute()))
    if isinstance(entry, list) and entry[:-1] == stamp:
        return str(entry[-1])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    known[str(path.absolute())] = [*stamp, digest]
    return digest


def _cache() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "surgrad"
    return Path(os.environ.get("SURGRAD_CACHE", default)) / "fingerprints.json"


def _known() -> dict[str, Any]:
    try:
        content = json.loads(_cache().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(known: Mapping[str, Any]) -> None:
    """Keep the digests; of two processes that do at once one is forgotten, and reads its files again."""
    with suppress(Exception):  # a cache that cannot be written is no reason to stop
        _cache().parent.mkdir(parents=True, exist_ok=True)
        own = _cache().with_name(f"fingerprints-{os.getpid()}")
        own.write_text(json.dumps({k: v for k, v in known.items() if os.path.exists(k)}), encoding="utf-8")
        os.replace(own, _cache())
