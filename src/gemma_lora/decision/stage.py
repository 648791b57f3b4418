"""The verdict of a run: judgements in, verdict.json out.

Reads answers/test/{base,tuned}.jsonl, split/test.jsonl, audit.json, training.json and
judgements/<judge>/{judgements.jsonl, judge.json}; writes judgements/<judge>/verdict.json. Only
questions that are scored in both arms enter the difference; what is missing is counted by arm and
reason and never becomes a number. The rule is `verdict.RULE`, fixed before anything is judged.
Raises JudgeError (exit code 4), and writes nothing, where not one question is scored in both arms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any, cast

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.decision.caveats import caveats
from gemma_lora.decision.overall import overall_check
from gemma_lora.decision.pairing import (
    OVERALL,
    PairedQuestion,
    dimensions_of,
    pair_up,
    paired_scores,
)
from gemma_lora.decision.robustness import (
    missing_facts,
    number,
    pair,
    power_facts,
    robustness,
)
from gemma_lora.errors import JudgeError
from gemma_lora.records import ARMS, DIMENSIONS, Answer, Example, Judgement
from gemma_lora.rundir import RunDir, iter_jsonl, read_jsonl, read_saved, write_json
from gemma_lora.verdict import (
    MARGIN,
    RULE,
    PairedResult,
    Verdict,
    missing_judgements,
    paired_difference,
)
from gemma_lora.verdict import decide as rule_of

__all__ = ["SCHEMA_VERSION", "decide"]

SCHEMA_VERSION = 1

_UNIT = "question (repeats averaged; near-duplicates share a cluster)"


def decide(config: Config, run: RunDir, console: Console, *, judge_slug: str) -> dict[str, Any]:
    """Pair, estimate, apply the rule; returns what it wrote to verdict.json."""
    folder = run.judgements(judge_slug)
    judge = _judge_facts(config, run, judge_slug)
    judgements = read_jsonl(folder / "judgements.jsonl", Judgement, console)
    test = read_jsonl(run.test_rows, Example, console)
    questions, strangers = pair_up(
        test,
        {arm: read_jsonl(run.answers(arm), Answer, console) for arm in ARMS},
        judgements,
        judge["dimensions"],
    )
    complete = [q for q in questions if q.difference() is not None]
    if not complete:
        raise _nothing_scored(run, judge, questions)
    overall = _compare(complete, OVERALL)
    assert overall is not None  # `complete` holds at least one pair
    missing = missing_judgements(
        *([q.scored[arm].overall for q in questions] for arm in ARMS),
        clusters=[q.cluster for q in questions],
    )
    word = rule_of(overall.difference.ci95, MARGIN)
    arms = {arm: _arm_facts(arm, questions) for arm in ARMS}
    trained = _also_in_training(run, questions, console)
    verdict: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "verdict": missing.guard(word),
        "primary": _comparison(OVERALL, overall),
        "dimensions": {
            name: None
            if (result := _compare(questions, name)) is None
            else _comparison(name, result)
            for name in judge["dimensions"]
        },
        "robustness": robustness(questions, overall.difference, config.seed),
        "missing": missing_facts(missing, word),
        "power": power_facts(overall.difference),
        "arms": arms,
        "win_tie_loss": {"win": overall.win, "tie": overall.tie, "loss": overall.loss},
        "unscored": {arm: arms[arm]["unscored"] for arm in ARMS},
        "judge": judge,
        "overall_check": _overall_check(questions, judgements, judge, word),
        "forgetting": None,
        "rule": RULE,
        "questions": len(questions),
        "pairs_lost": len(questions) - len(complete),
        "judgements_left_out": strangers,
        "also_in_training": len(trained),
        "compared_also_in_training": sum(q.id in trained for q in complete),
        "test_rows": {"read": len(test), "in_audit": _rows_in_audit(run)},
        "model": config.model.model,
        "teacher": config.data.teacher,
        "starter_model": config.model.model.split("@")[0] == "starter",
        "scope": "this checkpoint (one training run, one seed)",
        "max_new_tokens": config.answer.max_new_tokens,
        "base_runs_to_limit": _runs_to_limit(arms["base"]),
    }
    saved = _saved_warnings(run, judge_slug)
    verdict["warnings"] = list(dict.fromkeys([*caveats(verdict, questions), *saved]))
    write_json(folder / "verdict.json", verdict)
    return verdict


def _compare(questions: Sequence[PairedQuestion], dimension: str) -> PairedResult | None:
    """The paired comparison in one dimension, over the questions where both arms have it."""
    base, tuned, clusters = paired_scores(questions, dimension)
    return paired_difference(base, tuned, clusters) if base else None


def _comparison(dimension: str, result: PairedResult) -> dict[str, Any]:
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


def _arm_facts(arm: str, questions: Sequence[PairedQuestion]) -> dict[str, Any]:
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


def _overall_check(
    questions: Sequence[PairedQuestion],
    judgements: Sequence[Judgement],
    judge: dict[str, Any],
    word: Verdict,
) -> dict[str, Any] | None:
    """None where the judge's overall is the mean of its dimensions by definition."""
    if judge["kind"] == "lexical":
        return None
    return overall_check(questions, judgements, judge.get("weights") or {}, word)


