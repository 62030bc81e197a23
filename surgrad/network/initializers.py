"""Initial weights: fluctuation-driven, Kaiming, or from a distribution.

An initialiser is a small frozen dataclass, called as ``initializer(target, generator)`` on a network, a layer or (where
no time constants are needed) a connection. Weights are drawn in float64 and then rounded, so that networks of both
precisions start alike.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from surgrad.errors import UserError
from surgrad.network.connections import Connection, DaleDense, fill
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network


def analytical_moments(tau_mem: Tensor, tau_syn: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    """eps_bar = tau_syn, eps_hat = tau_syn^2 / (2 (tau_syn + tau_mem)): the limit dt -> 0 (Rossbroich et al. 2022)."""
    return tau_syn.clone(), tau_syn**2 / (2 * (tau_syn + tau_mem))


def numerical_moments(tau_mem: Tensor, tau_syn: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    """eps_bar = dt sum_t k[t], eps_hat = dt sum_t k[t]^2 of the discrete response k, over 10 x the longest tau.

    k is the membrane after one input spike in the recursion of `surgrad.neurons.lif`: i[0] = 1, u[0] = 0.
    """
    a, b = torch.exp(-dt / tau_syn), torch.exp(-dt / tau_mem)
    longest = max(float(tau_mem.max()), float(tau_syn.max()))
    # the margin keeps a float32 time constant from losing the last step
    nb_steps = math.floor(10 * longest / dt + 1e-3)
    i, u = torch.ones_like(a * b), torch.zeros_like(a * b)
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    for _ in range(nb_steps):
        first += u
        second += u**2
        i, u = a * i, b * u + (1 - b) * i
    return first * dt, second * dt


MOMENTS: dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "numerical": numerical_moments,
    "analytical": analytical_moments,
}


def kernel_moments(
    tau_mem: float | Tensor, tau_syn: float | Tensor, dt: float, mode: str = "numerical"
) -> tuple[Tensor, Tensor]:
    """Integrals over time of the membrane's response to one input spike of weight 1, and of its square.

    Args:
        tau_mem: s, numbers or tensors that broadcast against each other.
        tau_syn: s, numbers or tensors that broadcast against each other.
        dt: time step in s.
        mode: "numerical", from the discrete response (right for every dt), or "analytical", its limit for dt -> 0.

    Returns:
        eps_bar (s) and eps_hat (s), float64.

    Raises:
        UserError: for an unknown mode.
    """
    if mode not in MOMENTS:
        raise UserError(f"epsilon_mode={mode!r} is unknown; allowed: {', '.join(MOMENTS)}")
    membrane, synapse = torch.broadcast_tensors(
        torch.as_tensor(tau_mem, dtype=torch.float64), torch.as_tensor(tau_syn, dtype=torch.float64)
    )
    return MOMENTS[mode](membrane, synapse, dt)


def _normal(shape: torch.Size, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)


def _uniform(shape: torch.Size, generator: Generator) -> Tensor:
    unit = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return (2 * unit - 1) * math.sqrt(3)


DISTRIBUTIONS: dict[str, Callable[[torch.Size, Generator], Tensor]] = {"normal": _normal, "uniform": _uniform}
SCALINGS: dict[str, Callable[[int], float]] = {
    "1/sqrt(k)": lambda fan_in: 1 / math.sqrt(fan_in),
    "1/k": lambda fan_in: 1 / fan_in,
    "none": lambda fan_in: 1.0,
}


def _connections(target: Network | SpikingLayer | Readout | Connection) -> list[Connection]:
    """Every connection of ``target``, bottom to top, feed-forward before residual before recurrent."""
    if isinstance(target, Connection):
        return [target]
    if isinstance(target, Network):
        return [connection for layer in target.stack for connection in _connections(layer)]
    return [initialised(connection) for connection in target.connections]


def initialised(connection: nn.Module | None) -> Connection:
    """A connection whose weights an initialiser can fill. Raises: UserError for another module, or none."""
    if not isinstance(connection, Connection):
        raise UserError(
            f"{'no' if connection is None else type(connection).__name__} connection: initialisers fill Dense and Conv "
            "(surgrad.network.connections); initialise others by themselves"
        )
    return connection


class Initializer(ABC):
    """Fills all weights of a network, a layer or (where no time constants are needed) a connection."""

    @abstractmethod
    def __call__(self, target: Any, generator: Generator) -> None:
        """Fill every weight of ``target``."""


@dataclass(frozen=True)
class Distribution(Initializer):
    """w = s(k) (mean + std z) with z of mean 0 and variance 1, k the fan-in.

    Args:
        distribution: of z: "normal", or "uniform" on [-sqrt(3), sqrt(3)].
        mean: before scaling.
        std: before scaling.
        scaling: s(k): "1/sqrt(k)", "1/k" or "none".

    Raises:
        UserError: for an unknown distribution or scaling, or a negative std.
    """

    distribution: str = "normal"
    mean: float = 0.0
    std: float = 1.0
    scaling: str = "1/sqrt(k)"

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise UserError(f"distribution={self.distribution!r} is unknown; allowed: {', '.join(DISTRIBUTIONS)}")
        if self.scaling not in SCALINGS:
            raise UserError(f"scaling={self.scaling!r} is unknown; allowed: {', '.join(SCALINGS)}")
        if self.std < 0:
            raise UserError(f"std={self.std} of a distribution must not be negative")

    def __call__(self, target: Network | SpikingLayer | Readout | Connection, generator: Generator) -> None:
        for connection in _connections(target):
            z = DISTRIBUTIONS[self.distribution](connection.weight.shape, generator)
            fill(connection, SCALINGS[self.scaling](connection.fan_in) * (self.mean + self.std * z))


@dataclass(frozen=True)
class Kaiming(Initializer):
    """Var[w] = gain^2 / fan_in (He et al. 2015).

    Args:
        gain: times 1 / sqrt(fan_in) is the standard deviation.
        distribution: "normal" or "uniform".
    """

    gain: float = 1.0
    distribution: str = "normal"

    def __call__(self, target: Network | SpikingLayer | Readout | Connection, generator: Generator) -> None:
        Distribution(self.distribution, std=self.gain)(target, generator)


class LayerByLayer(Initializer):
    """Base of the rules that choose the weights of a layer by its time constants and the rate of its inputs.

    Attributes:
        nu: rate of every presynaptic neuron in Hz.
        alpha: share of the variance that feed-forward inputs bring in layers with recurrence.
        time_step: s; None takes that of the network.
        epsilon_mode: "numerical" (default, as published) or "analytical", see `kernel_moments`.
        readout: initialiser of a network's readout; by default N(0, 1) / sqrt(fan_in).
    """

    nu: float
    alpha: float
    time_step: float | None
    epsilon_mode: str
    readout: Initializer

    def require_in_range(self) -> None:
        """Raises: UserError for a rate, share of the variance or mode that no rule allows."""
        if not self.nu > 0 or not 0 <= self.alpha <= 1:
            name = type(self).__name__
            raise UserError(f"{name}: nu={self.nu} Hz must be positive and alpha={self.alpha} lie in [0, 1]")
        if self.epsilon_mode not in MOMENTS:
            raise UserError(f"epsilon_mode={self.epsilon_mode!r} is unknown; allowed: {', '.join(MOMENTS)}")

    def __call__(self, target: Network | SpikingLayer | Readout, generator: Generator) -> None:
        """Fill every weight of ``target``; a network's readout by ``readout``."""
        if isinstance(target, Network):
            for layer in target.layers:
                self.fill_layer(layer, generator, self.time_step or target.dt)
            if target.readout is not None:
                self.readout(target.readout, generator)
        elif not isinstance(target, SpikingLayer | Readout):
            raise TypeError(f"{type(target).__name__} has no time constants; initialise its layer or network instead")
        elif self.time_step is None:
            raise UserError("time_step=None needs a network to take it from; give it in s to initialise a single layer")
        else:
            self.fill_layer(target, generator, self.time_step)

    @abstractmethod
    def fill_layer(self, layer: SpikingLayer | Readout, generator: Generator, dt: float) -> None:
        """Fill the weights of one layer, for a time step of dt seconds."""

    def _fill_normal(
        self, layer: SpikingLayer | Readout, generator: Generator, dt: float, mu_u: float, sigma_u: float
    ) -> None:
        """Normally distributed weights under which the free membrane has the mean mu_u and deviation sigma_u."""
        connections = _connections(layer)
        eps_bar, eps_hat = layer_moments(layer, dt, self.epsilon_mode)
        gains = [layer.pool.gains if layer.pool and c is layer.feedforward else (1, 1) for c in connections]
        mu_w = mu_u / (sum(c.fan_in * g[0] for c, g in zip(connections, gains, strict=True)) * self.nu * eps_bar)
        loop = getattr(layer, "recurrent", None)
        below = sum(c.fan_in * g[1] for c, g in zip(connections, gains, strict=True) if c is not loop)
        for connection in connections:
            nb, share = (connection.fan_in, 1 - self.alpha) if connection is loop else (below, self.alpha)
            share = 1.0 if loop is None or len(connections) == 1 else share
            variance = share * sigma_u**2 / (nb * self.nu * eps_hat) - mu_w**2
            if bool((variance < 0).any()):
                raise UserError(
                    f"mu_u={mu_u} with xi={(1 - mu_u) / sigma_u:.4g} cannot be reached by {connection.fan_in} inputs "
                    f"at nu={self.nu} Hz: the mean alone exceeds the variance asked for; lower mu_u or xi"
                )
            fill(connection, mu_w + variance.sqrt() * _normal(connection.weight.shape, generator))


