"""A network over time on the GPU, as one differentiable function of its input and its parameters.

Time is cut into chunks. Per chunk and layer, going forward: the input current of all its steps in one product, then
one scan. Going backward, chunk by chunk from the last: the current again, the adjoint scan, which yields dL/dI of all
its steps, then weight and input gradients in one product each. Kept between the two: spikes as bytes, and the state
of every layer at about sqrt(T) steps. What else is allocated grows with the chunk, not with T.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from surgrad.errors import known
from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.gpu import products
from surgrad.kernels.gpu.layer import Saved
from surgrad.kernels.gpu.plan import Chunk, Kept, LayerNeeds, LayerTensors, Plan, Stage

Group = TypeVar("Group", LayerTensors, LayerNeeds)


def _by_layer(kind: type[Group], values: Sequence[Any]) -> list[Group]:
    width = len(kind._fields)
    return [kind._make(values[k : k + width]) for k in range(0, len(values), width)]


def _checkpoints(stage: Stage, nb_steps: int, like: Tensor, every: bool) -> Saved:
    """Memory for i and u at about sqrt(T) steps; at all of them if the layer is scanned step by step, or if asked."""
    segment = 1 if every or stage.population.stepwise else math.isqrt(nb_steps - 1) + 1
    rows = -(-nb_steps // segment)
    return Saved(like.new_empty(rows, *like.shape), like.new_empty(rows, *like.shape), segment)


def _begin(
    plan: Plan, inputs: Tensor, layers: list[LayerTensors]
) -> tuple[list[Kept], list[tuple[Tensor, Tensor]], list[Tensor]]:
    """Memory for spikes, states and results, with what is there before the first step; zeros in one launch."""
    kept, states, results = [], [], []
    zeros: list[Tensor] = []
    silent: list[Tensor] = []

    def start(given: Tensor | None, stage: Stage) -> Tensor:
        if given is not None:
            return given.clone()
        zeros.append(torch.empty(stage.shape, device=inputs.device))
        return zeros[-1]

    for stage, p in zip(plan.stages, layers, strict=True):
        states.append((start(p.i, stage), start(p.u, stage)))
        if stage.population.neuron is None:
            kept.append(Kept())
            results.append(torch.empty(len(inputs), *stage.shape, device=inputs.device))
            continue
        results.append(start(None, stage))
        spikes = torch.empty(len(inputs) + 1, *stage.shape, dtype=torch.uint8, device=inputs.device)
        kept.append(Kept(spikes))
        if p.before is None:
            silent.append(spikes[0])
        else:
            spikes[0] = p.before
    _clear(zeros)
    _clear(silent)
    for (_, u), stage, p in zip(states, plan.stages, layers, strict=True):
        if p.u is None and stage.u0:
            u.fill_(stage.u0)
    return kept, states, results


def _clear(tensors: list[Tensor]) -> None:
    """Set all to 0, in one launch."""
    if tensors:
        torch._foreach_zero_(tensors)


class NetworkScan(torch.autograd.Function):
    """All layers and all steps.

    Inputs: the plan; inputs (T, B, *in_shape), already delayed; the `LayerTensors` of each stage, one after another.
    Outputs: per stage counts (B, *units), or y (T, B, classes) of a readout; then per stage i, u and, if the plan says
    so, the last spikes of a spiking one; then, if it says so, all spikes (T, B, *units) of every spiking layer, and the
    membranes of the first one. What the backward pass needs is saved with autograd, which frees it after that pass.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, inputs: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        layers = _by_layer(LayerTensors, tensors)
        with torch.cuda.device_of(inputs), plan.products(inputs):
            kept, states, results = _begin(plan, inputs, layers)
            for chunk in plan.chunks:
                for k, p in enumerate(layers):
                    below = inputs[chunk.start : chunk.stop]
                    if k:
                        below = kept[k - 1].rows(chunk.start + 1 - plan.delay, chunk.stop + 1 - plan.delay)
                    _scan_chunk(plan, plan.stages[k], chunk, below, p, states[k], results[k], kept[k])
        ctx.plan, ctx.segments = plan, [each.segments for each in kept]
        if plan.differentiable:
            ctx.save_for_backward(inputs, *tensors, *(x for each in kept for x in each.tensors()))
        ends: list[Tensor] = []
        for each, state in zip(kept, states, strict=True):
            ends += state
            if each.spikes is not None and plan.return_last_spikes:
                ends.append(each.spikes[-1].float())
        if plan.return_spikes:
            ends += [each.spikes[1:].float() for each in kept if each.spikes is not None]
        if plan.return_membranes:
            ends.append(known("saved states", kept[0].saved[0]).u)
            ctx.mark_non_differentiable(ends[-1])
        return *results, *ends

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        plan, (inputs, *tensors), wanted = ctx.plan, ctx.saved_tensors, ctx.needs_input_grad
        nb_tensors = len(wanted) - 2
        rest = iter(tensors[nb_tensors:])
        kept = [Kept.of(rest, segments) for segments in ctx.segments]
        with torch.cuda.device_of(inputs), plan.products(inputs):
            layers = _by_layer(LayerTensors, tensors[:nb_tensors])
            needs = _by_layer(LayerNeeds, wanted[2:])
            adjoint = _Adjoint(plan, kept, inputs, layers, needs, wanted[1], gradients)
            for number in range(len(plan.chunks) - 1, -1, -1):
                adjoint.step_back(number)
            return adjoint.result()


