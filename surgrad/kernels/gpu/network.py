"""The network over time on an NVIDIA GPU: fused scans and products in Triton, products by cuBLAS and cuDNN.

Same contract, spikes and gradients as `surgrad.kernels.reference`. Triton comes with PyTorch's CUDA builds and is
imported only when a network runs here. With TRITON_INTERPRET=1 in the environment the kernels run on CPU tensors in
Triton's interpreter: slow, made for the tests.
"""

import importlib.util
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgrad.kernels import finite
from surgrad.kernels.call import Address, Options
from surgrad.kernels.contract import LayerSpec, NetworkSpec, ReadoutSpec
from surgrad.kernels.events import Events
from surgrad.kernels.philox import NoiseKey
from surgrad.kernels.reference import delayed
from surgrad.kernels.state import LayerState, NetworkOutput, NetworkState
from surgrad.neurons.lif import LIF, LIFState

if TYPE_CHECKING:
    from surgrad.kernels.gpu.plan import LayerTensors, Plan, Stage

_MASK = 0xFFFFFFFF


def interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def triton_installed() -> bool:
    """Whether Triton can be imported; it comes with PyTorch's CUDA builds."""
    return importlib.util.find_spec("triton") is not None


def available() -> bool:
    """Whether Triton is installed and there is a CUDA device, or Triton's interpreter is asked for."""
    return triton_installed() and (interpreted() or torch.cuda.is_available())


def obstacle(network: NetworkSpec) -> str | None:
    """What of a network these kernels do not know, or None."""
    if network.changed_input is not None:
        return network.changed_input
    for layer in network.stack:
        for connection in (layer.feedforward, getattr(layer, "recurrent", None)):
            if connection is not None and (connection.own or connection.has_delays):
                return f"{connection.name} ({connection.own or 'learned delays'})"
        if isinstance(layer, LayerSpec) and unknown_neuron(layer) is not None:
            return unknown_neuron(layer)
    return None


def unknown_neuron(layer: LayerSpec) -> str | None:
    """Why these kernels do not know the neuron of a layer, or None."""
    from surgrad.kernels.gpu.neurons import NOISES, SURROGATES

    neuron = layer.neuron
    if type(neuron) is not LIF:
        return f"{layer.name} ({type(neuron).__name__} neurons)"
    if type(neuron.surrogate) not in SURROGATES or type(neuron.escape_noise) not in NOISES:
        return f"{layer.name} ({neuron.surrogate} with {neuron.escape_noise})"
    return None


def run(network: NetworkSpec, x: Tensor | Events, options: Options, chunk_bytes: int | None = None) -> NetworkOutput:
    """Run a whole network.

    ``memory`` "full" keeps the input currents for the backward pass, 4 bytes per neuron and step; "recompute" computes
    them again. Spikes take one byte, states are kept at about sqrt(T) steps, either way. ``precision`` "bf16" is of
    weights and gradients inside products; state is always float32.

    Args:
        network: layers and readout.
        x: spikes (T, B, *in_shape), or events.
        options: everything else about the call.
        chunk_bytes: size at which arrays over time are cut into chunks of time; by default `plan.array_bytes`.
    """
    # Triton is loaded on first use: a run on the CPU never pays for it.
    from surgrad.kernels.gpu.plan import Plan, array_bytes, chunks
    from surgrad.kernels.gpu.scan_network import NetworkScan

    state, address = options.state, options.address
    if isinstance(x, Events):
        x = x.dense(torch.uint8 if x.counts is None else network.dtype)
    if state is not None:  # whose last input need not be binary
        x = x.to(network.dtype)
    tensors: list[Tensor | None] = []
    stages = []
    nb_samples = x.shape[1]
    states: list[tuple[Tensor, ...] | None] = [None] * len(network.stack)
    if state is not None:
        states = [*state.layers, *([state.readout] if state.readout is not None else [])]
    for k, layer in enumerate(network.stack):
        stage, layer_tensors = _stage(layer, nb_samples, states[k], options.precision)
        stages.append(stage)
        tensors += layer_tensors
    widest = max(x[0].numel(), *(nb_samples * math.prod(stage.population.unit_shape) for stage in stages))
    longest = (chunk_bytes or array_bytes(x.device, options.memory)) // (4 * widest)
    inputs = delayed(x, network.delay, state.last_input if state is not None else None).contiguous()
    plan = Plan(
        stages=stages,
        delay=network.delay,
        key=device_key(address.noise, x.device),
        ids=address.ids,
        first_step=address.first_step,
        chunks=chunks(len(x), max(longest, 1), options.truncate),
        keep_currents=options.memory == "full",
        differentiable=torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (inputs, *tensors)),
        return_last_spikes=options.return_state,
        return_spikes=options.record,
    )
    results = NetworkScan.apply(plan, inputs, *tensors)
    nb_layers = len(network.layers)
    counts, y = list(results[:nb_layers]), results[nb_layers] if network.readout is not None else None
    ends = results[len(stages) :]
    spikes = list(ends[len(ends) - nb_layers :]) if options.record else None
    end, per_layer = None, 2
    if options.return_state:
        end = _end_state(ends, nb_layers, x[-1].clone(), address.first_step + len(x), network.readout is not None)
        per_layer = 3
    currents = [ends[per_layer * k] for k in range(len(stages))]
    return finite.confirmed(NetworkOutput(y, counts, spikes, end), network, currents, x)


