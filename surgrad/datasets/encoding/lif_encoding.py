"""Analogue signals as spikes of neurons that they drive, each with a gain and a bias of its own."""

from dataclasses import dataclass

import numpy as np

from surgrad.datasets.encoding.threshold_crossing import Events
from surgrad.errors import UserError


@dataclass(frozen=True)
class LIFEncoding:
    """Leaky integrate-and-fire neurons j driven by g_j (x_c + b_j), ``copies`` of them for each channel c.

        s[t]   = H(u[t] - 1)
        u[t+1] = (b u[t] + (1 - b) g (x_c[t] + b_j)) (1 - s[t]),   b = exp(-dt / tau_mem),

    with g and b_j from N(0, 1), drawn once: the spiking encoder of tutorial 5 of Neftci et al. (2019), there trained
    along with the network.

    Args:
        dt: time between samples, s.
        copies: neurons for each channel.
        tau_mem: membrane time constant, s.
        hold: steps of dt / hold for which each sample is presented.
        seed: of gains and biases.

    Raises:
        UserError: unless copies, tau_mem, dt and hold are positive.
    """

    dt: float
    copies: int = 32
    tau_mem: float = 20e-3
    hold: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.copies > 0 and self.tau_mem > 0 and self.dt > 0 and self.hold > 0):
            raise UserError(
                f"copies={self.copies}, tau_mem={self.tau_mem} s, dt={self.dt} s, hold={self.hold}: must be positive"
            )

    def nb_units(self, nb_channels: int) -> int:
        """Neuron j is driven by channel j mod C."""
        return self.copies * nb_channels

    def __call__(self, x: np.ndarray) -> Events:
        """Spikes of signals x (N, T, C). Raises: UserError if a sample is not finite."""
        x = np.asarray(x, np.float64)
        if not np.isfinite(x).all():
            raise UserError(f"{np.count_nonzero(~np.isfinite(x))} samples of the signal are not finite")
        nb_signals, nb_samples, nb_channels = x.shape
        gain, bias = np.random.default_rng(self.seed).standard_normal((2, self.nb_units(nb_channels)))
        step = self.dt / self.hold
        decay = np.exp(-step / self.tau_mem)
        u = np.zeros((nb_signals, len(gain)))
        fired = np.zeros((nb_samples * self.hold, *u.shape), bool)
        for step_number, spikes in enumerate(fired):
            np.greater(u, 1, out=spikes)
            drive = gain * (np.tile(x[:, step_number // self.hold], self.copies) + bias)
            u = (decay * u + (1 - decay) * drive) * ~spikes
        signal, steps, unit = fired.transpose(1, 0, 2).nonzero()
        counts = np.bincount(signal, minlength=nb_signals)
        # in the middle of its step, where no rounding moves a spike to another
        return Events((steps + 0.5) * step, unit, np.concatenate([[0], np.cumsum(counts)]))
