"""Which runs may be compared with each other, why others may not, and the tuned models in pairs.

Pure. Numbers of two runs mean the same only where the same judge (snapshot, prompt, schema, parameters,
repeats) scored answers to the same test questions. Those are paired by question and compared with the
estimator of the verdict; the p-values are Holm's over all pairs. Where a folder holds several training
seeds, what the seed adds to the uncertainty is part of the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from gemma_lora.compare.reading import Entry
from gemma_lora.decision.robustness import number, pair
from gemma_lora.rundir import digest
from gemma_lora.statistics import SeedError, holm, with_seeds
from gemma_lora.verdict import MARGIN, decide, missing_judgements, paired_difference

__all__ = ["groups", "not_comparable", "pairwise"]

_LEVEL = 0.05
_JUDGE = (
    ("kind", "another judge"),
    ("model", "another judge"),
    ("address", "a judge at another address"),
    ("snapshot", "another snapshot of the judge"),
    ("prompt_hash", "another rubric or prompt"),
    ("schema_hash", "another schema of the reply"),
    ("parameters", "other parameters of the judge"),
    ("repeats", "another number of repeats"),
)
"""What must be equal in judge.json, with the words for where it is not."""


def _judge(entry: Entry) -> dict[str, Any]:
    """What decides how the judge scores; a rubric of the user's own in whatever fields it has."""
    judge = entry.verdict["judge"]
    known = {key: judge.get(key) for key, _ in _JUDGE}
    return known | {key: value for key, value in judge.items() if key.startswith("rubric")}


def reasons(first: Entry, second: Entry) -> list[str]:
    """Why the numbers of these two do not mean the same; empty where they do."""
    words = dict(_JUDGE)
    mine, theirs = _judge(first), _judge(second)
    found = [
        words.get(key, "another rubric or prompt")
        for key in dict.fromkeys([*mine, *theirs])
        if mine.get(key) != theirs.get(key)
    ]
    if first.clusters.keys() != second.clusters.keys():
        shared = len(first.clusters.keys() & second.clusters.keys())
        found.append(
            f"other test questions ({len(first.clusters)} and {len(second.clusters)}, {shared} shared)"
        )
    return list(dict.fromkeys(found))


def groups(entries: Sequence[Entry]) -> list[list[str]]:
    """Labels of the runs whose numbers mean the same, together."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        key = digest(_judge(entry), sorted(entry.clusters))
        found.setdefault(key, []).append(entry.label)
    return list(found.values())


def not_comparable(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Every two runs whose numbers must not be held against each other, with the reasons."""
    return [
        {"runs": [a.label, b.label], "reasons": why}
        for a, b in combinations(entries, 2)
        if (why := reasons(a, b))
    ]


def pairwise(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The tuned models of every two comparable runs: second minus first, paired by question."""
    found = [_pair(a, b) for a, b in combinations(entries, 2) if not reasons(a, b)]
    adjusted = holm({str(n): row["p_value"] for n, row in enumerate(found)})
    for n, row in enumerate(found):
        row["p_holm"] = adjusted[str(n)]
        row["claim"] = _claim(row)
    return found


def _claim(row: dict[str, Any]) -> str:
    """`higher` and `lower` only where the p-value holds after Holm's correction."""
    directed = {"better": "higher", "worse": "lower"}.get(row["word"])
    if directed is not None:
        return directed if (row["p_holm"] or 0.0) < _LEVEL else "not told apart"
    return "equivalent" if row["word"] == "equivalent" else "not told apart"


def _pair(first: Entry, second: Entry) -> dict[str, Any]:
    names = list(first.clusters)
    clusters = [first.clusters[name] for name in names]
    scores = [[_mean(entry, name) for name in names] for entry in (first, second)]
    both = [n for n, values in enumerate(zip(*scores, strict=True)) if None not in values]
    row: dict[str, Any] = {"runs": [first.label, second.label], "n": len(both)}
    row["lost"] = len(names) - len(both)
    row["scope"] = _scope(first, second)
    if not both:
        nothing = dict.fromkeys(("difference", "ci95", "p_value", "method"))
        return {**row, **nothing, "word": "inconclusive", "win_tie_loss": None}
    left, right = ([values[n] or 0.0 for n in both] for values in scores)
    result = paired_difference(left, right, [clusters[n] for n in both])
    kept = {names[n] for n in both}
    errors = [error for entry in (first, second) if (error := _seed_error(entry, kept))]
    estimate = with_seeds(result.difference, errors)
    word = missing_judgements(scores[0], scores[1], clusters).guard(decide(estimate.ci95, MARGIN))
    return {
        **row,
        "difference": number(estimate.mean),
        "ci95": pair(estimate.ci95),
        "p_value": estimate.p_value,
        "method": estimate.method,
        "word": word,
        "win_tie_loss": {"win": result.win, "tie": result.tie, "loss": result.loss},
    }


def _mean(entry: Entry, name: str) -> float | None:
    """The tuned score of a question over the seeds; None where one lacks it."""
    values = [scores[name] for scores in entry.scores]
    return None if None in values else fmean(value for value in values if value is not None)


def _seed_error(entry: Entry, names: set[str]) -> SeedError | None:
    """What the training seed adds to the error of a recipe's mean; None for a single checkpoint."""
    if entry.seeds < 2:
        return None
    means = [fmean(scores[name] or 0.0 for name in names) for scores in entry.scores]
    return SeedError(float(np.std(means, ddof=1)) / entry.seeds**0.5, entry.seeds - 1)


def _scope(first: Entry, second: Entry) -> str:
    several = [entry.seeds > 1 for entry in (first, second)]
    if all(several):
        return "recipes"
    return "a recipe and a checkpoint" if any(several) else "checkpoints"
