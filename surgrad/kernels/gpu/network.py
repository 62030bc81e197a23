"""The network over time on an NVIDIA GPU: fused scans in Triton, products by cuBLAS and cuDNN.

Same contract, spikes and gradients as `surgrad.kernels.reference`. Triton comes with PyTorch's CUDA builds and is
imported only when a network runs here. With TRITON_INTERPRET=1 in the environment the kernels run on CPU tensors in
Triton's interpreter: slow, made for the tests.
"""

import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.kernels.philox import NoiseKey
from surgrad.kernels.reference import delayed
from surgrad.kernels.state import LayerState, NetworkOutput, NetworkState
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.neurons.lif import LIF, LIFState

if TYPE_CHECKING:
    from surgrad.kernels.gpu.layer import Population
    from surgrad.kernels.gpu.scan_network import LayerTensors, Plan, Stage
    from surgrad.network.network import Network

_MASK = 0xFFFFFFFF
# The most images that all of cuDNN's algorithms take at once; a step of a sample is an image.
_MOST_IMAGES = 65535
PRECISIONS = ("float32", "bf16")


def interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def available() -> bool:
    """Whether Triton is installed and there is a CUDA device, or Triton's interpreter is asked for."""
    return importlib.util.find_spec("triton") is not None and (interpreted() or torch.cuda.is_available())


def obstacle(neurons: Sequence[LIF], dtype: torch.dtype, device: torch.device) -> str | None:
    """Why this kernel cannot run these neurons in ``dtype`` on ``device``, or None."""
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"the data is on {device}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install triton"
    if dtype != torch.float32:
        return f"it computes in float32, not {dtype}"
    from surgrad.kernels.gpu.neurons import NOISES, SURROGATES

    for neuron in neurons:
        if type(neuron) is not LIF:
            return f"it does not know {type(neuron).__name__}"
        if type(neuron.surrogate) not in SURROGATES or type(neuron.escape_noise) not in NOISES:
            return f"it does not know {neuron.surrogate} with {neuron.escape_noise}"
    return None


