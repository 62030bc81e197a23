"""A network on the GPU layer by layer: for adaptive neurons, learned delays, and parts that only the reference knows.

Each layer is scanned by the fastest code that knows it; the loop over the layers is that of the reference.
"""

from functools import partial

from torch import Tensor

from surgrad.kernels import reference
from surgrad.kernels.call import Address
from surgrad.kernels.contract import LayerSpec, NetworkSpec
from surgrad.kernels.gpu import network as cuda
from surgrad.kernels.state import AdaptiveLayerState, AnyLayerState, LayerState


def needed(network: NetworkSpec) -> bool:
    """Whether a network has adaptive neurons or learned delays."""
    return any(layer.incoming.has_delays for layer in network.stack) or any(
        layer.adaptation is not None for layer in network.layers
    )


def unknown(layer: LayerSpec) -> str | None:
    """Why a layer is scanned by the reference, or None."""
    if layer.recurrent is not None and layer.recurrent.own:
        return f"{layer.recurrent.name} ({layer.recurrent.own})"
    if layer.has_recurrent_delays or layer.recurrent_dropout:
        return f"{layer.name} (recurrent {'delays' if layer.has_recurrent_delays else 'dropout'})"
    if layer.adaptation is None:
        return cuda.unknown_neuron(layer)
    from surgrad.kernels.gpu import adaptive  # and with it Triton, on first use

    return adaptive.obstacle(layer)


def obstacle(network: NetworkSpec) -> str | None:
    """What of a network only the reference knows, or None."""
    own = (f"{c.name} ({c.own})" for c in (layer.incoming for layer in network.stack) if c.own)
    return next((reason for reason in (*own, *map(unknown, network.layers)) if reason), None)


def _scan(
    layer: LayerSpec,
    current: Tensor,
    old: AnyLayerState | None,
    address: Address,
    memory: str = "full",
    return_membrane: bool = False,
) -> tuple[Tensor, Tensor | None, AnyLayerState]:
    """As `reference.scan`."""
    if unknown(layer) is not None:
        return reference.scan(layer, current, old, address, memory, return_membrane)
    if layer.adaptation is None:
        assert old is None or isinstance(old, LayerState)  # see `call.layer_state`
        return cuda.scan(layer, current, old, address, memory, return_membrane)
    from surgrad.kernels.gpu import adaptive

    assert old is None or isinstance(old, AdaptiveLayerState)
    return adaptive.scan(layer, current, old, address, memory, return_membrane)


run = partial(reference.run, parts=reference.Parts(scan=_scan, integrate=cuda.integrate))
