"""What stands beside a verdict to weigh its judge: the canaries, and what other judges of the run said.

Reads judgements/<judge>/judge.json (what became of the canaries) and, of every other judge that has a
verdict in this folder, verdict.json and judgements.jsonl; `renewed` writes verdict.json. Nothing here
decides: a second judge neither confirms nor overrules the verdict, whose rule was fixed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from gemma_lora.agreement import Bootstrap, Figure, kendall_tau, quadratic_kappa
from gemma_lora.decision.pairing import PairedQuestion, pair_up, scores_by_answer
from gemma_lora.judge.canaries import not_measured
from gemma_lora.records import ARMS, Answer, Example, Judgement
from gemma_lora.rundir import RunDir, iter_jsonl, read_jsonl, read_saved, write_json

__all__ = ["Both", "both_scored", "canaries_of", "other_judges", "others_said", "renewed"]

_RESAMPLES = 1000
Both = tuple[float, float, str]
"""What two judges gave one answer in overall, and the cluster of its question."""


def canaries_of(run: RunDir, slug: str) -> dict[str, Any]:
    """The part of judge.json on canaries, with a note where none were asked."""
    path = run.judgements(slug) / "judge.json"
    found: Any = read_saved(path).get("canaries") if path.exists() else None
    if isinstance(found, dict):
        return cast(dict[str, Any], found)
    return not_measured("these judgements were made without canaries")


def other_judges(
    run: RunDir, slug: str, scored: Callable[[str], Iterable[Both]]
) -> list[dict[str, Any]]:
    """Verdict, difference and agreement of each other judge, by name; of a recipe also over how many seeds.

    `scored(other)`: what this judge and `other` gave the answers that both scored. `agreement` is over these: quadratic-weighted kappa
    (the scores themselves) and Kendall's tau-b (their order alone), with intervals over clusters of
    questions.
    """
    found: list[dict[str, Any]] = []
    for file in sorted(run.root.glob("judgements/*/verdict.json")):
        if file.parent.name == slug:
            continue
        saved = read_saved(file)
        primary: Any = saved.get("primary")
        judge: Any = saved.get("judge")
        if not isinstance(primary, dict) or not isinstance(judge, dict):
            continue  # damaged or of another version; `gemma-lora judge` makes it anew
        facts, figures = cast(dict[str, Any], judge), cast(dict[str, Any], primary)
        seeds: Any = saved.get("seeds")
        count = cast(dict[str, Any], seeds).get("count") if isinstance(seeds, dict) else None
        found.append(
            {
                "name": facts.get("name"),
                "rubric": facts.get("rubric"),
                "slug": file.parent.name,
                "is_llm": facts.get("is_llm"),
                "verdict": saved.get("verdict"),
                "difference": figures.get("difference"),
                "ci95": figures.get("ci95"),
                "n": figures.get("n"),
                "agreement": _agreement(list(scored(file.parent.name))),
                **({} if count is None else {"seeds": count}),
            }
        )
    return found


def others_said(
    run: RunDir, slug: str, questions: Sequence[PairedQuestion]
) -> list[dict[str, Any]]:
    """`other_judges` of a single run, whose judge `slug` scored `questions`."""

    def scored(other: str) -> Iterator[Both]:
        rows = iter_jsonl(run.judgements(other) / "judgements.jsonl", Judgement)
        return both_scored(questions, rows)

    return other_judges(run, slug, scored)


def renewed(run: RunDir, slug: str) -> dict[str, Any]:
    """The saved verdict of judge `slug` with what the others say by now; nothing else of it changes."""
    folder = run.judgements(slug)
    verdict = read_saved(folder / "verdict.json")
    questions, _ = pair_up(
        read_jsonl(run.test_rows, Example),
        {arm: read_jsonl(run.answers(arm), Answer) for arm in ARMS},
        iter_jsonl(folder / "judgements.jsonl", Judgement),
        (),
    )
    verdict["other_judges"] = others_said(run, slug, questions)
    write_json(folder / "verdict.json", verdict)
    return verdict


def both_scored(
    questions: Sequence[PairedQuestion], rows: Iterable[Judgement], arms: Sequence[str] = ARMS
) -> Iterator[Both]:
    """The answers that the judge of `questions` and that of `rows` scored."""
    theirs = scores_by_answer(rows)
    for question in questions:
        for arm in arms:
            own, said = question.scored[arm].overall, theirs.get((question.id, arm))
            if own is not None and said is not None:
                yield own, said, question.cluster


def _agreement(both: Sequence[Both]) -> dict[str, Any]:
    if not both:
        return {"n": 0, "kappa": None, "tau": None}
    mine, other, clusters = (list(part) for part in zip(*both, strict=True))
    how = Bootstrap(clusters=clusters, resamples=_RESAMPLES)
    return {
        "n": len(mine),
        "kappa": _figure(quadratic_kappa(mine, other, bootstrap=how)),
        "tau": _figure(kendall_tau(mine, other, bootstrap=how)),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    ends = figure.ci95
    return {
        "value": None if figure.value is None else round(figure.value, 4),
        "ci95": None if ends is None else [round(end, 4) for end in ends],
        "reason": figure.reason,
    }
