"""What stands beside the verdict in verdict.json: `robustness`, `missing` and `power`.

Pure: takes the paired questions, returns JSON objects (shapes: docs/statistics.md). None of it decides,
but for `missing`, which can turn a word into `inconclusive` (`verdict.missing_judgements`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gemma_lora.decision.pairing import (
    OVERALL,
    PairedQuestion,
    dimensions_of,
    judged,
    paired_scores,
)
from gemma_lora.records import ARMS
from gemma_lora.statistics import (
    Estimate,
    bootstrap_mean,
    holm,
    length_adjusted,
    minimum_detectable,
    non_inferiority,
    questions_needed,
    sign_flip,
    sign_test,
    signed_rank,
)
from gemma_lora.statistics.power import ALPHA, POWER
from gemma_lora.verdict import (
    MARGIN,
    Missing,
    Verdict,
    mean_difference,
    missing_judgements,
    paired_difference,
)

__all__ = [
    "lacking",
    "missing_facts",
    "number",
    "pair",
    "power_facts",
    "robustness",
    "weigh_missing",
]


def robustness(questions: Sequence[PairedQuestion], primary: Estimate, seed: int) -> dict[str, Any]:
    """Every other estimator of the overall difference, and of the dimensions; None: not measured."""
    complete = [q for q in questions if q.difference() is not None]
    base, tuned, clusters = paired_scores(complete, OVERALL)
    differences = [t - b for b, t in zip(base, tuned, strict=True)]
    draws = bootstrap_mean(differences, clusters, seed=seed)
    flips = sign_flip(differences, clusters, seed=seed)
    ranks = signed_rank(differences, clusters)
    signs = sign_test(differences, clusters)
    base_lengths, tuned_lengths = (_lengths(complete, arm) for arm in ARMS)
    length = length_adjusted(differences, base_lengths, tuned_lengths, clusters, seed=seed)
    found: dict[str, Any] = {
        "seed": seed,
        "bootstrap": {
            "method": "BCa, whole clusters drawn",
            "ci95": pair(draws.ci95),
            "resamples": draws.resamples,
            "note": draws.note,
        },
        "sign_flip": {
            "p_value": flips.p_value,
            "resamples": flips.resamples,
            "exact": flips.exact,
            "note": flips.note,
        },
        "wilcoxon": {
            "method": "signed-rank by cluster, zeros as Pratt",
            "p_value": ranks.p_value,
            "n": ranks.n,
            "zeros": ranks.zeros,
            "exact": ranks.exact,
            "note": ranks.note,
        },
        "win_tie_loss": {
            "unit": "cluster",
            "win": signs.win,
            "tie": signs.tie,
            "loss": signs.loss,
            "p_value": signs.p_value,
            "win_share": number(signs.share),
            "win_share_ci95": pair(signs.ci95),
        },
        "length_adjusted": {
            "difference": number(length.difference),
            "ci95": pair(length.ci95),
            "points_per_doubling": number(length.per_doubling),
            "points_per_doubling_ci95": pair(length.per_doubling_ci95),
            "n": length.n,
            "note": length.note,
        },
        "dimensions": _dimensions(questions),
    }
    claims = {
        "bootstrap": _side(draws.ci95),
        "sign_flip": _signed(flips.p_value, primary.mean),
        "wilcoxon": _signed(ranks.p_value, ranks.direction),
        "win_tie_loss": _signed(signs.p_value, signs.win - signs.loss),
        "length_adjusted": _side(length.ci95),
    }
    said = _side(primary.ci95)
    found["disagree"] = [name for name, side in claims.items() if side is not None and side != said]
    return found


def _dimensions(questions: Sequence[PairedQuestion]) -> dict[str, Any]:
    """Holm's p over the measured dimensions, and whether each is worse by more than the margin."""
    estimates: dict[str, Estimate] = {}
    for name in dimensions_of(questions):
        base, tuned, clusters = paired_scores(questions, name)
        if base:
            estimates[name] = paired_difference(base, tuned, clusters).difference
    adjusted = holm({name: estimate.p_value for name, estimate in estimates.items()})
    found: dict[str, Any] = dict.fromkeys(dimensions_of(questions))
    for name, estimate in estimates.items():
        test = non_inferiority(estimate, MARGIN)
        found[name] = {
            "p_holm": adjusted[name],
            "not_worse": test.holds,
            "not_worse_p": test.p_value,
            "lower": number(test.lower),
            "margin": MARGIN,
        }
    return found


