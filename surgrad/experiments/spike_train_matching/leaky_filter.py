"""Two leaky integrators in a row as a convolution over time: the linear filter behind every trace of the suite.

With i[t+1] = a i[t] + x[t] and u[t+1] = b u[t] + i[t] from rest, y[t] = u[t+1] is the convolution of x with

    k[n] = (b^n - a^n) / (b - a),   k[0] = 0, k[1] = 1.

Postsynaptic potentials, the van Rossum kernel and its time-reversed adjoint are all this filter, scaled. Here it is
computed block by block as one matrix product each, so its cost is linear in T and it needs no loop over single steps.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 64  # steps per matrix product: long enough to amortise a call, short enough to keep the product small


def impulse_response(a: float, b: float, nb_steps: int) -> Tensor:
    """k[n] of the filter, (nb_steps,) float64, stable for a = b.

    Args:
        a: decay per step of one integrator.
        b: decay per step of the other.
        nb_steps: length.
    """
    powers = torch.arange(nb_steps, dtype=torch.float64)
    if a == b:
        return powers * torch.tensor(a, dtype=torch.float64) ** (powers - 1).clamp(min=0)
    return (torch.tensor(b, dtype=torch.float64) ** powers - torch.tensor(a, dtype=torch.float64) ** powers) / (b - a)


class LeakyFilter:
    """y = gain k * x along the first axis, differentiable, for tensors (T, ...) of any length.

    Args:
        a: decay per step, exp(-dt / tau), of the two integrators.
        b: decay per step, exp(-dt / tau), of the two integrators.
        gain: factor on the output.
        like: tensor whose dtype and device the filter works in.
    """

    def __init__(self, a: float, b: float, gain: float, like: Tensor):
        k = gain * impulse_response(a, b, BLOCK + 1)
        powers = torch.arange(BLOCK + 1, dtype=torch.float64)
        decay_a, decay_b = a**powers, b**powers
        lags = torch.arange(BLOCK)[:, None] - torch.arange(BLOCK)[None, :]
        within = torch.where(lags >= 0, k[lags.clamp(min=0)], 0.0)
        charge = decay_a[:-1].flip(0)[None]
        self._within = torch.cat([within, charge]).to(like)  # (L+1, L): x of a block -> its y, and i at its end
        self._carried = torch.stack([decay_b[1:], k[1:]], 1).to(like)  # (L, 2): (y, i) before the block -> its y
        end = torch.stack([torch.stack([decay_b[-1], k[-1]]), torch.stack([torch.zeros_like(k[0]), decay_a[-1]])])
        self._end = end.to(like)  # (2, 2): (y, i) before the block -> at its end

    def __call__(self, x: Tensor) -> Tensor:
        """(T, ...) -> (T, ...), causal: y[t] depends on x[0..t-1]."""
        flat = x.reshape(len(x), -1)
        if len(x) <= BLOCK:
            return (self._within[: len(x), : len(x)] @ flat).view_as(x)
        nb_blocks = -(-len(x) // BLOCK)
        blocks = F.pad(flat, (0, 0, 0, nb_blocks * BLOCK - len(x))).view(nb_blocks, BLOCK, -1)
        own = self._within @ blocks  # (blocks, L+1, n): as if every block began at rest
        ends = [own[0, -2:]]
        for k in range(1, nb_blocks - 1):
            ends.append(torch.addmm(own[k, -2:], self._end, ends[-1]))
        y = torch.baddbmm(own[1:, :-1], self._carried.expand(nb_blocks - 1, -1, -1), torch.stack(ends))
        return torch.cat([own[0, :-1], y.flatten(0, 1)])[: len(x)].view_as(x)

    def adjoint(self, x: Tensor) -> Tensor:
        """The transposed filter, time reversed: sum_t' k[t' - t] x[t'], (T, ...) -> (T, ...)."""
        return self(x.flip(0)).flip(0)
