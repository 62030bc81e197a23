"""Whether a kernel's spikes and gradients are right, where rounding alone may decide a spike that lies at threshold.

Two kernels that round differently may disagree about a spike, after which their runs are two different ones and
cannot be compared. So the spikes that a kernel recorded are taken as given, and the reference runs in float64 with
them: every spike must follow from the membrane that the spikes before it give, and gradients must be the surrogate's
along just these spikes.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from surgrad.kernels import reference
from surgrad.kernels.call import Address, Options
from surgrad.kernels.contract import LayerSpec, NetworkSpec
from surgrad.kernels.events import Events
from surgrad.kernels.philox import uniform
from surgrad.kernels.state import AnyLayerState, NetworkOutput
from surgrad.neurons.escape_noise import EscapeNoise


@dataclass
class Verdict:
    """What was found.

    decided: spikes looked at, one for each neuron and step. ``rounding``: those that differ from float64 within the
        tolerance of the threshold. ``wrong``: those that differ outside it.
    farthest: largest distance from threshold, in units of threshold, at which one differs.
    readout: ||y - y64|| / ||y64||. ``gradients``: the same of every parameter, by its name.
    """

    decided: int = 0
    rounding: int = 0
    wrong: int = 0
    farthest: float = 0.0
    readout: float = 0.0
    gradients: dict[str, float] = field(default_factory=dict)

    def right(self, tolerance: float) -> bool:
        """Whether no spike is wrong, and readout and gradients are within a relative ``tolerance``."""
        return not self.wrong and all(e <= tolerance for e in (self.readout, *self.gradients.values()))


@dataclass(frozen=True)
class _Recorded(EscapeNoise):
    """Thresholds below and above every membrane, so that the spikes are those that were recorded."""

    stochastic: ClassVar[bool] = True
    spikes: Iterator[Tensor]

    def probability(self, x: Tensor) -> Tensor:
        return next(self.spikes).to(x.dtype)

    def threshold(self, r: Tensor) -> Tensor:
        s = next(self.spikes)
        return torch.where(s > 0, -math.inf, math.inf).to(r.dtype)


def replay(
    network: NetworkSpec, x: Tensor | Events, options: Options, spikes: Sequence[Tensor], within: float = 2e-5
) -> tuple[NetworkOutput, Verdict]:
    """The network with the recorded ``spikes`` of every layer, (T, B, *units) each, and what is wrong with them.

    Args:
        network: in float64.
        x: input.
        options: of the run that is judged.
        spikes: what it recorded.
        within: distance from threshold, in its units, up to which rounding may have decided.
    """
    verdict = Verdict()
    begin = options.address.first_step

    def scan(
        layer: LayerSpec,
        current: Tensor,
        old: AnyLayerState | None,
        address: Address,
        memory: str = "full",
        return_membrane: bool = False,
    ) -> tuple[Tensor, Tensor | None, AnyLayerState]:
        start = address.first_step - begin
        recorded = spikes[layer.index][start : start + len(current)].detach()
        given = replace(layer, neuron=replace(layer.neuron, escape_noise=_Recorded(iter(recorded))))
        found, membranes, end = reference.scan(given, current, old, address, "full", True)
        assert membranes is not None
        distance = membranes.detach() - 1 - _thresholds(layer, address, membranes)
        differs = distance.abs()[(distance > 0) != (recorded > 0)]
        verdict.decided += distance.numel()
        verdict.rounding += int((differs <= within).sum())
        verdict.wrong += int((differs > within).sum())
        verdict.farthest = max([verdict.farthest, *differs.max().view(-1).tolist()] if len(differs) else [0.0])
        return found, membranes, end

    return reference.run(network, x, options, reference.Parts(scan=scan)), verdict


def judge(
    network: nn.Module,
    x: Tensor | Events,
    options: Options,
    output: NetworkOutput,
    loss: Callable[[NetworkOutput], Tensor],
    weights: Callable[[Tensor], Tensor] = lambda w: w,
) -> Verdict:
    """Judge a run and the gradients that its parameters hold.

    Args:
        network: that was run and differentiated, with ``spec()``.
        x: input.
        options: of the run.
        output: of the run, with its spikes recorded.
        loss: whose gradients the parameters of ``network`` hold.
        weights: rounds the parameters with two or more axes, where products rounded them.
    """
    exact = copy.deepcopy(network)
    with torch.no_grad():
        for w in exact.parameters():
            w.grad = None
            if w.dim() > 1:
                w.copy_(weights(w))
    exact.double()
    expected, verdict = replay(exact.spec(), x, options, output.recorded)  # type: ignore[operator]
    loss(expected).backward()
    if output.readout is not None:
        verdict.readout = _error(output.readout, expected.y)
    held = {name: p.grad for name, p in network.named_parameters()}
    verdict.gradients = _errors(held, {name: p.grad for name, p in exact.named_parameters()})
    return verdict


def _thresholds(layer: LayerSpec, address: Address, membranes: Tensor) -> Tensor | float:
    noise = layer.neuron.escape_noise
    if not noise.stochastic:
        return 0.0
    key, steps = replace(address.noise, layer=layer.index), range(len(membranes))
    draw = [uniform(key, address.first_step + t, address.ids, layer.unit_shape, membranes.dtype) for t in steps]
    return noise.threshold(torch.stack(draw))


def _error(got: Tensor, expected: Tensor) -> float:
    if not bool(got.isfinite().all()):
        return math.inf
    return float((got.detach() - expected.detach()).norm() / expected.detach().norm().clamp(min=1e-30))


def _errors(got: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> dict[str, float]:
    """Relative errors of gradients; infinite where only one of the two is there, and differs from zero."""
    found = {}
    for name, wanted in expected.items():
        held = got[name]
        if held is not None and wanted is not None:
            found[name] = _error(held, wanted)
        elif any(g is not None and bool(g.any()) for g in (held, wanted)):
            found[name] = math.inf
    return found
