"""Learned delays of a connection: in a range, and shared between the steps of a grid."""

import math
from collections.abc import Iterator
from typing import Required, TypedDict

from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.network.parameters import Bounded


class DelayOptions(TypedDict, total=False):
    """Range of delays (s), whether they are learned, and whether they are evaluated with whole steps."""

    max_delay: Required[float]
    min_delay: float
    trainable: bool
    rounded: bool


class Delayed(nn.Module):
    """What connections with delays have in common; inherit from it before the connection without delays.

    On a grid, a spike whose delay is k + f steps, 0 <= f < 1, arrives with 1 - f of its weight after k and with f after
    k + 1 steps, so that currents are continuous in the delays and differentiable between whole steps.

    Attributes:
        delay: s.
        rounded: evaluate with delays of whole steps, as hardware has them.
    """

    delay: Bounded
    rounded: bool

    def _give_delays(
        self, start: Tensor, max_delay: float, min_delay: float = 0.0, *, trainable: bool = True, rounded: bool = False
    ) -> None:
        """Give the connection its delays; arguments and errors as of `surgrad.network.connections.DelayedDense`.

        Args:
            start: where each begins, as a share of the range.
            max_delay: s.
            min_delay: s.
            trainable: whether they are learned.
            rounded: see above.
        """
        if not 0 < max_delay < math.inf:
            raise UserError(
                f"max_delay={max_delay} s must be positive; use surgrad.network.connections.Dense without delays"
            )
        if not 0 <= min_delay < max_delay:
            raise UserError(f"min_delay={min_delay} s must be from 0 to below max_delay={max_delay:g} s")
        self.delay = Bounded(min_delay, max_delay, start, trainable)
        self.rounded = rounded

    def begin_epoch(self, number: int) -> None:
        """What changes over epochs is that of epoch ``number``, 1, 2, …"""

    def steps(self, dt: float) -> Tensor:
        """Delays in steps of dt seconds, in their own shape."""
        steps = self.delay() / dt
        return steps.round() if self.rounded and not self.training else steps

    def shares(self, dt: float) -> Iterator[Tensor]:
        """Shares of the weights that arrive after 0, 1, … nb_taps - 1 steps, in the shape of the delays each."""
        steps, nb_taps = self.steps(dt), self.nb_taps(dt)
        whole = steps.detach().floor().clamp(max=nb_taps - 2)
        late = steps - whole
        for k in range(nb_taps):
            yield (1 - late) * (whole == k) + late * (whole == k - 1)

    def nb_taps(self, dt: float) -> int:
        """Steps over which the longest delay spreads a spike: a delay of d steps reaches the taps 0 to ceil(d)."""
        return math.ceil(self.delay.high / dt * (1 - 1e-9)) + 1

    def require_within(self, dt: float, nb_steps: int) -> None:
        """Refuses delays that reach beyond a window of ``nb_steps`` steps of dt seconds. Raises: UserError."""
        if self.nb_taps(dt) > nb_steps:
            raise UserError(
                f"max_delay={self.delay.high:g} s does not fit into the window of {nb_steps} steps of {dt:g} s; "
                f"shorten it to less than {(nb_steps - 1) * dt:g} s or lengthen the window"
            )
