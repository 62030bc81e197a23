"""One writer to a folder at a time."""

import errno
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from surgrad.errors import UserError

#: What a file system answers that knows no locks: a file that only one process can make stands for the lock there.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}

NAMES = (".lock", ".lock.soft", ".writer")


class FolderLock:
    """A lock on a run folder, held by the operating system for as long as the process runs.

    A killed process leaves nothing stale behind: its lock ends with it, whatever the files say.

    Args:
        folder: the run folder.
        attempts: 50 ms apart, since `is_locked` holds a lock for an instant.

    Raises:
        UserError: naming the process that holds it; OSError if the folder cannot be written.
    """

    def __init__(self, folder: Path, attempts: int = 5) -> None:
        self._writer = folder / ".writer"
        while (lock := _try_lock(folder)) is None:
            attempts -= 1
            if not attempts:
                holder = "another process"
                with suppress(OSError, UnicodeDecodeError):
                    holder = self._writer.read_text(encoding="utf-8").strip() or holder
                raise UserError(f"{folder} is being written by {holder}: wait for it, or give another hydra.run.dir")
            time.sleep(0.05)
        self._lock = lock
        with suppress(OSError):
            self._writer.unlink(missing_ok=True)  # it might be a link to somewhere else
            self._writer.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")

    def release(self) -> None:
        with suppress(OSError):
            self._writer.unlink(missing_ok=True)
        self._lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a running process is writing this folder."""
    if not any((folder / name).exists() for name in NAMES[:2]):
        return False
    try:
        lock = _try_lock(folder)
    except OSError:  # not ours to lock
        return False
    if lock is not None:
        lock.release()
    return lock is None


def _try_lock(folder: Path) -> BaseFileLock | None:
    """The lock, held; None if somebody else holds it."""
    for kind, name in ((FileLock, NAMES[0]), (SoftFileLock, NAMES[1])):
        lock = kind(folder / name, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except OSError as error:
            if kind is FileLock and error.errno in _NO_LOCKS:
                continue
            raise
        return lock
    return None
