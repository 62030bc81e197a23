"""This suite, on its default path."""

from collections.abc import Callable
from itertools import count

import torch
from torch import nn
from torch.nn import functional as F

import surgrad
from benchmarks.problems import DT, TAU_MEM, TAU_SYN, ConvSNNStep, LIFScan, LinearLIF, Matching, Recurrent
from surgrad.datasets.events import EventBatch
from surgrad.experiments.spike_train_matching.task import Neurons, Task, build_surrogate, initial_weights, spike_mode
from surgrad.experiments.spike_train_matching.training import Learner, Training
from surgrad.kernels import dispatch
from surgrad.network.connections import Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.methods import SpikeParameters, method_neuron
from surgrad.network.models import ConvStack, conv_snn
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.neurons.lif import LIF

MODEL = "LIF with exponential synapses (i and u)"


def version() -> str:
    return getattr(surgrad, "__version__", "this tree")


def _set(module: nn.Module, weight) -> None:
    module.weight.data = torch.from_numpy(weight)


def _decays(device: str) -> list[torch.Tensor]:
    return [TimeConstant(tau).decay(DT).to(device) for tau in (TAU_SYN, TAU_MEM)]


def linear_lif(problem: LinearLIF) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    x, weight = problem.inputs()
    x, dense, neuron = torch.from_numpy(x).to(problem.device), Dense(problem.neurons, problem.neurons), LIF()
    _set(dense, weight)
    dense.to(problem.device)
    a, b = _decays(problem.device)
    if problem.density:
        network = Network([SpikingLayer(dense, neuron, TAU_MEM, TAU_SYN)], None, DT).to(problem.device)
        events = EventBatch.from_dense(x).to(problem.device)

        def event_step() -> None:
            dense.weight.grad = None
            network(events).counts[0].sum().backward()

        return event_step

    def step() -> None:
        dense.weight.grad = None
        spikes, _, _ = dispatch.lif(dense(x), a, b, neuron)
        spikes.sum().backward()

    return step


def lif_scan(problem: LIFScan) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    current, neuron = torch.from_numpy(problem.inputs()).to(problem.device).requires_grad_(), LIF()
    a, b = _decays(problem.device)

    def step() -> None:
        current.grad = None
        spikes, _, _ = dispatch.lif(current, a, b, neuron)
        spikes.sum().backward()

    return step


def _training_step(network: Network, x, y, problem, regularise: bool) -> Callable[[], object]:
    device = problem.device
    network.to(device)
    x, y = EventBatch.from_dense(torch.from_numpy(x)).to(device), torch.from_numpy(y).to(device)
    optimizer = torch.optim.Adam(network.parameters(), problem.rate)
    draw = iter(range(2**31))

    def step() -> None:
        output = network(x, seed=1, draw=next(draw))
        loss = F.cross_entropy(output.readout.amax(0), y)
        if regularise:
            loss = loss + 0.1 * sum(torch.relu(c.mean((-2, -1)) - 7).square().mean() for c in output.counts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        counts[:] = [c.detach().mean().item() / problem.steps for c in output.counts]

    step.activity = counts = []
    return step


def recurrent(problem: Recurrent) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    n0, n1, n2, n3 = problem.sizes
    layers = [
        SpikingLayer(Dense(n, m), LIF(), TAU_MEM, TAU_SYN, recurrent=Dense(m, m)) for n, m in ((n0, n1), (n1, n2))
    ]
    network = Network(layers, Readout(Dense(n2, n3), problem.steps * DT, TAU_SYN), DT)
    connections = [c for layer in layers for c in (layer.feedforward, layer.recurrent)]
    for connection, weight in zip([*connections, network.readout.feedforward], problem.weights(), strict=True):
        _set(connection, weight)
    return _training_step(network, *problem.inputs(), problem, regularise=False)


def convsnn_step(problem: ConvSNNStep) -> Callable[[], object]:
    torch.set_num_threads(problem.threads)
    network = conv_snn(
        ConvStack(),
        in_shape=(1, problem.inputs_),
        nb_classes=problem.classes,
        neuron=method_neuron("stochasticsuperspike" if problem.stochastic else "superspike", SpikeParameters()),
        dt=DT,
        tau_mem=TAU_MEM,
        tau_syn=TAU_SYN,
        tau_readout=problem.steps * DT,
    )
    forward, recurrent_, readout = problem.weights()
    for layer, w, r in zip(network.layers, forward, recurrent_, strict=True):
        _set(layer.feedforward, w)
        _set(layer.recurrent, r)
    _set(network.readout.feedforward, readout)
    return _training_step(network, *problem.inputs(), problem, regularise=True)


def matching(problem: Matching, kernel: str, update: str) -> Callable[[], object]:
    """The published task: the swapped spike mode is evaluated in every epoch, as published."""
    torch.set_num_threads(problem.threads)
    x, target = (torch.from_numpy(v).to(problem.device)[:, None] for v in problem.inputs())
    stochastic, n = problem.stochastic, problem.neurons
    task = Task(x, target, Neurons(), kernel=kernel)
    weights = initial_weights((n, n, n), Neurons(), 50.0, 1.0, torch.Generator().manual_seed(17))
    weights = type(weights)(*(w.to(problem.device) for w in weights))
    training = Training(
        surrogate=build_surrogate("sigmoidspike" if stochastic else "superspike", 10.0),
        mode=spike_mode(stochastic),
        other=spike_mode(not stochastic),
        lr_h=1e-5,
        lr_o=1e-5 if stochastic else 1e-4,
        update=update,
        nb_trials=problem.batch,
    )
    learner, numbers = Learner(task, weights, training), count()
    return lambda: learner(next(numbers))


def spike_train_matching(problem: Matching) -> Callable[[], object]:
    return matching(problem, "auto", "three_factor")
