"""The tuned model against stronger baselines than the bare base: `baselines` of verdict.json.

Reads answers/test/<slug>.jsonl, answers/test/tuned.jsonl and answers/test/baselines.json; writes nothing.
Each comparison is made as the verdict's own is (same estimator, same rule, same guard for scores that
are missing), and decides nothing: the verdict stays base against tuned. The p-values of several baselines
are adjusted by Holm's method, and where the adjusted one is not below 5 %, `better` and `worse` are not said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemma_lora.baselines import Baseline, parse
from gemma_lora.config import Config
from gemma_lora.decision.comparison import arm_facts, compare, comparison
from gemma_lora.decision.pairing import OVERALL, PairedQuestion, pair_up
from gemma_lora.decision.robustness import missing_facts, weigh_missing
from gemma_lora.records import AGAIN, Answer, Example, Judgement
from gemma_lora.rundir import RunDir, read_jsonl, read_saved
from gemma_lora.statistics import holm
from gemma_lora.statistics.power import ALPHA
from gemma_lora.verdict import decide

__all__ = [
    "against_baselines",
    "caveats",
    "described",
    "further_arms",
    "paired_with",
    "saved_warnings",
]

_INNER = frozenset({"inputs", "chosen", "answers", "decisions", "name", "kind", "warnings"})
"""What of baselines.json is not told in verdict.json, or stands beside `what` there."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def further_arms(config: Config) -> set[str]:
    """Arms that are judged besides base and tuned."""
    return {baseline.slug for baseline in parse(config.judge.baseline)} | {AGAIN}


def against_baselines(
    config: Config,
    run: RunDir,
    test: Sequence[Example],
    judgements: Sequence[Judgement],
    dimensions: Sequence[str],
) -> dict[str, Any]:
    """By slug: what the baseline is, and tuned minus it; `base_mean` there is the baseline's mean.

    Without one question scored in both, `comparison` is None and the word `inconclusive`.
    """
    arms = parse(config.judge.baseline)
    if not arms:
        return {}
    known: Mapping[str, Any] = read_saved(run.baselines)["arms"]
    found = {
        arm.slug: _against(
            arm, known[arm.slug], paired_with(arm.slug, run, test, judgements, dimensions)
        )
        for arm in arms
    }
    p_values = {
        slug: one["comparison"]["p_value"] if one["comparison"] else None
        for slug, one in found.items()
    }
    for slug, p_holm in holm(p_values).items():
        one = found[slug]
        one["p_holm"] = p_holm
        if one["verdict"] in ("better", "worse") and (p_holm is None or p_holm >= ALPHA):
            one["verdict"] = "inconclusive"
    return found


def saved_warnings(config: Config, run: RunDir) -> list[str]:
    """What was warned of when the baselines answered."""
    arms = parse(config.judge.baseline)
    known: Mapping[str, Any] = read_saved(run.baselines)["arms"] if arms else {}
    return [str(text) for arm in arms for text in known[arm.slug].get("warnings", [])]


def paired_with(
    slug: str,
    run: RunDir,
    test: Sequence[Example],
    judgements: Sequence[Judgement],
    dimensions: Sequence[str],
) -> list[PairedQuestion]:
    """The test questions with this baseline in the base's place, so that pairing is the verdict's own."""
    mine = [
        row.model_copy(update={"arm": "base"}) if row.arm == slug else row
        for row in judgements
        if row.arm in (slug, "tuned")
    ]
    files = {"base": run.answers(slug), "tuned": run.answers("tuned")}
    answers = {arm: read_jsonl(file, Answer) for arm, file in files.items()}
    return pair_up(test, answers, mine, dimensions)[0]


def _against(
    arm: Baseline, known: Mapping[str, Any], questions: Sequence[PairedQuestion]
) -> dict[str, Any]:
    result = compare(questions, OVERALL)
    missing = weigh_missing(questions)
    word = decide(result.difference.ci95, result.difference.clusters) if result else "inconclusive"
    return {
        "name": arm.shown,
        "kind": arm.kind,
        "what": {key: value for key, value in known.items() if key not in _INNER},
        "verdict": missing.guard(word),
        "comparison": comparison(OVERALL, result) if result else None,
        "p_holm": None,
        "win_tie_loss": {"win": result.win, "tie": result.tie, "loss": result.loss}
        if result
        else None,
        "missing": missing_facts(missing, word),
        "arm": arm_facts("base", questions),
    }


def described(found: Mapping[str, Any]) -> str:
    """`the base with four examples in the prompt`."""
    if found["kind"] == "few-shot":
        count = found["what"]["examples"]
        number = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
        return f"the base with {number} example{'' if count == 1 else 's'} in the prompt"
    if found["kind"] == "prompt":
        return f"the base with the instruction of {found['name'].removeprefix('prompt:')}"
    return f"the model {found['name']}"


def caveats(verdict: Mapping[str, Any]) -> list[str]:
    """Baselines that the tuned model does not beat, and those that are easy to beat."""
    lines: list[str] = []
    for found in verdict["baselines"].values():
        who, row = described(found), found["comparison"]
        if row is None:
            continue  # the judge's own warning says so
        ends = row["ci95"]
        span = f"{row['difference']:+.2f}" + (f", {ends[0]:+.2f} to {ends[1]:+.2f}" if ends else "")
        means = "another model" if found["kind"] == "model" else "a prompt"
        if found["verdict"] == "worse":
            lines.append(
                f"The tuned model answers worse than {who} ({span}): {means} does more than this tuning."
            )
        elif verdict["verdict"] == "better" and found["verdict"] == "equivalent":
            lines.append(
                f"The tuned model is better than the base, but no better than {who} ({span}): {means} does "
                "as much as this tuning."
            )
        elif verdict["verdict"] == "better" and found["verdict"] == "inconclusive":
            lines.append(
                f"The tuned model is better than the base, but these questions do not show that it is better "
                f"than {who} ({span}): perhaps {means} does as much as this tuning."
            )
        arm = found["arm"]
        if arm["stopped_by_limit"] > arm["answered"] / 2:
            lines.append(
                f"{arm['stopped_by_limit']} of {arm['answered']} answers of {who} ran into the token limit, "
                "too: to be better than it, learning to end an answer may be enough."
            )
    return lines
