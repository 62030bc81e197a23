"""snnTorch: `Leaky` and `RLeaky`, the input currents of all steps computed at once."""

from collections.abc import Callable

import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.problems import BETA, DECAY_MEM, LIFScan, LinearLIF, Recurrent

MODEL = "Leaky (u alone)"


def version() -> str:
    return snntorch.__version__


def _leaky() -> nn.Module:
    return snntorch.Leaky(DECAY_MEM, spike_grad=surrogate.fast_sigmoid(BETA), reset_mechanism="zero")


def _scan(neuron: nn.Module, current: Tensor) -> Tensor:
    mem, spikes = neuron.reset_mem(), []
    for drive in current.unbind(0):
        s, mem = neuron(drive, mem)
        spikes.append(s)
    return torch.stack(spikes)


def linear_lif(problem: LinearLIF) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, weight = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    weight.requires_grad_()
    neuron = _leaky().to(problem.device)

    def step() -> None:
        weight.grad = None
        _scan(neuron, F.linear(x, weight)).sum().backward()

    return step


def lif_scan(problem: LIFScan) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    current = torch.from_numpy(problem.inputs()).to(problem.device).requires_grad_()
    neuron = _leaky().to(problem.device)

    def step() -> None:
        current.grad = None
        _scan(neuron, current).sum().backward()

    return step


def recurrent(problem: Recurrent) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, y = (torch.from_numpy(v).to(problem.device) for v in problem.inputs())
    n0, n1, n2, n3 = problem.sizes
    linears = nn.ModuleList([nn.Linear(n, m, bias=False) for n, m in ((n0, n1), (n1, n2), (n2, n3))])
    options = {"spike_grad": surrogate.fast_sigmoid(BETA), "reset_mechanism": "zero"}
    neurons = nn.ModuleList([snntorch.RLeaky(DECAY_MEM, linear_features=n, **options) for n in (n1, n2)])
    readout = snntorch.Leaky(DECAY_MEM, reset_mechanism="none")
    modules = nn.ModuleList([linears, neurons, readout]).to(problem.device)
    optimizer = torch.optim.Adam(modules.parameters(), problem.rate)

    def step() -> None:
        spikes = x
        for linear, neuron in zip(linears, neurons, strict=False):
            s, mem = neuron.reset_mem()
            current, out = linear(spikes), []
            for drive in current.unbind(0):
                s, mem = neuron(drive, s, mem)
                out.append(s)
            spikes = torch.stack(out)
        mem, membranes = readout.reset_mem(), []
        for drive in linears[2](spikes).unbind(0):
            _, mem = readout(drive, mem)
            membranes.append(mem)
        loss = F.cross_entropy(torch.stack(membranes).amax(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
