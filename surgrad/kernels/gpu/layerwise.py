"""A network on the GPU layer by layer: for parts that only the reference knows.

Each layer is scanned by the fastest code that knows it; the loop over the layers is that of the reference.
"""

from functools import partial

from torch import Tensor

from surgrad.kernels import reference
from surgrad.kernels.call import Address
from surgrad.kernels.contract import LayerSpec
from surgrad.kernels.gpu import network as cuda
from surgrad.kernels.state import AnyLayerState, LayerState


def unknown(layer: LayerSpec) -> str | None:
    """Why a layer is scanned by the reference, or None."""
    if layer.recurrent is not None and layer.recurrent.own:
        return f"{layer.recurrent.name} ({layer.recurrent.own})"
    if layer.has_recurrent_delays or layer.recurrent_dropout:
        return f"{layer.name} (recurrent {'delays' if layer.has_recurrent_delays else 'dropout'})"
    return cuda.unknown_neuron(layer)


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
    assert old is None or isinstance(old, LayerState)  # see `call.layer_state`
    return cuda.scan(layer, current, old, address, memory, return_membrane)


run = partial(reference.run, parts=reference.Parts(scan=_scan, integrate=cuda.integrate))
