"""Numbers and sentences, the same in report.html, report.md and the terminal.

Pure text; nothing is escaped here, each writer escapes for its own format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "clean",
    "headline",
    "interval",
    "label",
    "p_value",
    "points",
    "score",
    "sentence",
    "tally",
]

_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_BIDI = {
    code: f"\u27e8U+{code:04X}\u27e9" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}

_HEADLINES = {
    "better": "The tuned model answers better than the base model",
    "worse": "The tuned model answers worse than the base model",
    "equivalent": "The tuned model answers as well as the base model, no better and no worse",
    "inconclusive": "These answers do not show whether the tuned model is better or worse",
}
_OVERLAP_HEADLINES = {
    "better": "The tuned model comes closer to the reference answers than the base model",
    "worse": "The tuned model is further from the reference answers than the base model",
    "equivalent": "The tuned model is as close to the reference answers as the base model",
    "inconclusive": "These answers do not show whether the tuned model comes closer to the reference answers",
}


def headline(verdict: Mapping[str, Any]) -> str:
    """The verdict as a clause, without a full stop; overlap with a reference is not called quality."""
    words = _OVERLAP_HEADLINES if verdict["judge"]["is_llm"] is False else _HEADLINES
    return words[verdict["verdict"]]


def sentence(verdict: Mapping[str, Any]) -> str:
    """The primary comparison with its numbers."""
    primary, judge = verdict["primary"], verdict["judge"]
    questions = "question" if primary["n"] == 1 else "questions"
    span = (
        f"95 % interval {interval(primary['ci95'])}" if primary["ci95"] else "no interval possible"
    )
    by = (
        f"{judge['name']}, which is not a language model"
        if judge["is_llm"] is False
        else judge["name"]
    )
    return (
        f"On {primary['n']} unseen {questions} the tuned model scored {score(primary['tuned_mean'])} "
        f"against {score(primary['base_mean'])} for the base model, on a scale of 1 to 10: "
        f"a difference of {points(primary['difference'])} ({span}), judged by {by}."
    )


def tally(verdict: Mapping[str, Any]) -> str:
    """Wins, ties and losses as a sentence."""
    counts = verdict["win_tie_loss"]
    return (
        f"Question by question, the tuned answer scored higher on {counts['win']}, "
        f"the same on {counts['tie']} and lower on {counts['loss']}."
    )


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


def p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def label(key: str) -> str:
    """A field name as words: `unscored_reasons` to `unscored reasons`."""
    return re.sub(r"[_\s]+", " ", key).strip()


def clean(value: Any) -> Any:
    """Text that any reader can show: control characters and reversing marks visible, no lone surrogates."""
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n")
    return text.translate(_CONTROL | _BIDI)
