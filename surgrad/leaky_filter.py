"""Two leaky integrators in a row as a convolution over time: the linear filter behind every trace of the suite.

With i[t+1] = a i[t] + x[t] and u[t+1] = b u[t] + i[t] from rest, y[t] = u[t+1] is the convolution of x with

    k[n] = (b^n - a^n) / (b - a),   k[0] = 0, k[1] = 1.

Postsynaptic potentials, the van Rossum kernel and its time-reversed adjoint are all this filter, scaled. Here it is
computed block by block as one matrix product each, so its cost is linear in T and it needs no loop over single steps.
"""

import torch
from torch import Tensor

BLOCK = 32  # steps per matrix product: long enough to amortise a call, short enough to keep the product small


def impulse_response(a: float, b: float, nb_steps: int) -> Tensor:
    """k[n] of the filter, (nb_steps,) float64, stable for a = b.

    Args: a, b: decay per step of the two integrators; nb_steps.
    """
    powers = torch.arange(nb_steps, dtype=torch.float64)
    if a == b:
        return powers * torch.tensor(a, dtype=torch.float64) ** (powers - 1).clamp(min=0)
    return (torch.tensor(b, dtype=torch.float64) ** powers - torch.tensor(a, dtype=torch.float64) ** powers) / (b - a)


class LeakyFilter:
    """y = gain k * x along the first axis, differentiable, for tensors (T, ...) of any length.

    Args:
        a, b: decay per step, exp(-dt / tau), of the two integrators.
        gain: factor on the output.
        like: tensor whose dtype and device the filter works in.
    """

    def __init__(self, a: float, b: float, gain: float, like: Tensor):
        k = gain * impulse_response(a, b, BLOCK + 1)
        steps = torch.arange(BLOCK)
        lags = steps[:, None] - steps[None, :]
        within = torch.where(lags >= 0, k[lags.clamp(min=0)], 0.0)
        decay_a = torch.tensor(a, dtype=torch.float64) ** torch.arange(BLOCK + 1)
        decay_b = torch.tensor(b, dtype=torch.float64) ** torch.arange(BLOCK + 1)
        self._within = within.to(like)  # (L, L): x of the block -> y of the block
        self._carried = torch.stack([k[1:], decay_b[1:]], 1).to(like)  # (L, 2): (i, u) at the start -> y
        self._charge = decay_a.flip(0)[1:].to(like)  # (L,): x of the block -> i at its end
        self._decay_a = decay_a.to(like)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, ...) -> (T, ...), causal: y[t] depends on x[0..t-1]."""
        flat = x.reshape(len(x), -1)
        outputs = []
        i = u = None
        for block in flat.split(BLOCK):
            steps = len(block)
            y = self._within[:steps, :steps] @ block
            charge = self._charge[BLOCK - steps :] @ block
            if i is not None:
                y = y + self._carried[:steps] @ torch.stack([i, u])
                charge = charge + self._decay_a[steps] * i
            outputs.append(y)
            i, u = charge, y[-1]
        return torch.cat(outputs).view_as(x)

    def adjoint(self, x: Tensor) -> Tensor:
        """The transposed filter, time reversed: sum_t' k[t' - t] x[t'], (T, ...) -> (T, ...)."""
        return self(x.flip(0)).flip(0)
