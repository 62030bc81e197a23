"""Configuration of `Classification/non_spiking.py`: networks without spikes on the input of the spiking ones."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from surgrad.config import validate
from surgrad.config.build import build
from surgrad.config.validate import positive
from surgrad.experiments import parts
from surgrad.experiments.datasets import DatasetConfig, DatasetNode, dataset_config, dataset_schema, no_dataset
from surgrad.experiments.non_spiking.networks import NonSpiking
from surgrad.experiments.training import FitConfig
from surgrad.training.loop import BatchGrid, Objective


@dataclass
class NonSpikingConfig(FitConfig):
    """Everything a run of `Classification/non_spiking.py` depends on."""

    KEYS_OF: ClassVar = {"dataset": dataset_schema}

    dataset: DatasetNode = field(default_factory=no_dataset)  # one of the group
    model: dict[str, Any] = field(default_factory=dict)  # node with _partial_, called with (nb_inputs, nb_classes)
    lr: float = 2e-3  # learning rate
    plot: bool = True  # draw figures

    def __post_init__(self) -> None:
        self.dataset = dataset_config(self.dataset, DatasetConfig)  # first: other keys follow from it
        super().__post_init__()
        positive(self, "", "lr")
        validate.node("model", self.model, "those in configs/non_spiking/model")

    def preflight(self) -> None:
        """Files, and all parts. Raises: UserError naming the first mistake."""
        self.dataset.preflight()
        self.objective()
        self.schedule(self.build_optimizer(self.network(10, 3)))

    def network(self, nb_inputs: int, nb_classes: int) -> NonSpiking:
        """The network with PyTorch's own initial weights, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network: NonSpiking = build(self.model, at="model")(nb_inputs, nb_classes)
        return network

    def grid(self, nb_inputs: int, device: str = "cpu") -> BatchGrid:
        """How events become batches."""
        data = self.dataset
        return BatchGrid(self.batch_size, data.time_step, data.nb_steps, (nb_inputs,), device, data.counted)

    def objective(self) -> Objective:
        """The loss on the readout."""
        return Objective(self.loss(self.dataset))

    def build_optimizer(self, network: NonSpiking) -> torch.optim.Optimizer:
        """The optimiser of all parameters."""
        return parts.optimizer(self.optimizer, network.parameters(), self.lr, **self.decay_options())
