"""One step of each neuron, as equations. The loop over time belongs to the kernels.

With a = exp(-dt/tau_syn), b = exp(-dt/tau_mem), threshold 1 and all states 0 at t = 0:

    s[t]   = H(u[t] - 1)             or 1 with probability p(u[t] - 1)
    i[t+1] = a i[t] + I[t]
    u[t+1] = (b u[t] + c i[t]) (1 - r[t])        reset "multiplicative"
    u[t+1] = b u[t] (1 - r[t]) + c i[t]          reset "multiplicative_leak"
    u[t+1] = b u[t] + c i[t] - r[t]              reset "subtractive"

where r = s, and c = 1 - b (or 1, the parameterisation of the tutorials of Neftci et al. 2019). One draw per neuron
and step serves both the spike and the reset.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.escape_noise import EscapeNoise, Step
from surgrad.surrogate import SuperSpike, Surrogate


class LIFState(NamedTuple):
    """Synaptic current ``i`` and membrane potential ``u`` in units of threshold, each (B, *units)."""

    i: Tensor
    u: Tensor


def _multiplicative(u: Tensor, i: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (b * u + c * i) * (1 - r)


def _multiplicative_leak(u: Tensor, i: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return b * u * (1 - r) + c * i


def _subtractive(u: Tensor, i: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return b * u + c * i - r


RESETS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "multiplicative": _multiplicative,
    "multiplicative_leak": _multiplicative_leak,
    "subtractive": _subtractive,
}


@dataclass(frozen=True)
class LIF:
    """A population of leaky integrate-and-fire neurons with current-based exponential synapses.

    Args:
        surrogate: h(x), the derivative used for spikes in the backward pass.
        escape_noise: how spikes are drawn in the forward pass.
        reset: "multiplicative", "multiplicative_leak" or "subtractive".
        diff_reset: let gradients flow through the reset. Off by default: through the reset the surrogate makes the
        threshold
            repelling, the more so the larger its peak (Zenke & Vogels 2021).
        unit_gain: scale the current by 1 - b (True), or add it unscaled (False; tutorials of Neftci et al. 2019).

    Raises: UserError for an unknown reset.
    """

    surrogate: Surrogate = field(default_factory=SuperSpike)
    escape_noise: EscapeNoise = field(default_factory=Step)
    reset: str = "multiplicative"
    diff_reset: bool = False
    unit_gain: bool = True

    def __post_init__(self):
        if self.reset not in RESETS:
            raise UserError(f"reset={self.reset!r} is unknown; allowed: {', '.join(RESETS)}")


class _Spike(torch.autograd.Function):
    """Forward: a comparison with the (random) threshold. Backward: the surrogate."""

    @staticmethod
    def forward(ctx, x: Tensor, threshold: Tensor | float, surrogate: Surrogate) -> Tensor:
        s = (x > threshold).to(x.dtype)
        ctx.save_for_backward(x, s)
        ctx.surrogate = surrogate
        return s

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, s = ctx.saved_tensors
        return grad * ctx.surrogate(x, s), None, None


def spike(u: Tensor, neuron: LIF, uniform: Tensor | None = None) -> Tensor:
    """s = H(u - 1), or the draw of the escape noise given ``uniform`` in (0, 1); 0 or 1 in the dtype of ``u``."""
    stochastic = neuron.escape_noise.stochastic
    threshold = neuron.escape_noise.threshold(uniform) if stochastic else 0.0
    return _Spike.apply(u - 1, threshold, neuron.surrogate)


def lif_step(state: LIFState, current: Tensor, s: Tensor, a: Tensor, b: Tensor, neuron: LIF) -> LIFState:
    """Advance i and u by one step, given the input current I[t] and the spikes s[t] emitted from ``state.u``."""
    r = s if neuron.diff_reset else s.detach()
    c = 1 - b if neuron.unit_gain else torch.ones_like(b)
    u = RESETS[neuron.reset](state.u, state.i, r, b, c)
    return LIFState(i=a * state.i + current, u=u)


def readout_step(state: LIFState, current: Tensor, a: Tensor, b: Tensor, unit_gain: bool = True) -> LIFState:
    """The same i and u without spike or reset: a leaky integrator."""
    c = 1 - b if unit_gain else torch.ones_like(b)
    return LIFState(i=a * state.i + current, u=b * state.u + c * state.i)
