"""Adaptive LIF neurons over time on the GPU: `surgrad.kernels.reference.adaptive` as two Triton kernels.

A layer is driven by a current; the network runs layer by layer (`surgrad.kernels.gpu.layerwise`).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from surgrad.errors import known
from surgrad.kernels import precision
from surgrad.kernels.call import Address
from surgrad.kernels.contract import LayerSpec
from surgrad.kernels.gpu import products
from surgrad.kernels.gpu.adaptive_scan import adaptive_scan, adaptive_scan_adjoint
from surgrad.kernels.gpu.layer import Population
from surgrad.kernels.gpu.network import device_key
from surgrad.kernels.gpu.neurons import NOISES, SURROGATES, function_of
from surgrad.kernels.state import AdaptiveLayerState
from surgrad.neurons.lif import AdaptiveLIF

# What of the constants of a layer's kernels these kernels take, too.
_SHAPE = (
    "UNIT_GAIN", "RECURRENT", "CHANNELS", "POSITIONS", "ROWS", "COLUMNS", "USED", "BLOCK", "WIDTH", "KERNEL_HEIGHT",
    "KERNEL_WIDTH", "PAD_Y", "PAD_X", "PRECISION", "STAGES", "num_warps", "num_stages", "enable_fp_fusion", "RESET",
)  # fmt: skip


def constants(population: Population, device: torch.device, *, save: bool = True) -> dict[str, dict[str, Any]]:
    """Compile-time arguments and launch options of both kernels."""
    forward = population.forward_constants(device, per_unit=True, save=save)
    backward = population.backward_constants(device, per_unit=True, decays=True, upstream=True, counts=False)
    neuron = population.neuron
    assert isinstance(neuron, AdaptiveLIF)  # see `obstacle`
    common = {name: forward[name] for name in _SHAPE}
    common |= {"SUBTRACTIVE": neuron.reset.startswith("subtractive"), "EULER": neuron.scheme == "euler"}
    return {
        "forward": common | {name: forward[name] for name in ("THRESHOLD", "STOCHASTIC", "SAVE")},
        "adjoint": common | {name: backward[name] for name in ("RESET_ADJOINT", "SURROGATE", "DIFF_RESET")},
    }


class _Scan(torch.autograd.Function):
    """Spikes (T, B, *units), states (3, B, *units) after the last step, and, if asked for, all membranes.

    Inputs: the population; key, ids and first step of the noise; whether membranes are returned; spikes of the step
    before, without gradient, or None; states before the first step (3, B, *units); current (T, B, *units); constants
    (5, N); recurrent weight or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        population: Population,
        noise: tuple[Tensor, Tensor, int],
        membranes: bool,
        before: Tensor | None,
        states: Tensor,
        current: Tensor,
        values: Tensor,
        weight: Tensor | None,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        (key, ids, first_step), nb_steps, neuron = noise, len(current), known("the neuron", population.neuron)
        differentiable = any(ctx.needs_input_grad)
        segment = 1 if membranes else math.isqrt(nb_steps - 1) + 1
        states = states.clone()
        out = torch.empty(nb_steps + 1, *current.shape[1:], dtype=torch.uint8, device=current.device)
        out[0] = 0 if before is None else before
        saved = None
        if differentiable or membranes:
            saved = torch.empty(-(-nb_steps // segment), *states.shape, device=current.device)
        taps = None if weight is None else products.taps(known("the loop", population.recurrent), weight)
        with torch.cuda.device_of(current):
            adaptive_scan[population.grid](
                current, out, states, saved, values, taps, key, ids, population.nb_samples, nb_steps, segment,
                first_step, population.index, *function_of(neuron.escape_noise, NOISES)[1],
                **constants(population, current.device, save=saved is not None)["forward"],
            )  # fmt: skip
        ctx.population, ctx.segment = population, segment
        if differentiable:
            ctx.save_for_backward(out, saved, current, values, weight)
        results = (out[1:].float(), states)
        if not membranes:
            return results
        u = known("saved states", saved)[:, 1].contiguous()
        ctx.mark_non_differentiable(u)
        return *results, u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_spikes: Tensor | None, g_states: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        out, saved, current, values, weight = ctx.saved_tensors
        population, nb_steps, device = ctx.population, len(current), current.device
        gradients = (
            torch.zeros_like(saved[0]) if g_states is None else g_states.clone(memory_format=torch.contiguous_format)
        )
        upstream = torch.zeros_like(current) if g_spikes is None else g_spikes.contiguous()
        drive = torch.empty(nb_steps + 1, *current.shape[1:], device=device)
        drive[-1] = 0
        of_constants = torch.empty(len(values), *current.shape[1:], device=device)
        scratch = torch.empty(min(ctx.segment, nb_steps), *gradients.shape, device=device)
        taps = None
        with torch.cuda.device_of(current), precision.products("float32", device):
            if weight is not None:
                loop = known("the loop", population.recurrent)
                current = current + products.current(loop, weight, out[:-1], "float32")
                taps = products.taps(loop, weight, transposed=True)
            adaptive_scan_adjoint[population.grid](
                current, out[1:], upstream, drive, gradients, of_constants, saved, scratch, values, taps,
                population.nb_samples, nb_steps, ctx.segment, *function_of(population.neuron.surrogate, SURROGATES)[1],
                **constants(population, device)["adjoint"],
            )  # fmt: skip
            g_weight = None
            if weight is not None and ctx.needs_input_grad[7]:
                g_weight = products.weight_gradient(loop, weight, out[:-1], drive[:-1], "float32")
        return None, None, None, None, gradients, drive[:-1], of_constants.flatten(2).sum(1), g_weight


def scan(
    layer: LayerSpec,
    current: Tensor,
    old: AdaptiveLayerState | None,
    address: Address,
    memory: str = "full",
    return_membrane: bool = False,
) -> tuple[Tensor, Tensor | None, AdaptiveLayerState]:
    """One adaptive layer driven by a current, as `surgrad.kernels.reference.scan`; the current is kept either way."""
    population = population_of(layer, current.shape[1])
    adaptation = known(f"{layer.name}.adaptation", layer.adaptation)
    values = torch.stack([x.expand(layer.unit_shape).flatten() for x in (layer.a, layer.b, *adaptation)])
    before = None
    if old is None:
        states = current.new_zeros(3, *current.shape[1:])
    else:
        states = torch.stack([old.i, old.u, old.w])
        if layer.recurrent is not None and old.s.requires_grad:
            current = torch.cat([current[:1] + layer.recurrent.function(old.s), current[1:]])
        else:
            before = old.s
    weight = None if layer.recurrent is None else layer.recurrent.known_weight.contiguous()
    noise = (device_key(address.noise, current.device), address.ids, address.first_step)
    spikes, end, *membranes = _Scan.apply(
        population, noise, return_membrane, before, states, current.contiguous(), values, weight
    )
    i, u, w = end.unbind()
    return spikes, membranes[0] if membranes else None, AdaptiveLayerState(i, u, spikes[-1], w)


def population_of(layer: LayerSpec, nb_samples: int) -> Population:
    """The layer as its kernels want it."""
    unit_gain = layer.neuron.unit_gain
    return Population(layer.unit_shape, layer.neuron, layer.recurrent, layer.index, nb_samples, "float32", unit_gain)


def obstacle(layer: LayerSpec) -> str | None:
    """What of an adaptive layer these kernels do not know, or None."""
    neuron = layer.neuron
    if type(neuron) is not AdaptiveLIF:
        return f"{layer.name} ({type(neuron).__name__} neurons)"
    if type(neuron.surrogate) not in SURROGATES or type(neuron.escape_noise) not in NOISES:
        return f"{layer.name} ({neuron.surrogate} with {neuron.escape_noise})"
    if population_of(layer, 1).stepwise:
        return f"{layer.name} ({math.prod(layer.unit_shape)} adaptive neurons with recurrence)"
    return None
