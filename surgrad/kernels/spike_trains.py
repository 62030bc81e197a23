"""What crosses into event-based layers: spikes as times, units and offsets, and their weights."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from surgrad.errors import UserError
from surgrad.kernels import finite
from surgrad.kernels.checks import FLOATS, INTEGERS, require_alike


class SpikeTrains(NamedTuple):
    """Times (E,) in s, nondecreasing within a sample; units (E,) int32; offsets (B+1,) int64; all contiguous."""

    times: Tensor
    units: Tensor
    offsets: Tensor


def spike_trains(
    times: Tensor,
    units: Tensor,
    offsets: Tensor,
    *,
    nb_units: int | None = None,
    end: float = math.inf,
    dtype: torch.dtype | None = None,
) -> SpikeTrains:
    """Spikes as compiled code reads them.

    Args:
        times: (E,) s, nondecreasing within a sample.
        units: (E,) integers.
        offsets: (B+1,) integers.
        nb_units: number of units; None: any.
        end: end of the window, s.
        dtype: that of the weights; None: that of the times.

    Raises:
        UserError: unless times are finite, sorted and inside [0, end], units below ``nb_units``, and offsets fit.
    """
    for name, x, allowed in (("times", times, FLOATS), ("units", units, INTEGERS), ("offsets", offsets, INTEGERS)):
        if not isinstance(x, Tensor) or x.dtype not in allowed or x.dim() != 1:
            found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            kind = "integers" if allowed is INTEGERS else "float32 or float64"
            raise UserError(f"{name} of spikes are {found}; they must be a tensor of {kind} with one axis")
        if x.device.type != "cpu":
            raise UserError(f"{name} of spikes are on {x.device}; event-based layers run on the CPU: take device=cpu")
    if dtype is not None and times.dtype != dtype:
        raise UserError(f"times are {times.dtype}, weights {dtype}: make them the same")
    if len(times) != len(units) or not len(offsets) or int(offsets[0]) or int(offsets[-1]) != len(times):
        last = int(offsets[-1]) if len(offsets) else "nowhere"
        raise UserError(f"{len(times)} times, {len(units)} units and offsets up to {last} do not fit together")
    if bool((offsets.diff() < 0).any()):
        raise UserError("offsets of spikes must not decrease: sample b owns spikes offsets[b]:offsets[b+1]")
    if len(times):
        _require_window(times.detach(), offsets, end)
        low, high = (int(x) for x in units.aminmax())
        if nb_units is not None and not 0 <= low <= high < nb_units:
            raise UserError(f"units {low} to {high} found, but there are {nb_units}")
    return SpikeTrains(times.contiguous(), units.to(torch.int32).contiguous(), offsets.to(torch.int64).contiguous())


def _require_window(times: Tensor, offsets: Tensor, end: float) -> None:
    low, high = (float(x) for x in times.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError("spike times must be finite: NaN or infinite times found")
    if low < 0 or high > end * (1 + 1e-6):
        found = f"{low:g} to {high:g} s"
        raise UserError(f"spikes outside the window of 0 to {end:g} s: found {found}; raise the duration")
    falls = times.diff() < 0
    starts = offsets[1:-1]
    falls[starts[(starts > 0) & (starts < len(times))] - 1] = False  # another sample
    if bool(falls.any()):
        raise UserError("spike times must not decrease within a sample: sort them")


def weights(weight: Tensor, recurrent: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Weights (N_in, N) and recurrent ones (N, N) or None, contiguous.

    Raises:
        UserError: for other shapes, dtypes or devices, and values that are not finite.
    """
    if weight.dim() != 2:
        raise UserError(f"weights have shape {tuple(weight.shape)}; they must be (inputs, units)")
    if recurrent is not None and recurrent.shape != (weight.shape[1],) * 2:
        wanted = (weight.shape[1],) * 2
        raise UserError(f"recurrent weights have shape {tuple(recurrent.shape)}; they must be {wanted}")
    if weight.dtype not in FLOATS:
        raise UserError(f"weights: event-based layers compute in float32 or float64, not {weight.dtype}")
    if weight.device.type != "cpu":
        raise UserError(f"event-based layers run on the CPU, but the weights are on {weight.device}; take device=cpu")
    _require_alike(weight, recurrent)
    return weight.contiguous(), None if recurrent is None else recurrent.contiguous()


def _require_alike(weight: Tensor, recurrent: Tensor | None) -> None:
    named = [("weights", weight), *([("recurrent weights", recurrent)] if recurrent is not None else [])]
    require_alike(named)
    finite.require_parameters(named)


def sampling_times(at: Tensor, like: Tensor) -> Tensor:
    """Times (S,) in s at which voltages are read, in dtype of ``like``.

    Raises:
        UserError: unless they are finite, not negative and do not decrease.
    """
    if not isinstance(at, Tensor) or at.dim() != 1 or at.device.type != "cpu":
        found = f"{tuple(at.shape)} on {at.device}" if isinstance(at, Tensor) else type(at).__name__
        raise UserError(f"sampling times are {found}; they must be a tensor (S,) of seconds on the CPU")
    at = at.to(like.dtype).contiguous()
    if not bool(at.isfinite().all()) or bool((at.diff() < 0).any()) or (len(at) and float(at[0]) < 0):
        raise UserError("voltages are sampled at finite times from 0 on that do not decrease")
    return at


def grid_input(s_in: Tensor, weight: Tensor, recurrent: Tensor | None = None) -> Tensor:
    """Input spikes (T, B, N_in) of 0 and 1 as a grid layer reads them, in dtype of the weights.

    Raises:
        UserError: for other shapes or devices, and for values that are neither 0 nor 1.
    """
    nb_inputs, nb_units = weight.shape
    if recurrent is not None and recurrent.shape != (nb_units, nb_units):
        raise UserError(f"recurrent weights have shape {tuple(recurrent.shape)}; they must be {(nb_units, nb_units)}")
    if not isinstance(s_in, Tensor) or s_in.dim() != 3 or s_in.shape[2] != nb_inputs or not len(s_in):
        found = tuple(s_in.shape) if isinstance(s_in, Tensor) else type(s_in).__name__
        raise UserError(f"spikes are {found}; they must be (T, B, {nb_inputs}), time first, with at least one step")
    if s_in.device != weight.device:
        raise UserError(f"spikes are on {s_in.device}, weights on {weight.device}; move one with .to(device)")
    _require_alike(weight, recurrent)
    values = s_in.detach()
    if s_in.device.type == "cpu" and not bool(((values == 0) | (values == 1)).all()):
        raise UserError("spikes must be 0 or 1")
    return s_in.to(weight.dtype).contiguous()