def _scan_chunk(
    plan: Plan,
    stage: Stage,
    chunk: Chunk,
    below: Tensor,
    p: LayerTensors,
    state: tuple[Tensor, Tensor],
    result: Tensor,
    kept: Kept,
) -> None:
    """Forward through one layer and chunk: ``state`` moves on, ``result`` (counts, or rows of y) is written."""
    population = stage.population
    current = _feedforward(stage, p, below)
    keeps_state = plan.differentiable and (population.neuron is not None or p.a.requires_grad or p.b.requires_grad)
    every = plan.return_membranes
    kept.saved.append(_checkpoints(stage, len(current), state[0], every) if keeps_state or every else None)
    keeps_current = plan.differentiable and plan.keep_currents and stage.feedforward is not None
    kept.currents.append(current if keeps_current else None)
    if population.neuron is None:
        out, counts = result[chunk.start : chunk.stop], None
    else:
        out, counts = kept.rows(chunk.start, chunk.stop + 1), result
    noise = (plan.key, plan.ids, plan.first_step + chunk.start)
    population.forward(current, out, state, counts, kept.saved[-1], (p.a, p.b), p.recurrent, noise)


def _feedforward(stage: Stage, p: LayerTensors, below: Tensor) -> Tensor:
    """The input current (steps, B, *units) without its recurrent part."""
    if stage.feedforward is None:
        return below
    return products.current(stage.feedforward, known("the weight", p.weight), below, stage.population.precision)


