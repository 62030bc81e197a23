"""SuperSpike online (Zenke & Ganguli 2018): a three-factor rule that learns while the network runs.

Input, hidden and output layer of the suite's LIF neurons (no delay, a hidden spike of step t enters I[t] above). Every
synapse carries an eligibility trace, the surrogate-weighted presynaptic potential filtered by the van Rossum kernel
alpha (rise tau_rise, decay tau_decay),

    l_ij = alpha * (h(u_i - 1) PSP_j),   e_o = alpha * (target - spike),   e_h = B e_o,   g_ij = sum_t e_i[t] l_ij[t],

which is minus the gradient of L = 1/2 sum_t e_o[t]^2 for the output layer, and for a hidden layer below leaky readouts,
when reset paths are cut. Every ``period`` weights change by rate g / sqrt(v), with v = max(gamma v, g^2).
Traces and weights are all there is: memory does not depend on how long the network runs.
"""

import ctypes
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.kernels.checks import count_of
from surgrad.kernels.cpu.superspike import Layer, Rule, binary_rows, library, require_buffer

FEEDBACKS = ("symmetric", "random", "uniform")
ONLINE_RESETS = ("subtractive", "multiplicative_leak")


@dataclass(frozen=True)
class SuperSpikeRule:
    """Constants of neurons and rule.

    Args:
        dt: s.
        tau_mem: s.
        tau_syn: s.
        tau_decay: of the kernel alpha, s.
        tau_rise: of the kernel alpha, s.
        beta: slope of the surrogate h(x) = 1 / (beta |x| + 1)^2.
        rate_hidden: size of an update of a synapse whose gradient is as large as ever.
        rate_output: size of an update of a synapse whose gradient is as large as ever.
        gamma: decay per update of the largest squared gradient.
        period: steps between updates.
        reset: "subtractive" or "multiplicative_leak".
        feedback: B is "symmetric" (transposed output weights), "random" (N(0, 1)) or "uniform" (1).
    """

    dt: float = 1e-3
    tau_mem: float = 10e-3
    tau_syn: float = 5e-3
    tau_decay: float = 10e-3
    tau_rise: float = 5e-3
    beta: float = 10.0
    rate_hidden: float = 1e-3
    rate_output: float = 1e-3
    gamma: float = 0.9
    period: int = 500
    reset: str = "multiplicative_leak"
    feedback: str = "symmetric"

    def __post_init__(self) -> None:
        for name in ("dt", "tau_mem", "tau_syn", "tau_decay", "tau_rise", "beta", "period"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UserError(f"{name}={getattr(self, name)} must be positive and finite")
        if not (0 <= self.gamma <= 1 and self.rate_hidden >= 0 and self.rate_output >= 0):
            raise UserError(f"gamma={self.gamma} must lie between 0 and 1, learning rates must not be negative")
        for name, allowed in (("reset", ONLINE_RESETS), ("feedback", FEEDBACKS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r} is unknown; allowed: {', '.join(allowed)}")

    def decay(self, tau: float) -> float:
        """exp(-dt / tau)."""
        return math.exp(-self.dt / tau)


@dataclass
class LayerTraces:
    """Weights (post, pre) and everything that one layer remembers."""

    weight: Tensor
    i: Tensor = field(init=False)
    u: Tensor = field(init=False)
    q: Tensor = field(init=False)
    p: Tensor = field(init=False)
    r: Tensor = field(init=False)
    l: Tensor = field(init=False)  # noqa: E741  the paper's lambda
    g: Tensor = field(init=False)
    v: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.weight = self.weight.detach().float().clone(memory_format=torch.contiguous_format)
        post, pre = self.weight.shape
        self.i, self.u, self.q, self.p = (torch.zeros(n) for n in (post, post, pre, pre))
        self.r, self.l, self.g, self.v = (torch.zeros(post, pre) for _ in range(4))

    def describe(self, rule: SuperSpikeRule, rate: float) -> Layer:
        names = ("weight", "i", "u", "q", "p", "r", "l", "g", "v")
        post, pre = self.r.shape
        sizes = ((post, pre), (post,), (post,), (pre,), (pre,), *[(post, pre)] * 4)
        for name, size in zip(names, sizes, strict=True):
            require_buffer(name, getattr(self, name), size)
        return Layer(
            pre,
            post,
            *(getattr(self, name).data_ptr() for name in names),
            rule.decay(rule.tau_syn),
            rule.decay(rule.tau_mem),
            rule.beta,
            rate,
        )


class SuperSpikeNetwork:
    """A network with a hidden layer that learns to fire at given times, online.

    Args:
        hidden: (N_hid, N_in) weights.
        output: (N_out, N_hid) weights.
        rule: constants of neurons and rule.
        generator: draws random feedback.
        threads: of the compiled code.

    Raises:
        UserError: if the weights do not fit or are not finite.
    """

    def __init__(
        self,
        hidden: Tensor,
        output: Tensor,
        rule: SuperSpikeRule,
        generator: torch.Generator | None = None,
        threads: int = 1,
    ):
        if hidden.dim() != 2 or output.dim() != 2 or output.shape[1] != hidden.shape[0]:
            raise UserError(f"weights {tuple(hidden.shape)} and {tuple(output.shape)} do not make a network")
        if not bool(hidden.isfinite().all() and output.isfinite().all()):
            raise UserError("weights must be finite")
        self.rule, self.threads = rule, count_of("threads", threads, lowest=1)
        self.hidden, self.output = LayerTraces(hidden), LayerTraces(output)
        shape = (hidden.shape[0], output.shape[0])
        feedbacks = {
            "symmetric": lambda: None,
            "random": lambda: torch.randn(shape, generator=generator),
            "uniform": lambda: torch.ones(shape),
        }
        self.feedback = feedbacks[rule.feedback]()
        self.error_r, self.error = torch.zeros(shape[1]), torch.zeros(shape[1])
        self.step = 0

    def clear(self) -> None:
        """Forget membranes, traces and errors, as between trials; weights and update sizes stay."""
        for layer in (self.hidden, self.output):
            for x in (layer.i, layer.u, layer.q, layer.p, layer.r, layer.l):
                x.zero_()
        self.error_r.zero_()
        self.error.zero_()

    @property
    def nb_bytes(self) -> int:
        """Memory of all weights, traces and feedback."""
        tensors = [x for layer in (self.hidden, self.output) for x in vars(layer).values()]
        tensors += [self.error, self.error_r] + ([] if self.feedback is None else [self.feedback])
        return sum(x.nbytes for x in tensors)

    def run(
        self, x: Tensor, target: Tensor, learning: bool = True, record: bool = False
    ) -> tuple[float, Tensor | None, Tensor | None]:
        """Go on for T steps.

        Args:
            x: input spikes (T, N_in), 0/1 of any dtype.
            target: (T, N_out), 0/1 of any dtype.
            learning: whether weights change.
            record: whether spikes are returned.

        Returns:
            1/2 sum e^2 over these steps and outputs; spikes of the hidden and output layer, (T, N) uint8, or None.

        Raises:
            UserError: if shapes do not fit; or if weights are no longer finite.
        """
        sizes = (self.hidden.weight.shape[1], self.output.weight.shape[0])
        for name, y in (("input", x), ("target", target)):
            if not isinstance(y, Tensor):
                raise UserError(f"{name} is {type(y).__name__}; it must be a tensor (T, N) of 0 and 1")
        if x.dim() != 2 or target.dim() != 2 or len(x) != len(target) or (x.shape[1], target.shape[1]) != sizes:
            raise UserError(
                f"input {tuple(x.shape)} and target {tuple(target.shape)}: wanted (T, {sizes[0]}), (T, {sizes[1]})"
            )
        x, target = (binary_rows(name, y) for name, y in (("input", x), ("target", target)))
        shapes = ((len(x), len(self.hidden.u)), (len(x), len(self.output.u)))
        spikes = [torch.empty(shape, dtype=torch.uint8) if record else None for shape in shapes]
        rule = self._describe(learning)
        pointers = [None if y is None else y.data_ptr() for y in (x, target, *spikes)]
        library().superspike_run(ctypes.byref(rule), len(x), *pointers)
        self.step = rule.step
        if not math.isfinite(rule.loss) or not bool(self.output.weight.sum().isfinite()):
            raise UserError("errors or weights are no longer finite: lower the learning rates")
        return rule.loss, *spikes

    def _describe(self, learning: bool) -> Rule:
        rule = self.rule
        for name in ("error_r", "error"):
            require_buffer(name, getattr(self, name), self.output.u.shape)
        if self.feedback is not None:
            require_buffer("feedback", self.feedback, (len(self.hidden.u), len(self.output.u)))
        described = Rule(self.hidden.describe(rule, rule.rate_hidden), self.output.describe(rule, rule.rate_output))
        described.feedback = None if self.feedback is None else self.feedback.data_ptr()
        described.error_r, described.error = self.error_r.data_ptr(), self.error.data_ptr()
        described.error_a, described.error_b = rule.decay(rule.tau_rise), rule.decay(rule.tau_decay)
        described.gamma, described.epsilon = rule.gamma, 1e-12
        described.subtractive, described.learning = rule.reset == "subtractive", learning
        described.period, described.step, described.threads = rule.period, self.step, self.threads
        return described
