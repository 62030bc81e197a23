"""Norse: `lif_box_feed_forward_step`, compiled by torch.compile and driven through `unbind`, its fastest use."""

import importlib.metadata
from collections.abc import Callable

import torch
from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.problems import BETA, DT, TAU_MEM, LIFScan, LinearLIF, Recurrent

MODEL = "LIFBox (u alone), step compiled"


def version() -> str:
    return importlib.metadata.version("norse")


def _parameters(device: str) -> LIFBoxParameters:
    return LIFBoxParameters(
        tau_mem_inv=torch.tensor(1 / TAU_MEM, device=device),
        v_leak=torch.tensor(0.0, device=device),
        v_th=torch.tensor(1.0, device=device),
        v_reset=torch.tensor(0.0, device=device),
        alpha=torch.tensor(BETA, device=device),
    )


def _compiled(device: str) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    parameters = _parameters(device)

    def step(drive: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        s, state = lif_box_feed_forward_step(drive, LIFBoxFeedForwardState(u), parameters, dt=DT)
        return s, state.v

    return torch.compile(step)


def _scan(step: Callable, current: Tensor) -> Tensor:
    u, spikes = torch.zeros_like(current[0]), []
    for drive in current.unbind(0):
        s, u = step(drive, u)
        spikes.append(s)
    return torch.stack(spikes)


def linear_lif(problem: LinearLIF) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, weight = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    weight.requires_grad_()
    neuron = _compiled(problem.device)

    def step() -> None:
        weight.grad = None
        _scan(neuron, F.linear(x, weight)).sum().backward()

    return step


def lif_scan(problem: LIFScan) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    current = torch.from_numpy(problem.inputs()).to(problem.device).requires_grad_()
    neuron = _compiled(problem.device)

    def step() -> None:
        current.grad = None
        _scan(neuron, current).sum().backward()

    return step


def recurrent(problem: Recurrent) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, y = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    weights = [nn.Parameter(torch.from_numpy(w).to(problem.device)) for w in problem.weights()]
    w1, r1, w2, r2, readout = weights
    parameters = _parameters(problem.device)

    @torch.compile
    def neuron(drive: Tensor, s: Tensor, u: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        s, state = lif_box_feed_forward_step(drive + F.linear(s, r), LIFBoxFeedForwardState(u), parameters, dt=DT)
        return s, state.v

    @torch.compile
    def leaky(drive: Tensor, u: Tensor) -> Tensor:
        return u + DT / TAU_MEM * (drive - u)

    optimizer = torch.optim.Adam(weights, problem.rate)

    def step() -> None:
        spikes = x
        for w, r in ((w1, r1), (w2, r2)):
            current = F.linear(spikes, w)
            s = u = torch.zeros_like(current[0])
            out = []
            for drive in current.unbind(0):
                s, u = neuron(drive, s, u, r)
                out.append(s)
            spikes = torch.stack(out)
        current = F.linear(spikes, readout)
        u, membranes = torch.zeros_like(current[0]), []
        for drive in current.unbind(0):
            u = leaky(drive, u)
            membranes.append(u)
        loss = F.cross_entropy(torch.stack(membranes).amax(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
