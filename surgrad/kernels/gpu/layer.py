"""One layer on the GPU: which tile it gets, and the launches of its forward and adjoint scan.

A recurrent layer whose state fits into one program per sample (or group of samples) is scanned by a single launch.
A larger one is scanned step by step, a product by cuBLAS or cuDNN and the same scan over one step; worth capturing in
a CUDA graph (`surgrad.kernels.gpu.graphs.GraphedStep`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
import triton
from torch import Tensor

from surgrad.errors import known
from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.gpu import products
from surgrad.kernels.gpu.neurons import NOISES, RESETS, SURROGATES, function_of
from surgrad.kernels.gpu.scan import scan, scan_adjoint
from surgrad.neurons.escape_noise import Step
from surgrad.neurons.lif import LIF, AdaptiveLIF
from surgrad.neurons.surrogate import TrueGradient

# Neurons whose state one program of a recurrent layer holds in registers: two float32 each, of 65536 registers.
LARGEST_TILE = 4096
# Weights of a recurrent layer that one program holds at a time, channels out times channels in.
LARGEST_BLOCK = 4096
# Units of a dense layer, a power of two, whose recurrent weights a program of one sample holds for all steps, and one
# of many samples, which holds them in two terms of tf32.
HELD_OF_ONE, HELD_OF_MANY = 128, 64


@dataclass(frozen=True)
class Tile:
    """Shape of a program's share of a layer; ``used`` of ``columns`` carry neurons."""

    rows: int
    columns: int
    used: int
    warps: int


@cache
def multiprocessors() -> int:
    """Of the GPU that is there, else of an H200."""
    return torch.cuda.get_device_properties(0).multi_processor_count if torch.cuda.is_available() else 132


