"""Configuration of the Classification suite: the keys of the published suite, typed, with units."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from omegaconf import MISSING
from torch import nn

from surgrad.config import validate
from surgrad.config.published import Published
from surgrad.config.validate import at_least, not_negative, one_of, positive, probability
from surgrad.errors import UserError
from surgrad.experiments import parts
from surgrad.experiments.datasets import DatasetConfig, dataset_config, dataset_schema, no_dataset
from surgrad.experiments.layer_parts import LayerPartsConfig
from surgrad.network.connections import Conv
from surgrad.network.initializers import Distribution, FluctuationDrivenCentered, Initializer
from surgrad.network.methods import METHODS, SpikeParameters, method_neuron
from surgrad.network.models import TIME_CONSTANTS_OF, ConvStack, conv_snn
from surgrad.network.network import Network
from surgrad.network.neuron_delays import CONVOLUTIONS
from surgrad.network.pooling import POOLS
from surgrad.neurons.lif import LIF
from surgrad.training.fit import Plan, annealed
from surgrad.training.loop import BatchGrid, Objective
from surgrad.training.monitoring import Repeats, Shown
from surgrad.training.regularizers import ActivityRegularizer, build_regularizer

_NO_NOISE = "surgrad.escape_noise.Step"


@dataclass
class ConvDatasetConfig(DatasetConfig):
    """A data set and the convolutional layers that fit it, which are part of its group in the published suite."""

    nb_hidden_layers: int = 3
    nb_filters: list[int] = field(default_factory=lambda: [16, 32, 64])
    kernel_size: list[int] = field(default_factory=lambda: [21, 7, 7])
    stride: list[int] = field(default_factory=lambda: [10, 3, 3])
    padding: list[int] = field(default_factory=lambda: [0, 0, 0])
    pool_size: list[int] = field(default_factory=list)  # spikes of each layer, on their way up; 1: none; []: no pooling
    pool_kind: str = "max"  # max: a spike where there is one in the window | average: the share that spikes
    residual: list[Any] = field(default_factory=list)  # [[0, 2]]: spikes of layer 0 also drive layer 2; []: none
    rec: bool = True  # recurrent convolution within each layer
    rec_kernel_size: int = 5
    rec_stride: int = 1
    rec_padding: int = 2
    alpha: float = 0.9  # share of the initial membrane variance that comes from the layer below

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "dataset.", "nb_hidden_layers", "nb_filters", "kernel_size", "stride")
        positive(self, "dataset.", "rec_kernel_size", "rec_stride", "pool_size")
        one_of("dataset.pool_kind", self.pool_kind, POOLS)
        not_negative(self, "dataset.", "padding", "rec_padding")
        probability(self, "dataset.", "alpha")
        for name in ("nb_filters", "kernel_size", "stride", "padding", *(["pool_size"] if self.pool_size else [])):
            if len(getattr(self, name)) < self.nb_hidden_layers:
                wanted = f"one for each of dataset.nb_hidden_layers={self.nb_hidden_layers}"
                raise UserError(f"dataset.{name}={getattr(self, name)}: {wanted}")
        self.stack()

    def stack(self) -> ConvStack:
        """Shapes of the hidden layers."""
        return ConvStack(**{f.name: getattr(self, f.name) for f in fields(ConvStack)})


if TYPE_CHECKING:
    DatasetNode = ConvDatasetConfig
else:  # as `surgrad.experiments.datasets.DatasetNode`
    DatasetNode = dict[str, Any]


@dataclass
class MethodConfig:
    """How neurons spike and which surrogate they learn with (`surgrad.network.methods.METHODS`)."""

    name: str = MISSING  # one of the group
    other: str = "superspike"  # the method that takes over for the swapped evaluation
    lr: float = 0.01  # learning rate
    target_sigma_u: float = MISSING  # initial standard deviation of the membrane, in units of threshold

    def __post_init__(self) -> None:
        one_of("method.name", self.name, METHODS)
        one_of("method.other", self.other, METHODS)
        positive(self, "method.", "lr", "target_sigma_u")


@dataclass
class RegularizerConfig:
    """Penalties on spike counts per sample, of every hidden layer; strength 0 leaves one out.

    upper bound L2: strength * mean(relu(count - threshold)^2), count averaged over ``dims`` of (batch, channel, unit);
    lower bounds act on each neuron.
    """

    upperBoundL2Strength: float = 0.1  # factor of the penalty
    upperBoundL2Threshold: float = 7.0  # spikes per neuron and sample
    dims: Any = field(default_factory=lambda: [-2, -1])  # axes; or population, neuron, or false for neuron
    lowerBoundL1Strength: float = 0.0  # factor of the penalty
    lowerBoundL1Threshold: float = 0.0  # spikes per neuron and sample
    lowerBoundL2Strength: float = 0.0  # factor of the penalty
    lowerBoundL2Threshold: float = 0.0  # spikes per neuron and sample

    def __post_init__(self) -> None:
        keys = [key for key in vars(self) if key.endswith(("Strength", "Threshold"))]
        not_negative(self, "regularizer.", *keys)

    def build(self) -> list[ActivityRegularizer]:
        """The penalties whose strength is not 0."""
        dims = {"UpperBoundL2": self.dims, "LowerBoundL1": "neuron", "LowerBoundL2": "neuron"}
        built = []
        for name in dims:
            key = name[0].lower() + name[1:]
            strength, threshold = getattr(self, f"{key}Strength"), getattr(self, f"{key}Threshold")
            if strength:
                built.append(build_regularizer(name, strength=strength, threshold=threshold, dims=dims[name]))
        return built


@dataclass
class FanoConfig:
    """Fano factors: variance over mean, between repeats of one sample, of the spike count in a short window."""

    evaluate: bool = True  # measure them
    bin_dt: int = 10  # width of the bins with binned=true (steps)
    repeats: int = 400  # presentations of the sample

    def __post_init__(self) -> None:
        positive(self, "fano.", "bin_dt")
        at_least(2, self, "fano.", "repeats")


@dataclass
class PlottingConfig:
    """What the figures show."""

    point_alpha: float = 0.3  # opacity of a spike, activity over layers
    nb_samples: int = 5  # samples (activity) and neurons (trials) side by side
    nb_samples_trials: int = 201  # trials in the raster of one stimulus
    point_alpha_trials: float = 0.75  # opacity of a spike, trials
    idx_neuron: int | None = None  # neuron of the first raster; null: all are drawn at random
    idx_layer: int = 1  # hidden layer of the rasters over trials, 0 is the lowest
    sample_seed: int = 12  # of the drawn neurons and of the monitored sample

    def __post_init__(self) -> None:
        positive(self, "plotting.", "nb_samples", "nb_samples_trials")
        probability(self, "plotting.", "point_alpha", "point_alpha_trials")
        not_negative(self, "plotting.", "idx_neuron", "idx_layer")

    def build(self) -> Shown:
        """Samples, neurons and opacities."""
        return Shown(
            nb_samples=self.nb_samples,
            nb_trials=self.nb_samples_trials,
            idx_layer=self.idx_layer,
            idx_neuron=self.idx_neuron,
            sample_seed=self.sample_seed,
            alpha=self.point_alpha,
            alpha_trials=self.point_alpha_trials,
        )


@dataclass
class ClassificationConfig(LayerPartsConfig):
    """Everything a run of `Classification/deep_convSNN.py` depends on."""

    KEYS_OF: ClassVar = {"dataset": partial(dataset_schema, kind=ConvDatasetConfig)}

    PUBLISHED: ClassVar = Published(
        values={
            "dataset": {"SHD": "shd", "SSC": "ssc", "Randman": "randman"},
            "loss_type": {"sum_of_softmax": "sum_of_softmax_ce"},
            "wandb": {"diff_reset": "default"},
        },
        keys={"dataset.dt": "dataset.time_step"},
        single={"plotting": "default", "fano": "default"},
        unread={
            "batch_id": "figures show the sample that plotting.sample_seed draws",
            "o_neuron_id": "it is a key of spike-train matching",
            "h_neuron_id": "figures show plotting.idx_neuron",
            "i_neuron_id": "it is a key of spike-train matching",
            "nb_hidden_units": "layers are convolutional, see dataset.nb_filters",
            "dataset.nb_hidden_units": "layers are convolutional, see dataset.nb_filters",
            "time_scale": "spike times are in s",
            "unit_scale": "every input unit is one of the data's, see dataset.nb_inputs",
            "dataset.time_scale": "spike times are in s",
            "dataset.unit_scale": "every input unit is one of the data's, see dataset.nb_inputs",
        },
        refused={"dataset.nb_time_steps": "is duration / time_step here: give dataset.duration, in s"},
    )

    dataset: DatasetNode = field(default_factory=no_dataset)  # one of the group
    method: MethodConfig = field(default_factory=MethodConfig)
    neuron: dict[str, Any] = field(default_factory=dict)  # node; spikes as the method says; {}: surgrad.LIF
    surrogate: dict[str, Any] = field(default_factory=dict)  # node, in the place of the method's; {}: the method's
    escape_noise: dict[str, Any] = field(default_factory=dict)  # node, in the place of the method's; {}: the method's
    initializer: dict[str, Any] = field(default_factory=dict)  # node; {}: centred, fluctuation-driven (method, dataset)
    connection: dict[str, Any] = field(default_factory=dict)  # node, delays of the convolutions' channels; {}: none
    time_constants_of: str = "channel"  # channel | neuron: what has a value of its own of time_constants
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    plotting: PlottingConfig = field(default_factory=PlottingConfig)
    fano: FanoConfig = field(default_factory=FanoConfig)

    using_wandb: bool = True  # false is wandb.mode=disabled
    plot: str = "plot"  # plot | none
    count_baseline: bool = False  # say at the end what spike counts alone tell (logistic regression)
    sigm: bool = False  # sigmoid' instead of SuperSpike as surrogate
    diff_reset: bool = False  # gradients through the reset

    nb_epochs: int = 200
    batch_size: int = 400

    beta: float = 10.0  # slope of surrogate and sigmoidal escape noise
    p0: float = 2 / 3  # exponential escape noise at threshold (probability per step)
    delta_uh: float = 133e-3  # width of exponential escape noise, in units of threshold

    anneal: bool = False  # raise beta during training
    anneal_start: int = 0  # epoch, counted from 0, after which beta is raised first
    anneal_step: float = 1.0  # what is added to beta
    anneal_interval: int = 5  # epochs

    monitor_spikes: bool = True  # firing rates in every row of metrics.csv
    monitor_fano: int = 10  # width of the moving window of the Fano factor (steps); 0: no Fano factors
    binned: bool = False  # adjacent bins of fano.bin_dt instead of a moving window
    monitor_chunks: bool = True  # monitor every epoch_chunk epochs, not only before and after training
    epoch_chunk: int = 200  # epochs

    eps_0: float = 267e-3  # of the published suite, accepted at this value only
    theta: float = 1.0  # of the published suite, accepted at this value only
    k0: float = -1.0  # of the published suite, accepted at this value only
    delta_uo: float = 13e-3  # of the published suite, accepted at this value only

    def __post_init__(self) -> None:
        self.dataset = dataset_config(self.dataset, ConvDatasetConfig)  # first: other keys follow from it
        super().__post_init__()
        one_of("plot", self.plot, ("plot", "none"))
        positive(self, "", "beta", "delta_uh", "epoch_chunk", "anneal_interval")
        not_negative(self, "", "monitor_fano", "anneal_start")
        probability(self, "", "p0")
        one_of("time_constants_of", self.time_constants_of, TIME_CONSTANTS_OF)
        for name in ("neuron", "surrogate", "escape_noise", "initializer", "connection"):
            if getattr(self, name):
                validate.node(name, getattr(self, name), "my_module.MyClass")
        noise = (self.neuron.get("escape_noise") or {}).get("_target_", _NO_NOISE)
        if noise != _NO_NOISE:
            raise UserError(
                f"neuron.escape_noise={noise}: the method says how spikes are drawn; give escape_noise=… here"
            )
        if self.surrogate and self.anneal:
            raise UserError("anneal=true raises the slope of the method's surrogate; it has no part in surrogate=…")
        validate.at_default(self, "", "eps_0", "theta", "k0", "delta_uo")
        if self.fano.evaluate and self.fano_window > self.dataset.nb_steps:
            key = f"fano.bin_dt={self.fano.bin_dt}" if self.binned else f"monitor_fano={self.monitor_fano}"
            raise UserError(f"{key}: longer than a sample of {self.dataset.nb_steps} steps")
        if not 0 <= self.plotting.idx_layer < self.dataset.nb_hidden_layers:
            last = self.dataset.nb_hidden_layers - 1
            raise UserError(f"plotting.idx_layer={self.plotting.idx_layer}: there are layers 0 to {last}")
        if not self.using_wandb:
            self.wandb.mode = "disabled"

    def preflight(self) -> None:
        """Files, parts and the shapes of layers. Raises: UserError naming the first mistake."""
        self.dataset.preflight()
        self.objective()
        self.spiking(self.method.name, 1)
        weight, decay = nn.Parameter(torch.zeros(1)), self.decay_options()
        self.schedule(parts.optimizer(self.optimizer, [weight], self.method.lr, **decay))
        if self.dataset.network_inputs is not None and self.dataset.nb_classes is not None:
            self.network(self.dataset.network_inputs, self.dataset.nb_classes, torch.Generator())
        self.initialization()

    @property
    def fano_window(self) -> int:
        """Width of the window in which spikes are counted (steps); 0 without Fano factors."""
        if not self.fano.evaluate or not self.monitor_fano:
            return 0
        return self.fano.bin_dt if self.binned else self.monitor_fano

    def repeats(self) -> Repeats | None:
        """How Fano factors are measured, if they are."""
        return Repeats(self.fano.repeats, self.fano_window, self.binned) if self.fano_window else None

    def spiking(self, method: str, epoch: int) -> LIF:
        """The neuron with the surrogate and escape noise of a method, of the slope beta that they have in an epoch."""
        beta = self.beta
        if self.anneal:
            start, step, interval = self.anneal_start, self.anneal_step, self.anneal_interval
            beta = annealed(beta, epoch, start=start, step=step, interval=interval)
        made = method_neuron(method, SpikeParameters(beta, self.p0, self.delta_uh, self.sigm, self.diff_reset))
        if self.neuron:
            spikes = {"surrogate": made.surrogate, "escape_noise": made.escape_noise}
            through_reset = self.diff_reset or bool(self.neuron.get("diff_reset"))
            made = parts.neuron(self.neuron, "neuron", diff_reset=through_reset, **spikes)
        if self.surrogate:
            made = replace(made, surrogate=parts.part("surrogate", self.surrogate, "surrogate"))
        if self.escape_noise and method == self.method.name:
            made = replace(made, escape_noise=parts.part("escape noise", self.escape_noise, "escape_noise"))
        return made

    def grid(self, nb_inputs: int, device: str = "cpu", batch_size: int | None = None) -> BatchGrid:
        """How events become batches: of this size, by default as in training."""
        data = self.dataset
        size, shape = batch_size or self.batch_size, data.unit_shape(nb_inputs)
        return BatchGrid(size, data.time_step, data.nb_steps, shape, device, data.counted)

    def plan(self, **more: Any) -> Plan:
        """How the network is trained; ``more`` are further arguments of `surgrad.training.fit.Plan`."""
        return super().plan(monitor_spikes=self.monitor_spikes, lr_key="method.lr", **more)

    def objective(self) -> Objective:
        """Loss and penalties."""
        return Objective(self.loss(self.dataset), [*self.regularizer.build(), *parts.regularizers(self.regularizers)])

    def initialization(self) -> Initializer:
        """What gives weights their initial values: the node, or what the method and the data set ask for."""
        if self.initializer:
            found: Initializer = parts.part("initializer", self.initializer, "initializer")
            return found
        return FluctuationDrivenCentered(
            self.method.target_sigma_u, self.dataset.nu, self.dataset.alpha, readout=Distribution()
        )

    def build_optimizer(self, network: Network) -> torch.optim.Optimizer:
        """The optimiser of weights and trained constants."""
        return self.optimizer_of(network, self.method.lr)

    def _convolution(self) -> Callable[..., nn.Module]:
        """What makes the layers' convolutions: with the delays of the node, if there is one."""
        if not self.connection:
            return Conv
        made: Any = parts.factory("connection", self.connection, "connection")
        if getattr(made, "func", None) not in CONVOLUTIONS:
            raise UserError(
                f"connection={self.connection['_target_']}: layers are convolutional, with delays of channels "
                "(connection=axonal_delays or dendritic_delays) or none; the readout takes any: readout_connection"
            )
        return partial(CONVOLUTIONS[made.func], **made.keywords)

    def network(self, nb_inputs: int, nb_classes: int, generator: torch.Generator) -> Network:
        """The network as it is before the first epoch, without initial weights; the generator draws time constants."""
        return conv_snn(
            self.dataset.stack(),
            in_shape=self.dataset.unit_shape(nb_inputs),
            nb_classes=nb_classes,
            neuron=self.spiking(self.method.name, 1),
            hidden=self.layer_parts(generator)._replace(convolution=self._convolution()),
            time_constants_of=self.time_constants_of,
            dt=self.dataset.time_step,
            tau_mem=self.tau_mem,
            tau_syn=self.tau_syn,
            tau_readout=self.tau_readout,
        )
