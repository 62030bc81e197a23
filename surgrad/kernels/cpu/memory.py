"""Large arrays whose memory is used again: a fresh page costs more than what is written to it.

The memory of an array goes back to a pool when the last tensor on it is gone, and serves the next array of about its
size. Pages are huge where the system allows it.
"""

import ctypes
import math
import mmap
import threading
import weakref

import torch
from torch import Tensor

SMALLEST = 2**20  # bytes; below, torch's own allocator does as well
PAGE = 2**21
KEPT = 2**30  # bytes at most that wait to be used again
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}  # none on Windows
SLACK = 1.125  # a piece may be this much larger than what it serves


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


POOL = Pool()
empty = POOL.empty
