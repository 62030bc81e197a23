"""Connections: how presynaptic spikes become synaptic currents. Parameters and shapes; no loop over time.

A new connection is initialised: W_ij ~ N(0, GAIN^2 / fan_in), from PyTorch's global generator (`torch.manual_seed`).
Initialisers (`surgrad.network.initializers`) overwrite it. Inputs that fire independently at the rate nu then move the
membrane by the deviation GAIN sqrt(nu eps) in units of threshold, eps = tau_syn^2 / (2 (tau_mem + tau_syn)): by 0.9 at
10 Hz and 2 at 50 Hz for tau_mem = 20 ms and tau_syn = 10 ms, so that layers of any depth fire at such rates.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial, singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgrad.errors import UserError
from surgrad.kernels import precision
from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.cpu.products import linear
from surgrad.kernels.philox import NoiseKey, uniform
from surgrad.network.delays import Delayed

GAIN = 7.0


def _own_part(connection: nn.Module, known: type[nn.Module]) -> str:
    """Why only a connection's own function may be used: it defines forward, or has hooks; "" where kernels know it."""
    own = vars(connection)
    if type(connection).forward is not known.forward or "forward" in own:
        return f"{type(connection).__name__} defines forward"
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return f"{type(connection).__name__} has hooks" if hooks else ""


class Dense(nn.Module):
    """All-to-all connection: I = W s, without bias.

    Args:
        in_shape: of the presynaptic units, which are flattened.
        nb_units: number of postsynaptic units.
    """

    def __init__(self, in_shape: int | Sequence[int], nb_units: int):
        super().__init__()
        self.in_shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        self.out_shape = (nb_units,)
        self.weight = nn.Parameter(torch.empty(nb_units, math.prod(self.in_shape)))
        nn.init.normal_(self.weight, 0.0, GAIN / math.sqrt(self.weight.shape[1]))

    @property
    def fan_in(self) -> int:
        return self.weight.shape[1]

    def spec(self, name: str, dt: float | None = None) -> ConnectionSpec:
        """What kernels are given of this connection, called ``name`` in messages."""
        own = _own_part(self, Dense)
        return ConnectionSpec(name, "dense", self.out_shape, self, self.in_shape, self.weight, own=own)

    def extra_repr(self) -> str:
        return f"{self.in_shape} -> {self.out_shape}"

    def forward(self, s: Tensor) -> Tensor:
        """(..., *in_shape) -> (..., nb_units)."""
        return linear(s.flatten(s.dim() - len(self.in_shape)).to(self.weight.dtype), self.weight)


