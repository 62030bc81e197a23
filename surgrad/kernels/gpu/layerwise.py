"""A network on the GPU layer by layer: for adaptive neurons, learned delays, and parts that only the reference knows.

Each layer is scanned by the fastest code that knows it; the loop over the layers is that of the reference.
"""

from functools import partial

from torch import Tensor

from surgrad.errors import UserError
from surgrad.kernels import precision as products
from surgrad.kernels import reference
from surgrad.kernels.call import Address, Options
from surgrad.kernels.contract import ConnectionSpec, LayerSpec, NetworkSpec
from surgrad.kernels.events import Events
from surgrad.kernels.gpu import network as cuda
from surgrad.kernels.state import AnyLayerState, LayerState, NetworkOutput


def needed(network: NetworkSpec) -> bool:
    """Whether a network has adaptive neurons, learned delays or dropout in a loop."""
    return any(layer.incoming.has_delays for layer in network.stack) or any(map(_adaptive, network.layers))


def _adaptive(layer: LayerSpec) -> bool:
    """Whether a layer is one for the kernels of adaptive neurons, which know delays and dropout in its recurrence."""
    return layer.adaptation is not None or layer.has_recurrent_delays or bool(layer.recurrent_dropout)


def unknown(layer: LayerSpec) -> str | None:
    """Why a layer is scanned by the reference, or None."""
    if layer.recurrent is not None and layer.recurrent.own:
        return f"{layer.recurrent.name} ({layer.recurrent.own})"
    if layer.recurrent is not None and layer.recurrent.has_delays and layer.recurrent.kind != "axonal":
        return f"{layer.recurrent.name} (recurrent delays that are not axonal)"
    if not _adaptive(layer):
        return cuda.unknown_neuron(layer)
    from surgrad.kernels.gpu import adaptive  # and with it Triton, on first use

    return adaptive.obstacle(layer)


def obstacle(network: NetworkSpec) -> str | None:
    """What of a network only the reference knows, or None."""
    incoming = (layer.incoming for layer in network.stack)  # shares of all steps are one convolution, whatever they are
    own = (f"{c.name} ({c.own})" for c in incoming if c.own and not c.own_shares)
    return next((reason for reason in (*own, *map(unknown, network.layers)) if reason), None)


def _drive(
    precision: str,
    connection: ConnectionSpec,
    below: Tensor | Events,
    delay: int,
    before: Tensor | None = None,
    pending: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As `reference.drive`, with products in ``precision``."""
    with products.asked(precision):
        return reference.drive(connection, below, delay, before, pending)


def _scan(
    precision: str,
    layer: LayerSpec,
    current: Tensor,
    old: AnyLayerState | None,
    address: Address,
    memory: str = "full",
    return_membrane: bool = False,
) -> tuple[Tensor, Tensor | None, AnyLayerState]:
    """As `reference.scan`, with recurrent products in ``precision``."""
    if unknown(layer) is not None:
        return reference.scan(layer, current, old, address, memory, return_membrane)
    if not _adaptive(layer):
        assert old is None or isinstance(old, LayerState)  # see `call.layer_state`
        return cuda.scan(layer, current, old, address, memory, return_membrane, precision)
    from surgrad.kernels.gpu import adaptive

    with products.asked(precision):
        return adaptive.scan(layer, current, old, address, memory, return_membrane, precision)


def run(network: NetworkSpec, x: Tensor | Events, options: Options) -> NetworkOutput:
    """As `reference.run`. Raises: UserError for a precision below float32 where a part would not follow it."""
    reason = obstacle(network) if options.precision != "float32" else None
    if reason is not None:
        raise UserError(f"precision={options.precision!r} does not reach {reason}; give precision=float32")
    parts = partial(_drive, options.precision), partial(_scan, options.precision), cuda.integrate
    return reference.run(network, x, options, reference.Parts(*parts))
