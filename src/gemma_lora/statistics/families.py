"""Several dimensions at once: Holm's correction, and "not worse by more than a margin"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

from gemma_lora.statistics.clustered import Estimate

__all__ = ["NonInferiority", "holm", "non_inferiority"]


@dataclass(frozen=True)
class NonInferiority:
    """Whether a mean difference is above -margin; None where there is no interval."""

    margin: float
    lower: float | None
    """Lower end of the two-sided 95 % interval, the one-sided 97.5 % bound."""
    p_value: float | None
    """One-sided, against a difference of -margin."""
    holds: bool | None


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """p-values adjusted by Holm (1979) for the number of those that are known; None stays None.

    scipy has the false discovery rate only, which is another promise.
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = highest
    return adjusted


def non_inferiority(estimate: Estimate, margin: float) -> NonInferiority:
    """One-sided test at 2.5 % that the mean is above -margin.

    "No dimension is worse" is claimed only where all hold, and such a claim needs no correction for
    looking several times (intersection-union test, Berger 1982).
    """
    lower = None if estimate.ci95 is None else estimate.ci95[0]
    p_value = None
    if estimate.standard_error is not None and estimate.df is not None:
        t = (estimate.mean + margin) / estimate.standard_error
        p_value = float(stats.t.sf(t, estimate.df))
    return NonInferiority(margin, lower, p_value, None if lower is None else lower > -margin)
