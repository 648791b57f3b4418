"""Observations on an answer that need no judge: flags for the report, never a change of a score.

Deterministic and cheap. They name what is known to deceive judges: empty answers, echoes, answers
that carry a ready-made verdict or instructions to the judge, and "master key" openers (arXiv
2507.08794), which some judges reward although they say nothing.
"""

from __future__ import annotations

import re
import unicodedata

from gemma_lora.judge.asking import SCORES
from gemma_lora.judge.items import Item

__all__ = ["flags_for"]

EMPTY = "empty answer"
ECHO_QUESTION = "repeats the question"
ECHO_REFERENCE = "same as the reference"
VERDICT = "contains a verdict in JSON"
MASTER_KEY = "master-key phrase"
INSTRUCTS = "addresses the judge"
HIDDEN = "contains invisible characters"

_FIELDS = "|".join((*SCORES, "score", "rating", "grade"))
_VERDICT = re.compile(rf"""[{{,\s]["'](?:{_FIELDS})["']\s*:\s*["']?\d""", re.IGNORECASE)
_MASTER_KEYS = frozenset(
    """thought process|lets solve this problem step by step|lets think step by step|solution|answer|
    final answer|the answer is|here is the answer|step 1|解|解答|详细解释|かいせつ|解説|lösung|respuesta""".replace(
        "\n", ""
    )
    .replace("    ", "")
    .split("|")
)
_INSTRUCTS = re.compile(
    r"(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:the\s+)?(?:previous|prior|above|earlier)\s"
    r"|\b(?:rate|grade|score|give)\s+(?:this|it|me|the\s+answer)\s.{0,30}\b10\b"
    r"|\b(?:note|message|instruction)s?\s+(?:to|for)\s+the\s+(?:judge|grader|evaluator|examiner)\b"
    r"|<<<|\bas\s+the\s+(?:judge|grader|examiner)\b",
    re.IGNORECASE,
)
_HIDDEN = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")


def flags_for(item: Item) -> tuple[str, ...]:
    """The flags of one answer, in a fixed order."""
    answer = _plain(item.answer)
    question = _plain(item.messages[-1].content) if item.messages else ""
    found: list[str] = []
    if not item.answer.strip():
        return (EMPTY,)
    if question and _echoes(answer, question):
        found.append(ECHO_QUESTION)
    if item.reference and answer == _plain(item.reference):
        found.append(ECHO_REFERENCE)
    if _VERDICT.search(item.answer):
        found.append(VERDICT)
    if not answer or answer in _MASTER_KEYS:  # punctuation alone works as a key, too
        found.append(MASTER_KEY)
    if _INSTRUCTS.search(item.answer):
        found.append(INSTRUCTS)
    if _HIDDEN.search(item.answer):
        found.append(HIDDEN)
    return tuple(found)


def _echoes(answer: str, question: str) -> bool:
    """The question and little else: at most a fifth more."""
    return question in answer and len(answer) <= 1.2 * len(question) + 10


def _plain(text: str) -> str:
    """Letters, marks and digits in lower case, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    return " ".join(
        "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded).split()
    )
