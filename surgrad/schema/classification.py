"""Configuration of the Classification suite: the keys of the published suite, typed, with units.

Published keys that nothing reads are absent (nb_hidden_units, batch_id, o_neuron_id, h_neuron_id, i_neuron_id,
time_scale, unit_scale). Those of the spike-train matching suite that its classification configs also carried (eps_0,
theta, k0, delta_uo) are accepted at their published values, so that published commands run, and refused at any other:
the readout does not spike and potentials are in units of the threshold, so that they could change nothing.
"""

from dataclasses import asdict, dataclass, field, fields, make_dataclass
from typing import Any

from omegaconf import MISSING, OmegaConf

from surgrad.datasets.augment import published_noise
from surgrad.datasets.events import Augmentation, EventDataset
from surgrad.datasets.hdf5 import read_shd
from surgrad.datasets.randman import Randman
from surgrad.datasets.splits import VALIDATIONS, validation_split
from surgrad.errors import UserError
from surgrad.losses import LOSSES
from surgrad.models import METHODS, ConvStack, SpikeParameters
from surgrad.optimizers import OPTIMIZERS
from surgrad.regularizers import ActivityRegularizer, build_regularizer
from surgrad.schema import CommonConfig, check, unknown_option

Splits = tuple[EventDataset, EventDataset | None, EventDataset]


def _one_of(key: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise UserError(unknown_option(key, value, allowed))


def _positive(owner: object, prefix: str, *names: str) -> None:
    for name in names:
        if not getattr(owner, name) > 0:
            raise UserError(f"{prefix}{name}={getattr(owner, name)}: must be positive")


@dataclass
class AugmentConfig:
    """Changes to the events of every training batch; all 0: none (`surgrad.datasets.augment.published_noise`)."""

    p_drop: float = 0.0  # probability of losing a spike
    p_insert: float = 0.0  # probability of a spurious spike per unit and step
    sigma_t: float = 0.0  # standard deviation of the time jitter (s)
    sigma_u: float = 0.0  # full width of the unit jitter (units)
    sigma_u_uniform: float = 0.0  # standard deviation of a shift of the whole sample (units)
    time_stretch: float = 0.0  # f: stretch each sample by a factor from U(1 - f, 1 + f)


@dataclass
class DatasetConfig:
    """What every data set configures: the time grid, and the network that fits it (keys of the published suite)."""

    name: str = MISSING
    nb_inputs: int | None = None  # input units; null: as many as the training data have
    nb_classes: int | None = None  # readout units; null: as many as the training data have
    batch_size: int = 400  # samples per update, the default of the top-level batch_size
    nu: float = 15.8  # mean rate of the input units, assumed by the initialisation (Hz)
    duration: float = 0.7  # simulated time of a sample; later spikes are dropped (s)
    time_step: float = 2e-3  # s
    nb_hidden_layers: int = 3
    nb_filters: list[int] = field(default_factory=lambda: [16, 32, 64])
    kernel_size: list[int] = field(default_factory=lambda: [21, 7, 7])
    stride: list[int] = field(default_factory=lambda: [10, 3, 3])
    padding: list[int] = field(default_factory=lambda: [0, 0, 0])
    rec: bool = True  # recurrent convolution within each layer
    rec_kernel_size: int = 5
    rec_stride: int = 1
    rec_padding: int = 2
    alpha: float = 0.9  # share of the initial membrane variance that comes from the layer below
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self):
        _positive(self, "dataset.", "batch_size", "nu", "duration", "time_step")
        if self.nb_steps < 1:
            raise UserError(f"dataset.duration={self.duration} s is shorter than one time_step={self.time_step} s")

    @property
    def nb_steps(self) -> int:
        """T; a duration that is a whole number of steps up to rounding counts as that number."""
        return int(self.duration / self.time_step * (1 + 1e-9))

    def stack(self) -> ConvStack:
        """Shapes of the hidden layers."""
        return ConvStack(**{f.name: getattr(self, f.name) for f in fields(ConvStack)})

    def augmentation(self) -> Augmentation | None:
        """What is done to training batches, or None."""
        try:
            return published_noise(dt=self.time_step, nb_steps=self.nb_steps, **asdict(self.augment))
        except ValueError as error:
            raise UserError(f"dataset.augment: {error}") from error

    def splits(self) -> Splits:
        """Training, validation and test set."""
        raise NotImplementedError


