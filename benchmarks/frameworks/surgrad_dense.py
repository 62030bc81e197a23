"""This suite with every forward product dense, whatever the activity: what event-driven products must beat."""

from benchmarks.frameworks.surgrad import MODEL, convsnn_step, recurrent, version
from surgrad.kernels.cpu import network as cpu

cpu.DENSE_ABOVE = -1.0

__all__ = ["MODEL", "convsnn_step", "recurrent", "version"]