@dataclass(frozen=True)
class FluctuationDriven(LayerByLayer):
    """Weights with which inputs of rate nu give the membrane the mean mu_U, xi standard deviations below threshold.

    For each neuron with feed-forward fan-in n_ff and recurrent fan-in n_rec (Rossbroich et al. 2022, sec. 2):

        sigma_U   = (1 - mu_U) / xi
        mu_w      = mu_U / ((n_ff + n_rec) nu eps_bar)
        sigma_w^2 = share sigma_U^2 / (n nu eps_hat) - mu_w^2

    with share = alpha for feed-forward and 1 - alpha for recurrent weights, or 1 without recurrence. sigma_U is the
    standard deviation over time of the free membrane (no spikes, no reset).

    Args:
        mu_u: target mean in units of threshold.
        xi: distance of mean and threshold in standard deviations.
        nu: Hz; the rest as in `LayerByLayer`.

    Raises:
        UserError: for values out of range, or where mu_u is too large to be reached with the variance asked for.
    """

    mu_u: float
    xi: float
    nu: float
    alpha: float = 0.9
    time_step: float | None = None
    epsilon_mode: str = "numerical"
    readout: Initializer = field(default_factory=Distribution)

    def __post_init__(self) -> None:
        self.require_in_range()
        if not self.mu_u < 1 or not self.xi > 0:
            raise UserError(f"mu_u={self.mu_u}, xi={self.xi}: mu_u must lie below the threshold 1 and xi above 0")

    def fill_layer(self, layer: SpikingLayer | Readout, generator: Generator, dt: float) -> None:
        self._fill_normal(layer, generator, dt, self.mu_u, (1 - self.mu_u) / self.xi)


