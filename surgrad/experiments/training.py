"""Keys that the suites of networks on a time grid share: how they are fitted, time constants, how it is computed."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from surgrad.config.common import CommonConfig
from surgrad.config.validate import not_negative, one_of, positive
from surgrad.errors import UserError
from surgrad.experiments import parts
from surgrad.experiments.datasets import DatasetConfig
from surgrad.experiments.parts import one_of_or_own
from surgrad.kernels.dispatch import KERNELS
from surgrad.kernels.precision import PRECISIONS
from surgrad.runs.find import find_one
from surgrad.training.fit import Plan
from surgrad.training.loop import Compute
from surgrad.training.losses import LOSSES, ReadoutCrossEntropy
from surgrad.training.optimizers import OPTIMIZERS
from surgrad.training.schedules import SCHEDULES


@dataclass
class FitConfig(CommonConfig):
    """Keys of a suite that fits a network to the classes of a data set; inherit from it."""

    seed: int = 1  # of weights, the order of samples, noise

    loss_type: str = "mot_ce"  # mot_ce | sum_ce | mean_ce | last_ce | sum_of_softmax_ce | my_module.MyLoss
    loss_start: float = 0.0  # the readout before this time neither trains nor decides (s)
    label_smoothing: float = 0.0  # share of every label that is spread over all classes
    optimizer: str = "smorms3"  # smorms3 | adam | adamax | adamw | sgd | rmsprop | my_module.MyOptimizer
    nb_epochs: int = 60  # passes over the training data
    batch_size: int = 32  # samples per update
    lr_schedule: dict[str, Any] = field(default_factory=dict)  # name, warmup (epochs), its own options; {}: constant
    weight_decay: float | None = None  # of connections alone; null: the optimiser's own, of all parameters
    early_stopping: int = 0  # training ends when validation was not better for this many epochs; 0: never
    grad_clip: float | None = None  # largest norm of the gradient; null: any
    ema: float = 0.0  # decay per update of an average of the weights, which validates and tests; 0: none
    logging_freq: int = 10  # epochs between two lines of the log

    init_from: str | None = None  # a run, by folder, name or id, whose weights of the best epoch training starts from
    frozen: list[str] = field(default_factory=list)  # weights that stay as they are, by name or pattern: [layers.0.*]

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of_or_own("loss_type", self.loss_type, LOSSES)
        one_of_or_own("optimizer", self.optimizer, OPTIMIZERS)
        positive(self, "", "batch_size", "logging_freq", "grad_clip")
        not_negative(self, "", "early_stopping", "nb_epochs", "weight_decay", "loss_start")
        if self.early_stopping and getattr(getattr(self, "dataset", None), "validation", "") == "none":
            raise UserError(
                f"early_stopping={self.early_stopping}: needs a validation set, not dataset.validation=none"
            )
        for name in ("ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be from 0 to below 1")
        if self.lr_schedule:
            one_of_or_own("lr_schedule.name", str(self.lr_schedule.get("name")), SCHEDULES)

    def start_weights(self, network: nn.Module) -> None:
        """Give a network the weights of `init_from`, and keep those that are frozen from training.

        Args:
            network: changed in place, before its optimiser is made.

        Raises:
            UserError: no such run, no checkpoint, or names and shapes of weights that are not those of the network; a
                name of `frozen` that no weight has.
        """
        if self.init_from is not None:
            _load(network, find_one(self.init_from).trained()[0], f"init_from={self.init_from}")
        names = [name for name, _ in network.named_parameters()]
        for pattern in self.frozen:
            if not fnmatch.filter(names, pattern):
                raise UserError(f"frozen={pattern}: no such weights; there are {', '.join(names)}")
        for name, weight in network.named_parameters():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.frozen):
                weight.requires_grad_(False)

    def loss(self, data: DatasetConfig) -> ReadoutCrossEntropy:
        """The loss on the readout. Raises: UserError for a loss_start that leaves no step of a sample."""
        first = round(self.loss_start / data.time_step)
        if first >= data.nb_steps:
            raise UserError(f"loss_start={self.loss_start} s leaves no step of dataset.duration={data.duration} s")
        return parts.loss(self.loss_type, first_step=first, label_smoothing=self.label_smoothing)

    def decay_options(self) -> dict[str, Any]:
        """The option of the optimiser that `weight_decay` is."""
        return {} if self.weight_decay is None else {"weight_decay": self.weight_decay}

    def schedule(self, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
        """The schedule of the learning rate, None for a constant one. Raises: UserError for its options."""
        if not self.lr_schedule:
            return None
        return parts.schedule(optimizer=optimizer, nb_epochs=self.nb_epochs, **self.lr_schedule)

    def plan(self, **more: Any) -> Plan:
        """How the network is trained; ``more`` are further arguments of `surgrad.training.fit.Plan`."""
        return Plan(
            self.nb_epochs,
            self.seed,
            logging_freq=self.logging_freq,
            schedule=self.schedule,
            grad_clip=self.grad_clip,
            patience=self.early_stopping,
            ema=self.ema,
            **more,
        )


@dataclass
class TrainingConfig(FitConfig):
    """Keys of a suite that trains a network of spiking layers in steps of `dataset.time_step`; inherit from it."""

    tau_mem: float = 20e-3  # membrane time constant (s)
    tau_syn: float = 10e-3  # synaptic time constant (s)
    tau_readout: float = 0.7  # membrane time constant of the readout (s)

    test_draws: int = 5  # draws of the noise in a stochastic test

    kernel: str = "auto"  # auto | reference | cpu | cuda
    memory: str = "full"  # full | recompute: keep less for the backward pass, same gradients
    truncate: int = 0  # cut gradients at every multiple of this many steps; 0: never
    precision: str = "float32"  # float32 | tf32 | bf16: of products, on a GPU
    cuda_graph: bool = True  # on a GPU, capture training steps as graphs where they can be

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("kernel", self.kernel, ("auto", *KERNELS))
        one_of("memory", self.memory, ("full", "recompute"))
        one_of("precision", self.precision, PRECISIONS)
        positive(self, "", "tau_mem", "tau_syn", "tau_readout", "test_draws")
        not_negative(self, "", "truncate")

    def compute(self) -> Compute:
        """How the network is run."""
        return Compute(self.kernel, self.memory, self.truncate, self.precision)

    def plan(self, **more: Any) -> Plan:
        """How the network is trained; ``more`` are further arguments of `surgrad.training.fit.Plan`."""
        return super().plan(compute=self.compute(), cuda_graph=self.cuda_graph, **more)


def _load(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load weights; raises UserError naming those that are missing, too many or of another shape."""
    own = network.state_dict()
    wrong = [f"{name} is not in the run" for name in own if name not in weights]
    wrong += [f"{name} is not in the network" for name in weights if name not in own]
    wrong += [
        f"{name} has shape {tuple(weights[name].shape)} there, {tuple(own[name].shape)} here"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if wrong:
        raise UserError(f"{where}: {'; '.join(wrong[:5])}")
    network.load_state_dict(dict(weights))
