"""A share of successes with its interval."""

from __future__ import annotations

from scipy import stats

from gemma_lora.statistics.clustered import CONFIDENCE

__all__ = ["wilson"]


def wilson(successes: int, n: int) -> tuple[float, float] | None:
    """Wilson's score interval (1927) of a binomial share; None without any trial."""
    if n == 0:
        return None
    found = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)
