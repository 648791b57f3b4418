"""How far the judge differs from itself: `aa` of verdict.json, the noise floor (`--aa`).

The base's answers were judged twice, each time as often as `--repeats` says. Both judgings are paired
by question as two models would be; whatever differs is the judge. Reads answers/test/base.jsonl; writes
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gemma_lora.config import Config
from gemma_lora.decision.pairing import OVERALL, pair_up, paired_scores
from gemma_lora.decision.robustness import number, pair
from gemma_lora.records import AGAIN, Answer, Example, Judgement
from gemma_lora.rundir import RunDir, read_jsonl
from gemma_lora.statistics import minimum_detectable
from gemma_lora.verdict import paired_difference

__all__ = ["caveats", "judge_noise"]

_EQUAL = 1e-9


def judge_noise(
    config: Config,
    run: RunDir,
    test: Sequence[Example],
    judgements: Sequence[Judgement],
) -> dict[str, Any] | None:
    """Second minus first judging of the base's answers, in overall; None where not asked for.

    `deviation` is the standard deviation of the differences, `within_answer` that of one judging around
    an answer's own level, sqrt(sum of d^2 / 2n) (Dahlberg 1940). `minimum_detectable` is the difference
    between two models that this number of questions would notice four times in five, were the judge's
    noise the only one.
    """
    if not config.judge.aa:
        return None
    arms = {"base": "base", AGAIN: "tuned"}
    answers = read_jsonl(run.answers("base"), Answer)
    mine = [row.model_copy(update={"arm": arms[row.arm]}) for row in judgements if row.arm in arms]
    questions, _ = pair_up(test, dict.fromkeys(arms.values(), answers), mine)
    first, second, clusters = paired_scores(questions, OVERALL)
    found: dict[str, Any] = {
        "n": len(first),
        "questions": len(questions),
        "repeats": max((q.scored["tuned"].repeats for q in questions), default=0),
        "first_mean": None,
        "second_mean": None,
        "difference": None,
        "ci95": None,
        "p_value": None,
        "clusters": 0,
        "unequal_share": None,
        "mean_absolute": None,
        "deviation": None,
        "within_answer": None,
        "minimum_detectable": None,
        "note": "not one answer was scored in both judgings",
    }
    if not first:
        return found
    result = paired_difference(first, second, clusters)
    estimate = result.difference
    apart = np.asarray(second) - np.asarray(first)
    absolute = float(np.abs(apart).mean())
    smallest = None
    if estimate.standard_error is not None and estimate.df is not None:
        smallest = minimum_detectable(estimate.standard_error, estimate.df)
    return found | {
        "first_mean": number(result.base.mean),
        "second_mean": number(result.tuned.mean),
        "difference": number(estimate.mean),
        "ci95": pair(estimate.ci95),
        "p_value": estimate.p_value,
        "clusters": estimate.clusters,
        "unequal_share": number(float((np.abs(apart) > _EQUAL).mean())),
        "mean_absolute": number(absolute),
        "deviation": number(float(apart.std(ddof=1))) if len(first) > 1 else None,
        "within_answer": number(math.sqrt(float((apart**2).mean()) / 2)),
        "minimum_detectable": number(smallest),
        "note": estimate.note,
    }


def caveats(verdict: Mapping[str, Any]) -> list[str]:
    """A judge that drifts, or one whose noise says nothing."""
    found = verdict["aa"]
    if found is None or not found["n"]:
        return []
    if found["mean_absolute"] <= _EQUAL:
        return [
            f"Asked twice about the same {found['n']} answers, the judge gave the same scores each time: its "
            "noise is 0, which says nothing about its errors, since it makes the same ones each time."
        ]
    ends = found["ci95"]
    if ends is None or ends[0] <= 0 <= ends[1]:
        return []
    return [
        f"Asked a second time about the same {found['n']} base answers, the judge scored them "
        f"{found['difference']:+.2f} points otherwise on average ({ends[0]:+.2f} to {ends[1]:+.2f}, without 0): it "
        "drifts, or its scores depend on the order of asking (by chance this is seen once in twenty runs). "
        "Believe differences of that size between the models only from another judge."
    ]
