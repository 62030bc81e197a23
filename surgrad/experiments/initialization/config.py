"""Configuration of `Classification/initialization.py`: what initial weights do to membranes, rates and gradients."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from surgrad.config import validate
from surgrad.config.build import build
from surgrad.config.common import CommonConfig
from surgrad.config.validate import not_empty, positive
from surgrad.errors import UserError
from surgrad.experiments.datasets import DatasetConfig, DatasetNode, dataset_config, dataset_schema, no_dataset
from surgrad.experiments.initialization.study import Cell
from surgrad.network.initializers import Initializer
from surgrad.network.models import dense_snn
from surgrad.network.network import Network
from surgrad.neurons.lif import LIF


@dataclass
class GridConfig:
    """One layer under Poisson spikes, initialised for every combination of targets."""

    mu_u: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5])  # mean of the membrane, units of threshold
    xi: list[float] = field(default_factory=lambda: [1.0, 2.0, 3.0])  # deviations between mean and threshold
    nu: list[float] = field(default_factory=lambda: [5.0, 15.0, 50.0])  # rate of the inputs (Hz)
    alpha: list[float] = field(default_factory=lambda: [0.5, 0.9])  # feed-forward share, of layers with recurrence
    nb_inputs: int = 200  # input neurons
    nb_units: int = 200  # neurons of the layer
    duration: float = 10.0  # of each simulation (s)
    nb_draws: int = 5  # weights and spikes of each target


@dataclass
class StepsConfig:
    """Neurons under white Gaussian current on grids of different time steps."""

    dts: list[float] = field(default_factory=lambda: [1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3])  # s
    tau_syns: list[float] = field(default_factory=lambda: [1e-6, 5e-3, 10e-3])  # s; 1e-6: instantaneous
    mu_u: float = 0.0  # of the free membrane, units of threshold
    sigma_u: float = 1.0  # its deviation, units of threshold
    nb_units: int = 256  # neurons of the layer
    duration: float = 10.0  # s


@dataclass
class DepthConfig:
    """Stacks of equally wide layers under Poisson spikes."""

    nb_layers: int = 6  # on top of each other
    nb_units: int = 128  # of the input and of every layer
    nu: float = 15.0  # of the input (Hz), for which initialisers scale the weights
    nb_samples: int = 32  # shown to each network
    duration: float = 1.0  # s
    recurrent: bool = False  # every layer also drives itself
    nb_draws: int = 5  # of the weights
    sigma_us: list[float] = field(
        default_factory=lambda: [0.3, 0.4, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0]
    )  # where it collapses
    transfer_sigma_us: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])  # rate in, rate out
    transfer_rates: list[float] = field(default_factory=lambda: [1, 2, 4, 6, 8, 10, 15, 20, 25, 30, 40, 50])  # Hz


@dataclass
class RealConfig:
    """The same stacks under spikes of the data set, and under the same spikes at random times."""

    nb_samples: int = 64  # of the training set
    sigma_u: float = 1.0  # initial deviation of the membrane, units of threshold


@dataclass
class InitializationConfig(CommonConfig):
    """Everything a run of `Classification/initialization.py` depends on."""

    KEYS_OF: ClassVar = {"dataset": dataset_schema}

    device: str = "cpu"  # auto | cpu | cuda | cuda:<n>
    dataset: DatasetNode = field(default_factory=no_dataset)  # one of the group
    initializers: dict[str, Any] = field(default_factory=dict)  # nodes by the name that figures show
    tau_mem: float = 20e-3  # s
    tau_syn: float = 10e-3  # s
    time_step: float = 2e-3  # s, of Poisson spikes
    grid: GridConfig = field(default_factory=GridConfig)
    steps: StepsConfig = field(default_factory=StepsConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    real: RealConfig = field(default_factory=RealConfig)

    def __post_init__(self) -> None:
        self.dataset = dataset_config(self.dataset, DatasetConfig)  # first: other keys follow from it
        super().__post_init__()
        positive(self, "", "tau_mem", "tau_syn", "time_step")
        for name in ("grid", "steps", "depth", "real"):
            part, prefix = getattr(self, name), f"{name}."
            keys = list(vars(part))
            not_empty(part, prefix, *(key for key in keys if isinstance(getattr(part, key), list)))
            centres = [key for key in keys if key in ("mu_u", "recurrent")]
            positive(part, prefix, *(key for key in keys if key not in centres))
        validate.share(self.grid, "grid.", "alpha")
        for key, rates in (("grid.nu", self.grid.nu), ("depth.nu", [self.depth.nu])):
            self._require_rates(key, rates)
        self._require_rates("depth.transfer_rates", self.depth.transfer_rates)
        if not self.initializers:
            raise UserError(
                "initializers: is empty; give e.g. initializers.kaiming._target_=surgrad.initializers.Kaiming"
            )
        for name, node in self.initializers.items():
            validate.node(f"initializers.{name}", node, "surgrad.initializers.Kaiming")

    def _require_rates(self, key: str, rates: list[float]) -> None:
        if max(rates) * self.time_step > 1:
            raise UserError(f"{key}={max(rates)} Hz: more than one spike per step of time_step={self.time_step} s")

    def preflight(self) -> None:
        """Files and initialisers. Raises: UserError naming the first mistake."""
        self.dataset.preflight()
        self.build_initializers()

    @property
    def cell(self) -> Cell:
        """Constants of the neurons under Poisson spikes."""
        return Cell(self.tau_mem, self.tau_syn, self.time_step)

    def build_initializers(self) -> dict[str, Initializer]:
        """The initialisers by name."""
        return {name: build(node, at=f"initializers.{name}") for name, node in self.initializers.items()}

    def stack(self, nb_inputs: int, nb_classes: int, dt: float, tau_readout: float) -> Network:
        """A network of ``depth.nb_layers`` layers with new weights.

        Args:
            nb_inputs: number of inputs.
            nb_classes: units of the readout.
            dt: time step, s.
            tau_readout: membrane time constant of the readout, s.
        """
        return dense_snn(
            [nb_inputs, *[self.depth.nb_units] * self.depth.nb_layers, nb_classes],
            neuron=LIF(),
            dt=dt,
            tau_mem=self.tau_mem,
            tau_syn=self.tau_syn,
            tau_readout=tau_readout,
            recurrent=self.depth.recurrent,
        )
