"""The scan over time in compiled code for the CPU."""
