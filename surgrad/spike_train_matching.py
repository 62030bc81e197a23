"""Spike-train matching with one hidden layer (Gygax & Zenke 2025, fig. 5; after Zenke & Ganguli 2018).

Frozen Poisson inputs drive a hidden and an output layer; the outputs learn to fire at given times. There is no delay:
a hidden spike of step t enters I[t] of the output layer. Time first, then trial, pair and neuron: (T, K, P, N), where
the K trials differ in their escape noise alone and the P pairs in input and target.

The learning rule is a three-factor rule, gradient ascent on the log-likelihood of the target:

    delta_o[t] = (z[t] - s_o[t]) / delta_uo
    dW_o[h, o] = sum_t PSP_h[t] delta_o[t]
    dW_h[i, h] = sum_t (sum_o W_o[h, o] delta_o[t]) (eps * (g_h PSP_i))[t]

averaged over trials and pairs. PSP is the membrane without reset of a unit weight, eps the kernel eps0
(exp(-t/tau_mem) - exp(-t/tau_syn)), and g_h the surrogate derivative of the hidden spike (or the spike itself). The
last line is computed by its adjoint: the error, projected back, is filtered once in reversed time and multiplied by
g_h; summed over trials, it meets the PSPs of the frozen input in one matrix product. No tensor of size inputs x T x
hidden exists.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from surgrad import kernels
from surgrad.errors import UserError
from surgrad.escape_noise import EscapeNoise, Exponential, Sigmoid, Step
from surgrad.leaky_filter import LeakyFilter
from surgrad.neurons import LIF
from surgrad.philox import NoiseKey
from surgrad.surrogate import MultilayerSpiker, SigmoidPrime, SuperSpike, Surrogate


class Weights(NamedTuple):
    """Synaptic weights, presynaptic unit first: hidden (N_in, N_hid), output (N_hid, N_out)."""

    hidden: Tensor
    output: Tensor

    def isfinite(self) -> bool:
        return bool(torch.isfinite(self.hidden.sum() + self.output.sum()))


class Activity(NamedTuple):
    """What the network did: spikes 0/1 and the membrane at which each was drawn, (T, K, P, N)."""

    spikes_hidden: Tensor
    membrane_hidden: Tensor
    spikes_output: Tensor
    membrane_output: Tensor


@dataclass(frozen=True)
class Neurons:
    """Constants of both layers and of the rule.

    Args:
        dt, tau_mem, tau_syn: s.
        theta: firing threshold, in the units of the membrane.
        eps0, delta_uo: scale of the kernel eps, and of the output error.
        reset: "multiplicative_leak" (published reset_mode False) or "multiplicative" (True).
    """

    dt: float = 1e-3
    tau_mem: float = 10e-3
    tau_syn: float = 5e-3
    theta: float = 1.0
    eps0: float = 0.2
    delta_uo: float = 13e-3
    reset: str = "multiplicative_leak"

    def __post_init__(self):
        for name in ("dt", "tau_mem", "tau_syn", "theta", "eps0", "delta_uo"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UserError(f"{name}={getattr(self, name)} must be positive and finite")


@dataclass(frozen=True)
class SpikeMode:
    """How the hidden and the output layer draw spikes; parameters in the units of the membrane."""

    hidden: EscapeNoise = field(default_factory=Step)
    output: EscapeNoise = field(default_factory=Step)

    @property
    def stochastic(self) -> bool:
        return self.hidden.stochastic or self.output.stochastic


def spike_mode(
    stoch: bool,
    sigm: bool = True,
    *,
    beta_h: float = 10.0,
    beta_o: float = 100.0,
    p0: float = 2 / 3,
    delta_uh: float = 133e-3,
    delta_uo: float = 13e-3,
) -> SpikeMode:
    """Deterministic neurons, or escape noise: sigmoidal with slopes beta_h, beta_o (sigm) or exponential."""
    if not stoch:
        return SpikeMode()
    if sigm:
        return SpikeMode(Sigmoid(beta_h), Sigmoid(beta_o))
    return SpikeMode(Exponential(p0, delta_uh), Exponential(p0, delta_uo))


#: Hidden surrogates by the `sg_mode` of the published configs, given the slope beta_h.
SURROGATES: dict[str, Callable[[float], Surrogate]] = {
    "superspike": SuperSpike,
    "sigmoidspike": SigmoidPrime,
    "multilayerspiker": lambda beta: MultilayerSpiker(),
}


def build_surrogate(sg_mode: str, beta_h: float) -> Surrogate:
    """g_h of a method. Raises: UserError for an unknown sg_mode."""
    if sg_mode not in SURROGATES:
        raise UserError(f"sg_mode={sg_mode!r} is unknown; allowed: {', '.join(SURROGATES)}")
    return SURROGATES[sg_mode](beta_h)


def poisson_input(nb_steps: int, nb_pairs: int, nb_inputs: int, rate: float, dt: float, generator: torch.Generator):
    """Frozen Bernoulli spikes of probability rate dt, (T, P, N_in) float32 of 0/1.

    Args: rate in Hz; dt in s. Raises: UserError for a rate below 0 or above one spike per step.
    """
    if not 0 <= rate * dt <= 1:
        raise UserError(f"fi={rate} Hz is not allowed: with dt={dt} s it must lie between 0 and {1 / dt:g} Hz")
    return (torch.rand(nb_steps, nb_pairs, nb_inputs, generator=generator) < rate * dt).float()


def initial_weights(
    sizes: tuple[int, int, int], neurons: Neurons, rate: float, target_sigma_u: float, generator: torch.Generator
) -> Weights:
    """W ~ N(0, sigma_u^2 / (n nu eps_hat)), eps_hat = tau_syn^2 / (2 (tau_syn + tau_mem)) (Rossbroich et al. 2022).

    Args: sizes (N_in, N_hid, N_out); rate nu in Hz of both presynaptic layers; target_sigma_u of the membrane.
    """
    if not (rate > 0 and target_sigma_u >= 0):
        raise UserError(f"fi={rate} Hz and target_sigma_u={target_sigma_u} must be positive to scale the weights")
    eps_hat = neurons.tau_syn**2 / (2 * (neurons.tau_syn + neurons.tau_mem))
    return Weights(
        *(
            torch.randn(n, m, generator=generator) * target_sigma_u / math.sqrt(n * rate * eps_hat)
            for n, m in pairwise(sizes)
        )
    )


class Task:
    """Frozen input-target pairs, with everything that does not change while learning computed once.

    Args:
        x: input spikes (T, P, N_in), 0/1.
        target: (T, P, N_out), 0/1.
        neurons: constants.
        first_pair: global index of the first pair, which addresses its noise.
        kernel: "auto", or "reference".
    """

    def __init__(self, x: Tensor, target: Tensor, neurons: Neurons, first_pair: int = 0, kernel: str = "auto"):
        if x.shape[:2] != target.shape[:2]:
            raise UserError(
                f"input {tuple(x.shape)} and target {tuple(target.shape)} differ in steps or pairs (T, P, N)"
            )
        self.x, self.target = x, target.to(x.dtype)
        self.neurons, self.first_pair, self.kernel = neurons, first_pair, kernel
        self.nb_steps, self.nb_pairs = x.shape[:2]
        self._known_ids: dict[int, Tensor] = {}
        self._known_neurons: dict[tuple[EscapeNoise, Surrogate | None], LIF] = {}
        a, b = math.exp(-neurons.dt / neurons.tau_syn), math.exp(-neurons.dt / neurons.tau_mem)
        self.a, self.b = (torch.tensor(value, dtype=x.dtype, device=x.device) for value in (a, b))
        self._membrane = LeakyFilter(a, b, 1 - b, like=x)
        # the published kernel is sampled at linspace(0, T dt, T), whose steps are T dt / (T - 1) long
        step = neurons.dt * self.nb_steps / max(self.nb_steps - 1, 1)
        a, b = math.exp(-step / neurons.tau_syn), math.exp(-step / neurons.tau_mem)
        self.eps = LeakyFilter(a, b, neurons.eps0 * (b - a), like=x)

    def psp(self, spikes: Tensor) -> Tensor:
        """Unit-weight membrane without reset at step t, caused by the spikes before t: (T, ...) -> (T, ...)."""
        return torch.cat([torch.zeros_like(spikes[:1]), self._membrane(spikes)[:-1]])

    @cached_property
    def psp_input(self) -> Tensor:
        """PSPs of the frozen input, (T, P, N_in)."""
        return self.psp(self.x)

    def pairs(self, first: int, last: int) -> "Task":
        """The task of some of the pairs."""
        return Task(
            self.x[:, first:last], self.target[:, first:last], self.neurons, self.first_pair + first, self.kernel
        )

    def hidden_current(self, weights: Weights) -> Tensor:
        """W_h x for all steps, one product, the same for every trial: (T, P, N_hid)."""
        return self.x @ weights.hidden

    def forward(
        self,
        weights: Weights,
        mode: SpikeMode,
        key: NoiseKey,
        nb_trials: int = 1,
        hidden_current: Tensor | None = None,
        surrogate: Surrogate | None = None,
    ) -> Activity:
        """Run both layers; trials and pairs are one batch for the kernel.

        Args:
            weights: of both layers.
            mode: how spikes are drawn.
            key: seed and draw (the epoch) of the noise.
            nb_trials: K.
            hidden_current: of these weights, if known already.
            surrogate: of both layers, to differentiate through spikes and resets.
        """
        current = self.hidden_current(weights) if hidden_current is None else hidden_current
        shape = (self.nb_steps, nb_trials, self.nb_pairs)
        ids = self._ids(nb_trials)
        layers = []
        for layer, noise in enumerate((mode.hidden, mode.output)):
            neuron = self.neuron(noise, surrogate)
            if layer == 0:
                current = current[:, None].expand(-1, nb_trials, -1, -1).flatten(1, 2)
            else:
                current = layers[0] @ weights.output
            layers += self._scan(current, neuron, replace(key, layer=layer), ids)
        return Activity(*(x.unflatten(1, shape[1:]) for x in layers))

    def _ids(self, nb_trials: int) -> Tensor:
        """(K P,) global indices of trials and pairs, which address their noise."""
        if nb_trials not in self._known_ids:
            ids = torch.arange(nb_trials)[:, None] * 2**16 + self.first_pair + torch.arange(self.nb_pairs)
            self._known_ids[nb_trials] = ids.flatten().to(self.x.device)
        return self._known_ids[nb_trials]

    def _scan(self, current: Tensor, neuron: LIF, noise: NoiseKey, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The one door to the kernels, whose threshold is 1: current (T, B, N) -> spikes, membrane."""
        theta = self.neurons.theta
        if theta != 1:
            current = current / theta
        spikes, membrane, _ = kernels.lif(
            current, self.a, self.b, neuron, noise=noise, ids=ids, kernel=self.kernel, return_membrane=True
        )
        return spikes, membrane if theta == 1 else membrane * theta

    def neuron(self, noise: EscapeNoise, surrogate: Surrogate | None) -> LIF:
        """A neuron of threshold 1 for a membrane divided by theta; differentiated through resets with a surrogate."""
        known = self._known_neurons.get((noise, surrogate))
        if known is None:
            theta = self.neurons.theta
            scaled = {"beta": lambda v: v * theta, "delta_u": lambda v: v / theta}
            changes = {name: f(getattr(noise, name)) for name, f in scaled.items() if hasattr(noise, name)}
            known = LIF(escape_noise=replace(noise, **changes), reset=self.neurons.reset)
            if surrogate is not None:
                rescaled = surrogate if theta == 1 else _Rescaled(surrogate, theta)
                known = replace(known, surrogate=rescaled, diff_reset=True)
            self._known_neurons[noise, surrogate] = known
        return known

    def surrogate_hidden(self, activity: Activity, surrogate: Surrogate) -> Tensor:
        """g_h at u - theta, (T, K, P, N_hid)."""
        return surrogate(activity.membrane_hidden - self.neurons.theta, activity.spikes_hidden)

    def difference(self, spikes_output: Tensor) -> Tensor:
        """z - s_o, (T, K, P, N_out): the output error without its factor 1 / delta_uo."""
        return self.target[:, None] - spikes_output

    def distances(self, difference: Tensor) -> tuple[Tensor, Tensor]:
        """Van Rossum and L2 distance of z - s_o (T, K, P, N_out), mean over outputs: two of (K, P)."""
        return tuple(_half_square(x) for x in (self.eps(difference), difference))

    def van_rossum(self, spikes_output: Tensor) -> Tensor:
        """1/2 sum_t (eps * z - eps * s)^2, mean over outputs: (T, K, P, N_out) -> (K, P) (van Rossum 2001)."""
        return _half_square(self.eps(self.difference(spikes_output)))

    def l2(self, spikes_output: Tensor) -> Tensor:
        """1/2 sum_t (z - s)^2, mean over outputs: (T, K, P, N_out) -> (K, P)."""
        return _half_square(self.difference(spikes_output))


