"""Features as exact spike times."""

import numpy as np
import torch

from surgrad.eventprop.layers import Spikes, spikes_from_times


def linear_latency(
    features: np.ndarray,
    *,
    early: float = 0.0,
    late: float = 30e-3,
    bias: float | None = None,
    duration: float = 60e-3,
    dtype: torch.dtype = torch.float32,
) -> Spikes:
    """Unit n spikes at early + x_n (late - early); a last unit, if given, always at ``bias`` (Wunderlich & Pehle 2021).

    Args:
        features: (B, N) in 0..1.
        early: spike of a feature of 0, s.
        late: spike of a feature of 1, s.
        bias: spike of the last unit, s; None: there is no such unit.
        duration: end of the window, s.
        dtype: of the times.

    Raises:
        UserError: for NaN, and for spikes outside the window.
    """
    times = early + np.asarray(features, np.float64) * (late - early)
    if bias is not None:
        times = np.concatenate([times, np.full((len(times), 1), bias)], 1)
    return spikes_from_times(times, duration, dtype)
