"""Which runs may be compared with each other, why others may not, and the tuned models in pairs.

Pure. Numbers of two runs mean the same only where the same judge (snapshot, package and version of a
plug-in, prompt, schema, scoring, parameters, repeats) scored answers to the same test questions. Those are
paired by question and compared with the estimator of the verdict; the p-values are Holm's over all pairs.
Where a folder holds several training seeds, what the seed adds to the uncertainty is part of the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gemma_lora.compare.reading import Entry
from gemma_lora.decision.robustness import number, pair
from gemma_lora.rundir import digest
from gemma_lora.statistics import Estimate, Scores, SeedError, holm, with_seeds
from gemma_lora.statistics.power import ALPHA
from gemma_lora.verdict import decide, mean_difference, missing_judgements, paired_difference

__all__ = ["groups", "not_comparable", "pairwise"]

_JUDGE = (
    ("kind", "another judge"),
    ("model", "another judge"),
    ("address", "a judge at another address"),
    ("protocol", "a judge over another protocol"),
    ("plugin", "another judge"),
    ("package", "a judge of another package"),
    ("version", "another version of the judge's package"),
    ("snapshot", "another snapshot of the judge"),
    ("prompt_hash", "another rubric or prompt"),
    ("schema_hash", "another schema of the reply"),
    ("scoring", "another way of scoring"),
    ("parameters", "other parameters of the judge"),
    ("repeats", "another number of repeats"),
)
"""What must be equal in judge.json, with the words for where it is not."""


def _judge(entry: Entry) -> dict[str, Any]:
    """What decides how the judge scores; a rubric of the user's own in whatever fields it has."""
    judge = entry.verdict["judge"]
    known = {key: judge.get(key) for key, _ in _JUDGE}
    return known | {
        key: value for key, value in judge.items() if key.startswith("rubric") and value
    }


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
        holds = row["p_holm"] is not None and row["p_holm"] < ALPHA
        return directed if holds else "not told apart"
    return "equivalent" if row["word"] == "equivalent" else "not told apart"


def _pair(first: Entry, second: Entry) -> dict[str, Any]:
    names = list(first.clusters)
    places = {name: row for row, name in enumerate(second.clusters)}
    order = [places[name] for name in names]
    left, right = first.scores, second.scores
    right = Scores(right.values[order], right.failed[order])
    clusters = _joined(list(first.clusters.values()), [second.clusters[name] for name in names])
    means = left.values.mean(axis=1), right.values.mean(axis=1)  # NaN where one seed has no score
    both = np.flatnonzero(~np.isnan(means[0]) & ~np.isnan(means[1]))
    row: dict[str, Any] = {"runs": [first.label, second.label], "n": len(both)}
    row["lost"] = len(names) - len(both)
    row["scope"] = _scope(first, second)
    if not len(both):
        nothing = dict.fromkeys(("difference", "ci95", "p_value", "method"))
        return {**row, **nothing, "word": "inconclusive", "win_tie_loss": None}
    result = paired_difference(
        means[0][both].tolist(), means[1][both].tolist(), [clusters[n] for n in both]
    )
    errors = [e for scores in (left, right) if (e := _seed_error(scores.values[both]))]
    estimate = with_seeds(result.difference, errors)

    def over_seeds(differences: Any) -> Estimate:
        return with_seeds(mean_difference(differences, clusters), errors)

    missing = missing_judgements(_of_one(left), _of_one(right), over_seeds)
    return {
        **row,
        "difference": number(estimate.mean),
        "ci95": pair(estimate.ci95),
        "p_value": estimate.p_value,
        "method": estimate.method,
        "word": missing.guard(decide(estimate.ci95, estimate.clusters)),
        "win_tie_loss": {"win": result.win, "tie": result.tie, "loss": result.loss},
    }


def _joined(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Groups of questions that are near-duplicates in either run: which are found depends on its other rows."""
    n = len(first)
    columns = [[f"{place} {name}" for name in names] for place, names in enumerate((first, second))]
    codes = {name: n + code for code, name in enumerate(dict.fromkeys([*columns[0], *columns[1]]))}
    edges = [(row, codes[name]) for names in columns for row, name in enumerate(names)]
    rows, ends = zip(*edges, strict=True)
    size = n + len(codes)
    graph = coo_array((np.ones(len(edges)), (rows, ends)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:n].tolist()


def _of_one(scores: Scores) -> Scores:
    """The seeds' scores of a question as if they were repeats."""
    there = 1 - scores.failed
    weight = there.sum(axis=1)
    sums = (there * np.nan_to_num(scores.values)).sum(axis=1)
    values = np.divide(sums, weight, out=np.full_like(weight, np.nan), where=weight > 0)
    return Scores(values, scores.failed.mean(axis=1))


def _seed_error(values: Any) -> SeedError | None:
    """What the training seed adds to the error of a recipe's mean; None for a single checkpoint."""
    seeds = values.shape[1]
    if seeds < 2:
        return None
    return SeedError(float(np.std(values.mean(axis=0), ddof=1)) / seeds**0.5, seeds - 1)


def _scope(first: Entry, second: Entry) -> str:
    several = [entry.seeds > 1 for entry in (first, second)]
    if all(several):
        return "recipes"
    return "a recipe and a checkpoint" if any(several) else "checkpoints"