def scan(
    layer: LayerSpec,
    current: Tensor,
    old: LayerState | None,
    address: Address,
    memory: str = "full",
    return_membrane: bool = False,
    precision: str = "float32",
) -> tuple[Tensor, Tensor | None, LayerState]:
    """One layer driven by a current, as `surgrad.kernels.reference.scan`, with recurrent products in ``precision``."""
    from surgrad.kernels.gpu.scan_network import NetworkScan

    stage, tensors = _stage(layer, current.shape[1], old, precision, driven=True)
    plan = _driven(stage, current, tensors, address, return_membranes=return_membrane)
    _, i, u, spikes, *membranes = NetworkScan.apply(plan, current.contiguous(), *tensors)
    return spikes, membranes[0] if membranes else None, LayerState(i, u, spikes[-1])


def integrate(layer: ReadoutSpec, current: Tensor, state: LIFState | None = None) -> tuple[Tensor, LIFState]:
    """A leaky integrator driven by a current (T, B, C), as `surgrad.kernels.reference.integrate`."""
    from surgrad.kernels.gpu.scan_network import NetworkScan

    stage, tensors = _stage(layer, current.shape[1], state, "float32", driven=True)
    ids = torch.arange(current.shape[1], device=current.device)
    plan = _driven(stage, current, tensors, Address(NoiseKey(), ids))
    y, i, u = NetworkScan.apply(plan, current.contiguous(), *tensors)
    return y, LIFState(i, u)


def _driven(
    stage: "Stage", current: Tensor, tensors: "LayerTensors", address: Address, return_membranes: bool = False
) -> "Plan":
    """The plan of one layer that is driven by a current."""
    from surgrad.kernels.gpu.plan import Chunk, Plan

    return Plan(
        stages=[stage],
        delay=0,
        key=device_key(address.noise, current.device),
        ids=address.ids,
        first_step=address.first_step,
        chunks=[Chunk(0, len(current), cut=True)],
        keep_currents=False,
        differentiable=torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (current, *tensors)),
        return_membranes=return_membranes,
        return_spikes=stage.population.neuron is not None,
    )


def _flat_decays(a: Tensor, b: Tensor, unit_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Decays as the scans read them: both (1,), or both one per neuron."""
    if a.numel() > 1 or b.numel() > 1:
        a, b = (decay.expand(unit_shape) for decay in (a, b))
    return a.reshape(-1).contiguous(), b.reshape(-1).contiguous()


def _stage(
    layer: LayerSpec | ReadoutSpec,
    nb_samples: int,
    state: tuple[Tensor, ...] | None,
    precision: str,
    driven: bool = False,
) -> "tuple[Stage, LayerTensors]":
    """One layer as the scan wants it: what it is, and its tensors; ``driven`` by a current."""
    from surgrad.kernels.gpu.layer import Population
    from surgrad.kernels.gpu.plan import LayerTensors, Stage

    if isinstance(layer, LayerSpec):
        neuron, recurrent, index, unit_gain = layer.neuron, layer.recurrent, layer.index, layer.neuron.unit_gain
    else:
        neuron, recurrent, index, unit_gain = None, None, 0, layer.unit_gain
    i, u, before = (None, None, None) if state is None else (*state[:2], state[2] if len(state) > 2 else None)
    tensors = LayerTensors(
        None if driven else layer.incoming.known_weight.contiguous(),
        recurrent.known_weight.contiguous() if recurrent is not None else None,
        *_flat_decays(layer.a, layer.b, layer.unit_shape),
        None if i is None else i.contiguous(),
        None if u is None else u.contiguous(),
        before,
    )
    population = Population(layer.unit_shape, neuron, recurrent, index, nb_samples, precision, unit_gain)
    u0 = layer.u0 if isinstance(layer, ReadoutSpec) else 0.0
    return Stage(population, None if driven else layer.incoming, u0), tensors


def device_key(noise: NoiseKey, device: torch.device) -> Tensor:
    """One int64 on the device, seed | draw << 32; filled there, so that nothing is copied from the host."""
    low = noise.seed & _MASK
    if isinstance(noise.draw, Tensor):
        return ((noise.draw.to(device, torch.int64) << 32) | low).reshape(1)
    word = (noise.draw & _MASK) << 32 | low
    return torch.full((1,), word - (1 << 64) if word >= 1 << 63 else word, dtype=torch.int64, device=device)


def _end_state(
    ends: Sequence[Tensor], nb_layers: int, last_input: Tensor, step: int, has_readout: bool
) -> NetworkState:
    layers = tuple(LayerState(*ends[3 * k : 3 * k + 3]) for k in range(nb_layers))
    readout = LIFState(*ends[3 * nb_layers : 3 * nb_layers + 2]) if has_readout else None
    return NetworkState(layers, readout, last_input, step)
