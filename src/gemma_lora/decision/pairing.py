"""From judgements to one score per question and arm: repeats averaged, what is missing named.

Pure: takes the records of a run and returns them joined by question. The decision and the report
both start here, so that they cannot count differently. An answer counts as scored where at least
one repeat gave an overall score; everything else is missing data with its reasons, never a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gemma_lora.records import ARMS, DIMENSIONS, Answer, Example, Judgement, Message
from gemma_lora.rubric import OVERALL
from gemma_lora.statistics import Scores

__all__ = [
    "OVERALL",
    "PairedQuestion",
    "Scored",
    "dimensions_of",
    "judged",
    "pair_up",
    "paired_scores",
    "scores_by_answer",
]


@dataclass(frozen=True)
class Scored:
    """What the judge said on one answer, over all repeats."""

    scores: Mapping[str, float | None]
    """The dimensions and `overall`: mean over the repeats that measured it, or None."""
    repeats: int
    failed: int
    """Repeats without an overall score."""
    reasons: tuple[str, ...]
    """Why, for each distinct failure; also `not answered` and `not judged`."""
    reasoning: str
    flags: tuple[str, ...]

    @property
    def overall(self) -> float | None:
        return self.scores[OVERALL]


@dataclass(frozen=True)
class PairedQuestion:
    """One test question with both answers and both scores."""

    id: str
    number: int
    """Place in the test set, from 1."""
    cluster: str
    messages: tuple[Message, ...]
    reference: str | None
    answers: Mapping[str, Answer | None]
    scored: Mapping[str, Scored]

    def difference(self, dimension: str = OVERALL) -> float | None:
        """Tuned minus base; None where either arm is missing."""
        base, tuned = (self.scored[arm].scores[dimension] for arm in ARMS)
        return None if base is None or tuned is None else tuned - base


def pair_up(
    test: Sequence[Example],
    answers: Mapping[str, Sequence[Answer]],
    judgements: Iterable[Judgement],
    dimensions: Sequence[str] = DIMENSIONS,
) -> tuple[list[PairedQuestion], int]:
    """Join by question id; also returns how many judgements belong to no known question or arm.

    The questions are the test rows, in their order, then answered questions that are not among
    them (none, in a whole run). Of two judgements with the same id, arm and repeat the later one
    in the file counts, which is the one that a continued run asked for again.
    `dimensions`: what the judge scores beside overall (judge.json names them).
    """
    by_arm = {arm: {row.id: row for row in answers.get(arm, ())} for arm in ARMS}
    rows: dict[str, Example | Answer] = {row.id: row for row in test}
    for arm in ARMS:
        for name, answer in by_arm[arm].items():
            rows.setdefault(name, answer)
    latest: dict[tuple[str, str], dict[int, Judgement]] = {}
    strangers = 0
    for judgement in judgements:
        if judgement.arm not in ARMS or judgement.id not in by_arm[judgement.arm]:
            strangers += 1
            continue
        latest.setdefault((judgement.id, judgement.arm), {})[judgement.repeat] = judgement
    paired: list[PairedQuestion] = []
    for number, (name, row) in enumerate(rows.items(), start=1):
        own: dict[str, Answer | None] = {arm: by_arm[arm].get(name) for arm in ARMS}
        paired.append(
            PairedQuestion(
                id=name,
                number=number,
                cluster=row.cluster,
                messages=row.prompt if isinstance(row, Example) else row.messages,
                reference=row.reference,
                answers=own,
                scored={
                    arm: _average(own[arm] is not None, latest.get((name, arm), {}), dimensions)
                    for arm in ARMS
                },
            )
        )
    return paired, strangers


def scores_by_answer(judgements: Iterable[Judgement]) -> dict[tuple[str, str], float]:
    """Overall by question id and arm, repeats averaged as for the verdict; only what is scored."""
    latest: dict[tuple[str, str], dict[int, Judgement]] = {}
    for row in judgements:
        latest.setdefault((row.id, row.arm), {})[row.repeat] = row
    averaged = {key: _average(True, repeats, ()).overall for key, repeats in latest.items()}
    return {key: overall for key, overall in averaged.items() if overall is not None}


def dimensions_of(questions: Sequence[PairedQuestion]) -> tuple[str, ...]:
    """What the judge scores beside overall, in the rubric's order."""
    return tuple(
        name for q in questions[:1] for name in q.scored[ARMS[0]].scores if name != OVERALL
    )


def judged(questions: Sequence[PairedQuestion], arm: str) -> Scores:
    """Overall of one arm over all questions, with what is missing of it."""
    scored = [question.scored[arm] for question in questions]
    return Scores.of([s.overall for s in scored], [s.failed / max(1, s.repeats) for s in scored])


def paired_scores(
    questions: Sequence[PairedQuestion], dimension: str
) -> tuple[list[float], list[float], list[str]]:
    """Base scores, tuned scores and clusters of the questions where both arms have `dimension`."""
    base: list[float] = []
    tuned: list[float] = []
    clusters: list[str] = []
    for question in questions:
        first, second = (question.scored[arm].scores[dimension] for arm in ARMS)
        if first is not None and second is not None:
            base.append(first)
            tuned.append(second)
            clusters.append(question.cluster)
    return base, tuned, clusters


def _average(answered: bool, repeats: Mapping[int, Judgement], dimensions: Sequence[str]) -> Scored:
    rows = [repeats[number] for number in sorted(repeats)]
    good = [row for row in rows if row.overall is not None and row.unscored_reason is None]
    scores: dict[str, float | None] = {}
    for name in dimensions:
        found = [value for row in good if (value := row.scores.get(name)) is not None]
        scores[name] = sum(found) / len(found) if found else None
    totals = [row.overall for row in good if row.overall is not None]
    scores[OVERALL] = sum(totals) / len(totals) if totals else None
    bad = [row for row in rows if row not in good]
    reasons = [row.unscored_reason or "the judge gave no overall score" for row in bad]
    if not rows:
        reasons = ["not judged" if answered else "not answered"]
    return Scored(
        scores=scores,
        repeats=len(rows),
        failed=len(bad),
        reasons=tuple(dict.fromkeys(reasons)),
        reasoning="\n\n".join(dict.fromkeys(row.reasoning for row in rows if row.reasoning)),
        flags=tuple(dict.fromkeys(flag for row in rows for flag in row.flags)),
    )
