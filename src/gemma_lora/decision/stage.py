"""The verdict of a run: judgements in, verdict.json out.

Reads answers/test/{base,tuned}.jsonl, split/test.jsonl, audit.json, training.json, metrics.jsonl,
forgetting/ and judgements/<judge>/{judgements.jsonl, judge.json}; writes judgements/<judge>/verdict.json. Only
questions that are scored in both arms enter the difference; what is missing is counted by arm and
reason and never becomes a number. The rule is `verdict.RULE`, fixed before anything is judged.
Raises JudgeError (exit code 4), and writes nothing, where not one question is scored in both arms.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.decision.aa import judge_noise
from gemma_lora.decision.baselines import against_baselines, further_arms, saved_warnings
from gemma_lora.decision.caveats import caveats
from gemma_lora.decision.comparison import arm_facts, compare, comparison
from gemma_lora.decision.forgetting import what_was_lost
from gemma_lora.decision.overall import overall_check
from gemma_lora.decision.overfitting import read_gap
from gemma_lora.decision.pairing import OVERALL, PairedQuestion, pair_up
from gemma_lora.decision.robustness import (
    missing_facts,
    power_facts,
    robustness,
    weigh_missing,
)
from gemma_lora.decision.worth import canaries_of, others_said
from gemma_lora.errors import JudgeError
from gemma_lora.records import ARMS, DIMENSIONS, Answer, Example, Judgement
from gemma_lora.rundir import RunDir, iter_jsonl, read_jsonl, read_saved, write_json
from gemma_lora.verdict import RULE, Verdict
from gemma_lora.verdict import decide as rule_of

__all__ = ["SCHEMA_VERSION", "decide"]

SCHEMA_VERSION = 1


def decide(config: Config, run: RunDir, console: Console, *, judge_slug: str) -> dict[str, Any]:
    """Pair, estimate, apply the rule; returns what it wrote to verdict.json."""
    folder = run.judgements(judge_slug)
    judge = _judge_facts(config, run, judge_slug)
    judgements = read_jsonl(folder / "judgements.jsonl", Judgement, console)
    test = read_jsonl(run.test_rows, Example, console)
    questions, strangers = pair_up(
        test,
        {arm: read_jsonl(run.answers(arm), Answer, console) for arm in ARMS},
        [row for row in judgements if row.arm not in further_arms(config)],
        judge["dimensions"],
    )
    complete = [q for q in questions if q.difference() is not None]
    if not complete:
        raise _nothing_scored(run, judge, questions)
    overall = compare(complete, OVERALL)
    assert overall is not None  # `complete` holds at least one pair
    missing = weigh_missing(questions)
    word = rule_of(overall.difference.ci95, overall.difference.clusters)
    arms = {arm: arm_facts(arm, questions) for arm in ARMS}
    trained = _also_in_training(run, questions, console)
    verdict: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "verdict": missing.guard(word),
        "primary": comparison(OVERALL, overall),
        "dimensions": {
            name: None if (result := compare(questions, name)) is None else comparison(name, result)
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
        "forgetting": what_was_lost(config, run),
        "overfitting": read_gap(run),
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
    verdict["baselines"] = against_baselines(config, run, test, judgements, judge["dimensions"])
    verdict["aa"] = judge_noise(config, run, test, judgements)
    verdict["canaries"] = canaries_of(run, judge_slug)
    verdict["other_judges"] = others_said(run, judge_slug, questions)
    saved = [*_saved_warnings(run, judge_slug), *saved_warnings(config, run)]
    verdict["warnings"] = list(dict.fromkeys([*caveats(verdict, questions), *saved]))
    write_json(folder / "verdict.json", verdict)
    return verdict


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
    facts = {key: value for key, value in known.items() if key not in ("warnings", "canaries")}
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
    files += [run.forgetting / "forgetting.json", run.judgements(slug) / "judge.json"]
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
        remedy=f"mend the judge, then: gemma-lora judge {run.root} --judge {shlex.quote(judge['requested'])}",
    )
