"""The scan over time: a specification in plain PyTorch and compiled kernels that equal it."""

from surgrad.former import names_of

__getattr__ = names_of("surgrad.kernels.dispatch")
