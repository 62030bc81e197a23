"""The published methods by name: which surrogate, escape noise and reset each of them means."""

from collections.abc import Callable
from dataclasses import dataclass

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

    def exponential(self) -> escape_noise.Exponential:
        return escape_noise.Exponential(self.p0, self.delta_u)


def _superspike(p: SpikeParameters) -> tuple[surrogate.Surrogate, escape_noise.EscapeNoise]:
    return p.surrogate(), escape_noise.Step()


def _stochasticsuperspike(p: SpikeParameters) -> tuple[surrogate.Surrogate, escape_noise.EscapeNoise]:
    return p.surrogate(), escape_noise.Sigmoid(p.beta)


def _multilayerspiker(p: SpikeParameters) -> tuple[surrogate.Surrogate, escape_noise.EscapeNoise]:
    return surrogate.MultilayerSpiker(), escape_noise.Sigmoid(p.beta) if p.sigm else p.exponential()


def _scaled_sigmoid(p: SpikeParameters) -> tuple[surrogate.Surrogate, escape_noise.EscapeNoise]:
    return surrogate.ScaledSigmoidPrime(p.beta), escape_noise.Sigmoid(p.beta)


def _exponentialstochasticsuperspike(p: SpikeParameters) -> tuple[surrogate.Surrogate, escape_noise.EscapeNoise]:
    return p.surrogate(), p.exponential()


def _exponential(p: SpikeParameters) -> tuple[surrogate.Surrogate, escape_noise.EscapeNoise]:
    return surrogate.Exponential(p.p0, p.delta_u), p.exponential()


#: The published methods by name, and `exponential`: exponential noise with its own slope as the surrogate.
METHODS: dict[str, Callable[[SpikeParameters], tuple[surrogate.Surrogate, escape_noise.EscapeNoise]]] = {
    "superspike": _superspike,
    "stochasticsuperspike": _stochasticsuperspike,
    "multilayerspiker": _multilayerspiker,
    "scaled_sigmoid": _scaled_sigmoid,
    "exponentialstochasticsuperspike": _exponentialstochasticsuperspike,
    "exponential": _exponential,
}


def method_neuron(method: str, parameters: SpikeParameters) -> LIF:
    """The neuron of a method: its escape noise forward, its surrogate backward. Raises: UserError if unknown."""
    if method not in METHODS:
        raise UserError(f"method {method!r} is unknown; allowed: {', '.join(METHODS)}")
    h, noise = METHODS[method](parameters)
    return LIF(surrogate=h, escape_noise=noise, diff_reset=parameters.diff_reset)


def set_neuron(network: Network, neuron: LIF) -> None:
    """Let every spiking layer of the network emit and differentiate its spikes as ``neuron`` does."""
    for layer in network.layers:
        layer.neuron = neuron