def run(
    network: "Network",
    x: Tensor | EventBatch,
    noise: NoiseKey,
    ids: Tensor,
    *,
    state: NetworkState | None = None,
    record: bool = False,
    return_state: bool = False,
    truncate: int = 0,
    memory: str = "full",
    precision: str = "float32",
    chunk_bytes: int = 1 << 28,
) -> NetworkOutput:
    """Run a whole network (arguments as in `surgrad.network.network.Network.forward`).

    Args:
        noise: its ``draw`` may be a 0-d int64 tensor on the device, so that a captured step draws anew at each replay.
        memory: "full" keeps the input currents for the backward pass, 4 bytes per neuron and step; "recompute"
            computes them again. Spikes take one byte, states are kept at about sqrt(T) steps, either way.
        precision: "float32", or "bf16": weights and gradients inside products; state is always float32.
        chunk_bytes: size at which arrays over time are cut into chunks of time.

    Raises: UserError if this kernel cannot run the network where its input lies, or an argument is unknown.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision!r} is unknown; allowed: {', '.join(PRECISIONS)}")
    x = x.dense(torch.uint8) if isinstance(x, EventBatch) else x
    weight = next(network.parameters())
    reason = obstacle([layer.neuron for layer in network.layers], weight.dtype, x.device)
    if reason is not None:
        raise UserError(f"kernel='cuda' cannot run this network: {reason}; use kernel=auto")
    # Triton is loaded on first use: a run on the CPU never pays for it.
    from surgrad.kernels.gpu.scan_network import NetworkScan, Plan, chunks

    tensors: list[Tensor | None] = []
    stages = []
    nb_samples = x.shape[1]
    for index, layer in enumerate(_stack(network)):
        stage, layer_tensors = _stage(network, index, layer, nb_samples, x.device, state, precision)
        stages.append(stage)
        tensors += layer_tensors
    first_step = state.step if state else 0
    widest = max(x[0].numel(), *(nb_samples * math.prod(stage.population.unit_shape) for stage in stages))
    longest = chunk_bytes // (4 * widest)
    if any(isinstance(stage.feedforward, Conv) for stage in stages):
        longest = min(longest, _MOST_IMAGES // nb_samples)
    plan = Plan(
        stages=stages,
        delay=network.delay,
        key=_key(noise, x.device),
        ids=ids.to(x.device, torch.int64).contiguous(),
        first_step=first_step,
        chunks=chunks(len(x), max(longest, 1), truncate),
        keep_currents=memory == "full",
        differentiable=torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *tensors)),
    )
    inputs = delayed(x, network.delay, state.last_input if state else None).contiguous()
    results = NetworkScan.apply(plan, inputs, *tensors)
    nb_layers = len(network.layers)
    counts, y = list(results[:nb_layers]), results[nb_layers] if network.readout is not None else None
    spikes = [stage.spikes[1:].to(weight.dtype) for stage in stages[:nb_layers]] if record else None
    end = _end_state(results[len(stages) :], nb_layers, x[-1], first_step + len(x)) if return_state else None
    return NetworkOutput(y, counts, spikes, end)


def lif(
    current: Tensor,
    a: Tensor,
    b: Tensor,
    neuron: LIF,
    *,
    recurrence: Dense | Conv | None = None,
    state: LIFState | None = None,
    previous: Tensor | None = None,
    noise: NoiseKey | None = None,
    ids: Tensor | None = None,
    first_step: int = 0,
    memory: str = "full",
    return_membrane: bool = False,
) -> tuple[Tensor, Tensor | None, LIFState]:
    """One layer driven by a current, as `surgrad.kernels.reference.lif`; membranes only if asked for."""
    from surgrad.kernels.gpu.layer import Population
    from surgrad.kernels.gpu.scan_network import LayerTensors, NetworkScan

    noise, device = noise or NoiseKey(), current.device
    shape = current.shape[1:]
    population = Population(tuple(shape[1:]), neuron, recurrence, noise.layer, shape[0], "float32", neuron.unit_gain)
    zeros = torch.zeros(shape, device=device)
    i, u = state or (zeros, zeros)
    before = zeros if previous is None else previous
    weight = recurrence.weight if recurrence is not None else None
    tensors = LayerTensors(None, weight, *_flat_decays(a, b, population.unit_shape), i, u, before)
    ids = torch.arange(shape[0], device=device) if ids is None else ids
    plan = _driven(population, current, tensors, _key(noise, device), ids, first_step, keep_states=return_membrane)
    _, i, u, _, spikes = NetworkScan.apply(plan, current.contiguous(), *tensors)
    return spikes, plan.stages[0].saved[0].u if return_membrane else None, LIFState(i, u)


def readout(
    current: Tensor, a: Tensor, b: Tensor, *, unit_gain: bool = True, state: LIFState | None = None, u0: float = 0.0
) -> tuple[Tensor, LIFState]:
    """A leaky integrator driven by a current (T, B, C), as `surgrad.kernels.reference.readout`."""
    from surgrad.kernels.gpu.layer import Population
    from surgrad.kernels.gpu.scan_network import LayerTensors, NetworkScan

    shape, device = current.shape[1:], current.device
    population = Population(tuple(shape[1:]), None, None, 0, shape[0], "float32", unit_gain)
    i, u = state or (torch.zeros(shape, device=device), torch.full(shape, u0, device=device))
    tensors = LayerTensors(None, None, *_flat_decays(a, b, population.unit_shape), i, u, None)
    plan = _driven(population, current, tensors, _key(NoiseKey(), device), torch.arange(shape[0], device=device))
    y, i, u = NetworkScan.apply(plan, current.contiguous(), *tensors)
    return y, LIFState(i, u)


def _driven(
    population: "Population",
    current: Tensor,
    tensors: "LayerTensors",
    key: Tensor,
    ids: Tensor,
    first_step: int = 0,
    keep_states: bool = False,
) -> "Plan":
    """The plan of one layer that is driven by a current."""
    from surgrad.kernels.gpu.scan_network import Chunk, Plan, Stage

    return Plan(
        stages=[Stage(population, None)],
        delay=0,
        key=key,
        ids=ids.to(current.device, torch.int64).contiguous(),
        first_step=first_step,
        chunks=[Chunk(0, len(current), cut=True)],
        keep_currents=False,
        differentiable=torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (current, *tensors)),
        keep_states=keep_states,
        return_spikes=population.neuron is not None,
    )


def _flat_decays(a: Tensor, b: Tensor, unit_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Decays as the scans read them: both (1,), or both one per neuron."""
    if a.numel() > 1 or b.numel() > 1:
        a, b = (decay.expand(unit_shape) for decay in (a, b))
    return a.reshape(-1).contiguous(), b.reshape(-1).contiguous()


def _stack(network: "Network") -> list[SpikingLayer | Readout]:
    return [*network.layers, *([network.readout] if network.readout is not None else [])]


