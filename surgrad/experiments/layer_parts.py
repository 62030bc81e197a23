"""Keys of the suites whose networks are stacks of spiking layers, dense or convolutional: what layers are made of."""

from dataclasses import dataclass, field
from typing import Any

import torch

from surgrad.config import validate
from surgrad.config.build import build
from surgrad.config.validate import positive
from surgrad.errors import UserError
from surgrad.experiments import parts
from surgrad.experiments.training import TrainingConfig
from surgrad.network.models import HiddenParts, one_per_layer
from surgrad.network.network import Network
from surgrad.training.optimizers import keep_within_bounds, parameter_groups

#: Nodes that may be left out, and the group in configs/shared that has examples.
OPTIONAL = {"time_constants": "time_constants", "readout_connection": "connection", "normalization": "normalization"}
RATES = ("lr_tau", "lr_delay", "lr_adaptation")


@dataclass
class LayerPartsConfig(TrainingConfig):
    """Parts that dense and convolutional layers have in common; inherit from it."""

    time_constants: dict[str, Any] = field(default_factory=dict)  # node with _partial_; {}: fixed, one per layer
    synaptic_too: bool = True  # time_constants are those of membranes and synapses; false: of membranes alone
    readout_connection: dict[str, Any] = field(default_factory=dict)  # as connection; {}: all to all, without delays
    normalization: dict[str, Any] = field(
        default_factory=dict
    )  # node with _partial_, called with (unit_shape); {}: none
    dropout: float = 0.0  # probability that a hidden neuron is silent for a whole training sample
    regularizers: dict[str, Any] = field(default_factory=dict)  # nodes, under names of your choice; null: without it

    lr_tau: float | None = None  # of trained time constants, relative changes; null: as weights
    lr_delay: float | None = (
        None  # of learned delays, steps of the logit of delay / max_delay; null: that of the weights
    )
    lr_adaptation: float | None = None  # of a, b, tau_w of adaptive neurons, their logits; null: as weights

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "", *RATES)
        for name, group in OPTIONAL.items():
            if getattr(self, name):
                validate.node(name, getattr(self, name), f"those in configs/shared/{group}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout}: must be a probability from 0 to below 1")
        for name, node in self.regularizers.items():
            if node is not None:
                validate.node(f"regularizers.{name}", node, "surgrad.regularizers.UpperBoundL2")

    def layer_parts(self, generator: torch.Generator) -> HiddenParts:
        """What layers are made of, beside neurons and hidden connections; the generator draws time constants."""
        made = HiddenParts(dropout=self.dropout)
        if self.readout_connection:
            readout = parts.factory("connection", self.readout_connection, "readout_connection")
            made = made._replace(readout=readout)
        if self.normalization:
            made = made._replace(normalization=parts.factory("normalization", self.normalization, "normalization"))
        if self.time_constants:
            draw = build(self.time_constants, at="time_constants")
            made = made._replace(time_constants=lambda tau, nb_units: draw(tau, nb_units, generator))
            made = made if self.synaptic_too else made._replace(synaptic=one_per_layer)
        return made

    def optimizer_of(self, network: Network, lr: float, **options: Any) -> torch.optim.Optimizer:
        """The optimiser of weights and trained constants, which it keeps within their bounds.

        Args:
            network: whose parameters are trained.
            lr: learning rate of the weights.
            options: further options of the optimiser.
        """
        rates, decay = {key: getattr(self, key) for key in RATES}, self.decay_options()
        groups = parameter_groups(network, rates, weights_decay=bool(decay))
        optimizer = parts.optimizer(self.optimizer, groups, lr, **options | decay)
        keep_within_bounds(optimizer, network)
        return optimizer
