"""Adaptive LIF neurons, and axonal delays and dropout in a recurrence, over time on the GPU: two Triton kernels.

A layer is driven by a current; the network runs layer by layer (`surgrad.kernels.gpu.layerwise`).
"""

import math
from typing import Any, NamedTuple

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
from surgrad.kernels.inputs import kept_in_loop
from surgrad.kernels.recurrence import on_the_way, recurrence, with_pending
from surgrad.kernels.state import AdaptiveLayerState, AnyLayerState, DelayedLayerState, LayerState
from surgrad.neurons.lif import LIF, AdaptationValues, AdaptiveLIF

# What of the constants of a layer's kernels these kernels take, too.
_SHAPE = (
    "UNIT_GAIN", "RECURRENT", "HELD", "CHANNELS", "POSITIONS", "ROWS", "COLUMNS", "USED", "BLOCK", "WIDTH",
    "KERNEL_HEIGHT", "KERNEL_WIDTH", "PAD_Y", "PAD_X", "PRECISION", "STAGES", "num_warps", "num_stages",
    "enable_fp_fusion", "RESET",
)  # fmt: skip


def constants(
    population: Population, device: torch.device, *, save: bool = True, spread: bool = False
) -> dict[str, dict[str, Any]]:
    """Compile-time arguments and launch options of both kernels."""
    forward = population.forward_constants(device, per_unit=True, save=save)
    backward = population.backward_constants(device, per_unit=True, decays=True, upstream=True, counts=False)
    neuron = known("the neuron", population.neuron)
    common = {name: forward[name] for name in _SHAPE} | {"SPREAD": spread}
    common |= {"SUBTRACTIVE": neuron.reset.startswith("subtractive"), "EULER": _is_euler(neuron)}
    return {
        "forward": common | {name: forward[name] for name in ("THRESHOLD", "STOCHASTIC", "SAVE")},
        "adjoint": common
        | {name: backward[name] for name in ("RESET_ADJOINT", "SURROGATE", "DIFF_RESET", "num_warps")},
    }


def _is_euler(neuron: LIF) -> bool:
    return isinstance(neuron, AdaptiveLIF) and neuron.scheme == "euler"


class _Call(NamedTuple):
    """What a scan is given besides differentiable tensors.

    noise: key, ids and first step. ``membranes``: whether they are returned. ``before``: spikes of the step before, or
    None. ``kept``: (B, *units), what spikes count in the recurrence; None where they come back at once and whole.
    """

    population: Population
    noise: tuple[Tensor, Tensor, int]
    membranes: bool
    before: Tensor | None
    kept: Tensor | None