def _stage(
    network: "Network",
    index: int,
    layer: SpikingLayer | Readout,
    nb_samples: int,
    device: torch.device,
    state: NetworkState | None,
    precision: str,
) -> "tuple[Stage, LayerTensors]":
    """One layer as the scan wants it: what it is, and its tensors."""
    from surgrad.kernels.gpu.layer import Population
    from surgrad.kernels.gpu.scan_network import LayerTensors, Stage

    spiking = isinstance(layer, SpikingLayer)
    shape = (nb_samples, *layer.unit_shape)
    zeros = torch.zeros(shape, device=device)
    i, u, before = zeros, zeros if spiking else torch.full(shape, layer.u0, device=device), zeros
    if state is not None:
        i, u, *before = state.layers[index] if spiking else state.readout
        before = before[0] if spiking else None
    a, b = _flat_decays(*layer.decays(network.dt), layer.unit_shape)
    recurrent = layer.recurrent if spiking else None
    tensors = LayerTensors(
        weight=layer.feedforward.weight,
        recurrent=recurrent.weight if recurrent is not None else None,
        a=a,
        b=b,
        i=i.contiguous(),
        u=u.contiguous(),
        before=before if spiking else None,
    )
    neuron = layer.neuron if spiking else None
    unit_gain = neuron.unit_gain if spiking else layer.unit_gain
    population = Population(layer.unit_shape, neuron, recurrent, index, nb_samples, precision, unit_gain)
    return Stage(population, layer.feedforward), tensors


def _key(noise: NoiseKey, device: torch.device) -> Tensor:
    """One int64 on the device, seed | draw << 32; filled there, so that nothing is copied from the host."""
    low = noise.seed & _MASK
    if isinstance(noise.draw, Tensor):
        return ((noise.draw.to(device, torch.int64) << 32) | low).reshape(1)
    word = (noise.draw & _MASK) << 32 | low
    return torch.full((1,), word - (1 << 64) if word >= 1 << 63 else word, dtype=torch.int64, device=device)


def _end_state(ends: Sequence[Tensor], nb_layers: int, last_input: Tensor, step: int) -> NetworkState:
    layers = tuple(LayerState(*ends[3 * k : 3 * k + 3]) for k in range(nb_layers))
    rest = ends[3 * nb_layers :]
    return NetworkState(layers, LIFState(*rest) if rest else None, last_input, step)


class GraphedStep:
    """A whole training step captured as a CUDA graph and replayed: no launch, no Python per layer or time step.

    The first ``warmup`` calls run as they are, so that kernels are compiled and the optimiser has its state; the next
    one is captured and replayed, as are all later ones whose tensors have the same shapes and types. Calls with other
    shapes (a last, smaller batch) and calls with CPU tensors run as they are. Each call is one step of training,
    captured or not.

    The step must read all that changes from its tensor arguments or from tensors updated in place, never wait for
    the device (no ``.item()``, no printing), and keep its optimiser's state on the device (``capturable=True``). What
    it returns is overwritten by the next call. Escape noise is drawn anew only if ``draw`` is a tensor argument.

    Args:
        step: function of tensors that zeroes gradients, runs the network and its loss, and lets the optimiser step.
        warmup: number of calls before the capture.

    Raises: UserError if warmup is negative.
    """

    def __init__(self, step: Callable[..., object], warmup: int = 3):
        if warmup < 0:
            raise UserError(f"warmup={warmup} must not be negative")
        self.step, self.warmup = step, warmup
        self.graph: torch.cuda.CUDAGraph | None = None
        self.arguments: list[Tensor] = []
        self.output: object = None

    def __call__(self, *arguments: Tensor) -> object:
        if not all(x.is_cuda for x in arguments):
            return self.step(*arguments)
        if self.graph is None:
            if self.warmup > 0:
                self.warmup -= 1
                return self._aside(*arguments)
            self._capture(*arguments)
        if [(x.shape, x.dtype) for x in arguments] != [(x.shape, x.dtype) for x in self.arguments]:
            return self.step(*arguments)
        for fixed, x in zip(self.arguments, arguments, strict=True):
            fixed.copy_(x)
        self.graph.replay()
        return self.output

    def _aside(self, *arguments: Tensor) -> object:
        """Run on a stream of its own, as a capture wants its warm-up."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output = self.step(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return output

    def _capture(self, *arguments: Tensor) -> None:
        self.arguments = [x.clone() for x in arguments]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = self.step(*self.arguments)