@dataclass(frozen=True)
class FluctuationDrivenCentered(LayerByLayer):
    """`FluctuationDriven` with mu_U = 0: sigma_w^2 = share sigma_U^2 / (n nu eps_hat).

    Args:
        sigma_u: target standard deviation of the membrane, in units of threshold.
        nu: Hz; the rest as in `LayerByLayer`.

    Raises:
        UserError: for values out of range.
    """

    sigma_u: float
    nu: float
    alpha: float = 0.9
    time_step: float | None = None
    epsilon_mode: str = "numerical"
    readout: Initializer = field(default_factory=Distribution)

    def __post_init__(self) -> None:
        self.require_in_range()
        if not self.sigma_u > 0:
            raise UserError(f"sigma_u={self.sigma_u} must be positive")

    def fill_layer(self, layer: SpikingLayer | Readout, generator: Generator, dt: float) -> None:
        self._fill_normal(layer, generator, dt, 0.0, self.sigma_u)


def layer_moments(layer: SpikingLayer | Readout, dt: float, mode: str) -> tuple[Tensor, Tensor]:
    """eps_bar and eps_hat of a layer, broadcastable to its weights: () or, for one tau per neuron, (outputs, 1, ...).

    Neurons that share convolutional weights enter with their mean moments.
    """
    tau_mem, tau_syn = (tau.tau.detach().cpu().double() for tau in (layer.tau_mem, layer.tau_syn))
    eps_bar, eps_hat = kernel_moments(tau_mem, tau_syn, dt, mode)
    if isinstance(layer, SpikingLayer) and not layer.neuron.unit_gain:
        gain = 1 - torch.exp(-dt / tau_mem)
        eps_bar, eps_hat = eps_bar / gain, eps_hat / gain**2
    if eps_bar.dim() == 0:
        return eps_bar, eps_hat
    per_output = [m.expand(layer.unit_shape).reshape(layer.unit_shape[0], -1).mean(1) for m in (eps_bar, eps_hat)]
    ones = (1,) * (_connections(layer)[0].weight.dim() - 1)
    return per_output[0].view(-1, *ones), per_output[1].view(-1, *ones)


