"""One stochastic neuron: derivative of its expected output against the surrogate gradient of its deterministic form.

A neuron that spikes with probability p(u - 1) has dE[S]/dw = p'(u - 1) du/dw. A deterministic neuron with the surrogate
p' has the very same SG: for one neuron without memory of its own spikes, the SG is exact for every escape noise p
(Gygax & Zenke 2025). A reset makes u depend on earlier spikes, whose probabilities depend on w too; the SG leaves that
out, or treats it as if those spikes were continuous. Expectations here are exact, by enumeration of inputs or of spike
histories.

An escape noise is any differentiable callable p: Tensor -> Tensor with values in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.enumeration import MAX_BITS, states
from surgrad.neurons.lif import LIF, LIFState, lif_step

EscapeProbability = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Gaussian:
    """p(x) = Phi(x / width): a threshold crossed by Gaussian voltage noise. Raises: UserError if width <= 0."""

    width: float = 0.2

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise UserError(f"Gaussian: width={self.width} must be positive")

    def __call__(self, x: Tensor) -> Tensor:
        return torch.special.ndtr(x / self.width)


def derivative(p: EscapeProbability, x: Tensor) -> Tensor:
    """p'(x), elementwise, by automatic differentiation: the surrogate that belongs to the escape noise p."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(p(x).sum(), x)[0]


def binary_inputs(rates: Tensor) -> tuple[Tensor, Tensor]:
    """All patterns of independent Bernoulli inputs and their probabilities, (2^n, n) and (2^n,).

    Raises:
        UserError: for rates outside [0, 1] or too many inputs.
    """
    if len(rates) > MAX_BITS:
        raise UserError(f"{len(rates)} inputs are too many to enumerate (at most {MAX_BITS})")
    if not ((rates >= 0) & (rates <= 1)).all():
        raise UserError("input probabilities must lie in [0, 1]")
    patterns = states(len(rates), rates.dtype)
    return patterns, torch.where(patterns > 0, rates, 1 - rates).prod(1)


def perceptron_exact(w: Tensor, patterns: Tensor, weights: Tensor, p: EscapeProbability) -> tuple[Tensor, Tensor]:
    """E[S] = sum_x P(x) p(w.x - 1) and dE[S]/dw, by enumeration.

    Args:
        w: (n,) weights.
        patterns: (X, n) inputs.
        weights: (X,) their probabilities.
        p: escape probability.

    Returns:
        (), (n,).
    """
    w = w.detach().requires_grad_()
    value = (weights * p(patterns @ w - 1)).sum()
    return value.detach(), torch.autograd.grad(value, w)[0]


def perceptron_surrogate_gradient(w: Tensor, patterns: Tensor, weights: Tensor, p: EscapeProbability) -> Tensor:
    """Mean SG of the deterministic perceptron S = H(w.x - 1) with surrogate p': sum_x P(x) p'(w.x - 1) x, (n,)."""
    return (weights * derivative(p, patterns @ w - 1)) @ patterns


class Estimate(NamedTuple):
    """A mean over samples and the half-width of its 95 % interval, of equal shape."""

    mean: Tensor
    half_width: Tensor


def interval(samples: Tensor) -> Estimate:
    """95 % normal interval of the mean of samples (N, ...)."""
    return Estimate(samples.mean(0), 1.96 * samples.std(0) / len(samples) ** 0.5)


