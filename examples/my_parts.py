"""One part of one's own of every kind, outside the package; each in one command, from the folder of this file:

python3 ../Classification/dense_SNN.py surrogate=my_parts.Gaussian surrogate.width=0.4
python3 ../Classification/dense_SNN.py neuron=my_parts.QuadraticLIF initializer=my_parts.Orthogonal
python3 ../Classification/dense_SNN.py neuron=my_parts.Resonator neuron.angle=0.1
python3 ../Classification/dense_SNN.py neuron.escape_noise._target_=my_parts.Probit connection=my_parts.HalfDense
python3 ../Classification/dense_SNN.py normalization=my_parts.AcrossNeurons normalization.gain=2
python3 ../Classification/dense_SNN.py dataset=my_parts.Tones dataset.source.nb_samples=200 dataset.nu=3
python3 ../Classification/dense_SNN.py loss_type=my_parts.SquaredError optimizer=my_parts.SignSGD lr=1e-3
python3 ../Classification/dense_SNN.py lr_schedule=my_parts.Halving lr_schedule.every=10
python3 ../Classification/dense_SNN.py regularizers.mine._target_=my_parts.Sparsity
python3 ../Classification/dense_SNN.py dataset.augmentations.mine._target_=my_parts.Echo
python3 ../Classification/deep_convSNN.py surrogate=my_parts.Gaussian loss_type=my_parts.SquaredError

What each kind must have is on the page docs/extending.md. A run whose parts are here is read back with
`surgrad.load_run(folder, trust=True)`, from this folder.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn

from surgrad import LIF, Dense, EventDataset, Network
from surgrad.neurons.lif import LIFState


@dataclass(frozen=True)
class Gaussian:
    """A surrogate: h(x) = exp(-x^2 / (2 width^2))."""

    width: float = 0.3

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return torch.exp(-((x / self.width) ** 2) / 2)


@dataclass(frozen=True)
class Probit:
    """An escape noise: p(x) = Phi(x / width), the threshold is normal with this deviation."""

    stochastic: ClassVar[bool] = True
    width: float = 0.2

    def probability(self, x: Tensor) -> Tensor:
        return torch.special.ndtr(x / self.width)

    def threshold(self, r: Tensor) -> Tensor:
        return self.width * torch.special.ndtri(r)


@dataclass(frozen=True)
class QuadraticLIF(LIF):
    """A neuron: the leak vanishes at ``critical``, above which the membrane rises by itself."""

    critical: float = 0.6

    def step(self, state: LIFState, current: Tensor, s: Tensor, a: Tensor, b: Tensor) -> LIFState:
        r = s if self.diff_reset else s.detach()
        drift = state.u * (state.u / self.critical - 1)
        u = (state.u + (1 - b) * (drift + state.i)).clamp(min=-2.0) * (1 - r)
        return LIFState(i=a * state.i + current, u=u)


class ResonatorState(NamedTuple):
    """Synaptic current, membrane, and the second variable of its oscillation, each (B, *units)."""

    i: Tensor
    u: Tensor
    v: Tensor


@dataclass(frozen=True)
class Resonator(LIF):
    """A neuron with a state more than current and membrane: it oscillates below threshold (Izhikevich 2001).

    u + iv turns by ``angle`` in every step while it decays, and a spike resets both.
    """

    State: ClassVar[Any] = ResonatorState
    angle: float = 0.2  # rad per step

    def step(self, state: Any, current: Tensor, s: Tensor, a: Tensor, b: Tensor) -> Any:
        r = s if self.diff_reset else s.detach()
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        u = b * (cosine * state.u - sine * state.v) + (1 - b) * state.i
        v = b * (sine * state.u + cosine * state.v)
        return ResonatorState(i=a * state.i + current, u=u * (1 - r), v=v * (1 - r))


class HalfDense(Dense):
    """A connection: every unit listens to every other unit below it."""

    mask: Tensor

    def __init__(self, in_shape: int | Sequence[int], nb_units: int):
        super().__init__(in_shape, nb_units)
        rows, columns = torch.arange(nb_units)[:, None], torch.arange(self.fan_in)[None, :]
        self.register_buffer("mask", ((rows + columns) % 2).to(self.weight.dtype), persistent=False)

    def forward(self, s: Tensor) -> Tensor:
        return nn.functional.linear(s.flatten(-len(self.in_shape)), self.weight * self.mask)


class AcrossNeurons(nn.Module):
    """A normalisation: in every step the currents of a layer have mean 0 and one deviation across its neurons."""

    def __init__(self, unit_shape: Sequence[int], gain: float = 1.0):
        super().__init__()
        self.unit_shape, self.gain = tuple(unit_shape), nn.Parameter(torch.tensor(float(gain)))

    def forward(self, current: Tensor) -> Tensor:
        return self.gain * nn.functional.layer_norm(current, self.unit_shape)


@dataclass(frozen=True)
class Orthogonal:
    """An initialiser: orthogonal matrices, scaled."""

    gain: float = 5.0

    def __call__(self, network: Network, generator: Generator) -> None:
        for weight in network.parameters():
            if weight.dim() == 2:
                nn.init.orthogonal_(weight, self.gain, generator=generator)


@dataclass(frozen=True)
class SquaredError:
    """A loss: the distance of the largest readouts to 1 for the label and 0 for all others."""

    def __call__(self, readout: Tensor, labels: Tensor) -> Tensor:
        wanted = nn.functional.one_hot(labels, readout.shape[-1]).to(readout.dtype)
        return (readout.amax(0) - wanted).square().mean()

    def predictions(self, readout: Tensor) -> Tensor:
        return readout.amax(0).argmax(-1)


@dataclass(frozen=True)
class Sparsity:
    """A regulariser: neurons that fire more than ``most`` spikes pay for every one of them."""

    strength: float = 1e-2
    most: float = 10.0

    def __call__(self, counts: Tensor) -> Tensor:
        return self.strength * torch.relu(counts - self.most).mean()


class SignSGD(torch.optim.Optimizer):
    """An optimiser: steps of one size along the sign of the gradient."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight -= group["lr"] * weight.grad.sign()


