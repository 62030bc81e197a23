"""Networks without spikes on the same input: what a data set allows."""