def _half_square(x: Tensor) -> Tensor:
    return x.square().sum((0, -1)) / (2 * x.shape[-1])


@dataclass(frozen=True)
class _Rescaled:
    """A surrogate of the membrane in its own units, for one divided by theta."""

    surrogate: Surrogate
    theta: float

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        return self.theta * self.surrogate(self.theta * x, s)


# ---------------------------------------------------------------- updates
@dataclass(frozen=True)
class Episode:
    """One presentation, as an update sees it.

    Args: task; weights; activity; mode, key of the draws; surrogate.
    """

    task: Task
    weights: Weights
    activity: Activity
    mode: SpikeMode
    key: NoiseKey
    surrogate: Surrogate


@torch.no_grad()
def three_factor(episode: Episode) -> Weights:
    """The rule by its adjoint (equations at the top); before the learning rate, averaged over trials and pairs."""
    task, weights, activity = episode.task, episode.weights, episode.activity
    difference = task.difference(activity.spikes_output)
    d_output = task.psp(activity.spikes_hidden).flatten(0, 2).T @ difference.flatten(0, 2)
    back = task.eps.adjoint(difference @ weights.output.T) * task.surrogate_hidden(activity, episode.surrogate)
    d_hidden = task.psp_input.flatten(0, 1).T @ back.sum(1).flatten(0, 1)
    scale = 1 / (task.neurons.delta_uo * difference.shape[1] * difference.shape[2])
    return Weights(d_hidden * scale, d_output * scale)


