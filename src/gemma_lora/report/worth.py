"""What the judge is worth, in words: agreement with people, attacks on it, its cost, other judges.

Pure text from verdict.json, for report.html, report.md and the terminal; nothing is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemma_lora.judge import examined
from gemma_lora.report.wording import interval, points

__all__ = [
    "agreement_sentence",
    "attack_sentences",
    "attacks_in_brief",
    "cost_sentence",
    "other_rows",
    "others_note",
]


def agreement_sentence(verdict: Mapping[str, Any]) -> str:
    """How often this judge agrees with people, or that nobody has looked, and how to."""
    judge = verdict["judge"]
    known = examined.sentence(str(judge.get("model")))
    if known is not None and judge["kind"] == "lexical":
        return known
    return (
        f"Agreement with people: how often {judge['name']} agrees with people has not been examined. To find out, "
        "grade 50 to 100 of these answers yourself, without looking at the scores, and compare: "
        "`gemma_lora.agreement` gives kappa and Kendall's tau with their intervals (docs/agreement.md)."
    )


def attack_sentences(verdict: Mapping[str, Any]) -> list[str]:
    """What became of the canaries; that they were not asked, where they were not."""
    found = verdict["canaries"]
    if not found["asked"]:
        return [f"Attacks on the judge: not measured, since {found['note']}."]
    if not found["scored"]:
        why = "; ".join(
            f"{count} x {reason}" for reason, count in found["unscored_reasons"].items()
        )
        return [
            f"Attacks on the judge: not measured, since none of {found['asked']} canaries could be scored ({why})."
        ]
    low, high = found["rate_ci95"]
    told = (
        f"Attacks on the judge: {_count(found['succeeded'])} of {found['scored']} succeeded "
        f"({100 * found['rate']:.0f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f} %). Among the answers of "
        "this run the judge was given canaries: answers that try to get a high score without earning it, each "
        f"with a plain bad answer to the same question. One succeeds where it is scored {found['gain']:g} point or "
        "more above that."
    )
    lines = [told]
    missing = found["asked"] - found["scored"]
    if missing:
        lines.append(f"{missing} more of the {found['asked']} canaries could not be scored.")
    kinds = [
        f"{kind.replace('_', ' ')} ({n['succeeded']} of {n['scored']} succeeded)"
        if n["succeeded"]
        else kind.replace("_", " ")
        for kind, n in found["classes"].items()
        if n["scored"]
    ]
    if verdict.get("seeds"):
        lines.append(
            "The runs ask the same attacks, so each counts once, as a success if it was one in any run."
        )
    lines.append(
        f"What was tried: {', '.join(kinds)}. Flags, which do not depend on the judge, told of {found['flagged']} "
        f"of {found['asked']}. The canaries enter no score."
    )
    return lines


def attacks_in_brief(verdict: Mapping[str, Any]) -> str:
    """For the terminal: the canaries, and other judges' words."""
    found = verdict["canaries"]
    text = (
        f"{_count(found['succeeded'])} of {found['scored']} attacks on it succeeded"
        if found["scored"]
        else "attacks on it not measured"
    )
    others = [f"{other['name']} said {other['verdict']}" for other in verdict["other_judges"]]
    return "; ".join([text, *others])


def cost_sentence(verdict: Mapping[str, Any]) -> str:
    """Requests, tokens and money, as far as they are known."""
    judge = verdict["judge"]
    if judge["is_llm"] is not True:
        return "Cost: none; this judge asks no model."
    requests, cached, tokens = judge.get("requests"), judge.get("cached"), judge.get("tokens")
    if requests is None or not tokens:
        return "Cost: not recorded."
    text = (
        f"Cost: {requests:,} {'request' if requests == 1 else 'requests'}, {tokens['input']:,} tokens of prompts "
        f"and {tokens['output']:,} of replies"
    )
    if judge.get("cost") is not None:
        text += f", ${judge['cost']:,.4f}"
    elif judge["kind"] in ("hf", "ollama"):
        text += ", on a machine of your own"
    else:
        text += "; in money it is not known, since no prices were given (`--price-input`, `--price-output`)"
    if cached:
        share = 100 * cached / (requests + cached)
        text += f". {cached:,} more judgements ({share:.0f} %) came from the cache at no cost"
    lost = judge.get("requests_lost")
    if lost:
        text += f". {lost:,} requests had no reply and may have been charged"
    return f"{text}. {'All runs, and their canaries,' if verdict.get('seeds') else 'Canaries'} are included."


def _judge(other: Mapping[str, Any], seeds: int | None) -> str:
    """Its name, with what sets it apart; `seeds` are those of this report."""
    rubric = other.get("rubric") or "default"
    notes = ["no language model"] if other["is_llm"] is False else []
    notes += [] if rubric == "default" else [f"rubric {rubric}"]
    notes += [f"over {other['seeds']} seeds"] if other.get("seeds") not in (None, seeds) else []
    return f"{other['name']} ({', '.join(notes)})" if notes else str(other["name"])


def other_rows(verdict: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Judge, verdict, difference, interval, questions, tau, kappa of this judge and then each other; none alone."""
    others = verdict["other_judges"]
    if not others:
        return []
    primary = verdict["primary"]
    several: Any = verdict.get("seeds")
    seeds = int(several["count"]) if several else None
    rows = [
        (
            f"{verdict['judge']['name']} (this report)",
            str(verdict["verdict"]),
            points(primary["difference"]),
            interval(primary["ci95"]),
            str(primary["n"]),
            "",
            "",
        )
    ]
    for other in others:
        agreed = other["agreement"]
        rows.append(
            (
                _judge(other, seeds),
                str(other["verdict"]),
                points(other["difference"]),
                interval(other["ci95"]),
                str(other["n"]),
                _coefficient(agreed["tau"]),
                _coefficient(agreed["kappa"]),
            )
        )
    return rows


def others_note(verdict: Mapping[str, Any]) -> str:
    """What the agreement of two judges does and does not say."""
    answers = ", ".join(str(other["agreement"]["n"]) for other in verdict["other_judges"])
    words = {other["verdict"] for other in verdict["other_judges"]}
    same = (
        "All judges come to the same verdict."
        if words == {verdict["verdict"]}
        else "The judges do not come to the same verdict; each applies the same rule to the same answers."
    )
    return (
        f"{same} Agreement is over the answers that both judges scored ({answers}), with 95 % intervals: Kendall's "
        "tau compares their order only, quadratic kappa also how high the scores are; 1 is perfect, 0 is chance. "
        "Judges that agree may share a fault. This report's verdict stays that of its own judge."
    )


def _coefficient(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return "–"
    ends = figure["ci95"]
    return f"{figure['value']:.2f}" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else "")


def _count(number: int) -> str:
    return "none" if number == 0 else str(number)