@dataclass(frozen=True)
class ByConnection(Initializer):
    """Feed-forward, recurrent and readout weights, each by an initialiser of its own (for a connection alone).

    Args:
        feedforward: initialiser of feed-forward connections, such as `Distribution`.
        recurrent: of recurrent ones.
        readout: of the readout's.
    """

    feedforward: Initializer
    recurrent: Initializer
    readout: Initializer

    def __call__(self, target: Network, generator: Generator) -> None:
        for layer in target.layers:
            for c in layer.connections:
                (self.recurrent if c is layer.recurrent else self.feedforward)(initialised(c), generator)
        if target.readout is not None:
            self.readout(target.readout, generator)


@dataclass(frozen=True)
class FluctuationDrivenExponential(LayerByLayer):
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

    Args:
        sigma_u: target standard deviation of the membrane, in units of threshold.
        nu: Hz.
        alpha: feed-forward share of the variance that excitation brings; the rest as in `LayerByLayer`.

    Raises:
        UserError: for values out of range, and for layers that do not obey Dale's law (`impose`).
    """

    sigma_u: float
    nu: float
    alpha: float = 0.9
    time_step: float | None = None
    epsilon_mode: str = "numerical"
    readout: Initializer = field(default_factory=Distribution)

    def __post_init__(self) -> None:
        self.require_in_range()
        if not self.sigma_u > 0 or self.alpha == 0:
            raise UserError(f"sigma_u={self.sigma_u}, alpha={self.alpha}: both must be positive")

    def fill_layer(self, layer: SpikingLayer | Readout, generator: Generator, dt: float) -> None:
        feedforward = layer.feedforward
        recurrent = layer.recurrent if isinstance(layer, SpikingLayer) else None
        if not isinstance(feedforward, DaleDense) or not isinstance(recurrent, DaleDense):
            raise UserError("initializer=dale is for networks that obey Dale's law: set, for example, inhibitory=0.2")
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
