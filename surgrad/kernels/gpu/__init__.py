"""The scan over time in Triton for the GPU."""
