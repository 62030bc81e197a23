"""Estimators of dE[f]/dtheta for a stack of Bernoulli layers, and the exact gradient they are measured against.

Layer l spikes with probability p_l = sigma(beta z_l), z_l = W_l s_{l-1} + b_l, independently per unit given s_{l-1}; f
maps the spikes of the last layer to a number. An estimator is a function (stack, x, f, nb_samples, generator) ->
(nb_samples, P): one estimate of the gradient per draw of the network, in the order W_1 row by row, b_1, W_2, b_2, ...
Average them for an estimate of lower variance. Exact values by enumeration are in `enumeration.py`.

Two families. Backpropagation-like estimators chain a factor per unit that stands for ds/dz, and so replace the
consequence of a flipped spike by its linearisation: surrogate gradient, smoothed stochastic derivatives,
straight-through. They are biased as soon as there are two layers. The others look at f alone and are unbiased:
stochastic automatic differentiation, which replays the consequence of a flip with the same random numbers, and the
score function. Finite differences are unbiased but for their step.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.sigmoid import require_slope

Objective = Callable[[Tensor], Tensor]
Factor = Callable[[Tensor, Tensor, float], Tensor]
Baseline = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BernoulliStack:
    """Layers of Bernoulli units (stochastic perceptrons).

    Args:
        weights: one (n_l, n_{l-1}) matrix per layer.
        biases: one (n_l,) vector per layer, minus the threshold; zeros if there are none.
        beta: slope of the escape probability.

    Raises:
        UserError: for a non-positive slope, no layers, or shapes that do not chain.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...] = ()
    beta: float = 1.0

    def __post_init__(self) -> None:
        require_slope("beta", self.beta)
        if not self.weights:
            raise UserError("a Bernoulli stack needs at least one layer of weights")
        if not self.biases:
            object.__setattr__(self, "biases", tuple(w.new_zeros(w.shape[0]) for w in self.weights))
        shapes = [tuple(w.shape) for w in self.weights]
        chained = all(after[1] == before[0] for before, after in itertools.pairwise(shapes))
        if not chained or [tuple(b.shape) for b in self.biases] != [(n,) for n, _ in shapes]:
            raise UserError(
                f"layers of shapes {shapes} with biases {[tuple(b.shape) for b in self.biases]} do not form a stack"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.weights[0].shape[1], *(w.shape[0] for w in self.weights))

    @property
    def nb_units(self) -> int:
        return sum(self.sizes[1:])

    @property
    def nb_parameters(self) -> int:
        return sum(w.numel() + b.numel() for w, b in zip(self.weights, self.biases, strict=True))

    def parameters(self) -> Tensor:
        """(P,) W_1 row by row, b_1, W_2, b_2, ..."""
        return torch.cat([p.reshape(-1) for pair in zip(self.weights, self.biases, strict=True) for p in pair])

    def with_parameters(self, flat: Tensor) -> "BernoulliStack":
        """The same stack with other parameters (P,), differentiable in them. Raises: UserError for a wrong number."""
        if flat.shape != (self.nb_parameters,):
            raise UserError(
                f"a stack of sizes {list(self.sizes)} has {self.nb_parameters} parameters, not {flat.numel()}"
            )
        shapes = [p.shape for pair in zip(self.weights, self.biases, strict=True) for p in pair]
        parts = [p.view(s) for p, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]
        return BernoulliStack(tuple(parts[::2]), tuple(parts[1::2]), self.beta)


def chain(v: float, *, u: float = 1.0, theta: float = 1.0, beta: float = 10.0) -> tuple[BernoulliStack, Tensor]:
    """Two neurons in a row, h ~ Bern(sigma(u - theta)), y ~ Bern(sigma(v h - theta)), and their input (u,).

    dE[y]/du is the gradient with respect to the first bias, parameter 1.
    """
    one = torch.ones(1, dtype=torch.float64)
    return BernoulliStack((one[:, None], v * one[:, None]), (-theta * one, -theta * one), beta), u * one


def random_stack(sizes: tuple[int, ...], *, beta: float, gain: float, generator: torch.Generator) -> BernoulliStack:
    """W ~ N(0, gain^2 / fan_in), and biases that centre each unit's mean potential near its threshold."""
    weights, biases = [], []
    for fan_in, fan_out in itertools.pairwise(sizes):
        w = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64) * gain / fan_in**0.5
        weights.append(w)
        biases.append(-w.sum(1) / 2)
    return BernoulliStack(tuple(weights), tuple(biases), beta)


