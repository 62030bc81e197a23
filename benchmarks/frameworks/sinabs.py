"""Sinabs as it is shipped: batch first, indexing its input at every step."""

import importlib.metadata
from collections.abc import Callable

import torch
from sinabs import layers
from sinabs.activation import MembraneReset, SingleExponential, SingleSpike
from torch import nn
from torch.nn import functional as F

from benchmarks.problems import DT, TAU_MEM, LIFScan, LinearLIF, Recurrent

MODEL = "LIF (u alone)"
OPTIONS = {"tau_mem": TAU_MEM / DT, "spike_fn": SingleSpike, "reset_fn": MembraneReset()}
OPTIONS |= {"surrogate_grad_fn": SingleExponential()}


def version() -> str:
    return importlib.metadata.version("sinabs")


def linear_lif(problem: LinearLIF) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, weight = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    x, neuron = x.transpose(0, 1).contiguous(), layers.LIF(**OPTIONS).to(problem.device)
    weight.requires_grad_()

    def step() -> None:
        weight.grad = None
        neuron.reset_states()
        neuron(F.linear(x, weight)).sum().backward()

    return step


def lif_scan(problem: LIFScan) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    current = torch.from_numpy(problem.inputs()).to(problem.device).transpose(0, 1).contiguous().requires_grad_()
    neuron = layers.LIF(**OPTIONS).to(problem.device)

    def step() -> None:
        current.grad = None
        neuron.reset_states()
        neuron(current).sum().backward()

    return step


def recurrent(problem: Recurrent) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, y = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    x = x.transpose(0, 1).contiguous()
    n0, n1, n2, n3 = problem.sizes
    network = nn.Sequential(
        nn.Linear(n0, n1, bias=False),
        layers.LIFRecurrent(rec_connect=nn.Linear(n1, n1, bias=False), **OPTIONS),
        nn.Linear(n1, n2, bias=False),
        layers.LIFRecurrent(rec_connect=nn.Linear(n2, n2, bias=False), **OPTIONS),
        nn.Linear(n2, n3, bias=False),
        layers.ExpLeak(tau_mem=TAU_MEM / DT),
    ).to(problem.device)
    optimizer = torch.optim.Adam(network.parameters(), problem.rate)

    def step() -> None:
        for module in network:
            if hasattr(module, "reset_states"):
                module.reset_states()
        loss = F.cross_entropy(network(x).amax(1), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
