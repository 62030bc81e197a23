"""Connections, time constants and layers: parameters only. The loop over time lives in `surgrad.kernels`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgrad.errors import UserError
from surgrad.neurons import DECAYS, LIF, AdaptationValues, AdaptiveLIF
from surgrad.philox import NoiseKey, uniform


class Dense(nn.Module):
    """All-to-all connection: I = W s, without bias.

    Args: in_shape of the presynaptic units (flattened), number of postsynaptic units.
    """

    def __init__(self, in_shape: int | Sequence[int], nb_units: int):
        super().__init__()
        self.in_shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        self.out_shape = (nb_units,)
        self.weight = nn.Parameter(torch.zeros(nb_units, math.prod(self.in_shape)))

    @property
    def fan_in(self) -> int:
        return self.weight.shape[1]

    def forward(self, s: Tensor) -> Tensor:
        """(..., *in_shape) -> (..., nb_units)."""
        from surgrad.kernels.products import linear  # the kernels import this module

        return linear(s.flatten(s.dim() - len(self.in_shape)).to(self.weight.dtype), self.weight)


class DelayedDense(Dense):
    """All-to-all connection with a delay per synapse: I_i(t) = sum_j w_ij s_j(t - d_ij), d_ij in (0, max_delay).

    On a grid, a spike whose delay is k + f steps, 0 <= f < 1, arrives with 1 - f of its weight after k and with f after
    k + 1 steps, so that currents are continuous in the delays and differentiable between whole steps (delays by
    interpolation; learned as in Hammouamri, Khalfaoui-Hassani & Masquelier 2023, with whom the kernel is a Gaussian).

    Args:
        in_shape, nb_units: as in `Dense`.
        max_delay: s. Delays start anywhere below it with equal probability.
        trainable: whether delays are learned.
        seed: of the starting delays; equal connections of a network start alike.

    Raises: UserError for a max_delay that is not positive.
    """

    def __init__(
        self, in_shape: int | Sequence[int], nb_units: int, max_delay: float, trainable: bool = True, seed: int = 0
    ):
        super().__init__(in_shape, nb_units)
        if not 0 < max_delay < math.inf:
            raise UserError(f"max_delay={max_delay} s must be positive; use surgrad.layers.Dense without delays")
        start = uniform(NoiseKey(seed), 0, torch.arange(nb_units), (self.fan_in,))
        self.delay = Bounded(0.0, max_delay, start, trainable)  # s, (nb_units, fan_in)

    def nb_taps(self, dt: float) -> int:
        """Steps over which the longest delay spreads a spike: a delay of d steps reaches the taps 0 to ceil(d)."""
        return math.ceil(self.delay.high / dt * (1 - 1e-9)) + 1

    def require_within(self, dt: float, nb_steps: int) -> None:
        """Refuses delays that reach beyond a window of ``nb_steps`` steps of dt seconds. Raises: UserError."""
        if self.nb_taps(dt) > nb_steps:
            raise UserError(
                f"max_delay={self.delay.high:g} s does not fit into the window of {nb_steps} steps of {dt:g} s; "
                f"shorten it to less than {(nb_steps - 1) * dt:g} s or lengthen the window"
            )

    def forward(self, s: Tensor, dt: float, shift: int = 0) -> Tensor:
        """Spikes (T, B, *in_shape), ``shift`` steps later -> currents (T + shift + nb_taps - 1, B, nb_units)."""
        s, steps, nb_taps = s.flatten(2).to(self.weight.dtype), self.delay() / dt, self.nb_taps(dt)
        whole = steps.detach().floor().clamp(max=nb_taps - 2)
        late = steps - whole
        current = s.new_zeros(len(s) + shift + nb_taps - 1, s.shape[1], len(self.weight))
        for k in range(nb_taps):
            share = (1 - late) * (whole == k) + late * (whole == k - 1)
            current[shift + k : shift + k + len(s)] += F.linear(s, self.weight * share)
        return current


class Conv(nn.Module):
    """Convolution over one or two spatial axes, without bias.

    Args:
        in_shape: (channels, length) or (channels, height, width).
        filters: number of output channels.
        kernel_size, stride, padding: one integer, or one per spatial axis.

    Raises: UserError if the kernel is larger than its padded input.
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
        self.weight = nn.Parameter(torch.zeros(filters, channels, *self.kernel_size))

    @property
    def fan_in(self) -> int:
        return self.weight[0].numel()

    def forward(self, s: Tensor) -> Tensor:
        """(..., *in_shape) -> (..., *out_shape)."""
        lead = s.shape[: s.dim() - len(self.in_shape)]
        convolve = F.conv1d if len(self.kernel_size) == 1 else F.conv2d
        s = s.reshape(-1, *self.in_shape).to(self.weight.dtype)
        return convolve(s, self.weight, stride=self.stride, padding=self.padding).view(*lead, *self.out_shape)