class Draw(NamedTuple):
    """One run of the stack per sample; each list has one (N, n_l) entry per layer."""

    inputs: list[Tensor]
    potentials: list[Tensor]
    spikes: list[Tensor]


def uniforms(stack: BernoulliStack, nb_samples: int, generator: torch.Generator) -> Tensor:
    """The random numbers of nb_samples runs, (N, nb_units) in [0, 1)."""
    return torch.rand(nb_samples, stack.nb_units, generator=generator, dtype=stack.weights[0].dtype)


def run(stack: BernoulliStack, x: Tensor, noise: Tensor, flip: Tensor | None = None) -> Draw:
    """Spikes s = [r < p] for given random numbers r: a common random number couples runs of different stacks.

    Args:
        stack: the network.
        x: (n_0,).
        noise: (N, nb_units) in [0, 1).
        flip: (N, nb_units) 0/1, inverts the spikes it marks, seen by all later layers.

    Returns:
        inputs, potentials and spikes of every layer.

    Raises:
        UserError: if x does not fit the stack.
    """
    if x.shape != (stack.sizes[0],):
        raise UserError(f"a stack of sizes {list(stack.sizes)} takes {stack.sizes[0]} inputs, not {tuple(x.shape)}")
    s = x.expand(len(noise), -1)
    draw = Draw([], [], [])
    flips = None if flip is None else flip.split(stack.sizes[1:], 1)
    for layer, r in enumerate(noise.split(stack.sizes[1:], 1)):
        z = s @ stack.weights[layer].T + stack.biases[layer]
        draw.inputs.append(s)
        draw.potentials.append(z)
        s = (r < torch.sigmoid(stack.beta * z)).to(x.dtype)
        if flips is not None:
            s = (s - flips[layer]).abs()
        draw.spikes.append(s)
    return draw


def _per_parameter(inputs: list[Tensor], deltas: list[Tensor]) -> Tensor:
    """df/dz_l per sample, (N, n_l) per layer, to the gradient (N, P): delta_l s_{l-1}^T and delta_l."""
    parts: list[Tensor] = []
    for s, delta in zip(inputs, deltas, strict=True):
        parts += [(delta.unsqueeze(-1) * s.unsqueeze(-2)).flatten(1), delta]
    return torch.cat(parts, 1)


def objective_derivative(f: Objective, s: Tensor) -> Tensor:
    """df/ds at spikes s (N, n) by automatic differentiation of f: (N, n) -> (N,)."""
    s = s.detach().requires_grad_()
    return torch.autograd.grad(f(s).sum(), s)[0]


def sigmoid_factor(z: Tensor, s: Tensor, beta: float) -> Tensor:
    """beta p (1 - p): the derivative of the escape probability."""
    return beta * torch.sigmoid(beta * z) * torch.sigmoid(-beta * z)


def right_factor(z: Tensor, s: Tensor, beta: float) -> Tensor:
    """dp/dz / (1 - p) where s = 0, else 0: weight of a flip 0 -> 1 (right stochastic derivative, Arya et al. 2022)."""
    return beta * torch.sigmoid(beta * z) * (1 - s)


def left_factor(z: Tensor, s: Tensor, beta: float) -> Tensor:
    """dp/dz / p where s = 1, else 0: weight of the flip 1 -> 0 (left stochastic derivative, Arya et al. 2022)."""
    return beta * torch.sigmoid(-beta * z) * s


def identity_factor(z: Tensor, s: Tensor, beta: float) -> Tensor:
    """1: the spike is treated as the potential itself (straight-through, Bengio et al. 2013)."""
    return torch.ones_like(z)


def backpropagate(stack: BernoulliStack, draw: Draw, f: Objective, factor: Factor) -> Tensor:
    """Chain rule on given draws with ``factor(z, s, beta)`` in place of ds/dz; (N, P)."""
    signal = objective_derivative(f, draw.spikes[-1])
    deltas: list[Tensor] = []
    for layer in reversed(range(len(stack.weights))):
        deltas.append(signal * factor(draw.potentials[layer], draw.spikes[layer], stack.beta))
        signal = deltas[-1] @ stack.weights[layer]
    return _per_parameter(draw.inputs, deltas[::-1])


