"""Numbers and sentences, the same in report.html, report.md and the terminal.

Pure text; nothing is escaped here, each writer escapes for its own format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gemma_lora.console import neutral

__all__ = [
    "clean",
    "headline",
    "interval",
    "label",
    "measures",
    "p_value",
    "points",
    "scope",
    "score",
    "sentence",
    "tally",
    "warnings",
    "whisker",
]

_HEADLINES = {
    "better": "The tuned model answers better than the base model",
    "worse": "The tuned model answers worse than the base model",
    "equivalent": "Tuned and base model differ by less than half a point on average, either way",
    "inconclusive": "These answers do not show whether the tuned model is better or worse",
}
_OVERLAP_HEADLINES = {
    "better": "The tuned model comes closer to the reference answers than the base model",
    "worse": "The tuned model is further from the reference answers than the base model",
    "equivalent": "How close tuned and base model come to the reference answers differs by less than half a point on average",
    "inconclusive": "These answers do not show whether the tuned model comes closer to the reference answers",
}

_LEXICAL = (
    "How `lexical` measures: a word is a run of letters, marks and numbers, case-folded, not stemmed; "
    "content words are the different words of a text less the function words (articles, pronouns, "
    "prepositions, auxiliaries) of the one language whose list matches question and reference best. "
    "Relevance is 1 + 9 x the share of the answer's content words that the question (its user turns) or "
    "the reference has; completeness is 1 + 9 x the share of the reference's content words that the "
    "answer has; accuracy is 1 + 9 x chrF / 100 of the answer against the reference; overall is the mean "
    "of the three. The counts stand beside each answer; the lists of function words and an example are in "
    "docs/judging.md."
)


def headline(verdict: Mapping[str, Any]) -> str:
    """The verdict as a clause, without a full stop; overlap with a reference is not called quality."""
    words = _OVERLAP_HEADLINES if verdict["judge"]["is_llm"] is False else _HEADLINES
    return words[verdict["verdict"]]


def sentence(verdict: Mapping[str, Any]) -> str:
    """The primary comparison with its numbers."""
    primary, judge = verdict["primary"], verdict["judge"]
    span = (
        f"95 % interval {interval(primary['ci95'])}" if primary["ci95"] else "no interval possible"
    )
    by = (
        f"{judge['name']}, which is not a language model"
        if judge["is_llm"] is False
        else judge["name"]
    )
    return (
        f"On {_questions(verdict)} the tuned model scored {score(primary['tuned_mean'])} "
        f"against {score(primary['base_mean'])} for the base model, on a scale of 1 to 10: "
        f"a difference of {points(primary['difference'])} ({span}), judged by {by}."
    )


def scope(verdict: Mapping[str, Any]) -> str:
    """What the verdict holds for, in plain words, with the remedy where that is one checkpoint."""
    seeds: Any = verdict.get("seeds")
    if seeds:
        return (
            f"It holds for the recipe, over {seeds['count']} training seeds, these questions and this "
            "judge."
        )
    return (
        "It holds for this checkpoint, these questions and this judge: one training run, one seed. "
        "`gemma-lora run` with `--seeds 3` judges the recipe."
    )


def _questions(verdict: Mapping[str, Any]) -> str:
    """`12 unseen questions`; of a training row nobody may say that the model has not seen it."""
    count, seen = verdict["primary"]["n"], verdict["compared_also_in_training"]
    noun = "question" if count == 1 else "questions"
    if not seen:
        return f"{count} unseen {noun}"
    which = f"{seen} of which {'is' if seen == 1 else 'are'}" if count > 1 else "which is"
    return f"{count} {noun}, {which} also in the training rows,"


def measures(verdict: Mapping[str, Any]) -> str | None:
    """How a judge that only compares words comes to its scores; None for others."""
    return _LEXICAL if verdict["judge"]["kind"] == "lexical" else None


def tally(verdict: Mapping[str, Any]) -> str:
    """Wins, ties and losses as a sentence."""
    counts = verdict["win_tie_loss"]
    return (
        f"Question by question, the tuned answer scored higher on {counts['win']}, "
        f"the same on {counts['tie']} and lower on {counts['loss']}."
    )


def warnings(verdict: Mapping[str, Any]) -> list[str]:
    """What the stages and the decision warn of, each as a sentence, gravest first."""
    return [_as_sentence(str(text)) for text in verdict["warnings"]]


def _as_sentence(text: str) -> str:
    """Capital letter first and a full stop last; a first word that is a name (`fp16`, a path) stays."""
    text = text.strip()
    if re.fullmatch(r"[^\W\d_]+(?:['\u2019]\w+)?[,:;]?", text.partition(" ")[0]):
        text = text[:1].upper() + text[1:]
    return text if not text or text[-1] in ".!?…。！？" else f"{text}."


def score(value: float | None, digits: int = 2) -> str:
    """A score on the scale of 1 to 10; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def points(value: float | None, digits: int = 2) -> str:
    """A difference with its sign (a real minus)."""
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\u2212")


def interval(ci95: Sequence[float] | None) -> str:
    """`+0.31 to +1.20`."""
    return "–" if ci95 is None else f"{points(ci95[0])} to {points(ci95[1])}"


def whisker(difference: float, ci95: Sequence[float] | None, reach: float, width: int) -> str:
    """A difference with its interval as `width` characters, 0 in the middle and `reach` at the ends."""

    def place(value: float) -> int:
        return round((min(max(value, -reach), reach) / reach + 1) / 2 * (width - 1))

    line = ["·"] * width
    line[(width - 1) // 2] = "│"
    if ci95 is not None:
        for at in range(place(ci95[0]), place(ci95[1]) + 1):
            line[at] = "┼" if line[at] == "│" else "─"
    line[place(difference)] = "●"
    return "".join(line)


def p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def label(key: str) -> str:
    """A field name as words: `unscored_reasons` to `unscored reasons`."""
    return re.sub(r"[_\s]+", " ", key).strip()


def clean(value: Any) -> Any:
    """Text that any reader can show: control characters and reversing marks written out, no lone surrogates."""
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n")
    return neutral(text)
