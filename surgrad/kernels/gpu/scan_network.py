"""A network over time on the GPU, as one differentiable function of its input and its parameters.

Time is cut into chunks. Per chunk and layer, going forward: the input current of all its steps in one product, then
one scan. Going backward, chunk by chunk from the last: the current again, the adjoint scan, which yields dL/dI of all
its steps, then weight and input gradients in one product each. Kept between the two: spikes as bytes, and the state
of every layer at about sqrt(T) steps. What else is allocated grows with the chunk, not with T.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from surgrad.errors import known
from surgrad.kernels import precision
from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.gpu import products
from surgrad.kernels.gpu.layer import Population, Saved


class LayerTensors(NamedTuple):
    """The differentiable tensors of a layer: ``weight`` is None where it is driven by a current.

    ``before``, spikes of the step before the first, is not of a readout.
    """

    weight: Tensor | None
    recurrent: Tensor | None
    a: Tensor
    b: Tensor
    i: Tensor
    u: Tensor
    before: Tensor | None


class LayerNeeds(NamedTuple):
    """Which gradients by the `LayerTensors` of a layer are asked for."""

    weight: bool
    recurrent: bool
    a: bool
    b: bool
    i: bool
    u: bool
    before: bool


Group = TypeVar("Group", LayerTensors, LayerNeeds)


@dataclass(frozen=True)
class Chunk:
    """Steps start to stop; ``cut`` where no gradient comes in from later steps (truncated backpropagation)."""

    start: int
    stop: int
    cut: bool


@dataclass
class Stage:
    """A layer in one call: its description and what is kept for the backward pass.

    ``feedforward`` is None where what comes in is the current itself.
    """

    population: Population
    feedforward: ConnectionSpec | None
    spikes: Tensor | None = None  # (T + 1, B, *units) uint8, row 0 is the step before the first
    saved: list[Saved | None] = field(default_factory=list)
    currents: list[Tensor | None] = field(default_factory=list)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows of the ``spikes`` of a spiking layer."""
        return known("the spikes of a readout", self.spikes)[start:stop]


@dataclass
class Plan:
    """Everything about one call that is not a differentiable tensor.

    ``keep_states``: of all steps, so that the caller finds the membranes. ``return_spikes``: of every spiking layer, as
    differentiable outputs.
    """

    stages: list[Stage]
    delay: int
    key: Tensor
    ids: Tensor
    first_step: int
    chunks: list[Chunk]
    keep_currents: bool
    differentiable: bool
    keep_states: bool = False
    return_spikes: bool = False

    def products(self, inputs: Tensor) -> AbstractContextManager[None]:
        """Products in the precision of this call, on the device of its inputs."""
        return precision.products(self.stages[0].population.precision, inputs.device)


def chunks(nb_steps: int, longest: int, truncate: int) -> list[Chunk]:
    """Cut T steps into chunks of at most ``longest``, none of which crosses a multiple of ``truncate`` (0: none)."""
    period = truncate or nb_steps
    found = []
    for start in range(0, nb_steps, period):
        end = min(start + period, nb_steps)
        for inner in range(start, end, longest):
            stop = min(inner + longest, end)
            found.append(Chunk(inner, stop, cut=stop == end))
    return found


def _below(plan: Plan, k: int, inputs: Tensor, chunk: Chunk) -> Tensor:
    """What layer k gets at the steps of a chunk: the input, or the spikes of the layer below, one step delayed."""
    if k == 0:
        return inputs[chunk.start : chunk.stop]
    return plan.stages[k - 1].rows(chunk.start + 1 - plan.delay, chunk.stop + 1 - plan.delay)


def _by_layer(kind: type[Group], values: Sequence[Any]) -> list[Group]:
    width = len(kind._fields)
    return [kind._make(values[k : k + width]) for k in range(0, len(values), width)]


