"""A stack of spiking layers and a readout, run over time by one of the kernels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.kernels import dispatch
from surgrad.kernels.philox import NoiseKey
from surgrad.kernels.state import NetworkOutput, NetworkState
from surgrad.network.layers import Readout, SpikingLayer


class Network(nn.Module):
    """A stack of `SpikingLayer`s and a `Readout`. Modules hold parameters only; state goes in and comes out.

    Args:
        layers: spiking layers, bottom to top.
        readout: readout layer, or None.
        dt: time step in s.
        delay: steps d between a spike below and its arrival, I_l[t] = W s_{l-1}[t-d]: 1 in classification, 0 in
            spike-train matching. The recurrent delay is one step.

    Raises: UserError where shapes do not fit or delay is not 0 or 1.
    """

    def __init__(self, layers: Sequence[SpikingLayer], readout: Readout | None, dt: float, delay: int = 1):
        super().__init__()
        if delay not in (0, 1):
            raise UserError(f"delay={delay} steps is not allowed; allowed: 0 or 1")
        if not dt > 0:
            raise UserError(f"dt={dt} s must be positive")
        self.layers, self.readout = nn.ModuleList(layers), readout
        self.dt, self.delay = dt, delay
        stack = [*layers, *([readout] if readout is not None else [])]
        for below, above in pairwise(stack):
            if tuple(above.feedforward.in_shape) != below.unit_shape:
                raise UserError(f"a layer expects input {above.feedforward.in_shape}, but gets {below.unit_shape}")
        for layer in layers:
            if layer.adaptation is not None:
                b = layer.decays(dt)[1].detach()
                layer.adaptation.require_stable(dt, b, 1 - b if layer.neuron.unit_gain else torch.ones_like(b))

    def forward(
        self,
        x: Tensor | EventBatch,
        *,
        seed: int = 0,
        draw: int = 0,
        ids: Tensor | None = None,
        state: NetworkState | None = None,
        record: bool = False,
        return_state: bool = False,
        truncate: int = 0,
        memory: str = "full",
        precision: str = "float32",
        kernel: str = "auto",
    ) -> NetworkOutput:
        """Run the network over all time steps of ``x``.

        Args:
            x: spikes (T, B, *in_shape), or an `EventBatch`.
            seed, draw: key of the escape noise; ``draw`` is the epoch or the repetition.
            ids: (B,) int64 global sample indices that address the noise; by default those of the batch, else 0..B-1.
            state: of an earlier call, to go on from; zeros if None.
            record: also return the spikes of every layer.
            return_state: also return the state after the last step.
            truncate: if not 0, cut gradients at every multiple of this many steps (truncated backpropagation).
            memory: "full", or "recompute" to keep less for the backward pass, for long T; the gradients are the same.
            precision: of the products; "bf16" only on a GPU (state is always float32, spikes are exact in either).
            kernel: "auto", "reference", "cpu" or "cuda".
        """
        if memory not in ("full", "recompute"):
            raise UserError(f"memory={memory!r} is unknown; allowed: full, recompute")
        if ids is None:
            ids = x.ids if isinstance(x, EventBatch) else torch.arange(x.shape[1], device=x.device)
        run = dispatch.select(kernel, self, x)
        options = {
            "state": state,
            "record": record,
            "return_state": return_state,
            "truncate": truncate,
            "memory": memory,
        }
        if precision != "float32":
            if run is not dispatch.cuda.run:
                raise UserError(
                    f"precision={precision!r} is for kernel='cuda'; a CPU sums float32 weights, without products"
                )
            options["precision"] = precision
        return run(self, x, NoiseKey(seed, draw), ids, **options)