def perceptron_draws(
    w: Tensor, rates: Tensor, p: EscapeProbability, nb_samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Drawn spikes (N,) of drawn inputs, and the score-function estimate of dE[S]/dw of each (N, n).

    Args:
        w: (n,) weights.
        rates: (n,), probability that each input is 1.
        p: escape probability.
        nb_samples: N.
        generator: draws inputs and spikes.
    """
    x = (torch.rand(nb_samples, len(w), generator=generator, dtype=w.dtype) < rates).to(w.dtype)
    u = x @ w - 1
    probability, slope = p(u), derivative(p, u)
    s = (torch.rand(nb_samples, generator=generator, dtype=w.dtype) < probability).to(w.dtype)
    # S d log P(S) / du is p' / p for a spike and 0 for none.
    score = torch.where(s > 0, slope / probability.clamp(min=1e-300), 0.0)
    return s, score[:, None] * x


@dataclass(frozen=True)
class DrivenLIF:
    """A LIF neuron with escape noise p, driven by given input spikes through a weight per input.

    Args:
        inputs: (T, n) input spikes.
        p: escape probability as a function of u - 1.
        neuron: its reset (and diff_reset); its own escape noise and surrogate are not used.
        reset: False for a neuron that spikes without ever being reset.
        dt: step and time constants, s.
        tau_mem: step and time constants, s.
        tau_syn: step and time constants, s.
    """

    inputs: Tensor
    p: EscapeProbability
    neuron: LIF = LIF()  # noqa: RUF009 (frozen)
    reset: bool = True
    dt: float = 1e-3
    tau_mem: float = 10e-3
    tau_syn: float = 5e-3

    def __post_init__(self) -> None:
        for name in ("dt", "tau_mem", "tau_syn"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} must be a positive time in s")

    def membrane(self, w: Tensor, emit: Callable[[int, Tensor], Tensor], nb: int) -> tuple[Tensor, Tensor]:
        """u[t] and s[t], (T, nb) each, for nb copies whose spikes are ``emit(t, u[t])``.

        Equations in `surgrad.neurons.lif`; ``emit`` decides what the spikes are, so that histories can be imposed.
        """
        a, b = (torch.exp(-torch.tensor(self.dt / tau, dtype=w.dtype)) for tau in (self.tau_syn, self.tau_mem))
        state = LIFState(w.new_zeros(nb), w.new_zeros(nb))
        potentials, spikes = [], []
        for t, drive in enumerate(self.inputs @ w):
            s = emit(t, state.u)
            potentials.append(state.u)
            spikes.append(s)
            state = lif_step(state, drive, s if self.reset else torch.zeros_like(s), a, b, self.neuron)
        return torch.stack(potentials), torch.stack(spikes)


class Renewal(NamedTuple):
    """What a neuron that forgets everything at a spike does: hazards (T, T+1) given the step of the last spike (column
    k + 1; column 0: none yet), and the joint probability (T, T+1) that this was the last spike before t."""

    hazard: Tensor
    last_spike: Tensor


def renewal(lif: DrivenLIF, w: Tensor) -> Renewal:
    """Exact hazards and last-spike probabilities by a recursion of T^2 terms, differentiable in w.

    Holds because the multiplicative reset sets u to 0 whatever it was, and the synaptic current never depends on
    the neuron's own spikes. Without reset every column has the same hazard.

    Raises:
        UserError: for any other reset.
    """
    if lif.reset and lif.neuron.reset != "multiplicative":
        raise UserError(
            f"reset={lif.neuron.reset!r} keeps a memory of earlier spikes; the renewal recursion needs 'multiplicative'"
            " (use monte_carlo)"
        )
    nb_steps = len(lif.inputs)
    imposed = torch.cat([w.new_zeros(nb_steps, 1), torch.eye(nb_steps, dtype=w.dtype)], 1)
    u, _ = lif.membrane(w, lambda t, _: imposed[t], nb_steps + 1)
    hazard = lif.p(u - 1)
    alive = torch.zeros(nb_steps + 1, dtype=w.dtype)
    alive[0] = 1.0  # P(last spike = column, no spike since)
    rows = []
    for t in range(nb_steps):
        rows.append(alive)
        fired = (alive * hazard[t]).sum()
        born = torch.zeros(nb_steps + 1, dtype=w.dtype)
        born[t + 1] = 1.0
        alive = alive * (1 - hazard[t]) + fired * born
    return Renewal(hazard, torch.stack(rows))


class Derivatives(NamedTuple):
    """d/dgain at each step (T,) of E[S[t]], and how it splits: exact = direct + history.

    direct: the hazard changes at given earlier spikes; the mean SG of the stochastic neuron with detached reset.
    history: the probabilities of those earlier spikes change.
    """

    expected: Tensor
    exact: Tensor
    direct: Tensor
    history: Tensor


def gain_derivatives(lif: DrivenLIF, w: Tensor) -> Derivatives:
    """Derivative of the spike probability at each step along w (all weights scaled together), exact, by renewal."""
    gain = torch.ones((), dtype=w.dtype)

    def parts(g: Tensor) -> tuple[Tensor, Tensor]:
        return renewal(lif, g * w)

    (hazard, last), (d_hazard, d_last) = torch.func.jvp(parts, (gain,), (torch.ones_like(gain),))[:2]
    direct, history = (last * d_hazard).sum(1), (d_last * hazard).sum(1)
    return Derivatives((hazard * last).sum(1), direct + history, direct, history)


def _soft(s: Tensor, probability: Tensor) -> Tensor:
    """Value of the spike, derivative of its probability."""
    return s + probability - probability.detach()


def deterministic_surrogate_gradient(lif: DrivenLIF, w: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes S[t] = H(u[t] - 1) of the deterministic neuron and their SG along w with surrogate p', (T,) each.

    ``lif.neuron.diff_reset`` says whether the surrogate is also passed through the reset.
    """

    def spikes(gain: Tensor) -> Tensor:
        return lif.membrane(gain * w, lambda t, u: _soft((u > 1).to(w.dtype), lif.p(u - 1)), 1)[1][:, 0]

    one = torch.ones((), dtype=w.dtype)
    return torch.func.jvp(spikes, (one,), (one,))[:2]


def monte_carlo(lif: DrivenLIF, w: Tensor, nb_samples: int, generator: torch.Generator) -> tuple[Estimate, Estimate]:
    """Spike probability at each step and mean SG along w, from drawn spikes, with 95 % intervals; (T,) each.

    ``lif.neuron.diff_reset`` says whether the surrogate is also passed through the reset.
    """
    noise = torch.rand(len(lif.inputs), nb_samples, generator=generator, dtype=w.dtype)

    def spikes(gain: Tensor) -> Tensor:
        def emit(t: int, u: Tensor) -> Tensor:
            probability = lif.p(u - 1)
            return _soft((noise[t] < probability).to(w.dtype), probability)

        return lif.membrane(gain * w, emit, nb_samples)[1]

    one = torch.ones((), dtype=w.dtype)
    drawn, tangent = torch.func.jvp(spikes, (one,), (one,))[:2]
    return interval(drawn.T), interval(tangent.T)


def poisson_inputs(nb_steps: int, nb_inputs: int, rate: float, dt: float, generator: torch.Generator) -> Tensor:
    """Input spikes (T, n), one with probability rate dt per step. Raises: UserError unless 0 < rate dt <= 1."""
    if not 0 < rate * dt <= 1:
        raise UserError(f"rate={rate} Hz at dt={dt} s gives a spike probability of {rate * dt}; it must lie in (0, 1]")
    drawn = torch.rand(nb_steps, nb_inputs, generator=generator, dtype=torch.float64) < rate * dt
    return drawn.to(torch.float64)