class DelayedDense(Delayed, Dense):
    """All-to-all connection with a delay per synapse: I_i(t) = sum_j w_ij s_j(t - d_ij), d_ij up to max_delay.

    On a grid, a spike whose delay is k + f steps, 0 <= f < 1, arrives with 1 - f of its weight after k and with f after
    k + 1 steps, so that currents are continuous in the delays and differentiable between whole steps (delays by
    interpolation; learned as in Hammouamri, Khalfaoui-Hassani & Masquelier 2023, with whom the kernel is a Gaussian).

    Args:
        in_shape: as in `Dense`.
        nb_units: as in `Dense`.
        max_delay: s. Delays start anywhere below it with equal probability.
        trainable: whether delays are learned.
        seed: of the starting delays; equal connections of a network start alike.
        rounded: evaluate with delays of whole steps, as hardware has them.
        min_delay: lower end of the range, s.

    Raises:
        UserError: for a max_delay that is not positive, or a min_delay that is negative or not below it.
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        nb_units: int,
        max_delay: float,
        trainable: bool = True,
        seed: int = 0,
        rounded: bool = False,
        min_delay: float = 0.0,
    ):
        super().__init__(in_shape, nb_units)
        starts = self._starts(seed)  # of the delays in s, (nb_units, fan_in)
        self._give_delays(starts, max_delay, min_delay, trainable=trainable, rounded=rounded)

    def _starts(self, seed: int) -> Tensor:
        """Where every delay begins, as a share of the range."""
        return uniform(NoiseKey(seed), 0, torch.arange(self.weight.shape[0]), (self.fan_in,))

    def spec(self, name: str, dt: float | None = None) -> ConnectionSpec:
        """What kernels are given of this connection, called ``name`` in messages; dt in s."""
        if dt is None:
            raise UserError(f"{name} has delays, which need the time step of a Network")
        own, shares = _own_part(self, DelayedDense), self._own_shares()
        delays: dict[str, Any] = {"delays": self.steps(dt), "nb_taps": self.nb_taps(dt)}
        delays |= {"own": own or shares, "own_shares": bool(shares) and not own, "kernel": partial(self._kernel, dt)}
        function = partial(self, dt=dt)
        return ConnectionSpec(name, "delayed", self.out_shape, function, self.in_shape, self.weight, **delays)

    def _own_shares(self) -> str:
        """Why compiled code does not know the `shares`, or ""."""
        return "" if type(self).shares is Delayed.shares else f"{type(self).__name__} shares spikes in its own way"

    def _kernel(self, dt: float) -> Tensor:
        """Weights that arrive after 0, 1, … steps, (nb_units, fan_in, nb_taps)."""
        return torch.stack([self.weight * share for share in self.shares(dt)], -1)

    def forward(  # type: ignore[override]  # needs the time step, which kernels get through `spec`
        self, s: Tensor, dt: float, shift: int = 0
    ) -> Tensor:
        """Spikes (T, B, *in_shape), ``shift`` steps later -> currents (T + shift + nb_taps - 1, B, nb_units)."""
        s = s.flatten(2).to(self.weight.dtype)
        kernel = self._kernel(dt).flip(-1)
        current = precision.convolution(s.permute(1, 2, 0), kernel, (1,), (kernel.shape[-1] - 1,))
        return F.pad(current.permute(2, 0, 1), (0, 0, 0, 0, shift, 0))


class GaussianDelays(DelayedDense):
    """All-to-all connection whose learned delays are seen through a Gaussian of shrinking width while training.

    A spike with the delay d arrives after n steps with the share exp(-(n - d)^2 / (2 sigma^2)) of its weight, divided
    by the sum of these over all n up to the longest delay. A wide kernel lets gradients compare arrivals that are far
    apart. Its width falls from ``sigma`` to ``sigma_end`` by a factor per epoch, over the first ``anneal_epochs``
    epochs. As it goes to 0 the kernel becomes a spike at the nearest whole step: evaluation takes that limit, the
    rounded delays. Training costs a convolution over the longest delay.

    Args:
        in_shape: as in `Dense`.
        nb_units: as in `Dense`.
        max_delay: as in `DelayedDense`, s.
        sigma: width of the kernel in the first epoch, s.
        sigma_end: width of the kernel from epoch anneal_epochs + 1 on, s.
        anneal_epochs: over which it falls.
        trainable: as in `DelayedDense`.
        seed: as in `DelayedDense`.

    Raises:
        UserError: for widths that are not positive or grow, or a negative number of epochs.

    Source: Hammouamri, Khalfaoui-Hassani & Masquelier 2023 (DCLS, section 3.2); their width is here without the
    constant of 0.27 steps that their code adds to it.
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        nb_units: int,
        max_delay: float,
        sigma: float,
        sigma_end: float,
        anneal_epochs: int,
        trainable: bool = True,
        seed: int = 0,
    ):
        super().__init__(in_shape, nb_units, max_delay, trainable, seed, rounded=True)
        if not 0 < sigma_end <= sigma < math.inf or anneal_epochs < 0:
            raise UserError(
                f"sigma={sigma} s, sigma_end={sigma_end} s, anneal_epochs={anneal_epochs}: allowed are widths with "
                "0 < sigma_end <= sigma, and 0 or more epochs"
            )
        self.sigma_start, self.sigma_end, self.anneal_epochs = sigma, sigma_end, anneal_epochs
        self.begin_epoch(1)

    def begin_epoch(self, number: int) -> None:
        done = min((number - 1) / self.anneal_epochs, 1.0) if self.anneal_epochs else 1.0
        self.sigma = self.sigma_start * (self.sigma_end / self.sigma_start) ** done

    def _own_shares(self) -> str:
        return super()._own_shares() if self.training else ""

    def shares(self, dt: float) -> Iterator[Tensor]:
        """As of `DelayedDense`; in evaluation, those of the rounded delays."""
        if not self.training:
            yield from super().shares(dt)
            return
        arrivals = torch.arange(self.nb_taps(dt), dtype=self.weight.dtype, device=self.weight.device)
        distance = (arrivals[:, None, None] - self.steps(dt)) * (dt / self.sigma)
        yield from torch.softmax(-distance.square() / 2, 0)


