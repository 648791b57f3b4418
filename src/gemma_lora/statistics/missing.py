"""What judgements that failed could hide: a test for unequal failure, and worst-case bounds."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gemma_lora.statistics.clustered import Clusters, Numbers, clustered_mean

__all__ = ["Bounds", "FailureTest", "differential_failure", "worst_case"]


@dataclass(frozen=True)
class FailureTest:
    """How many questions lack which arm's score, and the exact McNemar test of the two counts."""

    both: int
    base_only: int
    """Questions where only the base answer has no score."""
    tuned_only: int
    p_value: float


@dataclass(frozen=True)
class Bounds:
    """The mean difference over all questions, had every missing score been the worst or the best possible."""

    lower: float
    upper: float
    ci95: tuple[float, float] | None
    """Lower end of the interval at the worst filling, upper end at the best: it holds at least 95 %."""
    n: int


def differential_failure(
    base_missing: Sequence[bool], tuned_missing: Sequence[bool]
) -> FailureTest:
    """Exact McNemar test (1947) that both arms fail equally often, over the same questions.

    McNemar and not Fisher, because the arms answer the same questions and what makes a judgement fail
    is often the question: failures shared by both arms say nothing on a difference between them, yet
    hide one from Fisher's test, which takes the arms for independent. Near-duplicates are counted one
    by one, which errs towards finding a difference, the careful side here.
    """
    base, tuned = np.asarray(base_missing, dtype=bool), np.asarray(tuned_missing, dtype=bool)
    if base.shape != tuned.shape:
        raise ValueError(f"{base.size} base and {tuned.size} tuned judgements do not pair")
    base_only, tuned_only = int((base & ~tuned).sum()), int((tuned & ~base).sum())
    decided = base_only + tuned_only
    p_value = float(stats.binomtest(base_only, decided).pvalue) if decided else 1.0
    return FailureTest(int((base & tuned).sum()), base_only, tuned_only, p_value)


def worst_case(
    base: Sequence[float | None],
    tuned: Sequence[float | None],
    clusters: Sequence[Hashable] | None = None,
    *,
    low: float,
    high: float,
) -> Bounds:
    """Manski's bounds (1990) of the mean difference, scores between `low` and `high`, None missing.

    The interval takes the outer ends of the cluster-robust intervals at both fillings (Horowitz &
    Manski 2000), so it allows for the sample as well as for whatever the missing scores were.
    """
    first: Numbers = np.array([np.nan if v is None else v for v in base], dtype=float)
    second: Numbers = np.array([np.nan if v is None else v for v in tuned], dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} base scores and {second.size} tuned scores do not pair")
    Clusters(clusters, int(first.size))  # refuses names that do not pair

    def fill(missing_base: float, missing_tuned: float) -> Numbers:
        filled = np.where(np.isnan(second), missing_tuned, second)
        return filled - np.where(np.isnan(first), missing_base, first)

    span = high - low
    worst = clustered_mean(fill(high, low), clusters, low=-span, high=span)
    best = clustered_mean(fill(low, high), clusters, low=-span, high=span)
    ends = (worst.ci95, best.ci95)
    outer = None if ends[0] is None or ends[1] is None else (ends[0][0], ends[1][1])
    return Bounds(worst.mean, best.mean, outer, int(first.size))
