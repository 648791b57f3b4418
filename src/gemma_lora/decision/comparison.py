"""A paired comparison of two arms, and one arm's counts, as verdict.json has them.

Pure: takes paired questions (`pairing`), returns JSON objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from gemma_lora.decision.pairing import OVERALL, PairedQuestion, dimensions_of, paired_scores
from gemma_lora.decision.robustness import number, pair
from gemma_lora.verdict import MARGIN, PairedResult, paired_difference

__all__ = ["arm_facts", "compare", "comparison"]

_UNIT = "question (repeats averaged; near-duplicates share a cluster)"


def compare(questions: Sequence[PairedQuestion], dimension: str) -> PairedResult | None:
    """The paired comparison in one dimension, over the questions where both arms have it."""
    base, tuned, clusters = paired_scores(questions, dimension)
    return paired_difference(base, tuned, clusters) if base else None


def comparison(dimension: str, result: PairedResult) -> dict[str, Any]:
    """`result` as verdict.json has it."""
    difference = result.difference
    return {
        "dimension": dimension,
        "base_mean": number(result.base.mean),
        "tuned_mean": number(result.tuned.mean),
        "difference": number(difference.mean),
        "ci95": pair(difference.ci95),
        "p_value": difference.p_value,
        "n": difference.n,
        "unit": _UNIT,
        "clusters": difference.clusters,
        "method": difference.method,
        "margin": MARGIN,
        "standard_error": number(difference.standard_error),
        "degrees_of_freedom": number(difference.df),
        "base_ci95": pair(result.base.ci95),
        "tuned_ci95": pair(result.tuned.ci95),
        "note": difference.note,
    }


def arm_facts(arm: str, questions: Sequence[PairedQuestion]) -> dict[str, Any]:
    """Counts and means of one arm, over all its scored answers (paired or not)."""
    answers = [answer for q in questions if (answer := q.answers[arm]) is not None]
    scored = [q for q in questions if q.scored[arm].overall is not None]
    missing = [q.scored[arm] for q in questions if q.scored[arm].overall is None]
    means: dict[str, float | None] = {}
    for name in (OVERALL, *dimensions_of(questions)):
        found = [value for q in scored if (value := q.scored[arm].scores[name]) is not None]
        means[name] = number(fmean(found)) if found else None
    return {
        "questions": len(questions),
        "answered": len(answers),
        "scored": len(scored),
        "unscored": len(missing),
        "unscored_reasons": dict(Counter(reason for s in missing for reason in s.reasons)),
        "repeats_unscored": sum(q.scored[arm].failed for q in scored),
        "means": means,
        "tokens_mean": number(fmean(a.tokens for a in answers)) if answers else None,
        "characters_median": median(len(a.answer) for a in answers) if answers else None,
        "stopped_by_limit": sum(answer.stopped_by == "limit" for answer in answers),
        "empty": sum(not answer.answer.strip() for answer in answers),
    }
