"""The verdict: the paired comparison of two arms, and the one rule that turns it into a word.

Pure numbers, no files; the estimators are in `gemma_lora.statistics`. The unit is the question; where
the data carry no interval the verdict is `inconclusive`. Judgements that failed are missing data: where
they are many, or fail more in one arm, the rule must say the same at their worst-case bounds.

    result = paired_difference([3, 4, 2], [6, 6, 5], clusters=["a", "b", "c"])
    decide(result.difference.ci95)          # "better"
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gemma_lora.statistics import Bounds, Estimate, FailureTest, clustered_mean, worst_case
from gemma_lora.statistics import differential_failure as failure_test

__all__ = [
    "FAILURE_P",
    "HIGHEST",
    "LOWEST",
    "MARGIN",
    "MISSING_SHARE",
    "RULE",
    "Missing",
    "PairedResult",
    "Verdict",
    "decide",
    "missing_judgements",
    "paired_difference",
]

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]

MARGIN = 0.5
"""Differences below half a point on the scale of 1 to 10 are of no practical weight."""

LOWEST, HIGHEST = 1.0, 10.0
"""The scale of the scores."""

MISSING_SHARE = 0.05
"""Above this share of questions without a pair of scores, the worst-case bounds must agree."""

FAILURE_P = 0.05
"""Below this p-value of unequal failure they must agree, too."""

RULE = (
    "The 95 % cluster-robust interval of the mean paired difference in the overall score (tuned minus "
    "base, questions as the unit) decides. Entirely above 0: better. Entirely below 0: worse. Else, "
    "inside -0.5 to +0.5: equivalent. Else: inconclusive. An interval that is both above 0 and inside "
    "the margin is called better (and said to be small); likewise worse. Where more than 5 % of the "
    "questions lack a score, or one model's judgements fail more often (p < 0.05), the interval at the "
    "worst-case bounds must give the same word, or the verdict is inconclusive."
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
    span = HIGHEST - LOWEST
    return PairedResult(
        base=clustered_mean(first, clusters, low=LOWEST, high=HIGHEST),
        tuned=clustered_mean(second, clusters, low=LOWEST, high=HIGHEST),
        difference=clustered_mean(difference, clusters, low=-span, high=span),
        win=int((difference > 0).sum()),
        tie=int((difference == 0).sum()),
        loss=int((difference < 0).sum()),
    )


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


@dataclass(frozen=True)
class Missing:
    """What judgements that failed could do to the verdict."""

    questions: int
    lost: int
    """Questions without a score in at least one arm."""
    failures: FailureTest
    bounds: Bounds
    decisive: bool
    """They are many or unequal, so the bounds must agree with the rule."""
    word: Verdict
    """What the rule says at the bounds."""

    @property
    def share(self) -> float:
        return self.lost / self.questions

    def guard(self, word: Verdict) -> Verdict:
        """`word`, or `inconclusive` where the missing judgements could make it another one."""
        return "inconclusive" if self.decisive and self.word != word else word


def missing_judgements(
    base: Sequence[float | None],
    tuned: Sequence[float | None],
    clusters: Sequence[Hashable] | None = None,
    margin: float = MARGIN,
) -> Missing:
    """Weigh what is missing: scores of all questions, None where a judgement failed.

    All three words need the bounds, not `better` alone: `equivalent` passes `--require not-worse`, and
    a tuned model whose bad answers make the judge fail must not reach it that way.
    """
    absent = [[value is None for value in arm] for arm in (base, tuned)]
    failures = failure_test(*absent)
    bounds = worst_case(base, tuned, clusters, low=LOWEST, high=HIGHEST)
    lost = failures.both + failures.base_only + failures.tuned_only
    decisive = lost > MISSING_SHARE * len(base) or failures.p_value < FAILURE_P
    return Missing(len(base), lost, failures, bounds, decisive, decide(bounds.ci95, margin))
