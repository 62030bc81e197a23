"""SpikingJelly: `LIFNode` in multi-step mode (CuPy or Triton on a GPU where it chooses to)."""

import importlib.metadata
from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.nn import functional as F

from benchmarks.problems import BETA, DECAY_MEM, LIFScan, LinearLIF, Recurrent

MODEL = "LIFNode (u alone), multi-step"
TAU = 1 / (1 - DECAY_MEM)  # u += (I - u) / tau


def version() -> str:
    return importlib.metadata.version("spikingjelly")


def _node(step_mode: str = "m") -> nn.Module:
    return neuron.LIFNode(TAU, surrogate_function=surrogate.SuperSpike(BETA), detach_reset=True, step_mode=step_mode)


def linear_lif(problem: LinearLIF) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, weight = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    weight.requires_grad_()
    node = _node().to(problem.device)

    def step() -> None:
        weight.grad = None
        functional.reset_net(node)
        node(F.linear(x, weight)).sum().backward()

    return step


def lif_scan(problem: LIFScan) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    current = torch.from_numpy(problem.inputs()).to(problem.device).requires_grad_()
    node = _node().to(problem.device)

    def step() -> None:
        current.grad = None
        functional.reset_net(node)
        node(current).sum().backward()

    return step


def recurrent(problem: Recurrent) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, y = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    n0, n1, n2, n3 = problem.sizes

    def recurrent_layer(n: int, m: int) -> list[nn.Module]:
        rec = layer.LinearRecurrentContainer(_node("s"), in_features=m, out_features=m, bias=False, step_mode="m")
        return [layer.Linear(n, m, bias=False, step_mode="m"), rec]

    linear = layer.Linear(n2, n3, bias=False, step_mode="m")
    network = nn.Sequential(*recurrent_layer(n0, n1), *recurrent_layer(n1, n2), linear).to(problem.device)
    optimizer = torch.optim.Adam(network.parameters(), problem.rate)

    def step() -> None:
        functional.reset_net(network)
        u, membranes = torch.zeros(problem.batch, n3, device=problem.device), []
        for drive in network(x).unbind(0):
            u = u + (drive - u) / TAU
            membranes.append(u)
        loss = F.cross_entropy(torch.stack(membranes).amax(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
