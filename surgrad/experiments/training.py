"""Keys that the suites of deep networks on a time grid share: time constants, training, how it is computed."""

from dataclasses import dataclass

from surgrad.config.common import CommonConfig
from surgrad.config.validate import not_negative, one_of, positive
from surgrad.kernels.dispatch import KERNELS
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

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("loss_type", self.loss_type, LOSSES)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("kernel", self.kernel, ("auto", *KERNELS))
        one_of("memory", self.memory, ("full", "recompute"))
        one_of("precision", self.precision, ("float32", "bf16"))
        positive(self, "", "tau_mem", "tau_syn", "tau_readout", "batch_size", "logging_freq", "test_draws")
        not_negative(self, "", "nb_epochs", "truncate")

    def compute(self) -> Compute:
        """How the network is run."""
        return Compute(self.kernel, self.memory, self.truncate, self.precision)
