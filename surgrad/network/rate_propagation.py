"""Fluctuation-driven weights for the spikes that reach a layer, instead of for one rate assumed everywhere."""

import math
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from surgrad.errors import UserError
from surgrad.network.connections import fill
from surgrad.network.initializers import Distribution, FluctuationDrivenCentered, Initializer, initialised
from surgrad.network.layers import SpikingLayer
from surgrad.network.network import Network
from surgrad.network.probing import bernoulli_spikes, free_membrane, over_time, root_mean_square, run_layer

TRANSIENT = 10  # longest time constants after which the start of a run no longer shows in the membrane


@dataclass(frozen=True)
class RatePropagated(Initializer):
    """`FluctuationDrivenCentered`, layer by layer: every layer has the deviation sigma_U, at any depth.

    With one constant nu a layer above one of rate nu_l has the deviation sigma_U sqrt(nu_l / nu), and errors grow with
    depth, down to silence or up to saturation (firing-rate collapse: Perez-Nieves & Goodman 2023, who propagate
    expected rates). Here independent spikes of rate nu enter the network, and what each layer emits is measured:

        sigma_w^2 = share sigma_U^2 / (n nu_l eps_hat),      nu_l = mean rate of the presynaptic layer.

    That presumes independent inputs. Spikes of one neuron come in groups, however, as its synaptic current outlasts a
    reset, so weights are then scaled by sigma_U over the deviation that the spikes do cause.

    Args:
        sigma_u: as there; nu is the rate of the input.
        nu: as there; nu is the rate of the input.
        alpha: as there; nu is the rate of the input.
        epsilon_mode: as there; nu is the rate of the input.
        readout: as there; nu is the rate of the input.
        nb_corrections: scalings of that kind; one is exact without recurrence, none trusts the rates.
        nb_steps: of the spikes that are measured with.
        nb_samples: of the spikes that are measured with.

    Raises:
        UserError: for values out of range, and for a layer that stays silent.
    """

    sigma_u: float
    nu: float
    alpha: float = 0.9
    epsilon_mode: str = "numerical"
    nb_corrections: int = 3
    nb_steps: int = 500
    nb_samples: int = 16
    readout: Initializer = field(default_factory=Distribution)

    def __post_init__(self) -> None:
        self._rule(self.nu)
        if self.nb_steps < 1 or self.nb_samples < 1 or self.nb_corrections < 0:
            sizes = f"nb_steps={self.nb_steps}, nb_samples={self.nb_samples}, nb_corrections={self.nb_corrections}"
            raise UserError(f"{sizes}: allowed >= 1, >= 1, >= 0")

    def _rule(self, nu: float, dt: float | None = None) -> FluctuationDrivenCentered:
        return FluctuationDrivenCentered(self.sigma_u, nu, self.alpha, dt, self.epsilon_mode)

    @torch.no_grad()
    def __call__(self, target: Network, generator: Generator) -> None:
        """Fill every weight of a network of dense layers; its readout by ``readout``."""
        nb_inputs = initialised(target.layers[0].feedforward).fan_in
        spikes = bernoulli_spikes(self.nu, (self.nb_steps, self.nb_samples, nb_inputs), target.dt, generator)
        for k, layer in enumerate(target.layers):
            rate = float(spikes.mean()) / target.dt
            if rate == 0:
                raise UserError(f"sigma_u={self.sigma_u}: no spike reaches layer {k}; raise sigma_u")
            self._rule(rate, target.dt)(layer, generator)
            spikes = self._matched(layer, spikes, rate, target.dt, target.delay, k)
        if target.readout is not None:
            self.readout(target.readout, generator)

    def _matched(self, layer: SpikingLayer, below: Tensor, rate: float, dt: float, delay: int, index: int) -> Tensor:
        """Scale the weights of one layer to what its inputs do; returns the spikes that it then emits."""
        trace = run_layer(layer, below, dt, delay, index)
        own = float(trace.spikes.mean()) / dt
        if layer.recurrent is not None and own > 0:
            recurrent = initialised(layer.recurrent)
            fill(recurrent, recurrent.weight * math.sqrt(rate / own))
            trace = run_layer(layer, below, dt, delay, index)
        longest = max(float(layer.tau_mem.tau.max()), float(layer.tau_syn.tau.max()))
        transient = min(math.ceil(TRANSIENT * longest / dt), self.nb_steps // 2)
        for _ in range(self.nb_corrections):
            _, deviation = over_time(free_membrane(layer, trace.total_current, dt), transient)
            for module in filter(None, (layer.feedforward, layer.recurrent)):
                connection = initialised(module)
                fill(connection, connection.weight * (self.sigma_u / root_mean_square(deviation)))
            trace = run_layer(layer, below, dt, delay, index)
        return trace.spikes
