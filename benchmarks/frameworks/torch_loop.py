"""A plain PyTorch loop over time, well written: currents of all steps at once, `unbind`, few operations per step."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.frameworks import surgrad
from benchmarks.problems import BETA, DECAY_MEM, DECAY_SYN, ConvSNNStep, LIFScan, LinearLIF, Matching, Recurrent

MODEL = "LIF with exponential synapses (i and u)"
# As the library: PyTorch's default for convolutions on a GPU is tf32. A framework has a process of its own.
torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "ieee"


def version() -> str:
    return torch.__version__


class SuperSpike(torch.autograd.Function):
    """1 where x > 0; in the backward pass 1 / (beta |x| + 1)^2."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / (BETA * x.abs() + 1).square()


def lif(
    current: Tensor, recurrence: Callable[[Tensor], Tensor] | None = None, stochastic: bool = False
) -> list[Tensor]:
    """Spikes of every step, from the current (T, B, ...)."""
    a, b = DECAY_SYN, DECAY_MEM
    i = u = s = torch.zeros_like(current[0])
    spikes = []
    for drive in current.unbind(0):
        if recurrence is not None and spikes:
            drive = drive + recurrence(s)
        x = u - 1
        s = SuperSpike.apply(x + torch.logit(torch.rand_like(x)) / BETA if stochastic else x)
        spikes.append(s)
        u = (b * u + (1 - b) * i) * (1 - s.detach())
        i = a * i + drive
    return spikes


def leaky(current: Tensor, decay_mem: float) -> Tensor:
    """Membranes of a leaky readout, (T, B, C)."""
    i, u, outputs = torch.zeros_like(current[0]), torch.full_like(current[0], -1e-3), []
    for drive in current.unbind(0):
        u = decay_mem * u + (1 - decay_mem) * i
        i = DECAY_SYN * i + drive
        outputs.append(u)
    return torch.stack(outputs)


def delayed(spikes: list[Tensor]) -> Tensor:
    return torch.stack([torch.zeros_like(spikes[0]), *spikes[:-1]])


def linear_lif(problem: LinearLIF) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, weight = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    weight.requires_grad_()

    def step() -> None:
        weight.grad = None
        torch.stack(lif(F.linear(x, weight))).sum().backward()

    return step


def lif_scan(problem: LIFScan) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    current = torch.from_numpy(problem.inputs()).to(problem.device).requires_grad_()

    def step() -> None:
        current.grad = None
        torch.stack(lif(current)).sum().backward()

    return step


def recurrent(problem: Recurrent) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, y = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    weights = [torch.from_numpy(w).to(problem.device).requires_grad_() for w in problem.weights()]
    w1, r1, w2, r2, readout = weights
    optimizer = torch.optim.Adam(weights, problem.rate)
    decay = float(torch.exp(torch.tensor(-1 / problem.steps)))
    x = delayed(list(x))

    def step() -> None:
        hidden = lif(F.linear(x, w1), lambda s: F.linear(s, r1))
        hidden = lif(F.linear(delayed(hidden), w2), lambda s: F.linear(s, r2))
        loss = F.cross_entropy(leaky(F.linear(delayed(hidden), readout), decay).amax(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def convsnn_step(problem: ConvSNNStep) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, y = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    forward, recurrent_, readout = problem.weights()
    forward, recurrent_, (readout,) = (
        [torch.from_numpy(w).to(problem.device).requires_grad_() for w in group]
        for group in (forward, recurrent_, [readout])
    )
    optimizer = torch.optim.Adam([*forward, *recurrent_, readout], problem.rate)
    decay = float(torch.exp(torch.tensor(-1 / problem.steps)))
    x = delayed(list(x))

    def step() -> None:
        below, penalty = x, 0.0
        for w, r, stride in zip(forward, recurrent_, problem.strides, strict=True):
            current = F.conv1d(below.flatten(0, 1), w, stride=stride).unflatten(0, below.shape[:2])
            spikes = lif(current, lambda s, r=r: F.conv1d(s, r, padding=problem.rec_kernel // 2), problem.stochastic)
            below = delayed(spikes)
            count = below.sum(0) + spikes[-1]
            penalty = penalty + torch.relu(count.mean((-2, -1)) - 7).square().mean()
        loss = F.cross_entropy(leaky(F.linear(below.flatten(2), readout), decay).amax(0), y) + 0.1 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def spike_train_matching(problem: Matching) -> Callable[[], object]:
    """The suite's rule in plain PyTorch: a loop over time, differentiated automatically."""
    return surgrad.matching(problem, "reference", "autograd")
