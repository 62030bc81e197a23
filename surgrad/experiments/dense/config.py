"""Configuration of `Classification/dense_SNN.py`: stacks of dense spiking layers, recurrent or not.

What neurons, surrogates, initialisers and the like are is said by nodes with a `_target_`, of the library or of one's
own (`surgrad.experiments.parts`). Nodes: neuron, surrogate, connection, time_constants, initializer, regularizers.*.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from surgrad.config import validate
from surgrad.config.validate import not_empty, positive
from surgrad.errors import UserError
from surgrad.experiments import parts
from surgrad.experiments.datasets import DatasetConfig, DatasetNode, dataset_config, dataset_schema, no_dataset
from surgrad.experiments.layer_parts import LayerPartsConfig
from surgrad.network.dale import impose
from surgrad.network.initializers import Initializer
from surgrad.network.models import dense_snn, spike_readout
from surgrad.network.network import Network
from surgrad.training.loop import BatchGrid, Objective


@dataclass
class DenseConfig(LayerPartsConfig):
    """Everything a run of `Classification/dense_SNN.py` depends on."""

    KEYS_OF: ClassVar = {"dataset": dataset_schema}

    dataset: DatasetNode = field(default_factory=no_dataset)  # one of the group

    hidden: list[int] = field(default_factory=lambda: [128])  # units of each hidden layer, bottom to top
    recurrent: bool = True  # every hidden layer also drives itself
    inhibitory: float = 0.0  # share of inhibitory neurons under Dale's law; 0: neurons may both excite and inhibit
    delay: int = 1  # steps from a spike to its arrival in the layer above: 0 | 1
    neuron: dict[str, Any] = field(default_factory=dict)  # node, without its surrogate
    surrogate: dict[str, Any] = field(default_factory=dict)  # node
    connection: dict[str, Any] = field(default_factory=dict)  # node with _partial_, called with (in_shape, nb_units)
    recurrent_connection: dict[str, Any] = field(default_factory=dict)  # as connection; {}: all to all, after one step
    recurrent_dropout: float = 0.0  # the same in its own layer's recurrence alone
    initializer: dict[str, Any] = field(default_factory=dict)  # node

    tau_readout: float = 20e-3  # membrane time constant of the readout (s)
    readout_unit_gain: bool = True  # scale the readout's current by 1 - b
    spiking_readout: bool = False  # read spikes of a last layer of one neuron for each class, which sum_ce counts

    lr: float = 5e-3  # learning rate
    optimizer_options: dict[str, Any] = field(default_factory=dict)  # such as betas

    monitor_samples: int = 5  # samples whose spikes are kept and drawn, before and after training
    plot: bool = True  # draw figures
    watch_test: bool = False  # a column test_acc in metrics.csv, to see how much a choice by it would seem to gain

    def __post_init__(self) -> None:
        self.dataset = dataset_config(self.dataset, DatasetConfig)  # first: other keys follow from it
        super().__post_init__()
        not_empty(self, "", "hidden")
        positive(self, "", "hidden", "lr", "monitor_samples")
        validate.one_of("delay", self.delay, (0, 1))
        if not 0 <= self.inhibitory < 1:
            raise UserError(f"inhibitory={self.inhibitory}: must be from 0 to below 1")
        for name in ("neuron", "surrogate", "connection", "initializer"):
            validate.node(name, getattr(self, name), f"those in configs/shared/{name}")
        if self.recurrent_connection:
            validate.node("recurrent_connection", self.recurrent_connection, "those in configs/shared/connection")
        if self.spiking_readout and self.readout_connection:
            raise UserError("spiking_readout=true reads spikes as they are: leave readout_connection={}")
        if not 0 <= self.recurrent_dropout < 1:
            raise UserError(f"recurrent_dropout={self.recurrent_dropout}: must be a probability from 0 to below 1")

    def preflight(self) -> None:
        """Files, and all parts, in a small network. Raises: UserError naming the first mistake."""
        self.dataset.preflight()
        self.objective()
        few = [10] * (len(self.hidden) + 2)
        network = self._network(few, torch.Generator().manual_seed(0))
        self.schedule(self.build_optimizer(network))

    def network(self, nb_inputs: int, nb_classes: int, generator: torch.Generator) -> Network:
        """The network with its initial weights; the generator draws time constants, then weights."""
        return self._network([nb_inputs, *self.hidden, nb_classes], generator)

    def _network(self, sizes: list[int], generator: torch.Generator) -> Network:
        sizes = [*sizes, sizes[-1]] if self.spiking_readout else sizes
        surrogate = parts.part("surrogate", self.surrogate, "surrogate")
        hidden = self.layer_parts(generator)._replace(
            connection=parts.factory("connection", self.connection, "connection"),
            recurrent_dropout=self.recurrent_dropout,
        )
        if self.recurrent_connection:
            recurrent = parts.factory("connection", self.recurrent_connection, "recurrent_connection")
            hidden = hidden._replace(recurrent=recurrent)
        network = dense_snn(
            sizes,
            neuron=parts.neuron(self.neuron, "neuron", surrogate=surrogate),
            recurrent=self.recurrent,
            hidden=hidden,
            dt=self.dataset.time_step,
            tau_mem=self.tau_mem,
            tau_syn=self.tau_syn,
            tau_readout=self.tau_readout,
            readout_unit_gain=self.readout_unit_gain,
            delay=self.delay,
        )
        if self.inhibitory:
            impose(network, self.inhibitory)
        initialize: Initializer = parts.part("initializer", self.initializer, "initializer")
        initialize(network, generator)
        if self.spiking_readout:
            network.readout = spike_readout(sizes[-1])
        return network

    def grid(self, nb_inputs: int, device: str = "cpu", batch_size: int | None = None) -> BatchGrid:
        """How events become batches: of this size, by default as in training."""
        data = self.dataset
        size, shape = batch_size or self.batch_size, (nb_inputs,)
        return BatchGrid(size, data.time_step, data.nb_steps, shape, device, data.counted)

    def objective(self) -> Objective:
        """Loss and penalties."""
        return Objective(self.loss(self.dataset), parts.regularizers(self.regularizers))

    def build_optimizer(self, network: Network) -> torch.optim.Optimizer:
        """The optimiser of weights and trained constants."""
        return self.optimizer_of(network, self.lr, **self.optimizer_options)
