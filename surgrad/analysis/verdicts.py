"""Whether a measured interval is what a claim says: inside, across or outside the values that it allows.

The whole 95 % interval decides, as in a test of equivalence or of a difference: a mean that happens to lie at the right
place decides nothing as long as the interval reaches beyond.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from surgrad.runs.intervals import Interval

Bounds = tuple[float, float]

#: The values that are as claimed, given the published value and the number in the claim.
EXPECTATIONS: dict[str, Callable[[float, float], Bounds]] = {
    "within": lambda published, x: (published - x, published + x),
    "relative": lambda published, x: (published - x * abs(published), published + x * abs(published)),
    "above": lambda published, x: (x, math.inf),
    "below": lambda published, x: (-math.inf, x),
}

REPRODUCED, UNDECIDED, NOT_REPRODUCED = "reproduced", "undecided", "not reproduced"
REPORTED, NOT_RUN = "reported", "not run"

#: Every verdict, in the order in which they are counted.
VERDICTS = (REPRODUCED, UNDECIDED, NOT_REPRODUCED, REPORTED, NOT_RUN)


class Verdict(NamedTuple):
    """One of `VERDICTS`, and why where the numbers do not say it."""

    word: str
    why: str = ""


def allowed(expect: Mapping[str, float], published: float | None) -> Bounds:
    """The values that are as claimed.

    Args:
        expect: one of `EXPECTATIONS` with its number.
        published: published value; None: there is none.
    """
    ((name, number),) = expect.items()
    return EXPECTATIONS[name](math.nan if published is None else published, number)


def decide(interval: Interval, bounds: Bounds) -> str:
    """reproduced: the interval lies inside; not reproduced: outside; undecided: across, or there is none.

    Args:
        interval: mean and 95 % interval.
        bounds: smallest and largest value that are as claimed.
    """
    low, high = bounds
    if math.isnan(interval.low) or math.isnan(interval.high):
        return UNDECIDED
    if low <= interval.low and interval.high <= high:
        return REPRODUCED
    if interval.high < low or interval.low > high:
        return NOT_REPRODUCED
    return UNDECIDED


def judge(
    interval: Interval, expect: Mapping[str, float], published: float | None, *, nb_asked: int, exact: bool
) -> Verdict:
    """What an interval over runs says of a claim.

    Args:
        interval: mean and 95 % interval.
        expect: what is expected; nothing if the number is only reported.
        published: published value.
        nb_asked: number of runs that are asked for.
        exact: whether the number is computed without randomness, so that one run is all there is to know.
    """
    if not interval.n:
        return Verdict(NOT_RUN)
    if interval.n < nb_asked:
        return Verdict(UNDECIDED, f"{interval.n} of {nb_asked} runs")
    if not expect:
        return Verdict(REPORTED)
    if exact:
        interval = interval._replace(low=interval.mean, high=interval.mean)
    if math.isnan(interval.low):
        return Verdict(UNDECIDED, "one run has no interval")
    return Verdict(decide(interval, allowed(expect, published)))
