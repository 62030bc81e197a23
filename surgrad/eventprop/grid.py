"""EventProp on a time grid: the adjoint equations of Wunderlich & Pehle (2021), stepped beside the suite's scan.

Forward, with a = exp(-dt/tau_syn) and b = exp(-dt/tau_mem), spikes s[t] = H(u[t] - 1) are those of the suite's neurons
(reset "multiplicative_leak", no delay):

    i[t+1] = a i[t] + W s_in[t] + R s[t],    u[t+1] = b u[t] (1 - s[t]) + (1 - b) i[t].

Backward, pV and pI are the derivatives of the loss by u and i; a spike carries the derivative of the loss by its time,

    dL/dt = sum_n W_n (pI_n[t+1] / tau_syn - pV_n[t+1] / tau_mem),    dW = sum_t s_in[t] pI[t+1],
    pI[t] = a pI[t+1] + (1 - b) pV[t+1],
    pV[t] = b pV[t+1],   or at a spike   (pV[t+1] i[t-1] - tau_mem dL/dt) / (i[t-1] - 1).

Therefore **the gradient of a spike tensor is the derivative by its spike times** (per s), zero where there is no spike,
and not by its values: layers, readout and `first_times` go together, other functions of the spikes do not. Spike times
are rounded to the grid, which makes gradients first order in dt.

`_Scan` and `_Leak` are the specification: plain PyTorch on any device, sums over time are matrix products.
`surgrad.kernels.cpu.eventprop_grid` is the same scan compiled and fused over time, for the CPU;
there only spikes are kept.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.eventprop.layers import EventLIF, Spikes
from surgrad.kernels.cpu import eventprop_grid as compiled
from surgrad.kernels.spike_trains import grid_input


@dataclass(frozen=True)
class Grid:
    """Time constants and step in s."""

    dt: float
    tau_mem: float
    tau_syn: float

    @property
    def a(self) -> float:
        return math.exp(-self.dt / self.tau_syn)

    @property
    def b(self) -> float:
        return math.exp(-self.dt / self.tau_mem)

    def by_time(self, pV: Tensor, pI: Tensor) -> Tensor:
        """Derivative by the time of a spike, for each synapse of weight 1."""
        return pI / self.tau_syn - pV / self.tau_mem


def _arrivals(grid: Grid, s_in: Tensor, weight: Tensor, pV: Tensor, pI: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives by times of input spikes and by weights; pV and pI are those right after each step, (T, B, N)."""
    d_times = (grid.by_time(pV, pI) @ weight.T) * s_in
    return d_times, s_in.flatten(0, 1).T @ pI.flatten(0, 1)


class _Scan(torch.autograd.Function):
    """Input spikes (T, B, N_in), W (N_in, N), R (N, N) or None -> spikes (T, B, N)."""

    @staticmethod
    def forward(ctx: Any, s_in: Tensor, weight: Tensor, recurrent: Tensor | None, grid: Grid) -> Tensor:
        a, b = grid.a, grid.b
        current = s_in @ weight
        i = u = before = torch.zeros_like(current[0])
        spikes, drive = [], []
        for x in current:
            s = (u > 1).to(u.dtype)
            spikes.append(s)
            drive.append(before)
            before = i
            i, u = a * i + (x if recurrent is None else x + s @ recurrent), b * u * (1 - s) + (1 - b) * i
        out = torch.stack(spikes)
        ctx.save_for_backward(s_in, weight, recurrent, out, torch.stack(drive))
        ctx.grid = grid
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        s_in, weight, recurrent, spikes, drive = ctx.saved_tensors
        grid = ctx.grid
        a, b = grid.a, grid.b
        pV = pI = torch.zeros_like(spikes[0])
        all_v, all_i = torch.empty_like(spikes), torch.empty_like(spikes)
        for t in reversed(range(len(spikes))):
            all_v[t], all_i[t] = pV, pI
            g = grad[t] if recurrent is None else grad[t] + grid.by_time(pV, pI) @ recurrent.T
            fired = spikes[t] > 0
            jump = (pV * drive[t] - grid.tau_mem * g) / torch.where(fired, drive[t] - 1, 1)
            pI, pV = a * pI + (1 - b) * pV, torch.where(fired, jump, b * pV)
        d_times, d_weight = _arrivals(grid, s_in, weight, all_v, all_i)
        d_recurrent = None if recurrent is None else spikes.flatten(0, 1).T @ all_i.flatten(0, 1)
        return d_times, d_weight, d_recurrent, None