@torch.no_grad()
def learned_delays(network: nn.Module) -> dict[str, Tensor]:
    """Delays in s of every connection with learned ones, as many as it has, by its name in the network."""
    connections = ((name, part) for name, part in network.named_modules() if isinstance(part, Delayed))
    return {name: part.delay().cpu() for name, part in connections}


def begin_epoch(network: nn.Module, number: int) -> None:
    """Let the parts of a network that change over epochs be those of epoch ``number``, 1, 2, …"""
    for part in network.modules():
        if isinstance(part, Delayed):
            part.begin_epoch(number)


class Conv(nn.Module):
    """Convolution over one or two spatial axes, without bias.

    Args:
        in_shape: (channels, length) or (channels, height, width).
        filters: number of output channels.
        kernel_size: one integer, or one per spatial axis.
        stride: one integer, or one per spatial axis.
        padding: one integer, or one per spatial axis.

    Raises:
        UserError: if the kernel is larger than its padded input.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        filters: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
    ):
        super().__init__()
        channels, *lengths = in_shape
        if len(lengths) not in (1, 2):
            raise UserError(f"in_shape={tuple(in_shape)} must be (channels, length) or (channels, height, width)")
        self.in_shape = tuple(in_shape)
        self.kernel_size, self.stride, self.padding = (
            (value,) * len(lengths) if isinstance(value, int) else tuple(value)
            for value in (kernel_size, stride, padding)
        )
        for length, k, s, p in zip(lengths, self.kernel_size, self.stride, self.padding, strict=True):
            if k > length + 2 * p:
                raise UserError(
                    f"kernel_size={k} is larger than its input of length {length} (padding {p}); "
                    "choose a smaller kernel_size, a smaller stride in the layers below, or more padding"
                )
            if k < 1 or s < 1 or p < 0:
                raise UserError(f"kernel_size={k}, stride={s}, padding={p}: allowed are >= 1, >= 1, >= 0")
        self.out_shape = (
            filters,
            *(
                (length + 2 * p - k) // s + 1
                for length, k, s, p in zip(lengths, self.kernel_size, self.stride, self.padding, strict=True)
            ),
        )
        self.weight = nn.Parameter(torch.empty(filters, channels, *self.kernel_size))
        nn.init.normal_(self.weight, 0.0, GAIN / math.sqrt(self.fan_in))

    @property
    def fan_in(self) -> int:
        return self.weight[0].numel()

    def spec(self, name: str, dt: float | None = None) -> ConnectionSpec:
        """What kernels are given of this connection, called ``name`` in messages."""
        own = _own_part(self, Conv)
        shape = (self.kernel_size, self.stride, self.padding)
        return ConnectionSpec(name, "conv", self.out_shape, self, self.in_shape, self.weight, *shape, own=own)

    def extra_repr(self) -> str:
        shape = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{self.in_shape} -> {self.out_shape}, {shape}"

    def forward(self, s: Tensor) -> Tensor:
        """(..., *in_shape) -> (..., *out_shape)."""
        lead = s.shape[: s.dim() - len(self.in_shape)]
        s = s.reshape(-1, *self.in_shape).to(self.weight.dtype)
        return precision.convolution(s, self.weight, self.stride, self.padding).view(*lead, *self.out_shape)


class MaskedDense(Dense):
    """A `Dense` connection that only some presynaptic units take part in: W = V diag(m).

    Args:
        in_shape: as in `Dense`.
        nb_units: as in `Dense`.
        projects: (in,), m: 1 for units that project, 0 for those that do not.

    Raises:
        UserError: for another number of signs than of presynaptic units.
    """

    columns: Tensor

    def __init__(self, in_shape: int | Sequence[int], nb_units: int, projects: Tensor):
        nn.Module.__init__(self)  # not Dense's: the weight follows from `parameter` here
        self.in_shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        self.out_shape = (nb_units,)
        nb_inputs = math.prod(self.in_shape)
        if projects.shape != (nb_inputs,):
            raise UserError(f"{nb_inputs} presynaptic units need as many signs, not {tuple(projects.shape)}")
        self.parameter = nn.Parameter(torch.empty(nb_units, nb_inputs))
        self.register_buffer("columns", projects.to(self.parameter.dtype), persistent=False)
        nn.init.normal_(self.parameter, 0.0, GAIN / math.sqrt(max(1, self.fan_in)))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # read only: it follows from ``parameter``
        """W (nb_units, in), differentiable with respect to ``parameter``."""
        return self.parameter * self.columns

    @property
    def fan_in(self) -> int:
        """Units that project."""
        return int(self.columns.count_nonzero())


class DaleDense(MaskedDense):
    """A `Dense` connection with one sign for each presynaptic neuron: W = |V| diag(s).

    The signs are part of the parametrisation and not of the training loop, so they hold for every optimiser, in every
    checkpoint and at every step. |V| descends as an unconstrained weight of that sign would and is turned back at zero,
    where a clamp (Rossbroich et al. 2022) would stop it; exp(V) would make steps relative and never reach zero. A
    weight of exactly 0 stays there: it has no gradient. A new connection has the magnitudes |V| of a new `Dense`.

    Args:
        in_shape: as in `Dense`.
        nb_units: as in `Dense`.
        signs: (in,): +1 excitatory, -1 inhibitory, 0 for units that do not project.

    Raises:
        UserError: for other signs, or another number of them.
    """

    def __init__(self, in_shape: int | Sequence[int], nb_units: int, signs: Tensor):
        if not bool(((signs == 1) | (signs == -1) | (signs == 0)).all()):
            raise UserError("signs of presynaptic units: allowed are 1 (excitatory), -1 (inhibitory), 0 (none)")
        super().__init__(in_shape, nb_units, signs)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """W (nb_units, in), differentiable with respect to ``parameter``."""
        return self.parameter.abs() * self.columns


Connection = Dense | Conv


@singledispatch
@torch.no_grad()
def fill(connection: Connection, weights: Tensor) -> None:
    """Set the weights of a connection; one whose weights follow from other parameters registers how."""
    connection.weight.copy_(weights)


@fill.register
@torch.no_grad()
def _(connection: MaskedDense, weights: Tensor) -> None:
    connection.parameter.copy_(weights).mul_(connection.columns)


@fill.register
@torch.no_grad()
def _(connection: DaleDense, weights: Tensor) -> None:
    magnitudes = connection.parameter.copy_(weights).mul_(connection.columns)
    if bool((magnitudes < 0).any()):
        raise UserError(
            "this initializer draws weights of both signs, which Dale's law forbids; take initializer=dale "
            "(surgrad.network.initializers.FluctuationDrivenExponential)"
        )