class TimeConstant(nn.Module):
    """A positive time constant in seconds: fixed or trainable, one per layer or one per neuron.

    Held as log(tau), the one positive parametrisation of the suite, so that gradient steps are relative changes.

    Args:
        tau: initial value(s) in s; a tensor of shape (*units) gives one per neuron.
        trainable: whether it is a parameter.
        bounds: (low, high) in s; `clip_` moves a trained value back between them.

    Raises: UserError for a tau that is not positive and finite, or bounds out of order.
    """

    def __init__(self, tau: float | Tensor, trainable: bool = False, bounds: tuple[float, float] | None = None):
        super().__init__()
        tau = torch.as_tensor(tau, dtype=torch.float64)
        if not bool(((tau > 0) & tau.isfinite()).all()):
            raise UserError(f"time constant {tau.min().item()} s is not allowed: it must be positive and finite")
        if bounds is not None and not 0 < bounds[0] < bounds[1]:
            raise UserError(f"bounds={bounds} of a time constant must be 0 < low < high, in seconds")
        self.log_tau = nn.Parameter(tau.log().to(torch.get_default_dtype()), requires_grad=trainable)
        self.bounds = bounds

    def decay(self, dt: float, method: str = "exponential") -> Tensor:
        """exp(-dt / tau), in the shape of tau; computed in float64, for one ulp moves spikes near threshold.

        With ``method`` "euler", 1 - dt / tau. Raises: UserError if that is negative.
        """
        decay = DECAYS[method](dt * torch.exp(-self.log_tau.double()))
        if bool((decay < 0).any()):
            raise UserError(
                f"decay='euler' with dt={dt:g} s needs time constants of at least dt, but one is "
                f"{float(self.tau.min()):.3g} s; take a smaller time step or decay='exponential'"
            )
        return decay.to(self.log_tau.dtype)

    @property
    def tau(self) -> Tensor:
        """Seconds."""
        return self.log_tau.exp()

    @torch.no_grad()
    def clip_(self) -> None:
        if self.bounds is not None:
            self.log_tau.clamp_(math.log(self.bounds[0]), math.log(self.bounds[1]))


class Bounded(nn.Module):
    """Trainable numbers that stay in a range: low + (high - low) sigma(x).

    Args: low, high; ``start``, where between them each begins, in (0, 1); whether they are parameters.
    """

    def __init__(self, low: float, high: float, start: Tensor, trainable: bool = True):
        super().__init__()
        self.low, self.high = low, high
        self.logit = nn.Parameter(start.double().logit().to(torch.get_default_dtype()), requires_grad=trainable)

    def forward(self) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(self.logit)