def weigh_missing(questions: Sequence[PairedQuestion]) -> Missing:
    """What failed judgements could do to the comparison of base and tuned."""
    clusters = [question.cluster for question in questions]
    base, tuned = (judged(questions, arm) for arm in ARMS)
    return missing_judgements(base, tuned, partial(mean_difference, clusters=clusters))


def lacking(missing: Mapping[str, Any]) -> str:
    """`3 of 62 questions lack a score`, of the facts below."""
    touched = missing.get("touched", missing["pairs_lost"])
    lack = "lacks" if touched == 1 else "lack"
    noun = "question" if missing["questions"] == 1 else "questions"
    what = "a score" if touched == missing["pairs_lost"] else "a score or some of its repeats"
    return f"{touched} of {missing['questions']} {noun} {lack} {what}"


def missing_facts(missing: Missing, word: Verdict) -> dict[str, Any]:
    """What failed, in which arm, and what it could hide; `word` is the rule's without regard to it."""
    return {
        "questions": missing.questions,
        "pairs_lost": missing.lost,
        "touched": missing.touched,
        "share": number(missing.share),
        "base_only": missing.failures.base_only,
        "tuned_only": missing.failures.tuned_only,
        "both": missing.failures.both,
        "test": "exact McNemar test of base_only against tuned_only",
        "p_value": missing.failures.p_value,
        "bounds": [number(missing.bounds.lower), number(missing.bounds.upper)],
        "bounds_ci95": pair(missing.bounds.ci95),
        "must_agree": missing.decisive,
        "verdict_without": word,
        "verdict_at_bounds": missing.word,
    }


def power_facts(primary: Estimate) -> dict[str, Any]:
    """What this sample could notice, from the spread that was observed."""
    found: dict[str, Any] = {
        "basis": "observed",
        "n": primary.n,
        "clusters": primary.clusters,
        "alpha": ALPHA,
        "power": POWER,
        "deviation": None,
        "minimum_detectable": None,
        "margin": MARGIN,
        "questions_for_margin": None,
        "note": primary.note,
    }
    if primary.standard_error is None or primary.df is None:
        return found
    # of one question, near-duplicates reckoned in: what n independent ones would need for this error
    deviation = primary.standard_error * math.sqrt(primary.n)
    return found | {
        "deviation": number(deviation),
        "minimum_detectable": number(minimum_detectable(primary.standard_error, primary.df)),
        "questions_for_margin": questions_needed(MARGIN, deviation),
    }


def _lengths(questions: Sequence[PairedQuestion], arm: str) -> list[int]:
    """Characters of each answer; a scored answer is always there."""
    return [len(answer.answer) for q in questions if (answer := q.answers[arm]) is not None]


def _side(ci95: tuple[float, float] | None) -> int | None:
    """Which side of 0 an interval lies on, 0 where it holds 0; None without one."""
    return None if ci95 is None else (ci95[0] > 0) - (ci95[1] < 0)


def _signed(p_value: float | None, direction: float) -> int | None:
    if p_value is None:
        return None
    return ((direction > 0) - (direction < 0)) if p_value < ALPHA else 0


def pair(interval: tuple[float, float] | None) -> list[float] | None:
    """An interval as JSON, rounded."""
    return None if interval is None else [round(interval[0], 6), round(interval[1], 6)]


def number(value: float | None) -> float | None:
    """A figure as JSON, rounded."""
    return None if value is None else round(value, 6)
