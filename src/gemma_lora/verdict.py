"""The statistics of the verdict: a paired difference with its cluster-robust interval, and the rule.

Pure numbers (numpy and scipy, no files): scores per question go in, an estimate and one of four
words come out. The unit is the question; questions that are near-duplicates of each other share a
cluster and are not counted as independent evidence. Where the data carry no interval (one question,
one cluster) there is none, and the verdict is `inconclusive`: nothing is made up.

    result = paired_difference([3, 4, 2], [6, 6, 5], clusters=["a", "b", "c"])
    decide(result.difference.ci95)          # "better"
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

__all__ = [
    "CONFIDENCE",
    "MARGIN",
    "METHOD",
    "RULE",
    "Estimate",
    "PairedResult",
    "Verdict",
    "clustered_mean",
    "decide",
    "paired_difference",
]

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]

CONFIDENCE = 0.95
MARGIN = 0.5
"""Differences below half a point on the scale of 1 to 10 are of no practical weight."""

METHOD = "mean paired difference, cluster-robust standard error (CR1), t with clusters - 1 df"

RULE = (
    "The 95 % cluster-robust interval of the mean paired difference in the overall score (tuned minus "
    "base, questions as the unit) decides. Entirely above 0: better. Entirely below 0: worse. Else, "
    "inside -0.5 to +0.5: equivalent. Else: inconclusive. An interval that is both above 0 and inside "
    "the margin is called better (and said to be small); likewise worse."
)

_LOWEST, _HIGHEST = 1.0, 10.0


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; `ci95` and `p_value` are None where the data carry none."""

    mean: float
    standard_error: float | None
    ci95: tuple[float, float] | None
    p_value: float | None
    """Two-sided, against a mean of zero."""
    n: int
    clusters: int
    method: str
    note: str | None = None
    """Plain words, where the usual method did not apply."""


@dataclass(frozen=True)
class PairedResult:
    """Both arms on the same questions, their difference, and the count of wins, ties and losses."""

    base: Estimate
    tuned: Estimate
    difference: Estimate
    win: int
    tie: int
    loss: int


def paired_difference(
    base: Sequence[float], tuned: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> PairedResult:
    """Compare two arms on the same questions; scores on the scale of 1 to 10, one per question.

    `clusters[i]` names the group of near-duplicates of question i (None: every question is alone).
    Raises ValueError for lengths that differ, no question, or scores that are not finite.
    """
    first, second = np.asarray(base, dtype=float), np.asarray(tuned, dtype=float)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"{first.size} base scores and {second.size} tuned scores do not pair")
    difference = second - first
    difference[np.abs(difference) < 1e-9] = 0.0  # averages of repeats that differ by rounding only
    span = _HIGHEST - _LOWEST
    return PairedResult(
        base=clustered_mean(first, clusters, low=_LOWEST, high=_HIGHEST),
        tuned=clustered_mean(second, clusters, low=_LOWEST, high=_HIGHEST),
        difference=clustered_mean(difference, clusters, low=-span, high=span),
        win=int((difference > 0).sum()),
        tie=int((difference == 0).sum()),
        loss=int((difference < 0).sum()),
    )


def clustered_mean(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    low: float,
    high: float,
) -> Estimate:
    """Mean of `values` with a cluster-robust 95 % interval; `low` and `high` bound a single value.

    With residuals r = value - mean, summed within each of G clusters to s_g,

        SE^2 = G / (G - 1) * sum_g s_g^2 / n^2,      interval: mean -+ t(0.975, G - 1) * SE,

    the CR1 sandwich (Liang & Zeger 1986) for a mean, as Miller (2024, arXiv 2411.00640) recommends
    for evaluations. Where every cluster has one question it is the ordinary paired t-test.

    Values that are all equal have no spread, so t knows nothing and would claim certainty. Then the
    interval comes from the rule of three (Hanley & Lippman-Hand 1983): with none of G clusters
    deviating, at most p = 1 - 0.05^(1/G) of all do, each by no more than `low` and `high` allow.
    One value or one cluster: no interval.
    """
    x = np.asarray(values, dtype=float)
    n = int(x.size)
    if n == 0:
        raise ValueError("no values")
    if not np.isfinite(x).all():
        raise ValueError("a score is not a finite number")
    labels = list(clusters) if clusters is not None else list(range(n))
    if len(labels) != n:
        raise ValueError(f"{n} values and {len(labels)} cluster names do not pair")
    codes: dict[Hashable, int] = {}
    index = np.array([codes.setdefault(label, len(codes)) for label in labels])
    groups = len(codes)
    mean = float(x.mean())

    def without(note: str) -> Estimate:
        return Estimate(mean, None, None, None, n, groups, METHOD, note)

    if n < 2:
        return without("one question carries no interval")
    if groups < 2:
        return without(
            f"all {n} questions are near-duplicates of each other (one cluster): no interval"
        )
    if float(np.ptp(x)) <= 1e-9:
        share = 1.0 - (1.0 - CONFIDENCE) ** (1.0 / groups)
        interval = (mean - share * (mean - low), mean + share * (high - mean))
        note = (
            f"all {n} values are equal, so there is no spread to estimate from; the interval is a bound: "
            f"at most {share:.1%} of such questions would deviate (rule of three)"
        )
        return Estimate(mean, None, interval, None, n, groups, "rule of three (no spread)", note)
    sums = np.bincount(index, weights=x - mean, minlength=groups)
    variance = groups / (groups - 1) * float((sums**2).sum()) / n**2
    if variance <= 1e-18 * float(np.ptp(x)) ** 2:
        return without("differences cancel inside every cluster: no interval can be estimated")
    error = float(np.sqrt(variance))
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, groups - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, groups - 1))
    return Estimate(mean, error, (mean - reach, mean + reach), p_value, n, groups, METHOD)


def decide(ci95: tuple[float, float] | None, margin: float = MARGIN) -> Verdict:
    """The rule (`RULE`): direction first, then equivalence; no interval is `inconclusive`."""
    if ci95 is None:
        return "inconclusive"
    lower, upper = ci95
    if lower > 0:
        return "better"
    if upper < 0:
        return "worse"
    if -margin < lower and upper < margin:
        return "equivalent"
    return "inconclusive"