class Estimator(Protocol):
    """One gradient estimate (P,) per sample of the network, stacked to (nb_samples, P)."""

    def __call__(
        self, stack: BernoulliStack, x: Tensor, f: Objective, nb_samples: int, generator: torch.Generator
    ) -> Tensor: ...


def chained(
    stack: BernoulliStack, x: Tensor, f: Objective, nb_samples: int, generator: torch.Generator, *, factor: Factor
) -> Tensor:
    """Backpropagation through stochastic spikes with a factor per unit; biased beyond one layer.

    ``sigmoid_factor`` is the surrogate gradient (Gygax & Zenke 2025), ``right_factor`` and ``left_factor`` are the
    smoothed stochastic derivatives, whose mean (1 - p) right + p left is the surrogate gradient again,
    ``identity_factor`` is straight-through. (The other straight-through, which differentiates p but not the draw, has
    the factor dp/dz: it is the surrogate gradient.) f must be differentiable; how it is continued between 0 and 1
    matters.
    """
    return backpropagate(stack, run(stack, x, uniforms(stack, nb_samples, generator)), f, factor)


surrogate_gradient: Estimator = partial(chained, factor=sigmoid_factor)
smoothed_right: Estimator = partial(chained, factor=right_factor)
smoothed_left: Estimator = partial(chained, factor=left_factor)
straight_through: Estimator = partial(chained, factor=identity_factor)


