"""Exact expectations over all spike patterns of a small Bernoulli stack.

The layers form a Markov chain, so only pairs of neighbouring layers are enumerated, 2^(n_l + n_{l-1}) at a time: depth
costs nothing.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network.estimators import BernoulliStack, Factor, Objective, objective_derivative

MAX_BITS = 20


def states(nb_units: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """All spike patterns of nb_units units, (2^nb_units, nb_units) of 0/1."""
    return ((torch.arange(2**nb_units)[:, None] >> torch.arange(nb_units)) & 1).to(dtype)


def require_enumerable(stack: BernoulliStack) -> None:
    """Raises: UserError if two neighbouring layers together have more than MAX_BITS units."""
    hidden = (0, *stack.sizes[1:])
    widest = max(a + b for a, b in itertools.pairwise(hidden))
    if widest > MAX_BITS:
        raise UserError(
            f"two neighbouring layers of sizes {list(stack.sizes)} have {widest} units together, enumeration takes"
            f" at most {MAX_BITS}; average an unbiased estimator instead (stochastic_ad, score_function of"
            " surgrad.experiments.sigmoid_network.estimators)"
        )


def _log_transition(stack: BernoulliStack, layer: int, before: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials (S', n) of a layer for inputs (S', n_{l-1}), and log P(s | before), (S', 2^n)."""
    z = before @ stack.weights[layer].T + stack.biases[layer]
    on, off = (torch.nn.functional.logsigmoid(sign * stack.beta * z) for sign in (1, -1))
    s = states(stack.sizes[layer + 1], z.dtype)
    return z, on @ s.T + off @ (1 - s).T


def expected_value(stack: BernoulliStack, x: Tensor, f: Objective) -> Tensor:
    """E[f] (), differentiable in the stack's parameters. Raises: UserError if the stack is too large."""
    require_enumerable(stack)
    before, distribution = x[None], x.new_ones(1)
    for layer, size in enumerate(stack.sizes[1:]):
        distribution = distribution @ _log_transition(stack, layer, before)[1].exp()
        before = states(size, x.dtype)
    return distribution @ f(before)


def exact_gradient(stack: BernoulliStack, x: Tensor, f: Objective) -> Tensor:
    """dE[f]/dtheta (P,) by automatic differentiation of the enumerated expectation."""
    theta = stack.parameters().detach().requires_grad_()
    return torch.autograd.grad(expected_value(stack.with_parameters(theta), x, f), theta)[0]


def expected_backpropagation(stack: BernoulliStack, x: Tensor, f: Objective, factor: Factor) -> Tensor:
    """Exact E of `estimators.chained` with this factor, (P,): its bias without Monte Carlo.

    With B_l(s_l) = E[df/ds_l | s_l], which obeys B_{l-1}(s_{l-1}) = E[factor(z_l, s_l) B_l(s_l) | s_{l-1}] W_l.
    """
    require_enumerable(stack)
    befores = [x[None], *(states(n, x.dtype) for n in stack.sizes[1:-1])]
    distributions, potentials, transitions = [x.new_ones(1)], [], []
    for layer, before in enumerate(befores):
        z, log_p = _log_transition(stack, layer, before)
        potentials.append(z)
        transitions.append(log_p.exp())
        distributions.append(distributions[-1] @ transitions[-1])
    message = objective_derivative(f, states(stack.sizes[-1], x.dtype))
    parts: list[Tensor] = []
    for layer in reversed(range(len(befores))):
        s = states(stack.sizes[layer + 1], x.dtype)
        slope = factor(potentials[layer][:, None], s[None].expand(len(befores[layer]), -1, -1), stack.beta)
        delta = torch.einsum("ab,abn,bn->an", transitions[layer], slope, message)  # E[. | s_{l-1}]
        weighted = distributions[layer][:, None] * delta
        parts += [weighted.sum(0), (weighted.T @ befores[layer]).reshape(-1)]
        message = delta @ stack.weights[layer]
    return torch.cat(parts[::-1])


def expected_finite_difference(stack: BernoulliStack, x: Tensor, f: Objective, step: float = 0.05) -> Tensor:
    """Exact E of `estimators.finite_difference`, (P,): central differences of the enumerated expectation."""
    theta, columns = stack.parameters(), []
    for k in range(len(theta)):
        change = torch.zeros_like(theta)
        change[k] = step
        up, down = (expected_value(stack.with_parameters(theta + sign * change), x, f) for sign in (1, -1))
        columns.append((up - down) / (2 * step))
    return torch.stack(columns)


@dataclass(frozen=True)
class Quality:
    """How estimates compare with the exact gradient g, everything relative to |g|.

    Attributes:
        bias: |mean - g| / |g|.
        bias_error: standard error of the mean, |sem| / |g|: a bias below it is not resolved.
        std: root of the total variance of a single sample / |g|.
    """

    bias: float
    bias_error: float
    std: float


def quality(estimates: Tensor, exact: Tensor) -> Quality:
    """Bias and spread of estimates (N, P) against the exact gradient (P,)."""
    norm, n = exact.norm(), len(estimates)
    variance = estimates.var(0, unbiased=True).sum() if n > 1 else exact.new_zeros(())
    return Quality(
        bias=float((estimates.mean(0) - exact).norm() / norm),
        bias_error=float((variance / n).sqrt() / norm),
        std=float(variance.sqrt() / norm),
    )


def cosine(estimates: Tensor, exact: Tensor, nb_samples: int) -> Tensor:
    """Cosine to g (P,) of means over nb_samples estimates, (N // nb_samples,); 0 where a mean vanishes."""
    groups = len(estimates) // nb_samples
    if groups < 1:
        raise UserError(f"{len(estimates)} estimates cannot be averaged {nb_samples} at a time")
    means = estimates[: groups * nb_samples].reshape(groups, nb_samples, -1).mean(1)
    return torch.nn.functional.cosine_similarity(means, exact[None], dim=1, eps=1e-300)
