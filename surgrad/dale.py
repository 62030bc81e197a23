"""Dale's law: every hidden neuron either excites or inhibits, in connections, and in how they are initialised.

The networks are those of Rossbroich et al. 2022: each hidden layer has excitatory and inhibitory neurons, all driven by
the excitatory ones of the layer below and by both kinds of their own layer; only excitatory neurons project upwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from surgrad.errors import UserError
from surgrad.initializers import (
    Distribution,
    Initializer,
    fill,
    layer_moments,
    require_in_range,
    require_time_step,
)
from surgrad.layers import Dense, Readout, SpikingLayer
from surgrad.network import Network


class MaskedDense(Dense):
    """A `Dense` connection that only some presynaptic units take part in: W = V diag(m).

    Args: in_shape, nb_units as there; ``projects`` (in,), m: 1 for units that project, 0 for those that do not.
    """

    def __init__(self, in_shape: int | Sequence[int], nb_units: int, projects: Tensor):
        nn.Module.__init__(self)  # not Dense's: the weight follows from `parameter` here
        self.in_shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        self.out_shape = (nb_units,)
        nb_inputs = math.prod(self.in_shape)
        if projects.shape != (nb_inputs,):
            raise UserError(f"{nb_inputs} presynaptic units need as many signs, not {tuple(projects.shape)}")
        self.parameter = nn.Parameter(torch.zeros(nb_units, nb_inputs))
        self.register_buffer("columns", projects.to(self.parameter.dtype), persistent=False)

    @property
    def weight(self) -> Tensor:
        """W (nb_units, in), differentiable with respect to ``parameter``."""
        return self.parameter * self.columns

    @property
    def fan_in(self) -> int:
        """Units that project."""
        return int(self.columns.count_nonzero())


class DaleDense(MaskedDense):
    """A `Dense` connection with one sign for each presynaptic neuron: W = |V| diag(s).

    The signs are part of the parametrisation and not of the training loop, so they hold for every optimiser, in every
    checkpoint and at every step. |V| descends as an unconstrained weight of that sign would and is turned back at zero,
    where a clamp (Rossbroich et al. 2022) would stop it; exp(V) would make steps relative and never reach zero. A
    weight of exactly 0 stays there: it has no gradient.

    Args: in_shape, nb_units; ``signs`` (in,): +1 excitatory, -1 inhibitory, 0 for units that do not project.
    """

    def __init__(self, in_shape: int | Sequence[int], nb_units: int, signs: Tensor):
        if not bool(((signs == 1) | (signs == -1) | (signs == 0)).all()):
            raise UserError("signs of presynaptic units: allowed are 1 (excitatory), -1 (inhibitory), 0 (none)")
        super().__init__(in_shape, nb_units, signs)

    @property
    def weight(self) -> Tensor:
        """W (nb_units, in), differentiable with respect to ``parameter``."""
        return self.parameter.abs() * self.columns


@fill.register
@torch.no_grad()
def _(connection: MaskedDense, weights: Tensor) -> None:
    connection.parameter.copy_(weights).mul_(connection.columns)


@fill.register
@torch.no_grad()
def _(connection: DaleDense, weights: Tensor) -> None:
    magnitudes = connection.parameter.copy_(weights).mul_(connection.columns)
    if bool((magnitudes < 0).any()):
        raise UserError(
            "this initializer draws weights of both signs, which Dale's law forbids; take initializer=dale "
            "(surgrad.dale.FluctuationDrivenExponential)"
        )


def excitatory_then_inhibitory(nb_units: int, inhibitory: float) -> Tensor:
    """Signs of a layer's neurons (nb_units,): +1 for the first ones, -1 for the last ``inhibitory`` share of them.

    Raises: UserError where one of the two populations would be empty.
    """
    nb_inhibitory = round(inhibitory * nb_units)
    if not 0 < nb_inhibitory < nb_units:
        raise UserError(
            f"inhibitory={inhibitory} of {nb_units} neurons makes {nb_inhibitory} inhibitory ones; Dale's law needs "
            "at least one neuron of each kind"
        )
    signs = torch.ones(nb_units)
    signs[nb_units - nb_inhibitory :] = -1
    return signs


def impose(network: Network, inhibitory: float = 0.2) -> Network:
    """Let a network of recurrent `Dense` layers obey Dale's law; all its weights are zero afterwards.

    The input is excitatory, the last ``inhibitory`` share of each layer's neurons inhibits its own layer and projects
    nowhere else. The readout, which has no neurons, weighs the excitatory neurons below it with either sign.

    Args: network, changed in place; share of inhibitory neurons in each hidden layer.
    Returns: the network.
    Raises: UserError for layers without recurrence, connections that are not `Dense`, or an empty population.
    """
    populations = []
    for k, layer in enumerate(network.layers):
        if layer.recurrent is None:
            raise UserError("Dale's law needs recurrent=true: neurons are inhibited from within their own layer")
        if type(layer.feedforward) is not Dense or type(layer.recurrent) is not Dense:
            found = type(layer.feedforward).__name__
            raise UserError(f"Dale's law is for connection=dense (surgrad.layers.Dense), but layer {k} has {found}")
        populations.append(excitatory_then_inhibitory(math.prod(layer.unit_shape), inhibitory))
    below = torch.ones(math.prod(network.layers[0].feedforward.in_shape))
    for layer, signs in zip(network.layers, populations, strict=True):
        layer.feedforward = DaleDense(layer.feedforward.in_shape, len(signs), below)
        layer.recurrent = DaleDense(layer.unit_shape, len(signs), signs)
        below = signs.clamp(min=0)
    if network.readout is not None:
        old = network.readout.feedforward
        network.readout.feedforward = MaskedDense(old.in_shape, *old.out_shape, below)
    return network


@dataclass(frozen=True)
class FluctuationDrivenExponential:
    """Exponentially distributed weights that balance excitation and inhibition (Rossbroich et al. 2022, Dale's law).

    A neuron has n_ff feed-forward and n_rec recurrent excitatory, and n_inh inhibitory inputs, all of rate nu. Weights
    of rate parameter lambda have the mean m = 1 / lambda and the second moment 2 m^2, so that the free membrane has

        mu_U      = nu eps_bar (n_ff m_ff + n_rec m_rec - n_inh m_inh)                       = 0
        sigma_U^2 = 2 nu eps_hat (n_ff m_ff^2 + n_rec m_rec^2 + n_inh m_inh^2)

    With alpha the feed-forward share of the variance that excitation brings, this is solved by

        m_rec / m_ff = k = sqrt((1 - alpha) n_ff / (alpha n_rec))
        m_inh / m_ff = (n_ff + k n_rec) / n_inh
        m_ff         = sigma_U / sqrt(2 nu eps_hat (n_ff / alpha + (n_ff + k n_rec)^2 / n_inh))

    The means of single neurons scatter around mu_U = 0 with the deviation sigma_U eps_bar sqrt(nu / (2 eps_hat)).

    Args: as in `surgrad.initializers.FluctuationDrivenCentered`.
    Raises: UserError for values out of range, and for layers that do not obey Dale's law (`impose`).
    """

    sigma_u: float
    nu: float
    alpha: float = 0.9
    time_step: float | None = None
    epsilon_mode: str = "numerical"
    readout: Initializer = field(default_factory=Distribution)

    def __post_init__(self):
        require_in_range(self, self.nu, self.alpha, self.epsilon_mode)
        if not self.sigma_u > 0 or self.alpha == 0:
            raise UserError(f"sigma_u={self.sigma_u}, alpha={self.alpha}: both must be positive")

    def __call__(self, target: Network | SpikingLayer | Readout, generator: Generator) -> None:
        """Fill every weight of ``target``; a network's readout by ``readout``."""
        if isinstance(target, Network):
            for layer in target.layers:
                self._layer(layer, generator, self.time_step or target.dt)
            if target.readout is not None:
                self.readout(target.readout, generator)
        else:
            self._layer(target, generator, require_time_step(self.time_step))

    def _layer(self, layer: SpikingLayer, generator: Generator, dt: float) -> None:
        pair = (layer.feedforward, getattr(layer, "recurrent", None))
        if not all(isinstance(connection, DaleDense) for connection in pair):
            raise UserError("initializer=dale is for networks that obey Dale's law: set, for example, inhibitory=0.2")
        feedforward, recurrent = pair
        _, eps_hat = layer_moments(layer, dt, self.epsilon_mode)
        n_ff = feedforward.fan_in
        n_rec, n_inh = (int((recurrent.columns == sign).sum()) for sign in (1, -1))
        k = math.sqrt((1 - self.alpha) * n_ff / (self.alpha * n_rec))
        excitation = n_ff + k * n_rec
        m_ff = self.sigma_u / (2 * self.nu * eps_hat * (n_ff / self.alpha + excitation**2 / n_inh)).sqrt()
        signs = recurrent.columns.to(generator.device)
        means = torch.where(signs > 0, k, excitation / n_inh).double()
        fill(feedforward, m_ff * _exponential(feedforward, generator))
        fill(recurrent, m_ff * means * signs * _exponential(recurrent, generator))


def _exponential(connection: DaleDense, generator: Generator) -> Tensor:
    """Draws of mean 1 in the shape of the weights."""
    unit = torch.empty(connection.parameter.shape, dtype=torch.float64, device=generator.device)
    return unit.exponential_(generator=generator)


def obeyed(network: Network) -> bool:
    """Whether every hidden neuron's outgoing weights have one sign, and only excitatory neurons project upwards."""
    stack = [*network.layers, *([network.readout] if network.readout is not None else [])]
    for layer, above in pairwise(stack):
        own, upwards = layer.recurrent.weight, above.feedforward.weight
        excites, inhibits = (own >= 0).all(0), (own <= 0).all(0)
        if not bool((excites | inhibits).all()) or bool(upwards[:, ~excites].count_nonzero()):
            return False
    return bool((network.layers[0].feedforward.weight >= 0).all())
