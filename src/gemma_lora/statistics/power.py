"""What a number of questions can show: power of the t-test, and the smallest difference it notices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from scipy import optimize, stats

__all__ = [
    "ALPHA",
    "POWER",
    "effective_questions",
    "minimum_detectable",
    "power_of_t",
    "questions_needed",
]

ALPHA = 0.05
POWER = 0.8


def power_of_t(difference: float, standard_error: float, df: float, alpha: float = ALPHA) -> float:
    """Chance that the two-sided t-test notices a true `difference`, by the noncentral t distribution."""
    edge = float(stats.t.ppf(1 - alpha / 2, df))
    shift = abs(difference) / standard_error
    if shift > edge + 40:  # certain to many digits; scipy's nct gives NaN somewhere beyond
        return 1.0
    other_side = float(stats.nct.cdf(-edge, df, shift)) if shift < 4 else 0.0  # NaN far out, too
    return float(stats.nct.sf(edge, df, shift)) + other_side


def minimum_detectable(
    standard_error: float, df: float, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The true difference that is noticed with probability `power`; about 2.8 standard errors."""

    def short_by(shift: float) -> float:
        return power_of_t(shift, 1.0, df, alpha) - power

    above = 2.0
    while short_by(above) < 0:
        above *= 2
    return standard_error * float(cast(float, optimize.brentq(short_by, above / 4, above)))


def questions_needed(
    difference: float, deviation: float, *, alpha: float = ALPHA, power: float = POWER
) -> int:
    """Independent questions until a true `difference` is noticed with probability `power`.

    `deviation` is the standard deviation of the paired differences. Raises ValueError unless both are
    above zero.
    """
    if not (difference > 0 and deviation > 0):
        raise ValueError("a difference and a standard deviation above zero are needed")

    def enough(n: int) -> bool:
        return power_of_t(difference, deviation / math.sqrt(n), n - 1, alpha) >= power

    low, high = 1, 2  # power grows with n: double, then halve the gap
    while not enough(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def effective_questions(sizes: Sequence[int]) -> float:
    """How many independent questions clusters of these sizes are worth at the least (Kish 1965).

    n^2 / sum of squares: near-duplicates are taken to differ alike, as one question would.
    """
    total = sum(sizes)
    return total**2 / sum(size * size for size in sizes)
