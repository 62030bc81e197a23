"""The scan over time: a specification in plain PyTorch and compiled kernels that equal it."""
