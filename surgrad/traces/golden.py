"""Golden traces: reading them, comparing with them, and going on where rounding alone decided a spike."""

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surgrad.errors import UserError, known
from surgrad.neurons.surrogate import (
    AsymptoticSuperSpike,
    Esser,
    ScaledSigmoidPrime,
    SigmoidPrime,
    SuperSpike,
    Surrogate,
)

NEAR_THRESHOLD = 1e-6
_MAX_ROUNDS = 100
TOLERANCE = {"float32": 1e-4, "float64": 1e-6}
Trace = Mapping[str, Any]
TRACED_SURROGATES: dict[str, Callable[[float], Surrogate]] = {
    "superspike": SuperSpike,
    "sigmoid": SigmoidPrime,
    "scaled_sigmoid": ScaledSigmoidPrime,
    "asymptotic_superspike": AsymptoticSuperSpike,
    "esser": Esser,
}


def decay_of(dt: float, tau: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.tensor(np.exp(-np.float64(dt) / np.asarray(tau, np.float64)), dtype=dtype)


def surrogate_of(name: str, beta: float) -> Surrogate:
    if name not in TRACED_SURROGATES:
        raise UserError(f"surrogate {name!r} is unknown; allowed: {', '.join(TRACED_SURROGATES)}")
    return TRACED_SURROGATES[name](beta)


def read_trace(path: Path) -> dict[str, Any]:
    """All arrays of a .npz file, or the list of a .json file as ``cases``. Raises: UserError, one line."""
    try:
        if path.suffix == ".json":
            cases = json.loads(path.read_text())
            if not isinstance(cases, list) or not all(isinstance(c, dict) and "eps_bar" in c for c in cases):
                raise UserError(f"{path}: expected a list of objects with tau_mem, tau_syn, dt, mode, eps_bar, eps_hat")
            return {"cases": cases}
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a readable .npz or .json trace ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def relative_error(ours: np.ndarray, golden: np.ndarray) -> float:
    """max |ours - golden| / max |golden|, or the absolute error where golden is all 0."""
    scale = np.abs(golden).max(initial=0.0)
    return float(np.abs(ours - golden).max(initial=0.0) / (scale if scale > 0 else 1.0))


@dataclass
class Report:
    """Outcome of one replay.

    Args:
        kind: of the trace.
        spike_mismatches: spikes that differ, other than by rounding.
        near_threshold_flips: spikes that differ where |u - 1| < 1e-6.
        max_rel_error: of each quantity compared.
        values: what was replayed of each quantity.
        notes: further numbers for the reader; they decide nothing.
    """

    kind: str
    spike_mismatches: int = 0
    near_threshold_flips: int = 0
    max_rel_error: dict[str, float] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def compare(self, name: str, ours: Tensor | np.ndarray | float, golden: np.ndarray | float) -> None:
        """Record `relative_error`; of a quantity compared twice, the larger. Raises: ValueError for another shape."""
        ours = np.asarray(ours.detach().double() if isinstance(ours, Tensor) else ours, dtype=np.float64)
        golden = np.asarray(golden, dtype=np.float64)
        if ours.shape != golden.shape:
            raise ValueError(f"{name} has shape {golden.shape}, replayed {ours.shape}")
        self.values[name] = ours
        self.max_rel_error[name] = max(relative_error(ours, golden), self.max_rel_error.get(name, 0.0))


class Layer(NamedTuple):
    """One layer of a replay: spikes (T, B, *units), membranes u[t] of the same shape in units of threshold."""

    spikes: Tensor
    membranes: Tensor


def layer_of(scanned: tuple[Tensor, Tensor | None, Any]) -> Layer:
    """Spikes and membranes among what a scan returns that was asked for both."""
    spikes, membranes, _ = scanned
    return Layer(spikes, known("membranes", membranes))


class Decay(NamedTuple):
    """exp(-dt/tau) of synapse (a) and membrane (b)."""

    a: Tensor
    b: Tensor


Run = Callable[[Sequence[Tensor]], list[Layer]]


def settle(run: Run, decays: Sequence[Decay], golden: Sequence[Tensor]) -> tuple[list[Layer], int, int]:
    """Run until all decisions that rounding leaves open fall as in the trace.

    Args:
        run: maps currents to be added to the input of each layer, (T, B, *units), to the layers.
        decays: of each layer.
        golden: spikes of each layer.

    Returns:
        the layers, the number of spikes that differ, and of decisions that were rounding.
    """
    nudges = [torch.zeros_like(g) for g in golden]
    flips = 0
    for _ in range(_MAX_ROUNDS):
        layers = run(nudges)
        wrong = [layer.spikes != g for layer, g in zip(layers, golden, strict=True)]
        nb_wrong = sum(int(w.sum()) for w in wrong)
        # only the first difference of a sample is a cause, all later ones may be its consequence
        first = torch.stack([_first_step(w) for w in wrong]).amin(0)
        causes = [w & (_steps_like(w) == first.view(1, -1, *[1] * (w.dim() - 2))) for w in wrong]
        real = [c & ~near_threshold(layer) for c, layer in zip(causes, layers, strict=True)]
        if nb_wrong == 0 or any(bool(r.any()) for r in real):
            break
        for nudge, cause, layer, decay in zip(nudges, causes, layers, decays, strict=True):
            flips += int(cause.sum())
            cross(nudge, cause, layer, decay)
    return layers, nb_wrong, flips


def near_threshold(layer: Layer) -> Tensor:
    """Where |u - 1| < 1e-6, so that rounding decides about a spike."""
    return (layer.membranes.detach() - 1).abs() < NEAR_THRESHOLD


def _steps_like(x: Tensor) -> Tensor:
    return torch.arange(len(x)).view(-1, *[1] * (x.dim() - 1))


def _first_step(wrong: Tensor) -> Tensor:
    """Step of the first difference of each sample, T if there is none: (T, B, *units) -> (B,)."""
    return torch.where(wrong, _steps_like(wrong), len(wrong)).flatten(2).amin((0, 2))


def cross(nudge: Tensor, sites: Tensor, layer: Layer, decay: Decay) -> None:
    """Add to ``nudge`` the current that moves u across the threshold at ``sites``, and leaves i as it was.

    A current x at step t - 2 changes u[t] by (1 - b) x; -a x at step t - 1 takes it out of the synapse again.
    """
    spikes, u = layer.spikes[sites].detach(), layer.membranes[sites].detach()
    wanted = torch.where(spikes > 0, -2 * NEAR_THRESHOLD, 2 * NEAR_THRESHOLD)
    gain = (1 - decay.b).expand(layer.spikes.shape[2:]).expand_as(sites)[sites]
    x = (wanted - (u - 1)) / gain
    t, *rest = sites.nonzero(as_tuple=True)
    nudge.index_put_((t - 2, *rest), x, accumulate=True)
    nudge.index_put_((t - 1, *rest), -decay.a.expand_as(sites)[sites] * x, accumulate=True)