@dataclass
class HDF5Config(DatasetConfig):
    """A data set in files of the SHD format (spiking_digits, shd, ssc, or the user's own)."""

    datadir: str = "."  # folder of the files
    train_path: str = MISSING
    test_path: str = MISSING
    valid_path: str | None = None  # for validation=file
    validation: str = "random"  # random | speaker | file | none: what is held out to choose between epochs
    validation_split: float = 0.9  # random: share of the training file that is kept for training
    stratified: bool = False  # random: hold out the same share of every class
    split_seed: int = 1  # random: seed of the split
    validation_speakers: list[int] | None = None  # speaker: who is held out; null: the last one

    def __post_init__(self):
        super().__post_init__()
        _one_of("dataset.validation", self.validation, VALIDATIONS)

    def splits(self) -> Splits:
        """Reads the files; raises UserError naming file and cause where one is missing or damaged."""
        everything = read_shd(self.train_path, nb_units=self.nb_inputs, nb_classes=self.nb_classes)
        sizes = {"nb_units": everything.nb_units, "nb_classes": everything.nb_classes}
        options = {
            "none": {},
            "random": {
                "fraction": 1 - self.validation_split,
                "seed": self.split_seed,
                "stratified": self.stratified,
            },
            "speaker": {"speakers": self.validation_speakers},
            "file": {"path": self.valid_path},
        }[self.validation]
        if self.validation == "random" and not 0 < self.validation_split < 1:
            raise UserError(f"dataset.validation_split={self.validation_split}: need a share between 0 and 1")
        train, valid = validation_split(everything, self.validation, **options)
        return train, valid, read_shd(self.test_path, **sizes)


@dataclass
class RandmanConfig(DatasetConfig):
    """Smooth random manifolds as spike times (`surgrad.datasets.randman`)."""

    dim_manifold: int = 1
    step_frac: float = 0.5  # share of the duration that holds spikes
    nb_samples: int = 1000  # per class
    nb_spikes: int = 1  # per input unit
    alpha_randman: float = 0.5  # smoothness of the manifolds
    randmanseed: int = 1
    fractions: list[float] = field(default_factory=lambda: [0.8, 0.1, 0.1])  # training, validation, test

    def splits(self) -> Splits:
        """Generates the data; the same for the same numbers."""
        try:
            train, valid, test = Randman(
                dim_manifold=self.dim_manifold,
                nb_classes=self.nb_classes,
                nb_units=self.nb_inputs,
                nb_steps=self.nb_steps,
                duration=self.nb_steps * self.time_step,
                step_frac=self.step_frac,
                nb_samples=self.nb_samples,
                nb_spikes=self.nb_spikes,
                alpha=self.alpha_randman,
                seed=self.randmanseed,
                fractions=tuple(self.fractions),
            ).splits()
            return train, valid if len(valid) else None, test
        except ValueError as error:
            raise UserError(f"dataset: {error}") from error


#: The schema of each data set group; a data set of another name is one in files.
DATASETS: dict[str, type[DatasetConfig]] = {"randman": RandmanConfig}


@dataclass
class MethodConfig:
    """How neurons spike and which surrogate they learn with (`surgrad.models.METHODS`)."""

    name: str = "stochasticsuperspike"
    other: str = "superspike"  # the method that takes over for the swapped evaluation
    lr: float = 0.01  # learning rate
    target_sigma_u: float = 1.3  # initial standard deviation of the membrane, in units of threshold

    def __post_init__(self):
        _one_of("method.name", self.name, METHODS)
        _one_of("method.other", self.other, METHODS)
        _positive(self, "method.", "lr", "target_sigma_u")


@dataclass
class RegularizerConfig:
    """Penalties on spike counts per sample, of every hidden layer; strength 0 leaves one out.

    upper bound L2: strength * mean(relu(count - threshold)^2), count averaged over ``dims`` of (batch, channel, unit);
    lower bounds act on each neuron.
    """

    upperBoundL2Strength: float = 0.1
    upperBoundL2Threshold: float = 7.0  # spikes per neuron and sample
    dims: Any = field(default_factory=lambda: [-2, -1])  # axes; or population, neuron, or false for neuron
    lowerBoundL1Strength: float = 0.0
    lowerBoundL1Threshold: float = 0.0  # spikes per neuron and sample
    lowerBoundL2Strength: float = 0.0
    lowerBoundL2Threshold: float = 0.0  # spikes per neuron and sample

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

    evaluate: bool = True
    bin_dt: int = 10  # width of the bins with binned=true (steps)
    repeats: int = 400  # presentations of the sample

    def __post_init__(self):
        if self.bin_dt < 1 or self.repeats < 2:
            raise UserError(f"fano.bin_dt={self.bin_dt}, fano.repeats={self.repeats}: need at least 1 step, 2 repeats")


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