class _GivenSpikes(torch.autograd.Function):
    """Forward: spikes drawn already. Backward: a given factor instead of dS/du."""

    @staticmethod
    def forward(ctx, potential: Tensor, spikes: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return spikes.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad * ctx.saved_tensors[0], None, None


@torch.enable_grad()
def autograd_three_factor(episode: Episode) -> Weights:
    """The same rule by automatic differentiation, with the paths it cuts written out.

    It is the gradient of sum_t delta_o[t] u_o[t] with (1) delta_o held constant, so that nothing flows through output
    spikes; (2) membranes without reset, u = W PSP, in both layers; (3) eps in place of the PSP kernel on the way from
    hidden spikes to output membranes; (4) the surrogate, taken at the true membrane with reset, in place of dS/du.
    """
    task, activity = episode.task, episode.activity
    w_hidden, w_output = (w.detach().requires_grad_() for w in episode.weights)
    error = task.difference(activity.spikes_output).detach() / task.neurons.delta_uo
    free = (task.psp_input @ w_hidden)[:, None].expand_as(activity.spikes_hidden)
    spikes = _GivenSpikes.apply(free, activity.spikes_hidden, task.surrogate_hidden(activity, episode.surrogate))
    membrane = task.psp(spikes.detach()) @ w_output + task.eps(spikes) @ w_output.detach()
    objective = (error * membrane).sum() / (error.shape[1] * error.shape[2])
    return Weights(*torch.autograd.grad(objective, (w_hidden, w_output)))


@torch.enable_grad()
def full_backpropagation(episode: Episode) -> Weights:
    """Minus the gradient of the van Rossum distance, summed over outputs, through time, resets and output spikes.

    Nothing is cut: the method's surrogate stands for dS/du in both layers, in spikes and in resets. Through resets and
    time, surrogates with a large peak (such as sigmoid' of the output's slope) explode (Zenke & Vogels 2021).
    """
    task = episode.task
    weights = Weights(*(w.detach().requires_grad_() for w in episode.weights))
    nb_trials = episode.activity.spikes_output.shape[1]
    activity = task.forward(weights, episode.mode, episode.key, nb_trials, surrogate=episode.surrogate)
    loss = task.van_rossum(activity.spikes_output).mean() * task.target.shape[-1]
    return Weights(*(-g for g in torch.autograd.grad(loss, weights)))


UPDATES: dict[str, Callable[[Episode], Weights]] = {
    "three_factor": three_factor,
    "autograd": autograd_three_factor,
    "full": full_backpropagation,
}


# ---------------------------------------------------------------- learning
@dataclass(frozen=True)
class Training:
    """How to learn.

    Args:
        surrogate: g_h. mode: spikes while learning. other: the swapped mode, to evaluate with; None to skip it.
        update: "three_factor", "autograd" or "full".
        lr_h, lr_o: learning rates.
        nb_trials: K, averaged in every update.
        batch_size: pairs per update. seed: of the noise.
    """

    surrogate: Surrogate
    mode: SpikeMode
    other: SpikeMode | None
    lr_h: float
    lr_o: float
    update: str = "three_factor"
    nb_trials: int = 1
    batch_size: int = 1
    seed: int = 0

    def __post_init__(self):
        if self.update not in UPDATES:
            raise UserError(f"update={self.update!r} is unknown; allowed: {', '.join(UPDATES)}")
        for name in ("nb_trials", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")


class Epoch(NamedTuple):
    """What happened in one epoch.

    number; activity while learning and its distances (K, P); the sum of the updates before the learning rates; weights
    after it; activity and distances in the swapped mode with these weights, one trial (None if not asked for).
    """

    number: int
    activity: Activity
    van_rossum: Tensor
    l2: Tensor
    update: Weights
    weights: Weights
    other: Activity | None
    van_rossum_other: Tensor | None
    l2_other: Tensor | None


class Diverged(UserError):
    """Weights are no longer finite; ``weights`` are the last good ones, of epoch ``epoch``."""

    def __init__(self, epoch: int, weights: Weights):
        super().__init__(
            f"weights are not finite after epoch {epoch}: lower dataset_method.lr_h and dataset_method.lr_o"
        )
        self.epoch, self.weights = epoch - 1, weights


@torch.no_grad()
def train(task: Task, weights: Weights, training: Training, epochs: range) -> Iterator[Epoch]:
    """Learn, yielding every epoch. Noise is addressed by the epoch, so a run goes on from any epoch's weights.

    Raises: Diverged when a weight is not finite.
    """
    update = UPDATES[training.update]
    size = training.batch_size
    batches = [task.pairs(p, p + size) for p in range(0, task.nb_pairs, size)]
    alone = batches[0] if len(batches) == 1 else None
    current = alone.hidden_current(weights) if alone else None
    for number in epochs:
        key = NoiseKey(training.seed, number)
        seen, total, before = [], None, weights
        for batch in batches:
            activity = batch.forward(weights, training.mode, key, training.nb_trials, hidden_current=current)
            episode = Episode(batch, weights, activity, training.mode, key, training.surrogate)
            step = update(episode)
            weights = Weights(
                weights.hidden + training.lr_h * step.hidden, weights.output + training.lr_o * step.output
            )
            if not weights.isfinite():
                raise Diverged(number, before)
            current = alone.hidden_current(weights) if alone else None  # serves the evaluation and the next epoch
            seen.append((activity, *batch.distances(batch.difference(activity.spikes_output))))
            total = step if total is None else Weights(total.hidden + step.hidden, total.output + step.output)
        activity, van_rossum, l2 = _joined(seen)
        swapped = (None, None, None)
        if training.other is not None:
            swapped = _joined([evaluate(b, weights, training.other, key, hidden_current=current) for b in batches])
        yield Epoch(number, activity, van_rossum, l2, total, weights, *swapped)


@torch.no_grad()
def evaluate(
    task: Task,
    weights: Weights,
    mode: SpikeMode,
    key: NoiseKey,
    nb_trials: int = 1,
    hidden_current: Tensor | None = None,
) -> tuple[Activity, Tensor, Tensor]:
    """Activity in a spike mode, van Rossum and L2 distance of each trial and pair, (K, P)."""
    activity = task.forward(weights, mode, key, nb_trials, hidden_current=hidden_current)
    return activity, *task.distances(task.difference(activity.spikes_output))


def _joined(parts: list[tuple[Activity, Tensor, Tensor]]) -> tuple[Activity, Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    activities, van_rossum, l2 = zip(*parts, strict=True)
    activity = Activity(*(torch.cat(arrays, 2) for arrays in zip(*activities, strict=True)))
    return activity, torch.cat(van_rossum, 1), torch.cat(l2, 1)