def waves(programs: int, warps: int, multiprocessors: int) -> int:
    """Rounds in which programs of as many ``warps`` run, 32 threads each, if a thread has all of its 255 registers."""
    at_once = max(1, 65536 // (256 * 32 * warps))
    return -(-programs // (at_once * multiprocessors))


def tile_of_one_sample(units: int, nb_samples: int, multiprocessors: int) -> Tile | None:
    """The tile of a dense recurrent layer whose programs have a sample each and hold all weights for all steps.

    None where the weights are too many, or the programs are more than run at once: then fewer programs of more samples
    are better, which share what they load.
    """
    rows = max(16, triton.next_power_of_2(units))
    warps = 8 if rows > 64 else 4
    if rows > min(HELD_OF_ONE, LARGEST_TILE) or waves(nb_samples, warps, multiprocessors) > 1:
        return None
    return Tile(rows, 1, 1, warps)


def adjoint_warps(tile: Tile, trained: bool) -> int:
    """Warps of the adjoint scan: twice the tile's where a thread would have 16 neurons with trained time constants.

    Their gradients, two more numbers of each neuron, do not fit its registers. Programs of twice as many warps run in
    twice as many waves, each with half the work of a thread.
    """
    neurons = tile.rows * tile.columns // (32 * tile.warps)
    return 2 * tile.warps if trained and neurons > 8 else tile.warps


@dataclass
class Saved:
    """Checkpoints of i and u at every ``segment``-th step, each (T / segment, B, N)."""

    i: Tensor
    u: Tensor
    segment: int


@dataclass(frozen=True)
class Population:
    """What the kernels must know of a layer besides its tensors.

    Args:
        unit_shape: (N,) or (channels, *spatial).
        neuron: surrogate, noise and reset; None for a readout, which integrates without spiking.
        recurrent: connection of the layer to itself, or None.
        index: number of the layer, part of the address of its random numbers.
        nb_samples: batch size.
        precision: of products, see `surgrad.kernels.precision`.
        unit_gain: whether the current is scaled by 1 - b.
    """

    unit_shape: tuple[int, ...]
    neuron: LIF | None
    recurrent: ConnectionSpec | None
    index: int
    nb_samples: int
    precision: str
    unit_gain: bool = True
    #: Recurrent weights as the kernels of this call read them, of the adjoint or not.
    laid_out: dict[bool, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def channels(self) -> int:
        return self.unit_shape[0]

    @property
    def positions(self) -> int:
        return math.prod(self.unit_shape[1:])

    @property
    def _is_dense(self) -> bool:
        """Whether the recurrent weights are one matrix."""
        return self.recurrent is not None and self.recurrent.kind != "conv"

    @cached_property
    def persistent_tile(self) -> Tile | None:
        """The tile that holds all units of some samples, if there is recurrence and they fit."""
        if self.recurrent is None or set(self.recurrent.stride or (1,)) != {1}:
            return None
        if self._is_dense:
            tile = tile_of_one_sample(self.channels, self.nb_samples, multiprocessors())
            if tile is not None:
                return tile
        rows = max(16, triton.next_power_of_2(self.channels))
        samples = max(1, min(16 // self.positions, self.nb_samples))
        columns = max(16, triton.next_power_of_2(samples * self.positions))
        if rows * columns > LARGEST_TILE:
            return None
        warps = 4 if rows * columns <= 512 else 8 if rows * columns <= 2048 else 16
        programs, many = triton.cdiv(self.nb_samples, samples), multiprocessors()
        # Threads of adaptive neurons would spill most of their state.
        fewer = waves(programs, 4, many) < waves(programs, 8, many)
        if warps == 8 and fewer and not isinstance(self.neuron, AdaptiveLIF):
            warps = 4
        return Tile(rows, columns, samples * self.positions, warps)

    @cached_property
    def elementwise_tile(self) -> Tile:
        """Four channels high, so that a column shares a block of random numbers; small where neurons are few."""
        columns = self.nb_samples * self.positions * triton.cdiv(self.channels, 4)
        warps = 4 if columns >= 1 << 15 else 1
        return Tile(4, 32 * warps, 32 * warps, warps)

    @property
    def stepwise(self) -> bool:
        return self.recurrent is not None and self.persistent_tile is None

    @property
    def tile(self) -> Tile:
        return self.persistent_tile or self.elementwise_tile

    @property
    def grid(self) -> tuple[int]:
        blocks = 1 if self.persistent_tile else triton.cdiv(self.channels, 4)
        return (triton.cdiv(self.nb_samples * self.positions * blocks, self.tile.used),)

    @property
    def _reset(self) -> tuple[object, object]:
        """Reset and its adjoint; a readout subtracts the spikes that it never has."""
        return RESETS["subtractive" if self.neuron is None else self.neuron.reset]

    @property
    def _noise(self) -> tuple[object, tuple[float, float]]:
        return function_of(self.neuron.escape_noise if self.neuron else Step(), NOISES)

    @property
    def _surrogate(self) -> tuple[object, tuple[float, float]]:
        return function_of(self.neuron.surrogate if self.neuron else TrueGradient(), SURROGATES)

    def forward_constants(self, device: torch.device, *, per_unit: bool, save: bool) -> dict[str, Any]:
        """Compile-time arguments and launch options of `scan`."""
        return self._constants(device, per_unit) | {
            "RESET": self._reset[0],
            "THRESHOLD": self._noise[0],
            "STOCHASTIC": self.neuron is not None and self.neuron.escape_noise.stochastic,
            "SAVE": save,
        }

    def backward_constants(
        self, device: torch.device, *, per_unit: bool, decays: bool, upstream: bool, counts: bool
    ) -> dict[str, Any]:
        """Compile-time arguments and launch options of `scan_adjoint`."""
        return self._constants(device, per_unit) | {
            "RESET": self._reset[0],
            "RESET_ADJOINT": self._reset[1],
            "SURROGATE": self._surrogate[0],
            "DIFF_RESET": self.neuron is not None and self.neuron.diff_reset,
            "DECAYS": decays,
            "HAS_UPSTREAM": upstream,
            "HAS_COUNTS": counts,
            "num_warps": adjoint_warps(self.tile, decays),
        }

    def _constants(self, device: torch.device, per_unit: bool) -> dict[str, Any]:
        tile, persistent = self.tile, self.persistent_tile is not None
        kernel: tuple[int, ...] = (1,)
        padding: tuple[int, ...] = (0,)
        if persistent and self.recurrent is not None and self.recurrent.kind == "conv":
            kernel, padding = self.recurrent.kernel_size, self.recurrent.padding
        return {
            "SPIKING": self.neuron is not None,
            "UNIT_GAIN": self.unit_gain,
            "PER_UNIT": per_unit,
            "RECURRENT": persistent,
            "HELD": persistent and self._is_dense and (tile.columns == 1 or tile.rows <= HELD_OF_MANY),
            "CHANNELS": self.channels,
            "POSITIONS": self.positions,
            "ROWS": tile.rows,
            "COLUMNS": tile.columns,
            "USED": tile.used,
            "BLOCK": min(tile.rows, 64, LARGEST_BLOCK // tile.rows) if persistent else 1,
            "WIDTH": self.unit_shape[-1] if self.positions > 1 else 1,
            "KERNEL_HEIGHT": math.prod(kernel[:-1]),
            "KERNEL_WIDTH": kernel[-1],
            "PAD_Y": sum(padding[:-1]),
            "PAD_X": padding[-1],
            "PRECISION": self._dot_precision(device),
            # Reading ahead across steps would overtake the spikes that a recurrent step has yet to store.
            "STAGES": 1 if persistent else 3,
            "num_warps": tile.warps,
            "num_stages": 1 if persistent else 3,
            # Fused multiply-adds would round otherwise than the reference, and a spike hangs on it.
            "enable_fp_fusion": False,
        }

    def _dot_precision(self, device: torch.device) -> str:
        if self.precision == "bf16":
            return "bf16"
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            return "ieee"
        return "tf32x3" if self.precision == "float32" else "tf32"

    def forward(
        self,
        current: Tensor,
        out: Tensor,
        state: tuple[Tensor, Tensor],
        counts: Tensor | None,
        saved: Saved | None,
        decays: tuple[Tensor, Tensor],
        weight: Tensor | None,
        noise: tuple[Tensor, Tensor, int],
    ) -> None:
        """Scan forward over (T, B, *units) ``current``; ``out``, ``state``, ``counts`` and ``saved`` are written.

        Args:
            current: (T, B, *units), without the recurrent part.
            out: see `surgrad.kernels.gpu.scan.scan`; is written.
            state: i and u (B, *units); are written.
            counts: (B, *units) or None; is written.
            saved: checkpoints or None; is written.
            decays: a and b, (1,) or (units,) each.
            weight: of the recurrent connection, or None.
            noise: key, ids and first step.
        """
        (a, b), (key, ids, first_step) = decays, noise
        for t, drive, written, at, taps in self._drives(current, out, saved, weight):
            scan[self.grid](
                drive, written, *state, counts, at and at.i, at and at.u, a, b, taps, key, ids,
                self.nb_samples, len(drive), at.segment if at else 1, first_step + t, self.index, *self._noise[1],
                **self.forward_constants(a.device, per_unit=a.numel() > 1, save=at is not None),
            )  # fmt: skip

    def _drives(
        self, current: Tensor, out: Tensor, saved: Saved | None, weight: Tensor | None
    ) -> Iterator[tuple[int, Tensor, Tensor, Saved | None, Tensor | None]]:
        """First step, current, output, checkpoints and taps of every launch: of one for all steps, or of one a step.

        The current of a single step has the recurrent product with the spikes that the launch before it wrote.
        """
        if not self.stepwise:
            yield 0, current, out, saved, self._taps(weight)
            return
        recurrent, weight = self._recurrence(weight)
        for t, drive in enumerate(current):
            drive = drive + products.current(recurrent, weight, out[t : t + 1], self.precision)[0]
            yield t, drive[None], out[t:], None if saved is None else Saved(saved.i[t], saved.u[t], 1), None

    def _taps(self, weight: Tensor | None, adjoint: bool = False) -> Tensor | None:
        """`taps`, laid out once for all chunks of a call."""
        if adjoint not in self.laid_out and weight is not None:
            self.laid_out[adjoint] = self.taps(weight, adjoint)
        return self.laid_out.get(adjoint)

    def taps(self, weight: Tensor, adjoint: bool = False) -> Tensor:
        """Recurrent weights as the kernel reads them, or its adjoint: a program of one sample reads them transposed."""
        recurrent = known("the recurrent connection", self.recurrent)
        return products.taps(recurrent, weight, transposed=adjoint != (self.tile.columns == 1))

    def _recurrence(self, weight: Tensor | None) -> tuple[ConnectionSpec, Tensor]:
        """Connection of a recurrent layer to itself, and its weight."""
        return known("the recurrent connection", self.recurrent), known("the recurrent weight", weight)

    def backward(
        self,
        current: Tensor,
        spikes: Tensor | None,
        upstream: Tensor | None,
        count_gradient: Tensor | None,
        drive_gradient: Tensor,
        state_gradient: tuple[Tensor, Tensor],
        decay_gradient: Tensor | None,
        saved: Saved | None,
        decays: tuple[Tensor, Tensor],
        weight: Tensor | None,
    ) -> None:
        """Scan backward; ``drive_gradient`` (T + 1, B, *units), ``state_gradient``, ``decay_gradient`` are written.

        Args:
            current: (T, B, *units), the feed-forward and the recurrent part.
            spikes: (T, B, *units) uint8 of the forward pass, None for a readout.
            upstream: (T, B, *units) dL/ds from above, or dL/dy of a readout; None: 0.
            count_gradient: (B, *units), or None.
            drive_gradient: (T + 1, B, *units), is written.
            state_gradient: of i and u, is written.
            decay_gradient: of a and b, (2, B, *units), is written; None where it is not asked for.
            saved: checkpoints of the forward pass.
            decays: a and b, (1,) or (units,) each.
            weight: of the recurrent connection, or None.
        """
        (a, b), (g_a, g_b) = decays, (None, None) if decay_gradient is None else decay_gradient
        needs_i = decay_gradient is not None or (self.neuron is not None and self.neuron.diff_reset)
        for steps, above, at, taps in self._gradients(len(current), upstream, drive_gradient, saved, weight):
            drive, segment = current[steps], at.segment if at else len(current)
            scratch = (min(segment, len(drive)), *current.shape[1:])
            scan_adjoint[self.grid](
                drive, None if spikes is None else spikes[steps], above, count_gradient,
                drive_gradient[steps.start :], *state_gradient, g_a, g_b, at and at.i, at and at.u,
                current.new_empty(scratch) if needs_i else None, current.new_empty(scratch) if at else None,
                a, b, taps, self.nb_samples, len(drive), segment, *self._surrogate[1],
                **self.backward_constants(
                    a.device,
                    per_unit=a.numel() > 1,
                    decays=decay_gradient is not None,
                    upstream=above is not None,
                    counts=count_gradient is not None,
                ),
            )  # fmt: skip

    def _gradients(
        self,
        nb_steps: int,
        upstream: Tensor | None,
        drive_gradient: Tensor,
        saved: Saved | None,
        weight: Tensor | None,
    ) -> Iterator[tuple[slice, Tensor | None, Saved | None, Tensor | None]]:
        """Steps, dL/ds or dL/dy, checkpoints and transposed taps of every launch, from the last step to the first.

        Of a single step, dL/ds has what comes back from the recurrent current that the launch before it wrote.
        """
        if not self.stepwise:
            yield slice(0, nb_steps), upstream, saved, self._taps(weight, adjoint=True)
            return
        (recurrent, weight), saved = self._recurrence(weight), known("saved states", saved)
        for t in range(nb_steps - 1, -1, -1):
            later = drive_gradient[t + 1 : t + 2]
            above = products.input_gradient(recurrent, weight, later, self.precision)
            if upstream is not None:
                above = above + upstream[t]
            yield slice(t, t + 1), above, Saved(saved.i[t], saved.u[t], 1), None
