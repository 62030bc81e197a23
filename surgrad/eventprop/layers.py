"""Event-based spiking layers with exact gradients: EventProp (Wunderlich & Pehle 2021).

Leaky integrate-and-fire neurons with exponential synapses, threshold 1 and reset to 0,

    tau_mem dV/dt = -V + I,    tau_syn dI/dt = -I,    I_n += W[u, n] at every input spike of unit u,

are followed from event to event. Spike times are solved for, in closed form for tau_mem = 2 tau_syn and for equal time
constants, by a safeguarded iteration of third order otherwise; there is no time step. The loss is differentiated
exactly through the spike times, by adjoint variables that jump at spikes (eqs. 5-9 there; the jumps are derived in
docs/eventprop.md).

The gradient is that of the spikes that are there: it does not see a spike that a larger weight would create, and grows
without bound as a neuron only just reaches threshold. A neuron that never spikes passes no gradient on; `first_spikes`
marks it with an infinite time, and `surgrad.eventprop.network.FirstSpike` says what a loss makes of that.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.kernels.cpu.eventprop import Constants, peaks, spiking_layer, voltages
from surgrad.kernels.spike_trains import sampling_times, spike_trains, weights

#: Spikes that one sample may cause in a layer, per neuron on average.
MAX_RATE = 1000


class Spikes(NamedTuple):
    """Spikes of B samples: times (E,) in s, nondecreasing within a sample; units (E,) int32; offsets (B+1,) int64."""

    times: Tensor
    units: Tensor
    offsets: Tensor

    @property
    def nb_samples(self) -> int:
        return len(self.offsets) - 1

    @property
    def samples(self) -> Tensor:
        """Sample of every spike, (E,) int64."""
        return torch.repeat_interleave(torch.arange(self.nb_samples), self.offsets.diff())

    def counts(self, nb_units: int) -> Tensor:
        """Spikes of every unit, (B, nb_units)."""
        flat = self.samples * nb_units + self.units
        return torch.bincount(flat, minlength=self.nb_samples * nb_units).view(self.nb_samples, nb_units)

    def dropped(self, p: float, generator: torch.Generator) -> "Spikes":
        """Without each spike with probability ``p``."""
        kept = torch.rand(len(self.times), generator=generator) >= p
        before = torch.cat([self.offsets.new_zeros(1), kept.cumsum(0)])
        return Spikes(self.times[kept], self.units[kept], before[self.offsets])

    def subset(self, samples: Tensor) -> "Spikes":
        """Some of the samples, in the order given: (M,) int64."""
        counts = self.offsets.diff()[samples]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        where = torch.arange(int(offsets[-1])) + torch.repeat_interleave(self.offsets[samples] - offsets[:-1], counts)
        return Spikes(self.times[where], self.units[where], offsets)


def spikes_from_times(times: Tensor | np.ndarray, duration: float, dtype: torch.dtype = torch.float32) -> Spikes:
    """At most one spike per unit: times (B, N) in s, infinite where a unit stays silent.

    Raises:
        UserError: for NaN, and for finite times outside [0, duration].
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    if times.isnan().any():
        raise UserError(f"{int(times.isnan().sum())} spike times are NaN; a silent unit has the time inf")
    order = times.argsort(dim=1, stable=True)
    present = times.gather(1, order).isfinite()
    counts = present.sum(1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    spikes = Spikes(times.gather(1, order)[present].to(dtype), order[present].int(), offsets)
    check_window(spikes, duration)
    return spikes


def check_window(spikes: Spikes, duration: float, nb_units: int | None = None) -> None:
    """Raises: UserError unless times are finite, sorted and inside [0, duration], and units below nb_units."""
    spike_trains(*spikes, nb_units=nb_units, end=duration)


@dataclass(frozen=True)
class EventLIF:
    """Time constants in s. Raises: UserError unless positive and finite."""

    tau_mem: float = 20e-3
    tau_syn: float = 5e-3

    def __post_init__(self) -> None:
        for name in ("tau_mem", "tau_syn"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UserError(f"{name}={getattr(self, name)} s must be positive and finite")


class EventLayer(nn.Module):
    """Spiking neurons driven by spikes; without delay, recurrent spikes act at once.

    Args:
        nb_inputs: number of inputs.
        nb_units: number of neurons.
        neuron: time constants.
        recurrent: whether units drive each other.
        dtype: float32 or float64.

    Parameters: weight (nb_inputs, nb_units), recurrent (nb_units, nb_units) or None; zero until initialised.
    """

    def __init__(
        self,
        nb_inputs: int,
        nb_units: int,
        neuron: EventLIF | None = None,
        recurrent: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.neuron = neuron or EventLIF()
        self.weight = nn.Parameter(torch.zeros(nb_inputs, nb_units, dtype=dtype))
        self.recurrent = nn.Parameter(torch.zeros(nb_units, nb_units, dtype=dtype)) if recurrent else None

    @property
    def nb_units(self) -> int:
        return self.weight.shape[-1]

    def forward(self, spikes: Spikes, duration: float) -> Spikes:
        """Spikes of the layer up to ``duration`` (s), differentiable by the times of its input and by its weights.

        Raises:
            UserError: if a sample makes more than `MAX_RATE` spikes per unit.
        """
        constants = Constants(self.neuron.tau_mem, self.neuron.tau_syn, duration, MAX_RATE * self.nb_units)
        return Spikes(*spiking_layer(*spikes, self.weight, self.recurrent, constants))


class EventReadout(nn.Module):
    """Leaky integrators that do not spike. Arguments and the parameter ``weight`` as in `EventLayer`."""

    def __init__(
        self, nb_inputs: int, nb_units: int, neuron: EventLIF | None = None, dtype: torch.dtype = torch.float32
    ):
        super().__init__()
        self.neuron = neuron or EventLIF()
        self.weight = nn.Parameter(torch.zeros(nb_inputs, nb_units, dtype=dtype))

    def _constants(self, duration: float) -> Constants:
        return Constants(self.neuron.tau_mem, self.neuron.tau_syn, duration)

    def maximum(self, spikes: Spikes, duration: float) -> Tensor:
        """max_t V(t) over [0, duration], exact, (B, N)."""
        return peaks(*spikes, self.weight, self._constants(duration))[0]

    def voltage(self, spikes: Spikes, at: Tensor) -> Tensor:
        """V at the times ``at`` (S,) in s, exact, (B, S, N): from it, any smooth function of the voltage.

        Raises:
            UserError: unless the times are finite and do not decrease.
        """
        at = sampling_times(at, self.weight)
        return voltages(*spikes, self.weight, at, self._constants(float(at[-1]) if len(at) else 0.0))

    def integral(self, spikes: Spikes, duration: float, tau_weight: float = math.inf) -> Tensor:
        """int_0^duration exp(-t / tau_weight) V(t) dt / duration, exact, (B, N) (loss shaping, Nowotny et al. 2025).

        An exponential weight that falls over time lets early voltages, and with them early spikes, count more.
        """
        weights(self.weight)
        end = self._constants(duration).checked().duration
        spikes = Spikes(*spike_trains(*spikes, nb_units=len(self.weight), end=end, dtype=self.weight.dtype))
        area = self._area(spikes.times, duration, tau_weight) / duration
        out = torch.zeros(spikes.nb_samples, self.weight.shape[1], dtype=self.weight.dtype)
        return out.index_add(0, spikes.samples, area[:, None] * self.weight[spikes.units.long()])

    def _area(self, times: Tensor, duration: float, tau_weight: float) -> Tensor:
        """int_t^duration exp(-t' / tau_weight) PSP(t' - t) dt' of a spike of weight 1 at t, (E,)."""
        mem, syn = self.neuron.tau_mem, self.neuron.tau_syn
        rate = 0.0 if math.isinf(tau_weight) else 1 / tau_weight
        left = duration - times
        m, s = 1 / mem + rate, 1 / syn + rate
        # with E(r) = (1 - exp(-r left)) / r, the area is (E(m) - E(s)) / ((s - m) tau_mem), as long as s and m differ
        if abs(s - m) > 1e-4 * m:
            area = (_decayed(m, left) - _decayed(s, left)) / ((s - m) * mem)
        else:
            r = (m + s) / 2
            area = (1 - torch.exp(-r * left) * (1 + r * left)) / (r * r * mem)
        return area * torch.exp(-rate * times)


def _decayed(rate: float, left: Tensor) -> Tensor:
    """int_0^left exp(-rate t) dt."""
    return -torch.expm1(-rate * left) / rate


def first_spikes(spikes: Spikes, nb_units: int) -> Tensor:
    """Time of the first spike of every unit, (B, nb_units) in s, differentiable; inf for units that stay silent."""
    flat = spikes.samples * nb_units + spikes.units
    nb = spikes.nb_samples * nb_units
    index = torch.full((nb,), len(spikes.times)).scatter_reduce(0, flat, torch.arange(len(flat)), "amin")
    times = torch.cat([spikes.times, spikes.times.new_full((1,), math.inf)])
    return times[index].view(spikes.nb_samples, nb_units)