def _checkpoints(stage: Stage, nb_steps: int, like: Tensor, every: bool) -> Saved:
    """Memory for i and u at about sqrt(T) steps; at all of them if the layer is scanned step by step, or if asked."""
    segment = 1 if every or stage.population.stepwise else math.isqrt(nb_steps - 1) + 1
    rows = -(-nb_steps // segment)
    return Saved(like.new_empty(rows, *like.shape), like.new_empty(rows, *like.shape), segment)


class NetworkScan(torch.autograd.Function):
    """All layers and all steps.

    Inputs: the plan; inputs (T, B, *in_shape), already delayed; the `LayerTensors` of each stage, one after another.
    Outputs: per stage counts (B, *units), or y (T, B, classes) of a readout; then per stage i, u and, unless it is a
    readout, its last spikes; then, if the plan says so, all spikes (T, B, *units) of every spiking layer.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, inputs: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.plan = plan
        ctx.save_for_backward(inputs, *tensors)
        layers = _by_layer(LayerTensors, tensors)
        states = [(p.i.clone(), p.u.clone()) for p in layers]
        results = []
        for stage, p in zip(plan.stages, layers, strict=True):
            if stage.population.neuron is None:
                results.append(p.u.new_empty(len(inputs), *p.u.shape))
                continue
            results.append(torch.zeros_like(p.u))
            stage.spikes = torch.empty(len(inputs) + 1, *p.u.shape, dtype=torch.uint8, device=p.u.device)
            stage.spikes[0] = known("the spikes of the step before", p.before)
        with torch.cuda.device_of(inputs), plan.products(inputs):
            for chunk in plan.chunks:
                for k, p in enumerate(layers):
                    _scan_chunk(plan, k, chunk, _below(plan, k, inputs, chunk), p, states[k], results[k])
        ends: list[Tensor] = []
        for stage, state in zip(plan.stages, states, strict=True):
            ends += state
            if stage.spikes is not None:
                ends.append(stage.spikes[-1].float())
        if plan.return_spikes:
            ends += [stage.spikes[1:].float() for stage in plan.stages if stage.spikes is not None]
        return *results, *ends

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        plan, (inputs, *tensors) = ctx.plan, ctx.saved_tensors
        wanted = ctx.needs_input_grad
        with torch.cuda.device_of(inputs), plan.products(inputs):
            layers, needs = _by_layer(LayerTensors, tensors), _by_layer(LayerNeeds, wanted[2:])
            adjoint = _Adjoint(plan, inputs, layers, needs, wanted[1], gradients)
            for number in range(len(plan.chunks) - 1, -1, -1):
                adjoint.step_back(number)
            return adjoint.result()


def _scan_chunk(
    plan: Plan, k: int, chunk: Chunk, below: Tensor, p: LayerTensors, state: tuple[Tensor, Tensor], result: Tensor
) -> None:
    """Forward through one layer and chunk: ``state`` moves on, ``result`` (counts, or rows of y) is written."""
    stage = plan.stages[k]
    population = stage.population
    current = _feedforward(stage, p, below)
    keeps_state = plan.differentiable and (population.neuron is not None or p.a.requires_grad or p.b.requires_grad)
    keeps_state = keeps_state or plan.keep_states
    stage.saved.append(_checkpoints(stage, len(current), state[0], plan.keep_states) if keeps_state else None)
    keeps_current = plan.differentiable and plan.keep_currents and stage.feedforward is not None
    stage.currents.append(current if keeps_current else None)
    if population.neuron is None:
        out, counts = result[chunk.start : chunk.stop], None
    else:
        out, counts = stage.rows(chunk.start, chunk.stop + 1), result
    noise = (plan.key, plan.ids, plan.first_step + chunk.start)
    population.forward(current, out, state, counts, stage.saved[-1], (p.a, p.b), p.recurrent, noise)


def _feedforward(stage: Stage, p: LayerTensors, below: Tensor) -> Tensor:
    """The input current (steps, B, *units) without its recurrent part."""
    if stage.feedforward is None:
        return below
    return products.current(stage.feedforward, known("the weight", p.weight), below, stage.population.precision)


def _own(gradient: Tensor | None, like: Tensor) -> Tensor:
    """A contiguous copy to be written to, or zeros."""
    return torch.zeros_like(like) if gradient is None else gradient.clone(memory_format=torch.contiguous_format)


class _Adjoint:
    """The backward pass: what is carried from chunk to chunk, and the gradients gathered on the way."""

    def __init__(
        self,
        plan: Plan,
        inputs: Tensor,
        layers: list[LayerTensors],
        wanted: list[LayerNeeds],
        wants_input: bool,
        gradients: tuple[Tensor | None, ...],
    ):
        self.plan, self.inputs, self.layers, self.wanted = plan, inputs, layers, wanted
        nb_stages = len(layers)
        self.results = [None if g is None else g.contiguous() for g in gradients[:nb_stages]]
        ends = iter(gradients[nb_stages:])
        self.state: list[tuple[Tensor, Tensor]] = []
        self.last_spikes: list[Tensor | None] = []
        self.later: list[Tensor] = []
        self.decays: list[tuple[Tensor, Tensor] | None] = []
        for stage, p, want in zip(plan.stages, layers, wanted, strict=True):
            self.state.append((_own(next(ends), p.u), _own(next(ends), p.u)))
            self.last_spikes.append(next(ends) if stage.population.neuron is not None else None)
            self.later.append(torch.zeros_like(p.u))  # dL/dI of the step after the chunk
            needs_decays = want.a or want.b
            self.decays.append((torch.zeros_like(p.u), torch.zeros_like(p.u)) if needs_decays else None)
        spiking = [plan.return_spikes and stage.population.neuron is not None for stage in plan.stages]
        self.spikes = [next(ends) if has_spikes else None for has_spikes in spiking]
        self.weights: list[list[Tensor | None]] = [[None, None] for _ in layers]
        self.input_gradient = torch.empty_like(inputs, dtype=torch.float32) if wants_input else None
        touched = [k for k, want in enumerate(wanted) if any(want)]
        self.lowest = 0 if wants_input else min(touched, default=nb_stages)

    def step_back(self, number: int) -> None:
        """Adjoint of one chunk through all layers, top to bottom."""
        plan, chunk = self.plan, self.plan.chunks[number]
        is_last = number == len(plan.chunks) - 1
        if chunk.cut and not is_last:
            for carried in (*(g for pair in self.state for g in pair), *self.later):
                carried.zero_()
        from_above = None
        for k in range(len(self.layers) - 1, self.lowest - 1, -1):
            stage, p = plan.stages[k], self.layers[k]
            upstream = self._upstream(k, chunk, is_last, from_above)
            drive = self._adjoint_scan(k, number, chunk, upstream)
            self.later[k].copy_(drive[0])
            self._gather_weights(k, chunk, drive[:-1])
            if k > 0:
                from_above = self._into_below(k, drive)
            elif self.input_gradient is not None:
                gradient = drive[:-1]
                if stage.feedforward is not None:
                    weight = known("the weight", p.weight)
                    gradient = products.input_gradient(stage.feedforward, weight, gradient, stage.population.precision)
                self.input_gradient[chunk.start : chunk.stop] = gradient

    def _upstream(self, k: int, chunk: Chunk, is_last: bool, from_above: Tensor | None) -> Tensor | None:
        """dL/ds (or dL/dy of a readout) at the steps of a chunk."""
        if self.plan.stages[k].population.neuron is None:
            result = self.results[k]
            return None if result is None else result[chunk.start : chunk.stop]
        spikes, last_spikes = self.spikes[k], self.last_spikes[k]
        if spikes is not None:
            recorded = spikes[chunk.start : chunk.stop]
            from_above = recorded.contiguous() if from_above is None else from_above + recorded
        if is_last and last_spikes is not None:
            from_above = _own(from_above, self.layers[k].u.expand(chunk.stop - chunk.start, *self.layers[k].u.shape))
            from_above[-1] += last_spikes
        return from_above

    def _adjoint_scan(self, k: int, number: int, chunk: Chunk, upstream: Tensor | None) -> Tensor:
        """dL/dI of a chunk and, as last row, of the step after it: (steps + 1, B, *units)."""
        stage, p = self.plan.stages[k], self.layers[k]
        nb_steps = chunk.stop - chunk.start
        drive = p.u.new_empty(nb_steps + 1, *p.u.shape)
        drive[-1] = self.later[k]
        saved = stage.saved[number]
        # Where no state is computed again, nothing is read from the current.
        again = saved is not None and not stage.population.stepwise
        current = self._current(k, number, chunk) if again else drive[:-1]
        spikes = None if stage.spikes is None else stage.spikes[chunk.start + 1 : chunk.stop + 1]
        counts = self.results[k] if stage.spikes is not None else None
        stage.population.backward(
            current, spikes, upstream, counts, drive, self.state[k], self.decays[k], saved, (p.a, p.b), p.recurrent,
        )  # fmt: skip
        return drive

    def _current(self, k: int, number: int, chunk: Chunk) -> Tensor:
        """The input current of a chunk: kept or computed again, with the recurrent part from the known spikes."""
        stage, p = self.plan.stages[k], self.layers[k]
        precision = stage.population.precision
        current = stage.currents[number]
        if current is None:
            current = _feedforward(stage, p, _below(self.plan, k, self.inputs, chunk))
        if stage.population.recurrent is None:
            return current
        before, weight = stage.rows(chunk.start, chunk.stop), known("the recurrent weight", p.recurrent)
        return current + products.current(stage.population.recurrent, weight, before, precision)

    def _gather_weights(self, k: int, chunk: Chunk, drive: Tensor) -> None:
        stage, p, want = self.plan.stages[k], self.layers[k], self.wanted[k]
        jobs = [(stage.feedforward, p.weight, want.weight, _below(self.plan, k, self.inputs, chunk))]
        if p.recurrent is not None:
            before = stage.rows(chunk.start, chunk.stop)
            jobs.append((stage.population.recurrent, p.recurrent, want.recurrent, before))
        for place, (connection, weight, needed, spikes) in enumerate(jobs):
            if needed and connection is not None and weight is not None:
                gradient = products.weight_gradient(connection, weight, spikes, drive, stage.population.precision)
                known = self.weights[k][place]
                self.weights[k][place] = gradient if known is None else known.add_(gradient)

    def _into_below(self, k: int, drive: Tensor) -> Tensor | None:
        """dL/ds of the layer below, whose spikes arrive ``delay`` steps later."""
        if k <= self.lowest:
            return None
        stage, delay = self.plan.stages[k], self.plan.delay
        rows = drive[delay : delay + len(drive) - 1]
        connection = known("the feedforward connection", stage.feedforward)
        weight = known("the weight", self.layers[k].weight)
        return products.input_gradient(connection, weight, rows, stage.population.precision)

    def result(self) -> tuple[Tensor | None, ...]:
        """Gradients in the order of the inputs of `NetworkScan`."""
        found: list[Tensor | None] = []
        for k, (p, want) in enumerate(zip(self.layers, self.wanted, strict=True)):
            a = b = None
            decays = self.decays[k]
            if decays is not None:
                a, b = (g.flatten(1).sum(0) if p.a.numel() > 1 else g.sum().view(1) for g in decays)
            i, u = self.state[k]
            before = self._before(k) if want.before else None
            found += [*self.weights[k], a, b, i if want.i else None, u if want.u else None, before]
        return None, self.input_gradient, *found

    def _before(self, k: int) -> Tensor:
        """dL/ds of the step before the first, through the recurrence and the delayed layer above."""
        stages, p = self.plan.stages, self.layers[k]
        gradient = torch.zeros_like(p.u)
        targets = [(stages[k].population.recurrent, p.recurrent, k)]
        if self.plan.delay and k + 1 < len(stages):
            targets.append((stages[k + 1].feedforward, self.layers[k + 1].weight, k + 1))
        for connection, weight, above in targets:
            if connection is None or weight is None:
                continue
            precision = stages[above].population.precision
            gradient += products.input_gradient(connection, weight, self.later[above][None], precision)[0]
        return gradient
