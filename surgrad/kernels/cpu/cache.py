"""The folder that keeps compiled kernels, and libraries that are whole or not used.

Code that is loaded must not be another user's: a folder is taken only if it is absolute, belongs to this user (or to
root, who installed it) and nobody else may write to it. A library is moved into place complete and on disk, and its
checksum lies beside it.
"""

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from surgrad.errors import UserError

logger = logging.getLogger(__name__)

LONGEST_BUILD = 600  # s; after that another process's build is not waited for


def _named_folder() -> Path | None:
    """What the environment says: $SURGRAD_CACHE, $XDG_CACHE_HOME/surgrad, ~/.cache/surgrad; None if there is no home.

    Raises: UserError for a relative $SURGRAD_CACHE. (A relative $XDG_CACHE_HOME counts as unset: XDG base directories.)
    """
    if named := os.environ.get("SURGRAD_CACHE"):
        folder = Path(named).expanduser()
        if not folder.is_absolute():
            raise UserError(f"SURGRAD_CACHE={named!r} is relative; give an absolute path, or unset it")
        return folder
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base, "surgrad")
    try:
        return Path.home() / ".cache" / "surgrad"
    except RuntimeError:  # no HOME, and no entry in the table of users
        return None


def _temporary_folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir(), f"surgrad-{user}")


def obstacle(folder: Path) -> str | None:
    """Why code is not loaded from ``folder``, or None."""
    try:
        about = folder.lstat() if folder == _temporary_folder() else folder.stat()
    except OSError as error:
        return error.strerror
    if not stat.S_ISDIR(about.st_mode):
        return "it is not a folder"
    if hasattr(os, "geteuid"):
        if about.st_uid not in (os.geteuid(), 0):
            return "it belongs to another user"
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return "others may write to it (chmod go-w)"
    return None


def _made(folder: Path) -> str | None:
    """Make ``folder``; why it cannot be used to build in, or None."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return error.strerror
    return obstacle(folder) or (None if os.access(folder, os.W_OK | os.X_OK) else "it cannot be written to")


def folders() -> list[Path]:
    """Where compiled kernels may lie, in the order in which they are looked up: those that exist and can be trusted.

    Where $SURGRAD_CACHE names a folder, only that one, unless it cannot be built in.
    """
    named, temporary = _named_folder(), _temporary_folder()
    if os.environ.get("SURGRAD_CACHE") and named is not None and _made(named) is None:
        return [named]
    return [folder for folder in (named, temporary) if folder and obstacle(folder) is None]


def folder_to_build_in() -> Path:
    """The user's cache folder; where there is none, with one warning a private folder under the temporary one.

    Raises: OSError if neither can be used; UserError for a relative $SURGRAD_CACHE.
    """
    named, temporary = _named_folder(), _temporary_folder()
    if named is None:
        why_not: str | None = "no home folder"
    elif (why_not := _made(named)) is None:
        return named
    if (neither := _made(temporary)) is not None:
        raise OSError(
            f"compiled kernels cannot be kept: {named}: {why_not}; {temporary}: {neither}. "
            "Set SURGRAD_CACHE to a folder of your own"
        )
    logger.warning(
        "compiled kernels are kept in %s, not in %s: %s. Set SURGRAD_CACHE to a folder of your own",
        *(temporary, named or "~/.cache/surgrad", why_not),
    )
    return temporary


def _seal(library: Path) -> Path:
    return library.with_suffix(library.suffix + ".sha256")


def is_whole(library: Path) -> bool:
    """Whether the library has the checksum that was written when it was built."""
    try:
        return _seal(library).read_text().strip() == hashlib.sha256(library.read_bytes()).hexdigest()
    except (OSError, UnicodeDecodeError):
        return False


def _to_disk(path: Path) -> None:
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        handle = os.open(path, flags)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Other processes wait for this one's build. It only saves work: what is moved into place is complete."""
    with contextlib.ExitStack() as held:
        # the second where the file system has no locks (NFS: ENOLCK); the first leaves its file behind
        for kind, suffix in ((FileLock, ".lock"), (SoftFileLock, ".building")):
            try:
                held.enter_context(kind(target.with_suffix(suffix), timeout=LONGEST_BUILD))
                break
            except Timeout:
                break
            except OSError:
                continue
        yield


def keep(target: Path, build: Callable[[Path], None], fresh: bool = False) -> Path:
    """``target``, built by ``build(path)`` unless it is there and whole; ``fresh`` builds it in any case."""
    with _one_at_a_time(target):
        if not fresh and is_whole(target):
            return target
        handle, name = tempfile.mkstemp(suffix=target.suffix, prefix=f"{target.stem}-", dir=target.parent)
        os.close(handle)
        built = Path(name)
        try:
            build(built)
            built.chmod(0o755)
            _to_disk(built)
            checksum = hashlib.sha256(built.read_bytes()).hexdigest()
            _seal(target).unlink(missing_ok=True)
            os.replace(built, target)
            _seal(built).write_text(checksum + "\n")
            _to_disk(_seal(built))
            os.replace(_seal(built), _seal(target))
            _to_disk(target.parent)
        finally:
            built.unlink(missing_ok=True)
            _seal(built).unlink(missing_ok=True)
    return target
