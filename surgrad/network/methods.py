"""The published methods by name: which surrogate, escape noise and reset each of them means."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from surgrad.errors import UserError
from surgrad.network.network import Network
from surgrad.neurons import escape_noise, surrogate
from surgrad.neurons.lif import LIF


@dataclass(frozen=True)
class SpikeParameters:
    """What a method may use to build its neuron.

    Args:
        beta: slope of the sigmoidal escape noise and of the surrogate.
        p0: exponential escape noise at threshold, a probability per step.
        delta_u: width of the exponential escape noise, in units of threshold.
        sigm: take sigmoid' instead of SuperSpike as the surrogate (multilayerspiker: sigmoidal instead of exponential
            noise).
        diff_reset: let gradients flow through the reset.
    """

    beta: float = 10.0
    p0: float = 2 / 3
    delta_u: float = 0.133
    sigm: bool = False
    diff_reset: bool = False

    def surrogate(self) -> surrogate.Surrogate:
        """SuperSpike, or sigmoid' with ``sigm``, of slope beta."""
        return (surrogate.SigmoidPrime if self.sigm else surrogate.SuperSpike)(self.beta)

    def sigmoid(self) -> escape_noise.Sigmoid:
        """Sigmoidal escape noise of slope beta."""
        return escape_noise.Sigmoid(self.beta)

    def exponential(self) -> escape_noise.Exponential:
        """Exponential escape noise."""
        return escape_noise.Exponential(self.p0, self.delta_u)


class Method(NamedTuple):
    """What stands for the derivative of a spike, and how spikes are drawn, each made from the `SpikeParameters`."""

    surrogate: Callable[[SpikeParameters], surrogate.Surrogate]
    escape_noise: Callable[[SpikeParameters], escape_noise.EscapeNoise]


_P = SpikeParameters

#: The published methods by name, and `exponential`: exponential noise with its own slope as the surrogate.
METHODS: dict[str, Method] = {
    "superspike": Method(_P.surrogate, lambda p: escape_noise.Step()),
    "stochasticsuperspike": Method(_P.surrogate, _P.sigmoid),
    "multilayerspiker": Method(
        lambda p: surrogate.MultilayerSpiker(), lambda p: p.sigmoid() if p.sigm else p.exponential()
    ),
    "scaled_sigmoid": Method(lambda p: surrogate.ScaledSigmoidPrime(p.beta), _P.sigmoid),
    "exponentialstochasticsuperspike": Method(_P.surrogate, _P.exponential),
    "exponential": Method(lambda p: surrogate.Exponential(p.p0, p.delta_u), _P.exponential),
}


def method_neuron(method: str, parameters: SpikeParameters) -> LIF:
    """The neuron of a method: its escape noise forward, its surrogate backward. Raises: UserError if unknown."""
    if method not in METHODS:
        raise UserError(f"method {method!r} is unknown; allowed: {', '.join(METHODS)}")
    make = METHODS[method]
    h, noise = make.surrogate(parameters), make.escape_noise(parameters)
    return LIF(surrogate=h, escape_noise=noise, diff_reset=parameters.diff_reset)


def set_neuron(network: Network, neuron: LIF) -> None:
    """Let every spiking layer of the network emit and differentiate its spikes as ``neuron`` does."""
    for layer in network.layers:
        layer.neuron = neuron
