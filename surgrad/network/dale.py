"""Dale's law: every hidden neuron either excites or inhibits, in connections, and in how they are initialised.

The networks are those of Rossbroich et al. 2022: each hidden layer has excitatory and inhibitory neurons, all driven by
the excitatory ones of the layer below and by both kinds of their own layer; only excitatory neurons project upwards.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.network.connections import DaleDense, Dense, MaskedDense
from surgrad.network.layers import SpikingLayer
from surgrad.network.network import Network


def excitatory_then_inhibitory(nb_units: int, inhibitory: float) -> Tensor:
    """Signs of a layer's neurons (nb_units,): +1 for the first ones, -1 for the last ``inhibitory`` share of them.

    Raises:
        UserError: where one of the two populations would be empty.
    """
    nb_inhibitory = round(inhibitory * nb_units)
    if not 0 < nb_inhibitory < nb_units:
        raise UserError(
            f"inhibitory={inhibitory} of {nb_units} neurons makes {nb_inhibitory} inhibitory ones; Dale's law needs "
            "at least one neuron of each kind"
        )
    signs = torch.ones(nb_units)
    signs[nb_units - nb_inhibitory :] = -1
    return signs


def impose(network: Network, inhibitory: float = 0.2) -> Network:
    """Let a network of recurrent `Dense` layers obey Dale's law; all its weights are zero afterwards.

    The input is excitatory, the last ``inhibitory`` share of each layer's neurons inhibits its own layer and projects
    nowhere else. The readout, which has no neurons, weighs the excitatory neurons below it with either sign.

    Args:
        network: changed in place.
        inhibitory: share of inhibitory neurons in each hidden layer.

    Returns:
        the network.

    Raises:
        UserError: for layers without recurrence, connections that are not `Dense`, or an empty population.
    """
    populations = []
    for k, layer in enumerate(network.layers):
        if layer.recurrent is None:
            raise UserError("Dale's law needs recurrent=true: neurons are inhibited from within their own layer")
        feedforward = layer.feedforward
        if type(feedforward) is not Dense or type(layer.recurrent) is not Dense:
            found = type(feedforward).__name__
            raise UserError(
                f"Dale's law is for connection=dense (surgrad.network.connections.Dense), but layer {k} has {found}"
            )
        populations.append((feedforward.in_shape, excitatory_then_inhibitory(feedforward.out_shape[0], inhibitory)))
    below = torch.ones(math.prod(populations[0][0]))
    for layer, (in_shape, signs) in zip(network.layers, populations, strict=True):
        layer.feedforward = DaleDense(in_shape, len(signs), below)
        layer.recurrent = DaleDense(layer.unit_shape, len(signs), signs)
        below = signs.clamp(min=0)
    if network.readout is not None:
        old = _dense(network.readout.feedforward)
        network.readout.feedforward = MaskedDense(old.in_shape, old.out_shape[0], below)
    return network


def _dense(connection: nn.Module | None) -> Dense:
    if not isinstance(connection, Dense):
        raise UserError(f"Dale's law is for Dense connections, not for {type(connection).__name__}")
    return connection


def obeyed(network: Network) -> bool:
    """Whether every hidden neuron's outgoing weights have one sign, and only excitatory neurons project upwards."""
    stack = network.stack
    for layer, above in pairwise(stack):
        recurrent = layer.recurrent if isinstance(layer, SpikingLayer) else None
        own, upwards = _dense(recurrent).weight, _dense(above.feedforward).weight
        excites, inhibits = (own >= 0).all(0), (own <= 0).all(0)
        if not bool((excites | inhibits).all()) or bool(upwards[:, ~excites].count_nonzero()):
            return False
    return bool((_dense(network.layers[0].feedforward).weight >= 0).all())
