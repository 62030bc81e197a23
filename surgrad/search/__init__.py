"""Search of hyperparameters; every trial is a run folder."""
