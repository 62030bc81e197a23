"""One step of each neuron, as equations. The loop over time belongs to the kernels.

With a = exp(-dt/tau_syn), b = exp(-dt/tau_mem), threshold 1 and all states 0 at t = 0:

    s[t]   = H(u[t] - 1)             or 1 with probability p(u[t] - 1)
    i[t+1] = a i[t] + I[t]
    u[t+1] = (b u[t] + c i[t]) (1 - r[t])        reset "multiplicative"
    u[t+1] = b u[t] (1 - r[t]) + c i[t]          reset "multiplicative_leak"
    u[t+1] = b u[t] + c i[t] - r[t]              reset "subtractive"
    u[t+1] = b (u[t] - r[t]) + c i[t]            reset "subtractive_leak"

where r = s, and c = 1 - b (or 1, the parameterisation of the tutorials of Neftci et al. 2019). One draw per neuron
and step serves both the spike and the reset. With Euler decay, a = 1 - dt/tau_syn and b = 1 - dt/tau_mem.
`AdaptiveLIF` subtracts from i[t] a second state, which follows membrane and spikes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.neurons.escape_noise import EscapeNoise, Step
from surgrad.neurons.surrogate import SuperSpike, Surrogate


class LIFState(NamedTuple):
    """Synaptic current ``i`` and membrane potential ``u`` in units of threshold, each (B, *units)."""

    i: Tensor
    u: Tensor


class AdaptiveState(NamedTuple):
    """`LIFState` and the adaptation current ``w`` in units of threshold, each (B, *units)."""

    i: Tensor
    u: Tensor
    w: Tensor


class AdaptationValues(NamedTuple):
    """Constants of the adaptation current: its ``decay`` per step and its coupling ``a`` and ``b``, each (*units)."""

    decay: Tensor
    a: Tensor
    b: Tensor


def _multiplicative(u: Tensor, i: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (b * u + c * i) * (1 - r)


def _multiplicative_leak(u: Tensor, i: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return b * u * (1 - r) + c * i


def _subtractive(u: Tensor, i: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return b * u + c * i - r


def _subtractive_leak(u: Tensor, i: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return b * (u - r) + c * i


RESETS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "multiplicative": _multiplicative,
    "multiplicative_leak": _multiplicative_leak,
    "subtractive": _subtractive,
    "subtractive_leak": _subtractive_leak,
}

SCHEMES = ("symplectic", "euler")

DECAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": lambda x: torch.exp(-x),
    "euler": lambda x: 1 - x,
}


@dataclass(frozen=True)
class LIF:
    """A population of leaky integrate-and-fire neurons with current-based exponential synapses.

    Args:
        surrogate: h(x), the derivative used for spikes in the backward pass.
        escape_noise: how spikes are drawn in the forward pass.
        reset: "multiplicative", "multiplicative_leak", "subtractive" or "subtractive_leak".
        diff_reset: let gradients flow through the reset. Off by default: through the reset the surrogate makes the
            threshold repelling, the more so the larger its peak (Zenke & Vogels 2021).
        unit_gain: scale the current by 1 - b (True), or add it unscaled (False; tutorials of Neftci et al. 2019).
        decay: of synapse and membrane over a step: "exponential", exp(-dt/tau), exact without input, or "euler",
            1 - dt/tau (Norse's integration).

    A neuron of one's own inherits from it and has another `step`, and another `State` where it has more than i and u.

    Raises:
        UserError: for an unknown reset or decay.
    """

    #: What `step` takes and gives: a NamedTuple of tensors (B, *units) that begins with i and u; all start at 0.
    State: ClassVar[Any] = LIFState

    surrogate: Surrogate = field(default_factory=SuperSpike)
    escape_noise: EscapeNoise = field(default_factory=Step)
    reset: str = "multiplicative"
    diff_reset: bool = False
    unit_gain: bool = True
    decay: str = "exponential"

    def __post_init__(self) -> None:
        for name, allowed in (("reset", RESETS), ("decay", DECAYS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r} is unknown; allowed: {', '.join(allowed)}")

    def step(self, state: LIFState, current: Tensor, s: Tensor, a: Tensor, b: Tensor) -> LIFState:
        """One step of the reference kernel.

        Args:
            state: `State` at t, each of it (B, *units).
            current: I[t], (B, *units).
            s: spikes emitted from u[t], (B, *units).
            a: decay of the synapse per step, broadcastable to the units.
            b: decay of the membrane per step, broadcastable to the units.

        Returns:
            `State` at t+1.
        """
        return lif_step(state, current, s, a, b, self)


@dataclass(frozen=True)
class AdaptiveLIF(LIF):
    """LIF neurons with an adaptation current w, in the symplectic Euler form (SE-adLIF: Baronig et al. 2024).

    Of tau_mem du/dt = -u + i - w and tau_w dw/dt = -w + a u + b s (Bittar & Garner 2022), each state is advanced with
    the newest value of the other. With d = exp(-dt/tau_w) and v the membrane after the reset of this step:

        v[t]   = u[t] (1 - r[t])                         subtractive resets: u[t] - r[t]
        w[t+1] = d w[t] + (1 - d) (a v[t] + b s[t])
        u[t+1] = as in `LIF`, with i[t] - w[t+1] in the place of i[t]

    The membrane resonates where a is large. Between spikes one step has the determinant b_mem d whatever a is:
    oscillations decay at exactly the rate of the continuous system, (1/tau_mem + 1/tau_w) / 2, and are stable for

        -1 < a < (1 + b_mem) (1 + d) / (g (1 - d)),      g = 1 - b_mem, or 1 without unit gain.

    With ``scheme`` "euler" (EF-adLIF), u[t+1] is driven by i[t] - w[t], the adaptation of the step before. That form is
    unstable from a = (1 - b_mem d) / (g (1 - d)) on, about dt (1/tau_mem + 1/tau_w) / 4 of that, or 1/33 for 20 ms,
    100 ms and 2 ms.
    `surgrad.network.network.Network` refuses ranges that leave the stable region.

    Every neuron of a layer has its own a, b and tau_w: they start anywhere in the given ranges with equal probability
    and stay inside (`network.parameters.Adaptation`). The published network for SHD has a in (0, 120), b in (0, 240).

    Args:
        a: range of the coupling to the membrane.
        b: range of the coupling to the neuron's own spikes: one spike raises w by (1 - d) b.
        tau_w: range of the time constant of w, in s.
        trainable: whether a, b and tau_w are learned.
        seed: of the starting values; layers of equal shape start alike.
        scheme: "symplectic" (SE-adLIF) or "euler" (EF-adLIF).

    The others as in `LIF`; the reset is by default the paper's, "multiplicative_leak".

    Raises:
        UserError: for a range that is none, a of -1 or below, tau_w that is not positive, or an unknown scheme.
    """

    reset: str = "multiplicative_leak"
    a: tuple[float, float] = (0.0, 60.0)
    b: tuple[float, float] = (0.0, 120.0)
    tau_w: tuple[float, float] = (60e-3, 300e-3)
    trainable: bool = True
    seed: int = 0
    scheme: str = "symplectic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme not in SCHEMES:
            raise UserError(f"scheme={self.scheme!r} is unknown; allowed: {', '.join(SCHEMES)}")
        lowest = {"a": -1.0, "b": -math.inf, "tau_w": 0.0}
        for name, bound in lowest.items():
            value = tuple(getattr(self, name))  # lists in YAML
            object.__setattr__(self, name, value)
            if len(value) != 2 or not bound < value[0] <= value[1] < math.inf:
                above = "" if bound == -math.inf else f" above {bound:g}"
                raise UserError(f"{name}={value} of the adaptation must be a range (low, high){above}")


class _Spike(torch.autograd.Function):
    """Forward: a comparison with the (random) threshold. Backward: the surrogate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor | float, surrogate: Surrogate) -> Tensor:
        s = (x > threshold).to(x.dtype)
        ctx.save_for_backward(x, s)
        ctx.surrogate = surrogate
        return s

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, s = ctx.saved_tensors
        return grad * ctx.surrogate(x, s), None, None