class Halving(torch.optim.lr_scheduler.LRScheduler):
    """A schedule: learning rates are halved after every so many epochs; PyTorch's base class makes it resume."""

    def __init__(self, optimizer: torch.optim.Optimizer, nb_epochs: int, every: int = 5):
        self.every = every
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [lr * 0.5 ** (self.last_epoch // self.every) for lr in self.base_lrs]


@dataclass(frozen=True)
class Tones:
    """A data set: a rising or a falling sweep over the units, with jitter."""

    nb_samples: int = 60
    nb_units: int = 20
    duration: float = 0.2  # s
    jitter: float = 5e-3  # s
    seed: int = 0

    def splits(self) -> tuple[EventDataset, EventDataset]:
        """Training and test set; what validates is taken from the first, as `dataset.validation` says."""
        generator = np.random.default_rng(self.seed)
        return self._drawn(generator), self._drawn(generator)

    def _drawn(self, generator: np.random.Generator) -> EventDataset:
        labels = generator.integers(2, size=self.nb_samples)
        units = np.tile(np.arange(self.nb_units), (self.nb_samples, 1))
        places = np.where(labels[:, None] == 0, units, self.nb_units - 1 - units)
        times = places / self.nb_units * self.duration + self.jitter * generator.standard_normal(units.shape)
        return EventDataset(
            times=np.clip(times, 0, math.inf).ravel(),
            units=units.ravel(),
            offsets=np.arange(self.nb_samples + 1) * self.nb_units,
            labels=labels,
            nb_units=self.nb_units,
            nb_classes=2,
            class_names=("rising", "falling"),
        )


@dataclass(frozen=True)
class Echo:
    """An augmentation: spikes are doubled after a delay, all or none of a sample."""

    delay: float = 10e-3  # s
    p: float = 0.5

    def __call__(self, dataset: EventDataset, generator: Generator) -> EventDataset:
        doubled = (torch.rand(len(dataset), generator=generator) < self.p).numpy()[dataset.samples()]
        times = np.concatenate([dataset.times, dataset.times[doubled] + self.delay])
        units = np.concatenate([dataset.units, dataset.units[doubled]])
        samples = np.concatenate([dataset.samples(), dataset.samples()[doubled]])
        order = np.argsort(samples, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(samples, minlength=len(dataset)))])
        return dataset.with_events(times[order], units[order], offsets)
