"""Configuration of `Classification/dense_SNN.py`: stacks of dense spiking layers, recurrent or not.

What neurons, surrogates, initialisers and the like are is said by nodes with a `_target_`, so that one of your own
needs no new key. Nodes: neuron, surrogate, connection, time_constants, initializer, regularizers.*.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from surgrad.config.build import build
from surgrad.config.common import CommonConfig, one_of, positive
from surgrad.errors import UserError
from surgrad.experiments.datasets import dataset_config
from surgrad.network.dale import impose
from surgrad.network.initializers import Initializer
from surgrad.network.models import dense_snn
from surgrad.network.network import Network
from surgrad.training.loop import Compute, Objective
from surgrad.training.losses import LOSSES, ReadoutCrossEntropy, build_loss
from surgrad.training.optimizers import OPTIMIZERS, build_optimizer, keep_within_bounds, parameter_groups


@dataclass
class DenseConfig(CommonConfig):
    """Everything a run of `Classification/dense_SNN.py` depends on."""

    dataset: dict[str, Any] = field(default_factory=dict)  # becomes the schema of its name

    hidden: list[int] = field(default_factory=lambda: [128])  # units of each hidden layer, bottom to top
    recurrent: bool = True  # every hidden layer also drives itself
    inhibitory: float = 0.0  # share of inhibitory neurons under Dale's law; 0: neurons may both excite and inhibit
    delay: int = 1  # steps from a spike to its arrival in the layer above: 0 | 1
    neuron: dict[str, Any] = field(default_factory=dict)  # node, without its surrogate
    surrogate: dict[str, Any] = field(default_factory=dict)  # node
    connection: dict[str, Any] = field(default_factory=dict)  # node with _partial_, called with (in_shape, nb_units)
    time_constants: dict[str, Any] = field(default_factory=dict)  # node with _partial_; {}: fixed, one per layer
    initializer: dict[str, Any] = field(default_factory=dict)  # node
    regularizers: dict[str, Any] = field(default_factory=dict)  # nodes, under names of your choice; null: without it

    tau_mem: float = 20e-3  # membrane time constant (s)
    tau_syn: float = 10e-3  # synaptic time constant (s)
    tau_readout: float = 20e-3  # membrane time constant of the readout (s)
    readout_unit_gain: bool = True  # scale the readout's current by 1 - b

    loss_type: str = "mot_ce"  # mot_ce | sum_ce | last_ce | sum_of_softmax_ce
    optimizer: str = "smorms3"
    lr: float = 5e-3  # learning rate
    lr_tau: float | None = None  # of trained time constants, relative changes; null: lr
    optimizer_options: dict[str, Any] = field(default_factory=dict)  # such as betas

    nb_epochs: int = 100
    batch_size: int = 32  # samples per update
    logging_freq: int = 10  # epochs between two lines of the log
    test_draws: int = 5  # draws of the noise in a stochastic test
    monitor_samples: int = 5  # samples whose spikes are kept and drawn, before and after training
    plot: bool = True
    watch_test: bool = False  # a column test_acc in metrics.csv, to see what a choice by it would feign

    kernel: str = "auto"  # auto | reference | cpu | cuda
    memory: str = "full"  # full | recompute
    truncate: int = 0  # steps after which gradients are cut; 0: never
    precision: str = "float32"  # of products: float32 | bf16 (on a GPU)

    def __post_init__(self) -> None:
        self.dataset = dataset_config(self.dataset)
        one_of("loss_type", self.loss_type, LOSSES)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        positive(self, "", "tau_mem", "tau_syn", "tau_readout", "lr", "batch_size", "logging_freq", "test_draws")
        if self.lr_tau is not None:
            positive(self, "", "lr_tau")
        for units in self.hidden or [0]:
            if units < 1:
                raise UserError(f"hidden={self.hidden}: one or more layers of at least one unit")
        if self.nb_epochs < 0 or self.monitor_samples < 1:
            raise UserError(f"nb_epochs={self.nb_epochs}, monitor_samples={self.monitor_samples}: allowed >= 0, >= 1")
        for name in ("neuron", "surrogate", "connection", "initializer"):
            if "_target_" not in getattr(self, name):
                raise UserError(f"{name}: has no _target_; choose a file of configs/dense/{name}, e.g. in the defaults")
        for name, node in self.regularizers.items():
            if node is not None and "_target_" not in node:
                raise UserError(f"regularizers.{name}: has no _target_, such as surgrad.regularizers.UpperBoundL2")

    def network(self, nb_inputs: int, nb_classes: int, generator: torch.Generator) -> Network:
        """The network with its initial weights; the generator draws time constants, then weights."""
        surrogate = build(self.surrogate, at="surrogate")
        network = dense_snn(
            [nb_inputs, *self.hidden, nb_classes],
            neuron=build(self.neuron, at="neuron", surrogate=surrogate),
            recurrent=self.recurrent,
            connection=build(self.connection, at="connection"),
            time_constants=build(self.time_constants, at="time_constants") or None,
            dt=self.dataset.time_step,
            tau_mem=self.tau_mem,
            tau_syn=self.tau_syn,
            tau_readout=self.tau_readout,
            readout_unit_gain=self.readout_unit_gain,
            delay=self.delay,
            generator=generator,
        )
        if self.inhibitory:
            impose(network, self.inhibitory)
        initialize: Initializer = build(self.initializer, at="initializer")
        initialize(network, generator)
        return network

    def objective(self) -> Objective:
        """Loss and penalties."""
        loss: ReadoutCrossEntropy = build_loss(self.loss_type)
        penalties = build(self.regularizers, at="regularizers").values()
        return Objective(loss, [penalty for penalty in penalties if penalty is not None])

    def build_optimizer(self, network: Network) -> torch.optim.Optimizer:
        """The optimiser of weights and trained time constants, which it keeps within their bounds."""
        groups = parameter_groups(network, self.lr_tau)
        optimizer = build_optimizer(self.optimizer, groups, self.lr, **self.optimizer_options)
        keep_within_bounds(optimizer, network)
        return optimizer

    def compute(self) -> Compute:
        return Compute(self.kernel, self.memory, self.truncate, self.precision)