def spike(u: Tensor, neuron: LIF, uniform: Tensor | None = None) -> Tensor:
    """s = H(u - 1), or the draw of the escape noise given ``uniform`` in (0, 1); 0 or 1 in the dtype of ``u``."""
    threshold: Tensor | float = 0.0
    if neuron.escape_noise.stochastic:
        assert uniform is not None
        threshold = neuron.escape_noise.threshold(uniform)
    return _Spike.apply(u - 1, threshold, neuron.surrogate)


def lif_step(state: LIFState, current: Tensor, s: Tensor, a: Tensor, b: Tensor, neuron: LIF) -> LIFState:
    """Advance i and u by one step, given the input current I[t] and the spikes s[t] emitted from ``state.u``."""
    r = s if neuron.diff_reset else s.detach()
    c = 1 - b if neuron.unit_gain else torch.ones_like(b)
    u = RESETS[neuron.reset](state.u, state.i, r, b, c)
    return LIFState(i=a * state.i + current, u=u)


def adaptive_step(
    state: AdaptiveState, current: Tensor, s: Tensor, a: Tensor, b: Tensor, adaptation: AdaptationValues, neuron: LIF
) -> AdaptiveState:
    """Advance i, u and w by one step; arguments as in `lif_step`, equations in `AdaptiveLIF`."""
    r = s if neuron.diff_reset else s.detach()
    v = state.u - r if neuron.reset.startswith("subtractive") else state.u * (1 - r)
    w = adaptation.decay * state.w + (1 - adaptation.decay) * (adaptation.a * v + adaptation.b * s)
    c = 1 - b if neuron.unit_gain else torch.ones_like(b)
    felt = state.w if isinstance(neuron, AdaptiveLIF) and neuron.scheme == "euler" else w
    return AdaptiveState(a * state.i + current, RESETS[neuron.reset](state.u, state.i - felt, r, b, c), w)


def readout_step(state: LIFState, current: Tensor, a: Tensor, b: Tensor, unit_gain: bool = True) -> LIFState:
    """The same i and u without spike or reset: a leaky integrator."""
    c = 1 - b if unit_gain else torch.ones_like(b)
    return LIFState(i=a * state.i + current, u=b * state.u + c * state.i)
