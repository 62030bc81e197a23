"""Configuration of the SuperSpike suite: online learning of spike times given as events."""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from surgrad.config.common import CommonConfig
from surgrad.config.validate import not_negative, one_of, positive
from surgrad.datasets.sources.bs1 import read_bs1
from surgrad.datasets.sources.targets import bin_events, read_events
from surgrad.errors import UserError
from surgrad.experiments.superspike.online import FEEDBACKS, ONLINE_RESETS, SuperSpikeNetwork, SuperSpikeRule
from surgrad.runs.record import REPO

OXFORD = "Spike_train_matching/dataset/oxford_slayer"


@dataclass
class SuperSpikeConfig(CommonConfig):
    """Everything a run of `Spike_train_matching/run_superspike.py` depends on."""

    input_path: str | None = f"{OXFORD}/input.bs1"  # events, relative to the repository; null: Poisson of nu_input
    target_path: str | None = f"{OXFORD}/output.bs1"  # the same of the target; null: nb_spikes
    nb_spikes: int = 5  # of each output, at equal distances, where target_path is null
    nb_inputs: int = 200  # input neurons
    nb_hidden: int = 200  # hidden neurons
    nb_outputs: int = 200  # output neurons
    duration: float = 1.9  # of a trial (s)
    dt: float = 1e-3  # s

    nb_epochs: int = 1000  # trials
    lr_h: float = 1e-2  # rate of the hidden weights, in weight per update of a synapse with its largest gradient
    lr_o: float = 1e-2  # of the output weights
    update_period: float = 0.5  # s of simulated time between updates
    gamma: float = 0.9  # decay per update of the largest squared gradient
    feedback: str = "symmetric"  # symmetric | random | uniform
    reset: str = "multiplicative_leak"  # multiplicative_leak | subtractive
    beta: float = 10.0  # slope of the surrogate

    tau_mem: float = 10e-3  # s
    tau_syn: float = 5e-3  # s
    tau_decay: float = 10e-3  # of the van Rossum kernel (s)
    tau_rise: float = 5e-3  # s
    eps0: float = 0.2  # scale of the van Rossum distance that is reported

    nu_input: float = 5.0  # rates for which the initial weights are scaled (Hz)
    nu_hidden: float = 10.0  # the same of the hidden layer (Hz)
    target_sigma_u: float = 1.0  # initial deviation of the membrane

    logging_freq: int = 100  # trials between checkpoints and lines of the log
    plot: bool = True  # draw figures

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("feedback", self.feedback, FEEDBACKS)
        one_of("reset", self.reset, ONLINE_RESETS)
        positive(self, "", "dt", "duration", "update_period", "nu_input", "nu_hidden", "logging_freq")
        positive(self, "", "nb_inputs", "nb_hidden", "nb_outputs", "nb_spikes", "beta")
        positive(self, "", "tau_mem", "tau_syn", "tau_decay", "tau_rise")
        not_negative(self, "", "nb_epochs", "lr_h", "lr_o", "gamma", "target_sigma_u")
        if self.update_period < self.dt:
            raise UserError(f"update_period={self.update_period} s is shorter than a step of dt={self.dt} s")
        if self.input_path is None and self.nu_input * self.dt > 1:
            raise UserError(f"nu_input={self.nu_input} Hz is more than a spike in each step of dt={self.dt} s")
        if self.target_path is None and self.nb_spikes >= self.nb_steps:
            raise UserError(f"nb_spikes={self.nb_spikes} do not fit into {self.nb_steps} steps")

    def preflight(self) -> None:
        """Raises: UserError naming the key of a file that is missing."""
        for key in ("input_path", "target_path"):
            path = getattr(self, key)
            if path is not None and not (REPO / path).is_file():
                raise UserError(f"{key}={path}: no such file, relative to {REPO}")

    @property
    def nb_steps(self) -> int:
        """Steps of a trial."""
        return round(self.duration / self.dt)

    def rule(self) -> SuperSpikeRule:
        same = {key.name: getattr(self, key.name) for key in fields(SuperSpikeRule) if hasattr(self, key.name)}
        period = round(self.update_period / self.dt)
        return SuperSpikeRule(**same, rate_hidden=self.lr_h, rate_output=self.lr_o, period=period)

    def network(self) -> SuperSpikeNetwork:
        """Weights ~ N(0, sigma_u^2 / (n nu eps_hat)), eps_hat = tau_syn^2 / (2 (tau_syn + tau_mem)), from the seed."""
        generator = torch.Generator().manual_seed(self.seed)
        eps_hat = self.tau_syn**2 / (2 * (self.tau_syn + self.tau_mem))

        def draw(post: int, pre: int, rate: float) -> Tensor:
            scale = self.target_sigma_u / math.sqrt(pre * rate * eps_hat)
            return torch.randn(post, pre, generator=generator) * scale

        hidden = draw(self.nb_hidden, self.nb_inputs, self.nu_input)
        output = draw(self.nb_outputs, self.nb_hidden, self.nu_hidden)
        return SuperSpikeNetwork(hidden, output, self.rule(), generator, self.num_threads or 1)

    def events(self) -> tuple[Tensor, Tensor]:
        """Input and target, (T, N) uint8. Raises: UserError for files that cannot be read or do not fit."""
        x = self._poisson() if self.input_path is None else self._read(self.input_path, self.nb_inputs)
        target = self._spaced() if self.target_path is None else self._read(self.target_path, self.nb_outputs)
        return torch.from_numpy(x), torch.from_numpy(target)

    def _poisson(self) -> np.ndarray:
        """Frozen input: a spike in each step with probability nu_input dt, from the seed, (T, N_in) uint8."""
        draws = np.random.default_rng(self.seed).random((self.nb_steps, self.nb_inputs))
        return (draws < self.nu_input * self.dt).astype(np.uint8)

    def _spaced(self) -> np.ndarray:
        """Target spikes of every output at k duration / (nb_spikes + 1), k = 1..nb_spikes, (T, N_out) uint8."""
        times = np.arange(1, self.nb_spikes + 1) * self.duration / (self.nb_spikes + 1)
        return np.repeat(bin_events(times, np.zeros_like(times, int), self.dt, 1, self.nb_steps), self.nb_outputs, 1)

    def _read(self, path: str, nb_units: int) -> np.ndarray:
        times, units = (read_bs1 if path.endswith(".bs1") else read_events)(REPO / path)
        return bin_events(times, units, self.dt, nb_units, self.nb_steps, name=path)

    @property
    def distance_scale(self) -> float:
        """From 1/2 sum e^2 over steps and outputs to the suite's van Rossum distance, mean over outputs."""
        rule = self.rule()
        a, b = rule.decay(self.tau_rise), rule.decay(self.tau_decay)
        return (self.eps0 * (b - a) / (1 - b)) ** 2 / self.nb_outputs