class Adaptation(nn.Module):
    """The constants a, b and tau_w (s) of every neuron of an adaptive layer.

    Args: neuron, whose ranges they start and stay in; shape of the layer's units.
    """

    def __init__(self, neuron: AdaptiveLIF, unit_shape: Sequence[int]):
        super().__init__()
        for index, name in enumerate(("a", "b", "tau_w")):
            start = uniform(NoiseKey(neuron.seed, index), 0, torch.zeros(1, dtype=torch.int64), unit_shape)[0]
            setattr(self, name, Bounded(*getattr(neuron, name), start, neuron.trainable))

    def values(self, dt: float) -> AdaptationValues:
        """What a step of dt seconds needs; the decay exp(-dt / tau_w) is computed in float64."""
        a, b, tau_w = self.a(), self.b(), self.tau_w()
        return AdaptationValues(torch.exp(-dt / tau_w.double()).to(tau_w.dtype), a, b)

    def require_stable(self, dt: float, b: Tensor, gain: Tensor) -> None:
        """Refuses a range of a that leaves the stable region (`AdaptiveLIF`).

        Args: dt in s; decay b and gain of the membrane. Raises: UserError.
        """
        d = math.exp(-dt / self.tau_w.low)
        bound = float(((1 + b) * (1 + d) / (gain * (1 - d))).min())
        if self.a.high >= bound:
            raise UserError(
                f"a={self.a.high:g} makes the adaptation unstable at tau_w={self.tau_w.low:g} s and dt={dt:g} s: "
                f"keep it below {bound:.4g}, or take a smaller time step"
            )


def _time_constant(tau: "float | TimeConstant") -> TimeConstant:
    return tau if isinstance(tau, TimeConstant) else TimeConstant(tau)


class SpikingLayer(nn.Module):
    """A LIF population with its feed-forward and, if given, recurrent connection: I[t] = W s_in[t-d] + R s[t-1].

    Args:
        feedforward: `Dense` or `Conv` from the layer below; None if the layer is driven by a current.
        neuron: surrogate, escape noise and reset.
        tau_mem, tau_syn: seconds, or a `TimeConstant`.
        recurrent: connection from the layer to itself.
        unit_shape: needed only without a feed-forward connection.
    """

    def __init__(
        self,
        feedforward: Dense | Conv | None,
        neuron: LIF,
        tau_mem: float | TimeConstant,
        tau_syn: float | TimeConstant,
        recurrent: Dense | Conv | None = None,
        unit_shape: Sequence[int] | None = None,
    ):
        super().__init__()
        self.feedforward, self.recurrent, self.neuron = feedforward, recurrent, neuron
        self.tau_mem, self.tau_syn = _time_constant(tau_mem), _time_constant(tau_syn)
        self.unit_shape = tuple(feedforward.out_shape if feedforward is not None else unit_shape)
        self.adaptation = Adaptation(neuron, self.unit_shape) if isinstance(neuron, AdaptiveLIF) else None
        if isinstance(recurrent, DelayedDense):
            raise UserError("recurrent delays are one step; learn delays in the feed-forward connection")
        if recurrent is not None and not tuple(recurrent.in_shape) == tuple(recurrent.out_shape) == self.unit_shape:
            raise UserError(
                f"a recurrent connection maps {recurrent.in_shape} to {recurrent.out_shape}, but the layer has units "
                f"{self.unit_shape}; use an odd rec_kernel_size with rec_padding = rec_kernel_size // 2"
            )

    def decays(self, dt: float) -> tuple[Tensor, Tensor]:
        """Decays a of the synapse and b of the membrane over a step of dt seconds."""
        return self.tau_syn.decay(dt, self.neuron.decay), self.tau_mem.decay(dt, self.neuron.decay)


class Readout(nn.Module):
    """Leaky integrators without spikes: y[t] = u[t+1], u[0] = ``u0``.

    Args: feedforward connection, tau_mem and tau_syn in s, initial membrane potential, and whether the current is
        scaled by 1 - b, and decay (see `surgrad.neurons.LIF`).
    """

    def __init__(
        self,
        feedforward: Dense,
        tau_mem: float | TimeConstant,
        tau_syn: float | TimeConstant,
        u0: float = -1e-3,
        unit_gain: bool = True,
        decay: str = "exponential",
    ):
        super().__init__()
        self.feedforward, self.u0, self.unit_gain, self.decay = feedforward, u0, unit_gain, decay
        self.tau_mem, self.tau_syn = _time_constant(tau_mem), _time_constant(tau_syn)
        self.unit_shape = tuple(feedforward.out_shape)

    def decays(self, dt: float) -> tuple[Tensor, Tensor]:
        """Decays a of the synapse and b of the membrane over a step of dt seconds."""
        return self.tau_syn.decay(dt, self.decay), self.tau_mem.decay(dt, self.decay)
