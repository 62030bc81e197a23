"""Style and generic plots: arrays in, a Figure out."""
