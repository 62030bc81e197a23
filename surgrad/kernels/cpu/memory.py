"""Large arrays whose memory is used again: a fresh page costs more than what is written to it.

The memory of an array goes back to a pool when the last tensor on it is gone, and serves the next array of about its
size. Pages are huge where the system allows it. Smaller arrays are torch's, of whose freed memory the C library keeps
more than it would by itself (`keep_freed`).
"""

import ctypes
import math
import mmap
import os
import threading
import weakref

import torch
from torch import Tensor

SMALLEST = 2**20  # bytes; below, torch's own allocator does as well
PAGE = 2**21
KEPT = 2**30  # bytes at most that wait to be used again
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}  # none on Windows
SLACK = 1.125  # a piece may be this much larger than what it serves

#: Parameters of glibc's mallopt(3) and the bytes they are set to. Left alone, it returns the end of its heap to the
#: system whenever twice the largest freed block is free there: in the middle of a training step, or not, as it happens.
MALLOPT = {-1: 2**28, -3: 2**25}  # M_TRIM_THRESHOLD; M_MMAP_THRESHOLD, the largest allowed
MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # the user's own choice


def keep_freed() -> bool:
    """Have the C library keep up to 256 MiB of freed memory for the next arrays; whether it will.

    Not where it is not glibc, nor where the user has set one of ``MALLOC_VARIABLES``.
    """
    if any(name in os.environ for name in MALLOC_VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):  # another C library; Windows has no handle of the whole process
        return False
    return all(mallopt(parameter, nb_bytes) for parameter, nb_bytes in MALLOPT.items())


class Pool:
    """Pieces of memory on loan to tensors, and those given back."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []  # the most recently used last
        self._lock = threading.RLock()  # a loan may end in the middle of another, when garbage is collected

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """An uninitialised contiguous CPU tensor."""
        nb_bytes = math.prod(shape) * dtype.itemsize
        if nb_bytes < SMALLEST:
            return torch.empty(shape, dtype=dtype)
        piece = self._take(-(-nb_bytes // PAGE) * PAGE)
        loan = (ctypes.c_char * len(piece)).from_buffer(piece)
        weakref.finalize(loan, self._give_back, piece).atexit = False
        return torch.frombuffer(loan, dtype=dtype, count=math.prod(shape)).view(shape)

    def release(self) -> None:
        """Return to the system all memory that is not on loan."""
        with self._lock:
            self._free.clear()

    def _take(self, size: int) -> mmap.mmap:
        with self._lock:
            fitting = [piece for piece in self._free if size <= len(piece) <= SLACK * size]
            if fitting:
                piece = min(reversed(fitting), key=len)
                self._free = [other for other in self._free if other is not piece]
                return piece
        piece = mmap.mmap(-1, size, **PRIVATE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            piece.madvise(mmap.MADV_HUGEPAGE)
        return piece

    def _give_back(self, piece: mmap.mmap) -> None:
        with self._lock:
            self._free.append(piece)
            while sum(map(len, self._free)) > KEPT:
                self._free.pop(0)


keep_freed()
POOL = Pool()
empty = POOL.empty
