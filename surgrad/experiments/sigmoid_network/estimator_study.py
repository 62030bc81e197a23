"""Bias, variance and direction of gradient estimators over families of random networks, against the exact gradient."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.experiments.sigmoid_network import estimators as es
from surgrad.experiments.sigmoid_network.enumeration import (
    cosine,
    exact_gradient,
    expected_backpropagation,
    expected_finite_difference,
    quality,
)
from surgrad.experiments.sigmoid_network.quadrature import Array
from surgrad.training.resume import Keep, compute_now

ExactMean = Callable[[es.BernoulliStack, Tensor, es.Objective], Tensor]


def _mean_of_factor(factor: es.Factor) -> ExactMean:
    return lambda stack, x, f: expected_backpropagation(stack, x, f, factor)


# Means of the biased estimators that enumeration gives without Monte Carlo error.
EXACT_MEANS: Mapping[str, ExactMean] = {
    "sg": _mean_of_factor(es.sigmoid_factor),
    "smoothed_right": _mean_of_factor(es.right_factor),
    "smoothed_left": _mean_of_factor(es.left_factor),
    "straight_through": _mean_of_factor(es.identity_factor),
    "deterministic_sg": lambda stack, x, f: es.deterministic_surrogate_gradient(stack, x, f, 1)[0],
    "finite_difference": expected_finite_difference,
}


@dataclass(frozen=True)
class Problem:
    """A network, its input and what its last layer is worth: E[f] is what is differentiated."""

    stack: es.BernoulliStack
    x: Tensor
    f: es.Objective


def random_problem(sizes: Sequence[int], *, beta: float, gain: float, seed: int) -> Problem:
    """A random stack with a random input in {0, 1} (never all 0) and a linear readout with N(0, 1) weights.

    The same seed and sizes give the same network at every beta.
    """
    generator = torch.Generator().manual_seed(seed)
    stack = es.random_stack(tuple(sizes), beta=beta, gain=gain, generator=generator)
    x = (torch.rand(sizes[0], generator=generator, dtype=torch.float64) < 0.5).to(torch.float64)
    x[torch.randint(sizes[0], (1,), generator=generator)] = 1.0
    readout = torch.randn(sizes[-1], generator=generator, dtype=torch.float64)
    return Problem(stack, x, lambda s: s @ readout)


def require_methods(names: Sequence[str]) -> None:
    """Raises: UserError for a name that is not an estimator."""
    for name in names:
        if name not in es.ESTIMATORS:
            raise UserError(f"method {name!r} is unknown; allowed: {', '.join(es.ESTIMATORS)}")


@dataclass(frozen=True)
class Study:
    """Results over V values of one variable, M methods and R networks, each relative to the exact gradient.

    Attributes:
        variable, values: what was varied, and (V,) its values.
        methods: M names in `surgrad.experiments.sigmoid_network.estimators.ESTIMATORS`.
        bias: (V, M, R) |E[estimate] - g| / |g|: by enumeration where EXACT_MEANS has it, else measured.
        bias_error: (V, M, R) its Monte Carlo error, 0 where enumerated.
        std: (V, M, R) root of the total variance of one sample / |g|.
        cosine: (V, M, R) mean cosine of averages over ``nb_averaged`` samples to g.
        runs: (V, M) network runs per sample; a backward pass counts as one.
    """

    variable: str
    values: Array
    methods: tuple[str, ...]
    bias: Array
    bias_error: Array
    std: Array
    cosine: Array
    runs: Array
    nb_averaged: int


def study(
    variable: str,
    problems: Mapping[float, Sequence[Problem]],
    methods: Sequence[str],
    *,
    nb_samples: int,
    nb_averaged: int,
    seed: int = 0,
    progress: Callable[[Sequence[float]], Iterable[float]] = list,
    keep: Keep = compute_now,
) -> Study:
    """Measure every method on every problem; ``problems`` maps a value of the variable to its R networks.

    Raises:
        UserError: for an unknown method, a network too large to enumerate, or fewer samples than are averaged.
    """
    require_methods(methods)
    generator = torch.Generator().manual_seed(seed)
    found, runs = [], []
    for value in progress(list(problems)):
        of_value = []
        for r, problem in enumerate(problems[value]):
            measure = partial(_measure, problem, methods, nb_samples, nb_averaged, generator)
            of_value.append(keep(f"{variable}={value:g}, network {r}", measure, generator))
        found.append(np.stack(of_value, -1))
        runs.append([es.ESTIMATORS[name].runs(problems[value][-1].stack) for name in methods])
    bias, bias_error, std, angle = np.stack(found, 1)
    return Study(
        variable=variable,
        values=np.array(list(problems), float),
        methods=tuple(methods),
        bias=bias,
        bias_error=bias_error,
        std=std,
        cosine=angle,
        runs=np.array(runs, float),
        nb_averaged=nb_averaged,
    )


def _measure(
    problem: Problem, methods: Sequence[str], nb_samples: int, nb_averaged: int, generator: torch.Generator
) -> Array:
    """Bias, its error, deviation and cosine of every method on one problem, (4, M)."""
    exact = exact_gradient(problem.stack, problem.x, problem.f)
    columns = []
    for name in methods:
        drawn = es.ESTIMATORS[name].estimate(problem.stack, problem.x, problem.f, nb_samples, generator)
        found = quality(drawn, exact)
        bias, bias_error = found.bias, found.bias_error
        if name in EXACT_MEANS:
            mean = EXACT_MEANS[name](problem.stack, problem.x, problem.f)
            bias, bias_error = float((mean - exact).norm() / exact.norm()), 0.0
        columns.append([bias, bias_error, found.std, float(cosine(drawn, exact, nb_averaged).mean())])
    return np.array(columns).T


@dataclass(frozen=True)
class SampleCurve:
    """Mean cosine to the exact gradient as more samples are averaged.

    Attributes: nb_samples (S,); methods, M names; cosine (S, M, R); runs (M,) network runs per sample.
    """

    nb_samples: Array
    methods: tuple[str, ...]
    cosine: Array
    runs: Array


def sample_curve(
    problems: Sequence[Problem],
    methods: Sequence[str],
    nb_samples: Sequence[int],
    *,
    repeats: int,
    seed: int = 0,
    keep: Keep = compute_now,
) -> SampleCurve:
    """Cosine of averages over each of nb_samples (increasing), over ``repeats`` averages of the largest.

    Raises:
        UserError: for an unknown method or sample counts that do not increase from at least 1.
    """
    require_methods(methods)
    counts = list(nb_samples)
    if not counts or counts[0] < 1 or sorted(set(counts)) != counts:
        raise UserError(f"sample counts {counts} must increase and start at 1 or more")
    generator = torch.Generator().manual_seed(seed)

    def cosines(problem: Problem) -> Array:
        exact = exact_gradient(problem.stack, problem.x, problem.f)
        result = np.zeros((len(counts), len(methods)))
        for m, name in enumerate(methods):
            drawn = es.ESTIMATORS[name].estimate(problem.stack, problem.x, problem.f, counts[-1] * repeats, generator)
            result[:, m] = [cosine(drawn, exact, count).mean() for count in counts]
        return result

    result = np.stack(
        [keep(f"network {r}", partial(cosines, problem), generator) for r, problem in enumerate(problems)], -1
    )
    runs = np.array([es.ESTIMATORS[name].runs(problems[0].stack) for name in methods], float)
    return SampleCurve(np.array(counts), tuple(methods), result, runs)


@dataclass(frozen=True)
class ChainCurve:
    """dE[y]/du of the two-neuron chain over V weights v: exact, mean SG, and stochastic AD with 95 % half-widths."""

    v: Array
    exact: Array
    sg: Array
    v_sampled: Array
    sampled: Array
    half_width: Array


def chain_curve(v: Array, v_sampled: Array, *, beta: float, theta: float, nb_samples: int, seed: int = 0) -> ChainCurve:
    """The two-neuron chain at its threshold (u = theta) over v; stochastic AD is drawn at ``v_sampled``."""

    def total(s: Tensor) -> Tensor:
        return s.sum(-1)

    exact, sg = [], []
    for value in v:
        stack, x = es.chain(float(value), u=theta, theta=theta, beta=beta)
        exact.append(exact_gradient(stack, x, total)[1].item())
        sg.append(expected_backpropagation(stack, x, total, es.sigmoid_factor)[1].item())
    means, widths = [], []
    generator = torch.Generator().manual_seed(seed)
    for value in v_sampled:
        stack, x = es.chain(float(value), u=theta, theta=theta, beta=beta)
        drawn = es.stochastic_ad(stack, x, total, nb_samples, generator)[:, 1]
        means.append(drawn.mean().item())
        widths.append(1.96 * drawn.std().item() / nb_samples**0.5)
    return ChainCurve(*(np.asarray(a, float) for a in (v, exact, sg, v_sampled, means, widths)))


def coverage(
    problem: Problem,
    methods: Sequence[str],
    *,
    repetitions: int = 200,
    nb_samples: int = 500,
    seed: int = 0,
    keep: Keep = compute_now,
) -> dict[str, float]:
    """Share of repetitions whose 95 % interval, along the exact gradient, covers it; near 0.95 for unbiased ones."""
    require_methods(methods)
    exact = exact_gradient(problem.stack, problem.x, problem.f)
    direction, generator = exact / exact.norm(), torch.Generator().manual_seed(seed)

    def share(name: str) -> float:
        covered = 0
        for _ in range(repetitions):
            drawn = es.ESTIMATORS[name].estimate(problem.stack, problem.x, problem.f, nb_samples, generator) @ direction
            covered += bool(abs(drawn.mean() - exact @ direction) <= 1.96 * drawn.std() / nb_samples**0.5)
        return covered / repetitions

    return {name: keep(name, partial(share, name), generator) for name in methods}
