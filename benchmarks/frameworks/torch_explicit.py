"""Spike-train matching in plain PyTorch as the rule is written: one eligibility trace per synapse, step by step."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.problems import Matching

MODEL = "one eligibility trace per synapse"
TAU_MEM, TAU_SYN, EPS0, DELTA = 10e-3, 5e-3, 0.2, 13e-3
A, B = math.exp(-1e-3 / TAU_SYN), math.exp(-1e-3 / TAU_MEM)


def version() -> str:
    return torch.__version__


def _spikes(current: Tensor, beta: float | None) -> tuple[Tensor, Tensor]:
    """Spikes and membranes (T, K, N); escape noise of slope beta, or none."""
    i = u = torch.zeros_like(current[0])
    spikes, membranes = [], []
    for drive in current.unbind(0):
        noise = torch.logit(torch.rand_like(u)) / beta if beta else 0.0
        s = (u - 1 + noise > 0).float()
        spikes.append(s)
        membranes.append(u)
        u = B * u * (1 - s) + (1 - B) * i
        i = A * i + drive
    return torch.stack(spikes), torch.stack(membranes)


def _filter(x: Tensor, gain: float) -> Tensor:
    i = u = torch.zeros_like(x[0])
    out = []
    for drive in x.unbind(0):
        out.append(u)
        u = B * u + gain * i
        i = A * i + drive
    return torch.stack(out)


@torch.no_grad()
def _epoch(x: Tensor, target: Tensor, weights: list[Tensor], trials: int, slopes: tuple, other: tuple) -> None:
    hidden_weight, output_weight = weights
    psp = _filter(x, 1 - B)
    current = (x @ hidden_weight)[:, None].expand(-1, trials, -1)
    hidden, membrane = _spikes(current, slopes[0])
    output, _ = _spikes(hidden @ output_weight, slopes[1])
    delta = (target[:, None] - output) / DELTA
    if slopes[0]:
        p = torch.sigmoid(slopes[0] * (membrane - 1))
        h = slopes[0] * p * (1 - p)
    else:
        h = 1 / (10 * (membrane - 1).abs() + 1) ** 2
    back = delta @ output_weight.T
    d_hidden = torch.zeros_like(hidden_weight)
    synapse = eligibility = torch.zeros(trials, *hidden_weight.shape)
    for t in range(len(x)):
        synapse = A * synapse + psp[t][:, None] * h[t][:, None]
        eligibility = B * eligibility + EPS0 * (B - A) * synapse
        d_hidden += (eligibility * back[t][:, None]).mean(0)
    d_output = torch.einsum("tkh,tko->ho", _filter(hidden, 1 - B), delta) / trials
    _filter(target[:, None] - output, EPS0 * (B - A)).square().sum(0)
    hidden_weight += 1e-5 * d_hidden
    output_weight += 1e-5 * d_output
    hidden, _ = _spikes((x @ hidden_weight)[:, None], other[0])  # evaluation in the swapped spike mode
    output, _ = _spikes(hidden @ output_weight, other[1])
    _filter(target[:, None] - output, EPS0 * (B - A)).square().sum(0)


def spike_train_matching(problem: Matching) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, target = (torch.from_numpy(v) for v in problem.inputs())
    n, g = problem.neurons, torch.Generator().manual_seed(17)
    scale = 1 / math.sqrt(n * 50 * TAU_SYN**2 / (2 * (TAU_SYN + TAU_MEM)))
    weights = [scale * torch.randn(n, n, generator=g) for _ in range(2)]
    noise, none = (10.0, 100.0), (None, None)
    slopes, other = (noise, none) if problem.stochastic else (none, noise)
    return lambda: _epoch(x, target, weights, problem.batch, slopes, other)
