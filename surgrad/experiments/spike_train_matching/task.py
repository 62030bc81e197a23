"""Spike-train matching with one hidden layer (Gygax & Zenke 2025, fig. 5; after Zenke & Ganguli 2018).

Frozen Poisson inputs drive a hidden and an output layer; the outputs learn to fire at given times. There is no delay:
a hidden spike of step t enters I[t] of the output layer. Time first, then trial, pair and neuron: (T, K, P, N), where
the K trials differ in their escape noise alone and the P pairs in input and target.

The learning rule is a three-factor rule, gradient ascent on the log-likelihood of the target:

    delta_o[t] = (z[t] - s_o[t]) / delta_uo
    dW_o[h, o] = sum_t PSP_h[t] delta_o[t]
    dW_h[i, h] = sum_t (sum_o W_o[h, o] delta_o[t]) (eps * (g_h PSP_i))[t]

averaged over trials and pairs. PSP is the membrane without reset of a unit weight, eps the kernel eps0
(exp(-t/tau_mem) - exp(-t/tau_syn)), and g_h the surrogate derivative of the hidden spike (or the spike itself). The
last line is computed by its adjoint: the error, projected back, is filtered once in reversed time and multiplied by
g_h; summed over trials, it meets the PSPs of the frozen input in one matrix product. No tensor of size inputs x T x
hidden exists.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surgrad.errors import UserError, known
from surgrad.experiments.spike_train_matching.leaky_filter import LeakyFilter
from surgrad.kernels import dispatch
from surgrad.kernels.philox import NoiseKey
from surgrad.neurons.escape_noise import EscapeNoise, Exponential, Sigmoid, Step
from surgrad.neurons.lif import LIF
from surgrad.neurons.surrogate import MultilayerSpiker, SigmoidPrime, SuperSpike, Surrogate


class Weights(NamedTuple):
    """Synaptic weights, presynaptic unit first: hidden (N_in, N_hid), output (N_hid, N_out)."""

    hidden: Tensor
    output: Tensor

    def isfinite(self) -> bool:
        return bool(torch.isfinite(self.hidden.sum() + self.output.sum()))


class Activity(NamedTuple):
    """What the network did: spikes 0/1 and the membrane at which each was drawn, (T, K, P, N)."""

    spikes_hidden: Tensor
    membrane_hidden: Tensor
    spikes_output: Tensor
    membrane_output: Tensor


@dataclass(frozen=True)
class Neurons:
    """Constants of both layers and of the rule.

    Args:
        dt: s.
        tau_mem: s.
        tau_syn: s.
        theta: firing threshold, in the units of the membrane.
        eps0: scale of the kernel eps, and of the output error.
        delta_uo: scale of the kernel eps, and of the output error.
        reset: "multiplicative_leak" (published reset_mode False) or "multiplicative" (True).
    """

    dt: float = 1e-3
    tau_mem: float = 10e-3
    tau_syn: float = 5e-3
    theta: float = 1.0
    eps0: float = 0.2
    delta_uo: float = 13e-3
    reset: str = "multiplicative_leak"

    def __post_init__(self) -> None:
        for name in ("dt", "tau_mem", "tau_syn", "theta", "eps0", "delta_uo"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UserError(f"{name}={getattr(self, name)} must be positive and finite")


@dataclass(frozen=True)
class SpikeMode:
    """How the hidden and the output layer draw spikes; parameters in the units of the membrane."""

    hidden: EscapeNoise = field(default_factory=Step)
    output: EscapeNoise = field(default_factory=Step)

    @property
    def stochastic(self) -> bool:
        return self.hidden.stochastic or self.output.stochastic


def spike_mode(
    stoch: bool,
    sigm: bool = True,
    *,
    beta_h: float = 10.0,
    beta_o: float = 100.0,
    p0: float = 2 / 3,
    delta_uh: float = 133e-3,
    delta_uo: float = 13e-3,
) -> SpikeMode:
    """Deterministic neurons, or escape noise: sigmoidal with slopes beta_h, beta_o (sigm) or exponential."""
    if not stoch:
        return SpikeMode()
    if sigm:
        return SpikeMode(Sigmoid(beta_h), Sigmoid(beta_o))
    return SpikeMode(Exponential(p0, delta_uh), Exponential(p0, delta_uo))


#: Hidden surrogates by the `sg_mode` of the published configs, given the slope beta_h.
SG_MODES: dict[str, Callable[[float], Surrogate]] = {
    "superspike": SuperSpike,
    "sigmoidspike": SigmoidPrime,
    "multilayerspiker": lambda beta: MultilayerSpiker(),
}


def build_surrogate(sg_mode: str, beta_h: float) -> Surrogate:
    """g_h of a method. Raises: UserError for an unknown sg_mode."""
    if sg_mode not in SG_MODES:
        raise UserError(f"sg_mode={sg_mode!r} is unknown; allowed: {', '.join(SG_MODES)}")
    return SG_MODES[sg_mode](beta_h)


def poisson_input(
    nb_steps: int, nb_pairs: int, nb_inputs: int, rate: float, dt: float, generator: torch.Generator
) -> Tensor:
    """Frozen Bernoulli spikes of probability rate dt, (T, P, N_in) float32 of 0/1.

    Args:
        nb_steps: T.
        nb_pairs: P.
        nb_inputs: N_in.
        rate: Hz.
        dt: time step, s.
        generator: draws them.

    Raises:
        UserError: for a rate below 0 or above one spike per step.
    """
    if not 0 <= rate * dt <= 1:
        raise UserError(f"fi={rate} Hz is not allowed: with dt={dt} s it must lie between 0 and {1 / dt:g} Hz")
    return (torch.rand(nb_steps, nb_pairs, nb_inputs, generator=generator) < rate * dt).float()


def initial_weights(
    sizes: tuple[int, int, int], neurons: Neurons, rate: float, target_sigma_u: float, generator: torch.Generator
) -> Weights:
    """W ~ N(0, sigma_u^2 / (n nu eps_hat)), eps_hat = tau_syn^2 / (2 (tau_syn + tau_mem)) (Rossbroich et al. 2022).

    Args:
        sizes: (N_in, N_hid, N_out).
        neurons: constants of the neurons.
        rate: nu of both presynaptic layers, Hz.
        target_sigma_u: deviation of the membrane.
        generator: draws them.
    """
    if not (rate > 0 and target_sigma_u >= 0):
        raise UserError(f"fi={rate} Hz and target_sigma_u={target_sigma_u} must be positive to scale the weights")
    eps_hat = neurons.tau_syn**2 / (2 * (neurons.tau_syn + neurons.tau_mem))
    return Weights(
        *(
            torch.randn(n, m, generator=generator) * target_sigma_u / math.sqrt(n * rate * eps_hat)
            for n, m in pairwise(sizes)
        )
    )


class Task:
    """Frozen input-target pairs, with everything that does not change while learning computed once.

    Args:
        x: input spikes (T, P, N_in), 0/1.
        target: (T, P, N_out), 0/1.
        neurons: constants.
        first_pair: global index of the first pair, which addresses its noise.
        kernel: "auto", or "reference".
    """

    def __init__(self, x: Tensor, target: Tensor, neurons: Neurons, first_pair: int = 0, kernel: str = "auto"):
        if x.shape[:2] != target.shape[:2]:
            raise UserError(
                f"input {tuple(x.shape)} and target {tuple(target.shape)} differ in steps or pairs (T, P, N)"
            )
        self.x, self.target = x, target.to(x.dtype)
        self.neurons, self.first_pair, self.kernel = neurons, first_pair, kernel
        self.nb_steps, self.nb_pairs = x.shape[:2]
        self._known_ids: dict[int, Tensor] = {}
        self._known_neurons: dict[tuple[EscapeNoise, Surrogate | None], LIF] = {}
        a, b = math.exp(-neurons.dt / neurons.tau_syn), math.exp(-neurons.dt / neurons.tau_mem)
        self.a, self.b = (torch.tensor(value, dtype=x.dtype, device=x.device) for value in (a, b))
        self._membrane = LeakyFilter(a, b, 1 - b, like=x)
        # the published kernel is sampled at linspace(0, T dt, T), whose steps are T dt / (T - 1) long
        step = neurons.dt * self.nb_steps / max(self.nb_steps - 1, 1)
        a, b = math.exp(-step / neurons.tau_syn), math.exp(-step / neurons.tau_mem)
        self.eps = LeakyFilter(a, b, neurons.eps0 * (b - a), like=x)

    def psp(self, spikes: Tensor) -> Tensor:
        """Unit-weight membrane without reset at step t, caused by the spikes before t: (T, ...) -> (T, ...)."""
        return torch.cat([torch.zeros_like(spikes[:1]), self._membrane(spikes)[:-1]])

    @cached_property
    def psp_input(self) -> Tensor:
        """PSPs of the frozen input, (T, P, N_in)."""
        return self.psp(self.x)

    def pairs(self, first: int, last: int) -> "Task":
        """The task of some of the pairs."""
        return Task(
            self.x[:, first:last], self.target[:, first:last], self.neurons, self.first_pair + first, self.kernel
        )

    def hidden_current(self, weights: Weights) -> Tensor:
        """W_h x for all steps, one product, the same for every trial: (T, P, N_hid)."""
        return self.x @ weights.hidden

    def forward(
        self,
        weights: Weights,
        mode: SpikeMode,
        key: NoiseKey,
        nb_trials: int = 1,
        hidden_current: Tensor | None = None,
        surrogate: Surrogate | None = None,
    ) -> Activity:
        """Run both layers; trials and pairs are one batch for the kernel.

        Args:
            weights: of both layers.
            mode: how spikes are drawn.
            key: seed and draw (the epoch) of the noise.
            nb_trials: K.
            hidden_current: of these weights, if known already.
            surrogate: of both layers, to differentiate through spikes and resets.
        """
        current = self.hidden_current(weights) if hidden_current is None else hidden_current
        shape = (self.nb_steps, nb_trials, self.nb_pairs)
        ids = self._ids(nb_trials)
        layers: list[Tensor] = []
        for layer, noise in enumerate((mode.hidden, mode.output)):
            neuron = self.neuron(noise, surrogate)
            if layer == 0:
                current = current[:, None].expand(-1, nb_trials, -1, -1).flatten(1, 2)
            else:
                current = layers[0] @ weights.output
            layers += self._scan(current, neuron, replace(key, layer=layer), ids)
        return Activity(*(x.unflatten(1, shape[1:]) for x in layers))

    def _ids(self, nb_trials: int) -> Tensor:
        """(K P,) global indices of trials and pairs, which address their noise."""
        if nb_trials not in self._known_ids:
            ids = torch.arange(nb_trials)[:, None] * 2**16 + self.first_pair + torch.arange(self.nb_pairs)
            self._known_ids[nb_trials] = ids.flatten().to(self.x.device)
        return self._known_ids[nb_trials]

    def _scan(self, current: Tensor, neuron: LIF, noise: NoiseKey, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Every call of a kernel, whose threshold is 1: current (T, B, N) -> spikes, membrane."""
        theta = self.neurons.theta
        if theta != 1:
            current = current / theta
        spikes, membrane, _ = dispatch.lif(
            current, self.a, self.b, neuron, noise=noise, ids=ids, kernel=self.kernel, return_membrane=True
        )
        membrane = known("the membrane", membrane)
        return spikes, membrane if theta == 1 else membrane * theta

    def neuron(self, noise: EscapeNoise, surrogate: Surrogate | None) -> LIF:
        """A neuron of threshold 1 for a membrane divided by theta; differentiated through resets with a surrogate."""
        neuron = self._known_neurons.get((noise, surrogate))
        if neuron is None:
            theta = self.neurons.theta
            scaled = {"beta": lambda v: v * theta, "delta_u": lambda v: v / theta}
            changes = {name: f(getattr(noise, name)) for name, f in scaled.items() if hasattr(noise, name)}
            rescaled_noise: Any = type(noise)(**{**vars(noise), **changes})
            neuron = LIF(escape_noise=rescaled_noise, reset=self.neurons.reset)
            if surrogate is not None:
                rescaled = surrogate if theta == 1 else _Rescaled(surrogate, theta)
                neuron = replace(neuron, surrogate=rescaled, diff_reset=True)
            self._known_neurons[noise, surrogate] = neuron
        return neuron

    def surrogate_hidden(self, activity: Activity, surrogate: Surrogate) -> Tensor:
        """g_h at u - theta, (T, K, P, N_hid)."""
        return surrogate(activity.membrane_hidden - self.neurons.theta, activity.spikes_hidden)

    def difference(self, spikes_output: Tensor) -> Tensor:
        """z - s_o, (T, K, P, N_out): the output error without its factor 1 / delta_uo."""
        return self.target[:, None] - spikes_output

    def distances(self, difference: Tensor) -> tuple[Tensor, Tensor]:
        """Van Rossum and L2 distance of z - s_o (T, K, P, N_out), mean over outputs: two of (K, P)."""
        return _half_square(self.eps(difference)), _half_square(difference)

    def van_rossum(self, spikes_output: Tensor) -> Tensor:
        """1/2 sum_t (eps * z - eps * s)^2, mean over outputs: (T, K, P, N_out) -> (K, P) (van Rossum 2001)."""
        return _half_square(self.eps(self.difference(spikes_output)))

    def l2(self, spikes_output: Tensor) -> Tensor:
        """1/2 sum_t (z - s)^2, mean over outputs: (T, K, P, N_out) -> (K, P)."""
        return _half_square(self.difference(spikes_output))


def _half_square(x: Tensor) -> Tensor:
    return x.square().sum((0, -1)) / (2 * x.shape[-1])


@dataclass(frozen=True)
class _Rescaled:
    """A surrogate of the membrane in its own units, for one divided by theta."""

    surrogate: Surrogate
    theta: float

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return self.theta * self.surrogate(self.theta * x, s)