def _runs_to_limit(arm: dict[str, Any]) -> bool:
    """Most of its answers were cut off: this model does not end its turn."""
    return arm["stopped_by_limit"] > arm["answered"] / 2


def _also_in_training(
    run: RunDir, questions: Sequence[PairedQuestion], console: Console
) -> set[str]:
    """Ids of the test questions whose text or cluster of near-duplicates is among the training rows."""
    asked = {q.cluster for q in questions} | {q.messages for q in questions}
    trained: set[object] = set()
    for row in iter_jsonl(run.train_rows, Example, console):  # there may be very many
        trained |= asked & {row.cluster, row.prompt}
    return {q.id for q in questions if q.cluster in trained or q.messages in trained}


def _rows_in_audit(run: RunDir) -> int | None:
    """How many test rows the data stage wrote, as audit.json says; None where it does not."""
    split: Any = read_saved(run.audit).get("split") if run.audit.exists() else None
    count: Any = cast(dict[str, Any], split).get("test") if isinstance(split, dict) else None
    return count if isinstance(count, int) else None


def _judge_facts(config: Config, run: RunDir, slug: str) -> dict[str, Any]:
    """judge.json (written by the judge), with name and slug also where the file is absent."""
    path = run.judgements(slug) / "judge.json"
    known = read_saved(path) if path.exists() else {}
    name = str(known.get("name", config.judge.judge))
    facts = {key: value for key, value in known.items() if key != "warnings"}
    return {
        **facts,
        "name": name,
        "kind": known.get("kind", name.split(":")[0]),
        "is_llm": known.get("is_llm", False if name == "lexical" else None),
        "snapshot": known.get("snapshot"),
        "slug": slug,
        "requested": config.judge.judge,
        "requested_rubric": config.judge.rubric,
        "dimensions": known.get("dimensions", list(DIMENSIONS)),
    }


def _saved_warnings(run: RunDir, slug: str) -> list[str]:
    """What the stages warned of, from the files where they saved it."""
    files = [run.audit, run.training, run.root / "answers" / "test" / "answer.json"]
    files.append(run.judgements(slug) / "judge.json")
    found: list[str] = []
    for file in files:
        if file.exists():
            found += [str(text) for text in read_saved(file).get("warnings", [])]
    return found


def _nothing_scored(
    run: RunDir, judge: dict[str, Any], questions: Sequence[PairedQuestion]
) -> JudgeError:
    lines: list[str] = []
    for arm in ARMS:
        reasons = Counter(reason for q in questions for reason in q.scored[arm].reasons)
        lines += [f"{arm}: {count} x {reason}" for reason, count in reasons.most_common(4)]
    return JudgeError(
        f"not one of {len(questions)} questions is scored in both arms, so there is nothing to decide on",
        where=f"{run.root} (judge {judge['name']})",
        details=lines,
        expected="at least one question with both answers scored; 60 or more for a useful verdict",
        remedy=f"mend the judge, then: gemma-lora judge {run.root} --judge {judge['requested']}",
    )
