"""The difference in score at equal length: an analysis of covariance on the pairs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from gemma_lora.statistics.clustered import Clusters, Numbers
from gemma_lora.statistics.resampling import bootstrap_clusters

__all__ = ["LengthAdjusted", "length_adjusted"]


@dataclass(frozen=True)
class LengthAdjusted:
    """`difference`: at equal length; `per_doubling`: points for an answer twice as long as the other."""

    difference: float | None
    ci95: tuple[float, float] | None
    per_doubling: float | None
    per_doubling_ci95: tuple[float, float] | None
    n: int
    note: str | None = None


def length_adjusted(
    differences: Sequence[float] | Numbers,
    base_lengths: Sequence[int],
    tuned_lengths: Sequence[int],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int,
    resamples: int | None = None,
) -> LengthAdjusted:
    """Regress the score difference on the difference of log length; the intercept is at equal length.

        difference_i = a + b * (log(1 + tuned length_i) - log(1 + base length_i)) + error_i

    The interval draws whole clusters and fits anew each time (BCa), so the uncertainty of the slope is
    in it. Length is itself a result of tuning: this describes, it does not decide. Lengths in
    characters. Raises ValueError where the sequences do not pair.
    """
    y: Numbers = np.asarray(differences, dtype=float)
    short, long = (np.log1p(np.asarray(a, dtype=float)) for a in (base_lengths, tuned_lengths))
    if not y.shape == short.shape == long.shape:
        raise ValueError(f"{y.size} differences, {short.size} and {long.size} lengths do not pair")
    n = int(y.size)
    x: Numbers = long - short
    if n < 4 or float(np.ptp(x)) < 1e-9:
        why = "too few questions" if n < 4 else "the answers differ in length alike everywhere"
        return LengthAdjusted(None, None, None, None, n, why)
    groups = Clusters(clusters, n)
    parts = (groups.sizes, *(groups.sums(v) for v in (x, y, x * x, x * y)))
    intercept = bootstrap_clusters(parts, _intercept, seed=seed, resamples=resamples)
    slope = bootstrap_clusters(parts, _per_doubling, seed=seed, resamples=resamples)
    note = intercept.note
    if note is None and (x.min() > 0 or x.max() < 0):
        side = "tuned" if x.min() > 0 else "base"
        note = f"the {side} answer is always the longer one, so equal length lies outside what was seen"
    return LengthAdjusted(
        float(_intercept(*parts)), intercept.ci95, float(_per_doubling(*parts)), slope.ci95, n, note
    )


def _fit(parts: tuple[Numbers, ...], axis: int) -> tuple[Numbers, Numbers]:
    """Intercept and slope of least squares from sums of 1, x, y, x^2 and xy by cluster."""
    n, x, y, xx, xy = (part.sum(axis=axis) for part in parts)
    slope = (n * xy - x * y) / (n * xx - x * x)
    return (y - slope * x) / n, slope


def _intercept(*parts: Numbers, axis: int = -1) -> Numbers:
    return _fit(parts, axis)[0]


def _per_doubling(*parts: Numbers, axis: int = -1) -> Numbers:
    return _fit(parts, axis)[1] * np.log(2)
