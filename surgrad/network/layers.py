"""Layers: a connection, a neuron and its time constants. The loop over time lives in `surgrad.kernels`."""

from collections.abc import Sequence

from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.network.connections import Conv, DelayedDense, Dense
from surgrad.network.parameters import Adaptation, TimeConstant
from surgrad.neurons.lif import LIF, AdaptiveLIF


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
        scaled by 1 - b, and decay (see `surgrad.neurons.lif.LIF`).
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