class _Leak(torch.autograd.Function):
    """Input spikes (T, B, N_in), W (N_in, N) -> voltages u[t] of leaky integrators (T, B, N)."""

    @staticmethod
    def forward(ctx: Any, s_in: Tensor, weight: Tensor, grid: Grid) -> Tensor:
        a, b = grid.a, grid.b
        current = s_in @ weight
        i = u = torch.zeros_like(current[0])
        out = []
        for x in current:
            out.append(u)
            i, u = a * i + x, b * u + (1 - b) * i
        ctx.save_for_backward(s_in, weight)
        ctx.grid = grid
        return torch.stack(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        s_in, weight = ctx.saved_tensors
        a, b = ctx.grid.a, ctx.grid.b
        pV = pI = torch.zeros_like(grad[0])
        all_v, all_i = torch.empty_like(grad), torch.empty_like(grad)
        for t in reversed(range(len(grad))):
            all_v[t], all_i[t] = pV, pI
            pI, pV = a * pI + (1 - b) * pV, b * pV + grad[t]
        return *_arrivals(ctx.grid, s_in, weight, all_v, all_i), None


class _First(torch.autograd.Function):
    """Spikes (T, B, N) -> time of the first spike (B, N) in s, inf without one."""

    @staticmethod
    def forward(ctx: Any, spikes: Tensor, dt: float) -> Tensor:
        fired, step = spikes.max(0)
        ctx.save_for_backward(fired, step)
        ctx.shape = spikes.shape
        return torch.where(fired > 0, step.to(spikes.dtype) * dt, math.inf)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        fired, step = ctx.saved_tensors
        out = grad.new_zeros(ctx.shape)
        return out.scatter_(0, step[None], torch.where(fired > 0, grad, 0)[None]), None


def first_times(spikes: Tensor, dt: float) -> Tensor:
    """Time of the first spike of every unit: (T, B, N) -> (B, N) in s; inf for units that stay silent."""
    return _First.apply(spikes, dt)


KERNELS = ("auto", "reference", "cpu")


class GridLayer(nn.Module):
    """`EventLayer` on a time grid.

    Args:
        nb_inputs: number of inputs.
        nb_units: number of neurons.
        neuron: time constants.
        dt: time step, s.
        recurrent: whether units drive each other.
        dtype: float32 or float64.
        kernel: "reference" (PyTorch, any device), "cpu" (compiled) or "auto": compiled for tensors on the CPU.

    ``kernel`` is "reference" (PyTorch, any device), "cpu" (compiled) or "auto": compiled for tensors on the CPU.
    Parameters: weight (nb_inputs, nb_units), recurrent (nb_units, nb_units) or None; zero until initialised.

    Raises:
        UserError: for a step that is no shorter than the time constants, and for an unknown kernel.
    """

    def __init__(
        self,
        nb_inputs: int,
        nb_units: int,
        neuron: EventLIF | None = None,
        dt: float = 1e-3,
        recurrent: bool = False,
        dtype: torch.dtype = torch.float32,
        kernel: str = "auto",
    ):
        super().__init__()
        self.grid, self.kernel = _grid(neuron, dt), _kernel(kernel)
        self.weight = nn.Parameter(torch.zeros(nb_inputs, nb_units, dtype=dtype))
        self.recurrent = nn.Parameter(torch.zeros(nb_units, nb_units, dtype=dtype)) if recurrent else None

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes (T, B, nb_inputs), 0/1 -> (T, B, nb_units); gradients are by spike times."""
        scan = compiled.Spiking if _runs_compiled(self.kernel, self.weight) else _Scan
        s_in, recurrent = grid_input(spikes, self.weight, self.recurrent), self.recurrent
        with torch.autocast(self.weight.device.type, enabled=False):
            loop = None if recurrent is None else recurrent.contiguous()
            return scan.apply(s_in, self.weight.contiguous(), loop, self.grid)


class GridReadout(nn.Module):
    """`EventReadout` on a time grid. Arguments as in `GridLayer`."""

    def __init__(
        self,
        nb_inputs: int,
        nb_units: int,
        neuron: EventLIF | None = None,
        dt: float = 1e-3,
        dtype: torch.dtype = torch.float32,
        kernel: str = "auto",
    ):
        super().__init__()
        self.grid, self.kernel = _grid(neuron, dt), _kernel(kernel)
        self.weight = nn.Parameter(torch.zeros(nb_inputs, nb_units, dtype=dtype))

    def forward(self, spikes: Tensor) -> Tensor:
        """Voltages (T, B, nb_units) at the beginning of every step: any differentiable loss may follow."""
        scan = compiled.Leaking if _runs_compiled(self.kernel, self.weight) else _Leak
        s_in = grid_input(spikes, self.weight)
        with torch.autocast(self.weight.device.type, enabled=False):
            return scan.apply(s_in, self.weight.contiguous(), self.grid)


def _grid(neuron: EventLIF | None, dt: float) -> Grid:
    neuron = neuron or EventLIF()
    if not 0 < dt < min(neuron.tau_mem, neuron.tau_syn):
        raise UserError(f"dt={dt} s must be positive and below the time constants, {neuron}")
    return Grid(dt, neuron.tau_mem, neuron.tau_syn)


def _kernel(kernel: str) -> str:
    if kernel not in KERNELS:
        raise UserError(f"kernel={kernel!r} is unknown; allowed: {', '.join(KERNELS)}")
    return kernel


def _runs_compiled(kernel: str, weight: Tensor) -> bool:
    on_cpu = weight.device.type == "cpu"
    if kernel == "cpu" and not on_cpu:
        raise UserError(f"kernel=cpu, but the weights are on {weight.device}; take kernel=auto")
    if kernel == "cpu" and weight.dtype not in compiled.SUFFIX:
        raise UserError(f"kernel=cpu computes in float32 or float64, not {weight.dtype}; take kernel=auto")
    return kernel != "reference" and on_cpu and weight.dtype in compiled.SUFFIX


def on_grid(spikes: Spikes, nb_units: int, nb_steps: int, dt: float) -> Tensor:
    """Spikes (T, B, nb_units) of 0/1 in bins floor(t / dt), differentiable by nothing; later ones are left out."""
    steps = (spikes.times.detach() / dt).long()
    inside = steps < nb_steps
    out = torch.zeros(nb_steps, spikes.nb_samples, nb_units, dtype=spikes.times.dtype)
    out[steps[inside], spikes.samples[inside], spikes.units[inside].long()] = 1
    return out