def deterministic_surrogate_gradient(
    stack: BernoulliStack, x: Tensor, f: Objective, nb_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """The SG of the deterministic network, s = [z > 0], with sigma' backward; every sample is the same."""
    half = torch.full((1, stack.nb_units), 0.5, dtype=x.dtype)
    return backpropagate(stack, run(stack, x, half), f, sigmoid_factor).expand(nb_samples, -1)


def stochastic_ad(
    stack: BernoulliStack,
    x: Tensor,
    f: Objective,
    nb_samples: int,
    generator: torch.Generator,
    *,
    factor: Factor = right_factor,
    pruned: bool = False,
) -> Tensor:
    """Stochastic automatic differentiation with coupled samples (Arya et al. 2022); unbiased for any f and depth.

    An infinitesimal change of z flips one unit with a probability weighted by ``factor``; the rest of the network is
    replayed from the flip with the same random numbers, and f(s_i = 1) - f(s_i = 0) is what the flip is worth:

        dE[f]/dz_i = E[factor(z_i, s_i) (f(s_i = 1) - f(s_i = 0))].

    Args:
        factor: ``right_factor`` (flips 0 -> 1 only), ``left_factor`` (1 -> 0) or ``sigmoid_factor`` (both: the lowest
            variance).
        pruned: replay one unit per sample, drawn with a probability proportional to its weight, and divide by that
            probability: 2 runs of the network per sample instead of 1 + nb_units, unbiased still.

    Returns:
        (nb_samples, P).
    """
    noise = uniforms(stack, nb_samples, generator)
    draw = run(stack, x, noise)
    spikes = torch.cat(draw.spikes, 1)
    weight = torch.cat([factor(z, s, stack.beta) for z, s in zip(draw.potentials, draw.spikes, strict=True)], 1)
    # f(s_i = 1) - f(s_i = 0) = (f(flipped) - f(s)) (1 - 2 s_i)
    weight = weight * (1 - 2 * spikes)
    value = f(draw.spikes[-1])
    delta = torch.zeros_like(weight)
    if pruned:
        # One flip moves all parameters of its unit: draw it in proportion to the length of that step.
        reach = [
            (1 + (s**2).sum(1, keepdim=True)).sqrt().expand(-1, z.shape[1]) for s, z in zip(*draw[:2], strict=True)
        ]
        odds = weight.abs() * torch.cat(reach, 1)
        total = odds.sum(1, keepdim=True)
        safe = torch.where(total > 0, odds, 1.0)
        unit = torch.multinomial(safe, 1, generator=generator)
        flip = torch.zeros_like(weight).scatter_(1, unit, 1.0)
        change = f(run(stack, x, noise, flip).spikes[-1]) - value
        share = safe.gather(1, unit) / safe.sum(1, keepdim=True)
        delta.scatter_(1, unit, weight.gather(1, unit) * change.unsqueeze(1) / share)
    else:
        for k in range(stack.nb_units):
            flip = torch.zeros_like(weight)
            flip[:, k] = 1.0
            delta[:, k] = weight[:, k] * (f(run(stack, x, noise, flip).spikes[-1]) - value)
    return _per_parameter(draw.inputs, list(delta.split(stack.sizes[1:], 1)))


def no_baseline(values: Tensor) -> Tensor:
    """0."""
    return torch.zeros_like(values)


def leave_one_out(values: Tensor) -> Tensor:
    """Mean of all other samples' values (N,); independent of the sample itself, hence unbiased. Zero for one sample."""
    return (values.sum() - values) / max(len(values) - 1, 1)


def running_mean(values: Tensor) -> Tensor:
    """Mean of all earlier samples' values (N,), zero for the first; unbiased."""
    before = values.cumsum(0) - values
    return before / torch.arange(len(values), dtype=values.dtype).clamp(min=1)


def score_function(
    stack: BernoulliStack,
    x: Tensor,
    f: Objective,
    nb_samples: int,
    generator: torch.Generator,
    *,
    baseline: Baseline = no_baseline,
) -> Tensor:
    """(f - baseline) d log p(s) / dtheta, the score-function estimator (Williams 1992); unbiased.

    For a Bernoulli unit d log p / dz = beta (s - p). ``baseline`` maps the values (N,) to a baseline per sample.
    """
    draw = run(stack, x, uniforms(stack, nb_samples, generator))
    values = f(draw.spikes[-1])
    advantage = (values - baseline(values)).unsqueeze(1)
    deltas = [
        advantage * stack.beta * (s - torch.sigmoid(stack.beta * z))
        for z, s in zip(draw.potentials, draw.spikes, strict=True)
    ]
    return _per_parameter(draw.inputs, deltas)


def finite_difference(
    stack: BernoulliStack,
    x: Tensor,
    f: Objective,
    nb_samples: int,
    generator: torch.Generator,
    *,
    step: float = 0.05,
) -> Tensor:
    """(f(theta + step) - f(theta - step)) / (2 step) per parameter with common random numbers.

    Bias of order step^2, variance of order 1 / step: a flip is rare but worth 1 / (2 step). Raises: UserError if step
    <= 0.
    """
    if not step > 0:
        raise UserError(f"step={step} of a finite difference must be positive")
    noise, theta = uniforms(stack, nb_samples, generator), stack.parameters()

    def value(k: int, change: float) -> Tensor:
        moved = theta.clone()
        moved[k] += change
        return f(run(stack.with_parameters(moved), x, noise).spikes[-1])

    return torch.stack([(value(k, step) - value(k, -step)) / (2 * step) for k in range(len(theta))], 1)


@dataclass(frozen=True)
class Method:
    """An estimator with what a comparison says of it: its label, whether it is unbiased, network runs per sample."""

    label: str
    estimate: Estimator
    unbiased: bool
    runs: Callable[[BernoulliStack], int]


def _constant(nb: int) -> Callable[[BernoulliStack], int]:
    return lambda stack: nb


# Runs of the network per sample; a backward pass counts as one run.
ESTIMATORS: dict[str, Method] = {
    "sg": Method("surrogate gradient", surrogate_gradient, False, _constant(2)),
    "smoothed_right": Method("smoothed derivative, right", smoothed_right, False, _constant(2)),
    "smoothed_left": Method("smoothed derivative, left", smoothed_left, False, _constant(2)),
    "straight_through": Method("straight-through", straight_through, False, _constant(2)),
    "deterministic_sg": Method("SG, deterministic spikes", deterministic_surrogate_gradient, False, _constant(2)),
    "stochastic_ad": Method("stochastic AD", stochastic_ad, True, lambda stack: 1 + stack.nb_units),
    "stochastic_ad_pruned": Method("stochastic AD, pruned", partial(stochastic_ad, pruned=True), True, _constant(2)),
    "stochastic_ad_both": Method(
        "stochastic AD, two-sided",
        partial(stochastic_ad, factor=sigmoid_factor),
        True,
        lambda stack: 1 + stack.nb_units,
    ),
    "score": Method("score function", score_function, True, _constant(2)),
    "score_running": Method(
        "score function, running mean", partial(score_function, baseline=running_mean), True, _constant(2)
    ),
    "score_loo": Method(
        "score function, leave-one-out", partial(score_function, baseline=leave_one_out), True, _constant(2)
    ),
    "finite_difference": Method("finite difference", finite_difference, False, lambda stack: 2 * stack.nb_parameters),
}
