"""Numbers as spike times: one spike per input unit, the larger the earlier or the later."""

import numpy as np
import torch

from surgrad.errors import UserError
from surgrad.eventprop import Spikes, spikes_from_times


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

    Args: features (B, N) in 0..1; early, late, bias, duration in s.
    Raises: UserError for NaN, and for spikes outside the window.
    """
    times = early + np.asarray(features, np.float64) * (late - early)
    if bias is not None:
        times = np.concatenate([times, np.full((len(times), 1), bias)], 1)
    return spikes_from_times(times, duration, dtype)


def bright_first(
    images: np.ndarray,
    *,
    late: float = 20e-3,
    threshold: int = 1,
    duration: float = 40e-3,
    dtype: torch.dtype = torch.float32,
) -> Spikes:
    """A pixel spikes at late (1 - x / 255); those not brighter than ``threshold`` stay silent.

    Args: images (B, ...) uint8; late, duration in s.
    Raises: UserError if pixels are no bytes.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise UserError(f"pixels are {images.dtype}; wanted uint8, 0 to 255")
    pixels = images.reshape(len(images), -1)
    times = np.where(pixels > threshold, late * (1 - pixels / 255.0), np.inf)
    return spikes_from_times(times, duration, dtype)
