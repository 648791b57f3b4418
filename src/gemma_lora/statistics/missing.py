"""What judgements that failed could hide: a test for unequal failure, and worst-case bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gemma_lora.statistics.clustered import Estimate, Numbers

__all__ = ["Bounds", "FailureTest", "Scores", "differential_failure", "worst_case"]


@dataclass(frozen=True)
class Scores:
    """One arm's scores and what is missing of them, both of shape (questions,) or (questions, runs)."""

    values: Numbers
    """The mean of the judgements that succeeded; NaN where none did."""
    failed: Numbers
    """Share of its judgements that failed: 1 where the value is NaN, between where some repeats did."""

    @staticmethod
    def of(values: Sequence[float | None], failed: Sequence[float] | None = None) -> Scores:
        """From a score for each question, None where it is missing. Raises ValueError for unlike lengths."""
        scores: Numbers = np.array([np.nan if v is None else v for v in values], dtype=float)
        gone = np.isnan(scores).astype(float)
        if failed is not None:
            if len(failed) != len(values):
                raise ValueError(f"{len(values)} scores and {len(failed)} shares do not pair")
            gone = np.maximum(gone, np.asarray(failed, dtype=float))
        return Scores(scores, gone)

    def filled(self, otherwise: float) -> Numbers:
        """The scores, had every judgement that failed said `otherwise`."""
        return (1 - self.failed) * np.nan_to_num(self.values) + self.failed * otherwise


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
    clusters: int


def differential_failure(
    base_missing: Sequence[bool] | NDArray[np.bool_],
    tuned_missing: Sequence[bool] | NDArray[np.bool_],
) -> FailureTest:
    """Exact McNemar test (1947) that both arms fail equally often, over the same questions.

    McNemar and not Fisher, because the arms answer the same questions and what makes a judgement fail
    is often the question: failures shared by both arms say nothing on a difference between them, yet
    hide one from Fisher's test, which takes the arms for independent. Near-duplicates are counted one
    by one, which errs towards finding a difference, the careful side here.
    """
    base, tuned = (np.asarray(arm, dtype=bool).ravel() for arm in (base_missing, tuned_missing))
    if base.shape != tuned.shape:
        raise ValueError(f"{base.size} base and {tuned.size} tuned judgements do not pair")
    base_only, tuned_only = int((base & ~tuned).sum()), int((tuned & ~base).sum())
    decided = base_only + tuned_only
    p_value = float(stats.binomtest(base_only, decided).pvalue) if decided else 1.0
    return FailureTest(int((base & tuned).sum()), base_only, tuned_only, p_value)


def worst_case(
    base: Scores,
    tuned: Scores,
    estimate: Callable[[Numbers], Estimate],
    *,
    low: float,
    high: float,
) -> Bounds:
    """Manski's bounds (1990) of the mean difference, scores between `low` and `high`.

    `estimate` takes the differences, of the shape of the scores, and is the estimator that decides. The
    interval takes the outer ends of its intervals at both fillings (Horowitz & Manski 2000), so it allows for
    the sample as well as for whatever the missing scores were.
    """
    if base.values.shape != tuned.values.shape:
        sizes = base.values.shape, tuned.values.shape
        raise ValueError(f"base scores of shape {sizes[0]} and tuned of {sizes[1]} do not pair")
    worst = estimate(tuned.filled(low) - base.filled(high))
    best = estimate(tuned.filled(high) - base.filled(low))
    ends = (worst.ci95, best.ci95)
    outer = None if ends[0] is None or ends[1] is None else (ends[0][0], ends[1][1])
    return Bounds(worst.mean, best.mean, outer, worst.clusters)
