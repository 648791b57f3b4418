"""The verdict: the paired comparison of two arms, and the one rule that turns it into a word.

Pure numbers, no files; the estimators are in `gemma_lora.statistics`. The unit is the question; where
the data carry no interval the verdict is `inconclusive`. Judgements that failed are missing data: where
they are many, or fail more in one arm, the rule must say the same at their worst-case bounds.

    result = paired_difference([3, 4, 2], [6, 6, 5], clusters=["a", "b", "c"])
    decide(result.difference.ci95, result.difference.clusters)  # "inconclusive": three questions are too few
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gemma_lora.statistics import (
    Bounds,
    Estimate,
    FailureTest,
    Scores,
    clustered_mean,
    worst_case,
)
from gemma_lora.statistics import differential_failure as failure_test

__all__ = [
    "FAILURE_P",
    "FEWEST",
    "FEWEST_EQUIVALENT",
    "HIGHEST",
    "LOWEST",
    "MARGIN",
    "MISSING_SHARE",
    "RULE",
    "Missing",
    "PairedResult",
    "Verdict",
    "decide",
    "mean_difference",
    "missing_judgements",
    "paired_difference",
]

Numbers = NDArray[np.float64]
Verdict = Literal["better", "worse", "equivalent", "inconclusive"]

MARGIN = 0.5
"""Differences below half a point on the scale of 1 to 10 are of no practical weight."""

FEWEST = 6
"""Below this number of groups nothing is decided: an interval can be narrow by chance there, and not even
the exact sign-flip test, which assumes least, can reach 5 % (all of five alike: 2 / 2^5 = 6.25 %)."""

FEWEST_EQUIVALENT = 30
"""`equivalent` takes this number: where most questions tie, a few of them hardly ever hold the rare one that
falls far, and their interval knows nothing of it (docs/statistics.md)."""

LOWEST, HIGHEST = 1.0, 10.0
"""The scale of the scores."""

MISSING_SHARE = 0.05
"""Above this share of questions with a judgement that failed, the worst-case bounds must agree."""

FAILURE_P = 0.05
"""Below this p-value of unequal failure they must agree, too."""

RULE = (
    "The 95 % cluster-robust interval of the mean paired difference in the overall score (tuned minus "
    "base, questions as the unit) decides. Entirely above 0: better. Entirely below 0: worse. Else, "
    "inside -0.5 to +0.5: equivalent. Else: inconclusive. An interval that is both above 0 and inside "
    "the margin is called better (and said to be small); likewise worse. Where judgements failed in more "
    "than 5 % of the questions, or fail more often for one model (p < 0.05), the interval at the "
    "worst-case bounds must give the same word, or the verdict is inconclusive. So it is with fewer than "
    f"{FEWEST} groups of questions, and instead of equivalent with fewer than {FEWEST_EQUIVALENT}."
)


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
    return PairedResult(
        base=clustered_mean(first, clusters, low=LOWEST, high=HIGHEST),
        tuned=clustered_mean(second, clusters, low=LOWEST, high=HIGHEST),
        difference=mean_difference(difference, clusters),
        win=int((difference > 0).sum()),
        tie=int((difference == 0).sum()),
        loss=int((difference < 0).sum()),
    )


def mean_difference(
    differences: Sequence[float] | Numbers, clusters: Sequence[Hashable] | None = None
) -> Estimate:
    """The estimator that decides, of the differences of two scores."""
    span = HIGHEST - LOWEST
    return clustered_mean(differences, clusters, low=-span, high=span)


def decide(ci95: tuple[float, float] | None, clusters: int) -> Verdict:
    """The rule (`RULE`): direction first, then equivalence; `inconclusive` without an interval or
    from too few clusters."""
    if ci95 is None or clusters < FEWEST:
        return "inconclusive"
    lower, upper = ci95
    if lower > 0:
        return "better"
    if upper < 0:
        return "worse"
    if lower > -MARGIN and upper < MARGIN and clusters >= FEWEST_EQUIVALENT:
        return "equivalent"
    return "inconclusive"


@dataclass(frozen=True)
class Missing:
    """What judgements that failed could do to the verdict."""

    questions: int
    lost: int
    """Questions without a score in at least one arm."""
    touched: int
    """Questions with a judgement that failed: those, and those where some of the repeats did."""
    failures: FailureTest
    bounds: Bounds
    decisive: bool
    """They are many or unequal, so the bounds must agree with the rule."""
    word: Verdict
    """What the rule says at the bounds."""

    @property
    def share(self) -> float:
        return self.touched / self.questions

    def guard(self, word: Verdict) -> Verdict:
        """`word`, or `inconclusive` where the missing judgements could make it another one."""
        return "inconclusive" if self.decisive and self.word != word else word


def missing_judgements(
    base: Scores,
    tuned: Scores,
    estimate: Callable[[Numbers], Estimate] = mean_difference,
) -> Missing:
    """Weigh what is missing, over all questions; `estimate` is the estimator that decides.

    A question with some failed repeats has a score, but perhaps too good a one: what made the others fail
    may be what they would have said. All three words need the bounds, not `better` alone: `equivalent`
    passes `--require not-worse`, and
    a tuned model whose bad answers make the judge fail must not reach it that way.
    """
    questions = len(base.values)
    failed = [arm.failed.reshape(questions, -1) > 0 for arm in (base, tuned)]
    gone = [np.isnan(arm.values.reshape(questions, -1)) for arm in (base, tuned)]
    touched = int((failed[0] | failed[1]).any(axis=1).sum())
    failures = failure_test(*failed)
    bounds = worst_case(base, tuned, estimate, low=LOWEST, high=HIGHEST)
    return Missing(
        questions=questions,
        lost=int((gone[0] | gone[1]).any(axis=1).sum()),
        touched=touched,
        failures=failures,
        bounds=bounds,
        decisive=touched > MISSING_SHARE * questions or failures.p_value < FAILURE_P,
        word=decide(bounds.ci95, bounds.clusters),
    )
