"""The judge's own overall score against the one that its dimensions give: a check that decides nothing.

Pure: takes paired questions and judgements, returns the key `overall_check` of verdict.json. The local
overall is the mean of the dimensions by the rubric's weights (`rubric.local_overall`). A judge may rightly
weigh otherwise (one false figure spoils an answer), so disagreement is counted and shown; the overall that
was asked for keeps deciding, because the rule was fixed before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from gemma_lora.decision.pairing import PairedQuestion
from gemma_lora.decision.robustness import number, pair
from gemma_lora.records import ARMS, Judgement
from gemma_lora.rubric import GAP, departs, local_overall
from gemma_lora.verdict import Verdict, decide, paired_difference

__all__ = ["MANY", "overall_check"]

MANY = 0.1
"""Above this share of judgements that depart, in either arm, the reader is told."""


def overall_check(
    questions: Sequence[PairedQuestion],
    judgements: Sequence[Judgement],
    weights: Mapping[str, float],
    word: Verdict,
) -> dict[str, Any]:
    """Counts by arm, the paired result of the local overall, and whether the rule would say `word` of it."""
    known = {q.id for q in questions}
    arms: dict[str, Any] = {}
    for arm in ARMS:
        rows = [
            row
            for row in {(j.id, j.repeat): j for j in judgements if j.arm == arm}.values()
            if row.id in known and row.unscored_reason is None
        ]
        gaps = [
            row.overall - local
            for row in rows
            if row.overall is not None and (local := local_overall(row.scores, weights)) is not None
        ]
        arms[arm] = {
            "judgements": len(gaps),
            "departs": sum(departs(row.scores, row.overall, weights) for row in rows),
            "mean_gap": number(fmean(gaps)) if gaps else None,
        }
    local = [[local_overall(q.scored[arm].scores, weights) for q in questions] for arm in ARMS]
    both = [
        (b, t, q.cluster)
        for b, t, q in zip(*local, questions, strict=True)
        if b is not None and t is not None and q.difference() is not None
    ]
    found: dict[str, Any] = {"threshold": GAP, "weights": dict(weights) or None, **arms}
    if not both:
        return {**found, "difference": None, "ci95": None, "n": 0, "word": None, "agrees": None}
    base, tuned, clusters = zip(*both, strict=True)
    result = paired_difference(base, tuned, clusters).difference
    said = decide(result.ci95, result.clusters)
    return {
        **found,
        "difference": number(result.mean),
        "ci95": pair(result.ci95),
        "n": result.n,
        "word": said,
        "agrees": said == word,
    }