@dataclass
class ClassificationConfig(CommonConfig):
    """Everything a run of `Classification/deep_convSNN.py` depends on."""

    dataset: dict[str, Any] = field(default_factory=dict)  # becomes the DatasetConfig of its name
    method: MethodConfig = field(default_factory=MethodConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    plotting: PlottingConfig = field(default_factory=PlottingConfig)
    fano: FanoConfig = field(default_factory=FanoConfig)

    using_wandb: bool = True  # false is wandb.mode=disabled
    loss_type: str = "mot_ce"  # mot_ce | sum_ce | last_ce | sum_of_softmax_ce
    plot: str = "plot"  # plot | none
    sigm: bool = False  # sigmoid' instead of SuperSpike as surrogate
    optimizer: str = "smorms3"
    diff_reset: bool = False  # gradients through the reset
    kernel: str = "auto"  # auto | reference | cpu | cuda

    nb_epochs: int = 200
    batch_size: int = 400
    logging_freq: int = 10  # epochs between two lines of the log
    test_draws: int = 5  # draws of the noise in a stochastic test

    tau_mem: float = 20e-3  # membrane time constant (s)
    tau_syn: float = 10e-3  # synaptic time constant (s)
    tau_readout: float = 0.7  # membrane time constant of the readout (s)

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

    eps_0: float = 267e-3  # accepted at this value only, see above; so are the next three
    theta: float = 1.0
    k0: float = -1.0
    delta_uo: float = 13e-3

    def __post_init__(self):
        self.dataset = dataset_config(self.dataset)
        _one_of("loss_type", self.loss_type, LOSSES)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("plot", self.plot, ("plot", "none"))
        positive = ("batch_size", "logging_freq", "test_draws", "epoch_chunk", "anneal_interval")
        _positive(self, "", *positive, "tau_mem", "tau_syn", "tau_readout", "beta")
        if self.nb_epochs < 0 or self.monitor_fano < 0:
            raise UserError(f"nb_epochs={self.nb_epochs}, monitor_fano={self.monitor_fano}: must not be negative")
        if self.fano.evaluate and self.fano_window > self.dataset.nb_steps:
            raise UserError(f"the window of the Fano factor is longer than a sample of {self.dataset.nb_steps} steps")
        if not 0 <= self.plotting.idx_layer < self.dataset.nb_hidden_layers:
            last = self.dataset.nb_hidden_layers - 1
            raise UserError(f"plotting.idx_layer={self.plotting.idx_layer}: there are layers 0 to {last}")
        for key in ("eps_0", "theta", "k0", "delta_uo"):
            published = type(self).__dataclass_fields__[key].default
            if getattr(self, key) != published:
                raise UserError(f"{key}={getattr(self, key)}: has no effect here and is accepted as {published} only")
        if not self.using_wandb:
            self.wandb.mode = "disabled"

    @property
    def fano_window(self) -> int:
        """Width of the window in which spikes are counted (steps); 0 without Fano factors."""
        if not self.fano.evaluate or not self.monitor_fano:
            return 0
        return self.fano.bin_dt if self.binned else self.monitor_fano

    def spike_parameters(self, beta: float) -> SpikeParameters:
        """What the methods build their neurons from, at slope ``beta``."""
        return SpikeParameters(beta, self.p0, self.delta_uh, self.sigm, self.diff_reset)


def dataset_config(content: Any) -> DatasetConfig:
    """The data set's own schema, chosen by its name, applied to what the configuration holds under ``dataset``.

    Raises: UserError naming the key for an unknown key or a wrong type.
    """
    if isinstance(content, DatasetConfig):
        return content
    schema = DATASETS.get(str(content.get("name")), HDF5Config)
    wrapper = make_dataclass("Wrapper", [("dataset", schema, field(default_factory=schema))])
    return check(OmegaConf.create({"dataset": dict(content)}), wrapper).dataset
