"""A network on the CPU layer by layer: for adaptive neurons, learned delays, and parts that only the reference knows.

`network.py` takes plain networks through all layers in one call; here currents and spikes of every layer are
whole arrays between the calls. Each layer is scanned by the fastest code that knows it: compiled, or the reference.
The loop over the layers is that of `surgrad.kernels.reference`.
"""

from functools import partial

from torch import Tensor

from surgrad.kernels import reference
from surgrad.kernels.call import Address, Options
from surgrad.kernels.contract import ConnectionSpec, LayerSpec, NetworkSpec
from surgrad.kernels.cpu import adaptive, delays
from surgrad.kernels.cpu import network as cpu
from surgrad.kernels.events import Events
from surgrad.kernels.state import AnyLayerState, LayerState, NetworkOutput


def needed(network: NetworkSpec) -> bool:
    """Whether a network has adaptive neurons, learned delays or dropout in a loop."""
    return any(layer.incoming.has_delays for layer in network.stack) or any(
        layer.adaptation is not None or layer.has_recurrent_delays or layer.recurrent_dropout
        for layer in network.layers
    )


def unknown(layer: LayerSpec) -> str | None:
    """Why a layer is scanned by the reference, or None."""
    loop = layer.recurrent
    if loop is not None and loop.own and not loop.own_shares:
        return f"{loop.name} ({loop.own})"
    if loop is not None and loop.has_delays and loop.kernel_size:
        return f"{loop.name} (recurrent delays of a convolution, 40 times as slow as those of dense connections)"
    if loop is not None and layer.recurrent_dropout and loop.kind == "conv":
        return f"{loop.name} (dropout in a recurrent convolution)"
    return (cpu if layer.adaptation is None else adaptive).unknown_neuron(layer)


def obstacle(network: NetworkSpec) -> str | None:
    """What of a network only the reference knows, or None."""
    own = (f"{c.name} ({c.own})" for c in (layer.incoming for layer in network.stack) if c.own)
    return next((reason for reason in (*own, *map(unknown, network.layers)) if reason), None)


def _is_binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _drive(
    connection: ConnectionSpec,
    below: Tensor | Events,
    delay: int,
    before: Tensor | None = None,
    pending: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As `reference.drive`; events are not turned into dense spikes where the sum over them is faster."""
    if connection.own or connection.kind == "conv":
        return reference.drive(connection, below, delay, before, pending)
    if connection.kind == "delayed" and (isinstance(below, Events) or _is_binary(below)):
        nb_steps = below.nb_steps if isinstance(below, Events) else len(below)
        return reference.deliver(delays.currents(connection, below, delay), nb_steps, pending)
    if isinstance(below, Events) and connection.kind == "dense":
        first = connection.function(before)[None] if delay and before is not None else None
        return reference.deliver(delays.currents(connection, below, delay), below.nb_steps, first)[0], None
    return reference.drive(connection, below, delay, before, pending)


def _scan(
    layer: LayerSpec,
    current: Tensor,
    old: AnyLayerState | None,
    address: Address,
    memory: str = "full",
    return_membrane: bool = False,
    *,
    return_state: bool = True,
) -> tuple[Tensor, Tensor | None, AnyLayerState]:
    """As `reference.scan`; see `adaptive.scan` for ``return_state``."""
    if unknown(layer) is not None:
        return reference.scan(layer, current, old, address, memory, return_membrane)
    if layer.adaptation is None and not layer.has_recurrent_delays and not layer.recurrent_dropout:
        assert old is None or isinstance(old, LayerState)  # see `call.layer_state`
        return cpu.scan(layer, current, old, address, memory, return_membrane)
    return adaptive.scan(layer, current, old, address, memory, return_membrane, return_state=return_state)


def run(network: NetworkSpec, x: Tensor | Events, options: Options) -> NetworkOutput:
    """Run a whole network."""
    scan = partial(_scan, return_state=options.return_state or bool(options.truncate))
    return reference.run(network, x, options, reference.Parts(_drive, scan, cpu.integrate, takes_events=True))