class _Adjoint:
    """The backward pass: what is carried from chunk to chunk, and the gradients gathered on the way."""

    def __init__(
        self,
        plan: Plan,
        kept: list[Kept],
        inputs: Tensor,
        layers: list[LayerTensors],
        wanted: list[LayerNeeds],
        wants_input: bool,
        gradients: tuple[Tensor | None, ...],
    ):
        self.plan, self.kept, self.inputs, self.layers, self.wanted = plan, kept, inputs, layers, wanted
        nb_stages = len(layers)
        self.results = [None if g is None else g.contiguous() for g in gradients[:nb_stages]]
        ends = iter(gradients[nb_stages:])
        self.state: list[tuple[Tensor, Tensor]] = []
        self.last_spikes: list[Tensor | None] = []
        self.later: list[Tensor] = []
        self.decays: list[Tensor | None] = []  # of a and b, (2, B, *units)
        zeros: list[Tensor] = []

        def zero(*shape: int) -> Tensor:
            zeros.append(torch.empty(shape, device=inputs.device))
            return zeros[-1]

        def own(stage: Stage, gradient: Tensor | None) -> Tensor:
            """A contiguous copy to be written to, or zeros."""
            return zero(*stage.shape) if gradient is None else gradient.clone(memory_format=torch.contiguous_format)

        spiking = [stage.population.neuron is not None for stage in plan.stages]
        for k, (stage, want) in enumerate(zip(plan.stages, wanted, strict=True)):
            self.state.append((own(stage, next(ends)), own(stage, next(ends))))
            self.last_spikes.append(next(ends) if plan.return_last_spikes and spiking[k] else None)
            self.later.append(zero(*stage.shape))  # dL/dI of the step after the chunk
            self.decays.append(zero(2, *stage.shape) if want.a or want.b else None)
        _clear(zeros)
        self.spikes = [next(ends) if plan.return_spikes and is_spiking else None for is_spiking in spiking]
        self.weights: list[list[Tensor | None]] = [[None, None] for _ in layers]
        self.operands: dict[tuple[int, int, torch.dtype], Tensor] = {}
        self.input_gradient = torch.empty_like(inputs, dtype=torch.float32) if wants_input else None
        touched = [k for k, want in enumerate(wanted) if any(want)]
        self.lowest = 0 if wants_input else min(touched, default=nb_stages)

    def step_back(self, number: int) -> None:
        """Adjoint of one chunk through all layers, top to bottom."""
        plan, chunk = self.plan, self.plan.chunks[number]
        is_last = number == len(plan.chunks) - 1
        if chunk.cut and not is_last:
            _clear([*(g for pair in self.state for g in pair), *self.later])
        from_above, found = None, []
        self.operands.clear()
        for k in range(len(self.layers) - 1, self.lowest - 1, -1):
            stage, p = plan.stages[k], self.layers[k]
            upstream = self._upstream(k, chunk, is_last, from_above)
            drive = self._adjoint_scan(k, number, chunk, upstream)
            if number or any(want.before for want in self.wanted):
                self.later[k].copy_(drive[0])
            found += self._weight_gradients(k, chunk, drive[:-1])
            if k > 0:
                from_above = self._into_below(k, drive)
            elif self.input_gradient is not None:
                gradient = drive[:-1]
                if stage.feedforward is not None:
                    weight = known("the weight", p.weight)
                    gradient = products.input_gradient(stage.feedforward, weight, gradient, stage.population.precision)
                self.input_gradient[chunk.start : chunk.stop] = gradient
            del drive, upstream  # before those of the layer below are made
            self.operands = {key: x for key, x in self.operands.items() if key[0] < k}
        self._gather(found)

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
            if from_above is None:
                shape = self.plan.stages[k].shape
                from_above = torch.zeros(chunk.stop - chunk.start, *shape, device=last_spikes.device)
            else:
                from_above = from_above.clone()
            from_above[-1] += last_spikes
        return from_above

    def _adjoint_scan(self, k: int, number: int, chunk: Chunk, upstream: Tensor | None) -> Tensor:
        """dL/dI of a chunk and, as last row, of the step after it: (steps + 1, B, *units)."""
        stage, p, kept = self.plan.stages[k], self.layers[k], self.kept[k]
        nb_steps = chunk.stop - chunk.start
        drive = torch.empty(nb_steps + 1, *stage.shape, device=self.inputs.device)
        drive[-1] = self.later[k]
        saved = kept.saved[number]
        # Where no state is computed again, nothing is read from the current.
        again = saved is not None and not stage.population.stepwise
        current = self._current(k, number, chunk) if again else drive[:-1]
        spikes = None if kept.spikes is None else kept.rows(chunk.start + 1, chunk.stop + 1)
        counts = self.results[k] if kept.spikes is not None else None
        stage.population.backward(
            current, spikes, upstream, counts, drive, self.state[k], self.decays[k], saved, (p.a, p.b), p.recurrent,
        )  # fmt: skip
        return drive

    def _operand(self, connection: ConnectionSpec, source: int, chunk: Chunk, shift: int) -> Tensor:
        """Spikes of a chunk as a product reads them, of layer ``source`` or of the input (-1); used again below."""
        spikes = self.inputs if source < 0 else self.kept[source].rows(0, 1)
        dtype = products.operand_type(connection, spikes, self.plan.stages[0].population.precision)
        key = (source, shift, dtype)
        if key not in self.operands:
            start, stop = chunk.start + shift, chunk.stop + shift
            rows = self.inputs[chunk.start : chunk.stop] if source < 0 else self.kept[source].rows(start, stop)
            self.operands[key] = rows.to(dtype)
        return self.operands[key]

    def _below(self, k: int, chunk: Chunk) -> Tensor:
        """What layer k gets at the steps of a chunk."""
        connection = self.plan.stages[k].feedforward
        if connection is None:
            return self.inputs[chunk.start : chunk.stop]
        return self._operand(connection, k - 1, chunk, 1 - self.plan.delay)

    def _current(self, k: int, number: int, chunk: Chunk) -> Tensor:
        """The input current of a chunk: kept or computed again, with the recurrent part from the known spikes."""
        stage, p = self.plan.stages[k], self.layers[k]
        population, current = stage.population, self.kept[k].currents[number]
        if current is None:
            current = _feedforward(stage, p, self._below(k, chunk))
        if population.recurrent is None:
            return current
        before, weight = self._operand(population.recurrent, k, chunk, 0), known("the recurrent weight", p.recurrent)
        return products.current(population.recurrent, weight, before, population.precision).add_(current)

    def _weight_gradients(self, k: int, chunk: Chunk, drive: Tensor) -> list[tuple[int, int, Tensor]]:
        """Layer, place and gradient of the weights of one layer, those that are wanted."""
        stage, p, want = self.plan.stages[k], self.layers[k], self.wanted[k]
        recurrent, precision, found = stage.population.recurrent, stage.population.precision, []
        if want.weight and stage.feedforward is not None and p.weight is not None:
            below = self._below(k, chunk)
            found.append((k, 0, products.weight_gradient(stage.feedforward, p.weight, below, drive, precision)))
        if want.recurrent and recurrent is not None and p.recurrent is not None:
            before = self._operand(recurrent, k, chunk, 0)
            found.append((k, 1, products.weight_gradient(recurrent, p.recurrent, before, drive, precision)))
        return found

    def _gather(self, found: Sequence[tuple[int, int, Tensor]]) -> None:
        """Add the gradients of a chunk to those of the chunks after it, in one launch."""
        sums, more = [], []
        for k, place, gradient in found:
            known_sum = self.weights[k][place]
            if known_sum is None:
                self.weights[k][place] = gradient
            else:
                sums.append(known_sum)
                more.append(gradient)
        if sums:
            torch._foreach_add_(sums, more)

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
                a, b = decays.flatten(2).sum(1) if p.a.numel() > 1 else decays.flatten(1).sum(1, keepdim=True)
            i, u = self.state[k]
            before = self._before(k) if want.before else None
            found += [*self.weights[k], a, b, i if want.i else None, u if want.u else None, before]
        return None, self.input_gradient, *found

    def _before(self, k: int) -> Tensor:
        """dL/ds of the step before the first, through the recurrence and the delayed layer above."""
        stages, p = self.plan.stages, self.layers[k]
        gradient = torch.zeros(stages[k].shape, device=self.inputs.device)
        targets = [(stages[k].population.recurrent, p.recurrent, k)]
        if self.plan.delay and k + 1 < len(stages):
            targets.append((stages[k + 1].feedforward, self.layers[k + 1].weight, k + 1))
        for connection, weight, above in targets:
            if connection is None or weight is None:
                continue
            precision = stages[above].population.precision
            gradient += products.input_gradient(connection, weight, self.later[above][None], precision)[0]
        return gradient
