"""Configuration of the Spike_train_matching suite: the keys of the published suite, typed, with units.

Published keys that nothing reads there either (mV, ms, dataset.nb_layers) are accepted at their published values, so
that published commands run, and refused at any other.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from omegaconf import MISSING

from surgrad.config.common import CommonConfig
from surgrad.config.published import Published
from surgrad.config.validate import at_default, not_negative, one_of, positive, probability
from surgrad.datasets.sources.targets import load_target, with_silent_steps
from surgrad.errors import UserError
from surgrad.experiments.spike_train_matching.rules import UPDATES
from surgrad.experiments.spike_train_matching.task import (
    SG_MODES,
    Neurons,
    Task,
    Weights,
    build_surrogate,
    initial_weights,
    poisson_input,
    spike_mode,
)
from surgrad.experiments.spike_train_matching.training import Training
from surgrad.runs.record import REPO

OXFORD = "Spike_train_matching/dataset/oxford.png"


@dataclass
class DatasetConfig:
    """Target spike trains, and the network that is to produce them."""

    name: str = MISSING  # one of the group
    data_path: Any = MISSING  # picture or event file, relative to the repository; a list makes several targets
    nb_inputs: int = 200  # Poisson input neurons
    nb_hidden: int = 200  # hidden neurons
    nb_outputs: int | None = None  # output neurons; null: as many as the target has rows
    nb_steps: int | None = None  # time steps; null: as many as the target has columns
    batch_size: int = 1  # input-target pairs per update; there are at least as many as targets
    nb_layers: int = 2
    duration: float | None = None  # of the target (s); makes dt = duration / nb_steps
    bin_dt: float | None = None  # width of the bins of an event file, one per step (s); null: dt
    polarity: str = "dark"  # dark | light: which pixels of a picture are spikes

    def __post_init__(self) -> None:
        positive(self, "dataset.", "nb_inputs", "nb_hidden", "nb_outputs", "nb_steps", "batch_size")
        positive(self, "dataset.", "duration", "bin_dt")
        one_of("dataset.polarity", self.polarity, ("dark", "light"))
        at_default(self, "dataset.", "nb_layers")

    @property
    def paths(self) -> list[str]:
        """Files of the targets, absolute."""
        given = self.data_path if isinstance(self.data_path, list) else [self.data_path]
        if not given or not all(isinstance(path, str) and path for path in given):
            raise UserError(f"dataset.data_path={self.data_path}: wanted a path or a list of paths")
        return [str(REPO / path) for path in given]


@dataclass
class MethodConfig:
    """What stands for the derivative of a hidden spike, and how spikes are drawn."""

    name: str = MISSING  # one of the group
    sg_mode: str = MISSING  # superspike | sigmoidspike | multilayerspiker
    stoch: bool = MISSING  # escape noise while learning
    sigm: bool = True  # sigmoidal escape noise (beta_h, beta_o) instead of exponential (p0, delta_uh, delta_uo)
    nb_trials: int = MISSING  # trials averaged in every update

    def __post_init__(self) -> None:
        one_of("method.sg_mode", self.sg_mode, SG_MODES)
        positive(self, "method.", "nb_trials")


@dataclass
class DatasetMethodConfig:
    """Learning rates, which a method brings along; the group of this name in the published suite."""

    lr_h: float = MISSING  # of the hidden weights
    lr_o: float = MISSING  # of the output weights

    def __post_init__(self) -> None:
        not_negative(self, "dataset_method.", "lr_h", "lr_o")


@dataclass
class SpikeTrainMatchingConfig(CommonConfig):
    """Everything a run of `Spike_train_matching/run_image_task_1hid.py` depends on."""

    PUBLISHED: ClassVar = Published(
        values={"dataset.data_path": {"../../../../dataset/oxford.png": OXFORD}},
        unread={"dataset_method": "a method brings its learning rates, dataset_method.lr_h and dataset_method.lr_o"},
    )

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    dataset_method: DatasetMethodConfig = field(default_factory=DatasetMethodConfig)

    seed: int = 17
    update: str = "three_factor"  # three_factor | autograd (the same by differentiation) | full (nothing cut)
    kernel: str = "auto"  # auto | reference
    reset_mode: bool = False  # true: "multiplicative" reset, and a silent step before each step of the target
    validate_with_other_method: bool = True  # also evaluate with the swapped spikes after every epoch
    plot: bool = True  # figures at logging_freq

    save_mem: bool = False  # membranes into state.h5 at logging_freq
    save_spk: bool = True  # spikes
    save_dw: bool = False  # updates, before the learning rate
    save_w: bool = False  # weights

    dt: float = 1e-3  # s
    nb_epochs: int = 1500  # updates of all pairs
    logging_freq: int = 500  # epochs between two lines of the log, records in state.h5 and figures
    checkpoint_seconds: float = 30.0  # a checkpoint at logging_freq, and when this long has passed

    tau_mem: float = 10e-3  # membrane time constant (s)
    tau_syn: float = 5e-3  # synaptic time constant (s)
    eps0: float = 200e-3  # scale of the kernel eps0 (exp(-t/tau_mem) - exp(-t/tau_syn))
    theta: float = 1.0  # firing threshold, the unit of the membrane

    p0: float = 2 / 3  # exponential escape noise at threshold (probability per step)
    delta_uh: float = 133e-3  # its width in the hidden layer
    delta_uo: float = 13e-3  # its width in the output layer, and the scale of the output error
    beta_h: float = 10.0  # slope of surrogate and sigmoidal escape noise, hidden layer
    beta_o: float = 100.0  # slope of sigmoidal escape noise, output layer

    fi: float = 50.0  # rate of the input neurons (Hz)
    out_prob: float = 0.85  # brightness below (polarity light: above) which a pixel is a spike
    target_sigma_u: float = 1.0  # initial standard deviation of the membrane

    batch_id: int = 0  # pair shown in the figures
    o_neuron_id: int = 2  # output neuron whose membrane is drawn with save_mem
    h_neuron_id: int = 10  # hidden neuron
    i_neuron_id: int = 0  # input neuron
    mV: float = 1e-3  # of the published suite, accepted at this value only
    ms: float = 1e-3  # of the published suite, accepted at this value only
    k0: float = -1.0  # of the published suite, accepted at this value only

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("update", self.update, UPDATES)
        one_of("kernel", self.kernel, ("auto", "reference"))
        positive(self, "", "logging_freq", "checkpoint_seconds", "beta_h", "beta_o", "p0", "delta_uh", "delta_uo")
        positive(self, "", "dt", "tau_mem", "tau_syn", "eps0", "theta", "fi", "target_sigma_u")
        not_negative(self, "", "nb_epochs", "batch_id", "o_neuron_id", "h_neuron_id", "i_neuron_id")
        probability(self, "", "out_prob")
        at_default(self, "", "mV", "ms", "k0")
        nb_pairs = max(len(self.dataset.paths), self.dataset.batch_size)
        if self.batch_id >= nb_pairs:
            raise UserError(f"batch_id={self.batch_id}: there are pairs 0 to {nb_pairs - 1}")

    def preflight(self) -> None:
        """Raises: UserError naming a target that is missing."""
        for path in self.dataset.paths:
            if not Path(path).is_file():
                raise UserError(f"dataset.data_path={path}: there is no such file")

    def build(self, device: torch.device) -> tuple[Task, Weights, Training]:
        """Task, initial weights and training on a device; all random numbers follow from the seed.

        Raises:
            UserError: for targets that cannot be read or do not fit, and for values out of range.
        """
        data = self.dataset
        targets = [
            load_target(
                path,
                dt=self.dt,
                nb_outputs=data.nb_outputs,
                nb_steps=data.nb_steps,
                out_prob=self.out_prob,
                polarity=data.polarity,
                duration=data.duration,
                bin_dt=data.bin_dt,
            )
            for path in data.paths
        ]
        for target in targets[1:]:
            if target.spikes.shape != targets[0].spikes.shape:
                sizes = [f"{t.name}: {t.spikes.shape[1]} x {t.spikes.shape[0]}" for t in (targets[0], target)]
                raise UserError(f"targets must be of one size (neurons x steps), but {'; '.join(sizes)}")
        spikes = [with_silent_steps(t.spikes) if self.reset_mode else t.spikes for t in targets]
        nb_pairs = max(len(spikes), data.batch_size)
        z = torch.stack([spikes[p % len(spikes)] for p in range(nb_pairs)], 1).float()
        neurons = Neurons(
            targets[0].dt,
            self.tau_mem,
            self.tau_syn,
            self.theta,
            self.eps0,
            self.delta_uo,
            "multiplicative" if self.reset_mode else "multiplicative_leak",
        )
        generator = torch.Generator().manual_seed(self.seed)
        x = poisson_input(len(z), nb_pairs, data.nb_inputs, self.fi, neurons.dt, generator)
        units = (data.nb_inputs, data.nb_hidden, z.shape[2])
        weights = initial_weights(units, neurons, self.fi, self.target_sigma_u, generator)
        task = Task(x.to(device), z.to(device), neurons, kernel=self.kernel)
        return task, Weights(*(w.to(device) for w in weights)), self.training()

    def training(self) -> Training:
        """How to learn."""
        noise = {k: getattr(self, k) for k in ("beta_h", "beta_o", "p0", "delta_uh", "delta_uo")}
        own, other = (spike_mode(s, self.method.sigm, **noise) for s in (self.method.stoch, not self.method.stoch))
        return Training(
            surrogate=build_surrogate(self.method.sg_mode, self.beta_h),
            mode=own,
            other=other if self.validate_with_other_method else None,
            lr_h=self.dataset_method.lr_h,
            lr_o=self.dataset_method.lr_o,
            update=self.update,
            nb_trials=self.method.nb_trials,
            batch_size=self.dataset.batch_size,
            seed=self.seed,
        )