class _Scan(torch.autograd.Function):
    """Spikes (T, B, *units), states (3, B, *units) after the last step, and, if asked for, all membranes.

    Inputs: the `_Call`; states before the first step (3, B, *units); current (T, B, *units); constants (5, N);
    recurrent weight or None; shares (nb_taps, N) of spikes that come back after 1, 2, … steps, or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        states: Tensor,
        current: Tensor,
        values: Tensor,
        weight: Tensor | None,
        shares: Tensor | None,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        population, (key, ids, first_step), nb_steps = call.population, call.noise, len(current)
        neuron = known("the neuron", population.neuron)
        differentiable = any(ctx.needs_input_grad)
        segment = 1 if call.membranes else math.isqrt(nb_steps - 1) + 1
        states = states.clone()
        out = torch.empty(nb_steps + 1, *current.shape[1:], dtype=torch.uint8, device=current.device)
        out[0] = 0 if call.before is None else call.before
        saved = None
        if differentiable or call.membranes:
            saved = torch.empty(-(-nb_steps // segment), *states.shape, device=current.device)
        taps = None if weight is None else population.taps(weight)
        heard, nb_taps = (None, 1) if shares is None else (torch.empty_like(current), len(shares))
        spread = shares is not None
        with torch.cuda.device_of(current):
            adaptive_scan[population.grid](
                current, out, states, saved, values, taps, shares, call.kept, heard, key, ids, population.nb_samples,
                nb_steps, segment, first_step, population.index, nb_taps, *function_of(neuron.escape_noise, NOISES)[1],
                **constants(population, current.device, save=saved is not None, spread=spread)["forward"],
            )  # fmt: skip
        ctx.call, ctx.segment = call, segment
        if differentiable:
            ctx.save_for_backward(out, saved, current, values, weight, shares, heard)
        results = (out[1:].float(), states)
        if not call.membranes:
            return results
        u = known("saved states", saved)[:, 1].contiguous()
        ctx.mark_non_differentiable(u)
        return *results, u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_spikes: Tensor | None, g_states: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        out, saved, current, values, weight, shares, heard = ctx.saved_tensors
        population, nb_steps, device = ctx.call.population, len(current), current.device
        gradients = (
            torch.zeros_like(saved[0]) if g_states is None else g_states.clone(memory_format=torch.contiguous_format)
        )
        upstream = torch.zeros_like(current) if g_spikes is None else g_spikes.contiguous()
        drive = torch.empty(nb_steps + 1, *current.shape[1:], device=device)
        drive[-1] = 0
        of_constants = torch.empty(len(values), *current.shape[1:], device=device)
        scratch = torch.empty(min(ctx.segment, nb_steps), *gradients.shape, device=device)
        taps, g_weight, g_shares = None, None, None
        source = out[:-1] if heard is None else precision.rounded(heard, population.precision)
        g_heard, nb_taps = (None, 1) if shares is None else (torch.empty_like(drive), len(shares))
        with torch.cuda.device_of(current), precision.products(population.precision, device):
            if weight is not None:
                loop = known("the loop", population.recurrent)
                current = current + products.current(loop, weight, source, population.precision)
                taps = population.taps(weight, adjoint=True)
            adaptive_scan_adjoint[population.grid](
                current, out[1:], upstream, drive, gradients, of_constants, saved, scratch, values, taps, shares,
                ctx.call.kept, g_heard, population.nb_samples, nb_steps, ctx.segment, nb_taps,
                *function_of(population.neuron.surrogate, SURROGATES)[1],
                **constants(population, device, spread=shares is not None)["adjoint"],
            )  # fmt: skip
            if weight is not None and ctx.needs_input_grad[4]:
                g_weight = products.weight_gradient(loop, weight, source, drive[:-1], population.precision)
        if g_heard is not None and ctx.needs_input_grad[5]:
            g_shares = _shares_gradient(out, g_heard, nb_taps)
        return None, gradients, drive[:-1], of_constants.flatten(2).sum(1), g_weight, g_shares


def _shares_gradient(out: Tensor, g_heard: Tensor, nb_taps: int) -> Tensor:
    """dL/dshares[k] = sum_t,b g[t] s[t-1-k], (nb_taps, N).

    Args:
        out: (T + 1, B, *units) uint8, s[t-1] in row t.
        g_heard: (T + 1, B, *units), g[t] in row t from 1 on; nothing was heard before.
        nb_taps: how many.
    """
    spikes, found = out[1:].flatten(2), []
    for k in range(nb_taps):
        later = g_heard[1 + k :].flatten(2)  # rows up to T, of which the last is 0
        found.append((later * spikes[: len(later)]).sum((0, 1)))
    return torch.stack(found)


def scan(
    layer: LayerSpec,
    current: Tensor,
    old: AnyLayerState | None,
    address: Address,
    memory: str = "full",
    return_membrane: bool = False,
    product: str = "float32",
) -> tuple[Tensor, Tensor | None, AnyLayerState]:
    """One layer driven by a current, as `surgrad.kernels.reference.scan`; the current is kept either way.

    ``product`` is the precision of recurrent products.
    """
    population = population_of(layer, current.shape[1], product)
    adaptation = layer.adaptation or AdaptationValues(*(torch.zeros_like(layer.a) for _ in range(3)))
    values = torch.stack([x.expand(layer.unit_shape).flatten() for x in (layer.a, layer.b, *adaptation)])
    before, arriving = None, recurrence(layer, address)
    if old is None:
        states = current.new_zeros(3, *current.shape[1:])
    else:
        states = torch.stack([old.i, old.u, torch.zeros_like(old.i) if isinstance(old, LayerState) else old.w])
        if isinstance(old, DelayedLayerState):
            current = with_pending(current, old)
        elif arriving is not None and old.s.requires_grad:
            current = torch.cat([current[:1] + arriving(old.s), current[1:]])
        else:
            before = old.s
    kept, shares = _returning(layer, current, address)
    weight = None if layer.recurrent is None else layer.recurrent.known_weight.contiguous()
    noise = (device_key(address.noise, current.device), address.ids, address.first_step)
    call = _Call(population, noise, return_membrane, before, kept)
    spikes, end, *membranes = _Scan.apply(call, states, current.contiguous(), values, weight, shares)
    (i, u, w), u_all = end.unbind(), membranes[0] if membranes else None
    if layer.has_recurrent_delays:
        pending = on_the_way(spikes, len(known("shares", shares)), known("recurrence", arriving), old)
        return spikes, u_all, DelayedLayerState(i, u, spikes[-1], w, pending)
    if layer.adaptation is None:
        return spikes, u_all, LayerState(i, u, spikes[-1])
    return spikes, u_all, AdaptiveLayerState(i, u, spikes[-1], w)


def _returning(layer: LayerSpec, current: Tensor, address: Address) -> tuple[Tensor | None, Tensor | None]:
    """What spikes count in the recurrence, (B, *units), and their shares, (nb_taps, N); None for all at once."""
    if layer.recurrent is None or not (layer.has_recurrent_delays or layer.recurrent_dropout):
        return None, None
    kept = kept_in_loop(layer.recurrent_dropout, layer.index, address.noise, address.ids, layer.unit_shape)
    shares = layer.recurrent.shares
    return (
        torch.ones_like(current[0]) if kept is None else kept.to(current.dtype).contiguous(),
        current.new_ones(1, math.prod(layer.unit_shape)) if shares is None else shares.contiguous(),
    )


def population_of(layer: LayerSpec, nb_samples: int, product: str = "float32") -> Population:
    """The layer as its kernels want it."""
    unit_gain = layer.neuron.unit_gain
    return Population(layer.unit_shape, layer.neuron, layer.recurrent, layer.index, nb_samples, product, unit_gain)


def obstacle(layer: LayerSpec) -> str | None:
    """What of a layer these kernels do not know, or None."""
    neuron = layer.neuron
    if type(neuron) not in (LIF, AdaptiveLIF):
        return f"{layer.name} ({type(neuron).__name__} neurons)"
    if type(neuron.surrogate) not in SURROGATES or type(neuron.escape_noise) not in NOISES:
        return f"{layer.name} ({neuron.surrogate} with {neuron.escape_noise})"
    if population_of(layer, 1).stepwise:
        what = "adaptive neurons" if layer.adaptation is not None else "neurons"
        how = "delays or dropout in their recurrence" if layer.adaptation is None else "recurrence"
        return f"{layer.name} ({math.prod(layer.unit_shape)} {what} with {how})"
    return None
