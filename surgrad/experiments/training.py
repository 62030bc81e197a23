"""Keys that the suites of deep networks on a time grid share: time constants, training, how it is computed."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from surgrad.config.common import CommonConfig
from surgrad.config.validate import not_negative, one_of, positive
from surgrad.errors import UserError
from surgrad.kernels.dispatch import KERNELS
from surgrad.runs.find import find_one
from surgrad.training.loop import Compute
from surgrad.training.losses import LOSSES
from surgrad.training.optimizers import OPTIMIZERS


@dataclass
class TrainingConfig(CommonConfig):
    """Keys of a suite that trains a network of layers in steps of `dataset.time_step`; inherit from it."""

    seed: int = 1

    tau_mem: float = 20e-3  # membrane time constant (s)
    tau_syn: float = 10e-3  # synaptic time constant (s)
    tau_readout: float = 0.7  # membrane time constant of the readout (s)

    loss_type: str = "mot_ce"  # mot_ce | sum_ce | last_ce | sum_of_softmax_ce
    optimizer: str = "smorms3"  # smorms3 | adam | adamax | adamw | sgd | rmsprop
    nb_epochs: int = 60
    batch_size: int = 32  # samples per update
    logging_freq: int = 10  # epochs between two lines of the log
    test_draws: int = 5  # draws of the noise in a stochastic test

    kernel: str = "auto"  # auto | reference | cpu | cuda
    memory: str = "full"  # full | recompute: keep less for the backward pass, same gradients
    truncate: int = 0  # cut gradients at every multiple of this many steps; 0: never
    precision: str = "float32"  # float32 | bf16: of products, on a GPU

    init_from: str | None = None  # a run, by folder, name or id, whose weights of the best epoch training starts from
    frozen: list[str] = field(default_factory=list)  # weights that stay as they are, by name or pattern: [layers.0.*]

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("loss_type", self.loss_type, LOSSES)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("kernel", self.kernel, ("auto", *KERNELS))
        one_of("memory", self.memory, ("full", "recompute"))
        one_of("precision", self.precision, ("float32", "bf16"))
        positive(self, "", "tau_mem", "tau_syn", "tau_readout", "batch_size", "logging_freq", "test_draws")
        not_negative(self, "", "nb_epochs", "truncate")

    def start_weights(self, network: nn.Module) -> None:
        """Give a network the weights of `init_from`, and keep those that are frozen from training.

        Args:
            network: changed in place, before its optimiser is made.

        Raises:
            UserError: no such run, no checkpoint, or names and shapes of weights that are not those of the network; a
                name of `frozen` that no weight has.
        """
        if self.init_from is not None:
            content = find_one(self.init_from).checkpoint()
            if content is None or "best" not in content:
                raise UserError(f"init_from={self.init_from}: the run holds no checkpoint of a network")
            _load(network, content["best"]["weights"], f"init_from={self.init_from}")
        names = [name for name, _ in network.named_parameters()]
        for pattern in self.frozen:
            if not fnmatch.filter(names, pattern):
                raise UserError(f"frozen={pattern}: no such weights; there are {', '.join(names)}")
        for name, weight in network.named_parameters():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.frozen):
                weight.requires_grad_(False)

    def compute(self) -> Compute:
        """How the network is run."""
        return Compute(self.kernel, self.memory, self.truncate, self.precision)


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
