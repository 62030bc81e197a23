"""Replay of golden traces: what a published implementation computed, computed again by this library and compared.

A trace is recognised by its content, not by its name. Every kind of `KINDS` compares spikes one by one and every other
array by its largest error relative to its largest entry. A spike that differs where |u - 1| < 1e-6 is rounding, which
no implementation can reproduce: it is counted, its membrane is nudged across the threshold by as little, and the replay
goes on from there, so that everything after it can still be compared.
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surgrad.datasets.sources.randman import Randman
from surgrad.errors import UserError, known
from surgrad.kernels import dispatch
from surgrad.kernels.cpu.build import library
from surgrad.network.initializers import kernel_moments
from surgrad.neurons.lif import LIF, LIFState
from surgrad.traces.golden import (
    TOLERANCE,
    Decay,
    Layer,
    Report,
    Trace,
    decay_of,
    first_line,
    layer_of,
    read_trace,
    relative_error,
    settle,
    surrogate_of,
)
from surgrad.traces.matching import replay_matching
from surgrad.traces.networks import replay_network

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


# ---------------------------------------------------------------- one layer driven by a current
def replay_lif(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """Spikes, i[t+1], u[t+1] and d(sum c s)/dI of one layer. States are carried from step to step."""
    report, scan = Report("lif"), partial(dispatch.lif, kernel=kernel, return_membrane=True)
    current = torch.tensor(trace["current"], dtype=dtype, requires_grad=True)
    decay = Decay(*(decay_of(trace["dt"], trace[tau], dtype) for tau in ("tau_syn", "tau_mem")))
    surrogate = surrogate_of(str(trace["surrogate"]), float(trace["beta"]))
    reset = str(trace.get("reset", "multiplicative"))
    neuron = LIF(surrogate, reset=reset, diff_reset=bool(trace["diff_reset"]))
    golden = torch.tensor(trace["spikes"], dtype=dtype)
    nudged = current

    def run(nudges: Sequence[Tensor]) -> list[Layer]:
        nonlocal nudged
        nudged = current + nudges[0]
        return [layer_of(scan(nudged, *decay, neuron))]

    (layer,), report.spike_mismatches, report.near_threshold_flips = settle(run, [decay], [golden])
    (layer.spikes * torch.tensor(trace["cotangent"], dtype=dtype)).sum().backward()
    report.compare("grad_current", known("the gradient", current.grad), trace["grad_current"])
    state, states = LIFState(torch.zeros_like(nudged[0]), torch.zeros_like(nudged[0])), []
    with torch.no_grad():
        for t in range(len(nudged)):
            _, _, state = scan(nudged[t : t + 1], *decay, neuron, state=state)
            states.append(state)
    report.compare("membrane", torch.stack([s.u for s in states]), trace["membrane"])
    report.compare("synapse", torch.stack([s.i for s in states]), trace["synapse"])
    return report


# ---------------------------------------------------------------- data and constants
def replay_randman(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """Spike times, units and labels, sample by sample; each difference counts as a spike mismatch."""
    arrays = Randman(**json.loads(str(trace["params"]))).steps()
    golden = (trace["times"], trace["units"], trace["labels"])
    for ours, stored in zip(arrays, golden, strict=True):
        if ours.shape != stored.shape:
            raise ValueError(f"stored array of shape {stored.shape}, replayed {ours.shape}")
    return Report("randman", sum(int((a != b).sum()) for a, b in zip(arrays, golden, strict=True)))


def replay_moments(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """eps_bar and eps_hat of each entry."""
    report = Report("moments")
    for case in trace["cases"]:
        moments = kernel_moments(float(case["tau_mem"]), float(case["tau_syn"]), float(case["dt"]), case["mode"])
        for name, ours in zip(("eps_bar", "eps_hat"), moments, strict=True):
            report.compare(name, ours, float(case[name]))
    return report


def replay_spikes(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """Input and target alone: nothing to compute; both must be 0/1 and of one length."""
    x, target = trace["x"], trace["target"]
    if x.ndim != 2 or target.ndim != 2 or len(x) != len(target) or not np.isin(np.unique(x), (0, 1)).all():
        raise ValueError(f"x {x.shape} and target {target.shape} must be 0/1 of shape (T, units) with the same T")
    return Report("spikes", notes={"compared": "nothing: input and target without results"})


# ---------------------------------------------------------------- kinds and files
class Kind(NamedTuple):
    """How a kind of trace is recognised and replayed."""

    keys: frozenset[str]
    replay: Callable[[Trace, torch.dtype, str], Report]


KINDS: dict[str, Kind] = {
    "lif": Kind(frozenset({"current", "cotangent", "spikes", "membrane", "synapse", "grad_current"}), replay_lif),
    "network": Kind(frozenset({"X", "X_shape", "y", "dt", "meta", "readout", "out_loss"}), replay_network),
    "stm": Kind(frozenset({"x", "target", "w_hidden", "w_output", "dw_hidden"}), replay_matching),
    "randman": Kind(frozenset({"times", "units", "labels", "params"}), replay_randman),
    "moments": Kind(frozenset({"cases"}), replay_moments),
    "spikes": Kind(frozenset({"x", "target"}), replay_spikes),
}


def _tolerances(report: Report, single: Report | None) -> dict[str, float]:
    """Largest error allowed of each quantity.

    1e-4 in float32; 1e-6 in float64, where the trace allows it. Traces were computed in float32, with rounding errors
    of the size of ours: up to ten times the difference between our float32 and float64 replays, the largest among
    quantities of one sort (all gradients, all membranes), is taken as theirs.
    """
    if single is None:
        return dict.fromkeys(report.values, TOLERANCE["float32"])
    rounding: dict[str, float] = {}
    for name, ours in report.values.items():
        sort = name.split("_")[0]
        rounding[sort] = max(rounding.get(sort, 0.0), relative_error(single.values[name], ours))
    low, high = TOLERANCE["float64"], TOLERANCE["float32"]
    return {name: min(max(10 * rounding[name.split("_")[0]], low), high) for name in report.values}


def replay(path: str | Path, precision: str = "float32", kernel: str = "auto") -> dict[str, Any]:
    """Replay one trace.

    Args:
        path: of the trace, .npz or .json.
        precision: "float32" or "float64".
        kernel: "auto", "reference" or "cpu".

    Returns:
        file, kind, precision, spike_mismatches, near_threshold_flips, max_rel_error, pass; in float64 also the
        tolerances above 1e-6; and notes.

    Raises:
        UserError: for a file that cannot be read, is of no known kind, or does not fit together.
    """
    if kernel == "cpu" and precision != "float32":
        raise UserError(f"kernel=cpu computes in float32, not {precision}; use kernel=auto or kernel=reference")
    if kernel == "cpu" and library() is None:
        raise UserError("kernel=cpu could not be built (see the warning); use kernel=auto or kernel=reference")
    path = Path(path)
    trace = read_trace(path)
    name = next((name for name, kind in KINDS.items() if kind.keys <= trace.keys()), None)
    if name is None:
        raise UserError(f"{path}: holds {', '.join(sorted(trace))[:200]}; not a trace of kind {', '.join(KINDS)}")
    try:
        report = KINDS[name].replay(trace, PRECISIONS[precision], kernel)
        single = KINDS[name].replay(trace, torch.float32, "reference") if precision == "float64" else None
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except KeyError as error:
        raise UserError(f"{path}: the trace of kind {name} lacks {error}") from error
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise UserError(f"{path}: the trace of kind {name} does not fit together: {first_line(error)}") from error
    tolerances = _tolerances(report, single)
    line = {
        "file": str(path),
        "kind": report.kind,
        "precision": precision,
        "spike_mismatches": report.spike_mismatches,
        "near_threshold_flips": report.near_threshold_flips,
        "max_rel_error": {key: _rounded(error) for key, error in report.max_rel_error.items()},
        "pass": report.spike_mismatches == 0
        and all(error <= tolerances[key] for key, error in report.max_rel_error.items()),
    }
    raised = {key: _rounded(t) for key, t in tolerances.items() if t > TOLERANCE[precision]}
    return line | ({"tolerance": raised} if raised else {}) | report.notes


def _rounded(error: float) -> float | None:
    """Three digits; None, which JSON can say, for what is not finite."""
    return float(f"{error:.3g}") if math.isfinite(error) else None
