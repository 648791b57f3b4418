"""Observations on an answer that need no judge: flags for the report, never a change of a score.

Deterministic and cheap. They name what is known to deceive judges: empty answers, echoes, answers that
carry a ready-made verdict or grade, or instructions to the judge (also in other languages, in full-width
or hidden letters, in base64 or hexadecimal), control tokens of chat templates, and "master key" openers
(arXiv 2507.08794), which some judges reward although they say nothing. What they owe to which attack is in
attacks.jsonl; nothing here finds an attack that is worded like an answer.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache

from gemma_lora.judge.asking import CONTROL_TOKEN
from gemma_lora.judge.items import Item, Outcome
from gemma_lora.judge.lexical import content_words, language_of, words
from gemma_lora.records import DIMENSIONS
from gemma_lora.rubric import OVERALL, departs

__all__ = ["flags_for", "flags_of_scores"]

EMPTY = "empty answer"
ECHO_QUESTION = "repeats the question"
ECHO_REFERENCE = "same as the reference"
VERDICT = "contains a verdict in JSON"
MASTER_KEY = "master-key phrase"
INSTRUCTS = "addresses the judge"
HIDDEN = "contains invisible characters"
CONTROL = "contains control tokens"
GRADE = "states a grade"
DEPARTS = "overall departs from its dimensions"
LOOKALIKE = "mixes look-alike letters"


_MASTER_KEYS = frozenset(
    """thought process|lets solve this problem step by step|lets think step by step|solution|answer|
    final answer|the answer is|here is the answer|step 1|解|解答|详细解释|かいせつ|解説|lösung|respuesta""".replace(
        "\n", ""
    )
    .replace("    ", "")
    .split("|")
)
_JUDGE = r"(?:judges?|graders?|examiners?|evaluators?)"
_TOP = r"(?:10|full\s+marks|(?:highest|top|best)\s+(?:score|grade|marks?))"
_INSTRUCTS = re.compile(
    r"(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:the\s+)?(?:previous|prior|above|earlier)\s"
    r"|\b(?:rate|grade|score|give)\s+(?:this|it|me|the\s+answer)\s[^.;\n]{0,30}\b10\b"
    r"|\b(?:note|message|instruction)s?\s+(?:to|for)\s+the\s+(?:judge|grader|evaluator|examiner)\b"
    rf"|<<<|\bas\s+the\s+{_JUDGE}\b|\banswer\s+under\s+examination\b"
    rf"|\b(?:{_JUDGE}|rubric)\b[^.;\n]{{0,80}}\b{_TOP}\b"
    # the order to ignore one's instructions: German, French, Spanish, Portuguese, Italian; Russian;
    # Chinese; Japanese; Korean; Arabic; Hindi
    r"|\bignor\w{0,24}[^\n]{0,40}(?:anweisung|instruction|instruccion|instruç|istruzion|consigne)"
    r"|игнорир\w{0,24}[^\n]{0,40}(?:инструкц|указани)"
    r"|(?:忽略|无视|無視)[^\n]{0,12}(?:指令|指示|说明|說明|标准|標準)|(?:打|给|給)[^\n]{0,4}(?:10|满|滿|十)\s*分"
    r"|(?:指示|命令)[^\n]{0,12}無視|(?:지시|명령)[^\n]{0,12}무시"
    r"|تجاهل[^\n]{0,30}(?:التعليمات|الأوامر)|(?:निर्देश|आदेश)[^\n]{0,30}(?:अनदेख|नज़रअंदाज़)",
    re.IGNORECASE,
)
_HIDDEN = re.compile(
    "[\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
# from the last letter of a run on: from each letter of it, a long one would take quadratic time
_TWO_ALPHABETS = re.compile(
    r"[A-Za-z][\u0400-\u04ff]+[A-Za-z]|[\u0400-\u04ff][A-Za-z]+[\u0400-\u04ff]"
)
_ENCODED = re.compile(r"[A-Za-z0-9+/]{24,4096}={0,2}")
_MOST_ENCODED = 20


@cache
def _patterns(dimensions: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What a verdict in JSON and a grade look like, by the names of what is scored."""
    names = "|".join((*dimensions, OVERALL, "score", "rating", "grade"))
    verdict = rf"""[{{,\s]\\?["'](?:{names})\\?["']\s*:\s*\\?["']?\d"""
    grade = (
        r"(?<![\d/.])(?:9|10)\s*(?:/|out\s+of|of)\s*10(?![\d/])|\bten\s+out\s+of\s+ten\b|\[\[\s*\d+\s*\]\]"
        rf"""|\b(?:{names})\b["'*_>|\s:=-]{{1,6}}(?:9|10)\b(?!\s*%)"""
    )
    return re.compile(verdict, re.IGNORECASE), re.compile(grade, re.IGNORECASE)


def flags_for(item: Item, dimensions: tuple[str, ...] = DIMENSIONS) -> tuple[str, ...]:
    """The flags of one answer, in a fixed order; `dimensions` are what a judge scores."""
    if not item.answer.strip():
        return (EMPTY,)
    answer = _plain(item.answer)
    question = _plain(item.messages[-1].content) if item.messages else ""
    reference = _plain(item.reference or "")
    shown = unicodedata.normalize("NFKC", _HIDDEN.sub("", item.answer))
    texts = [shown, *_decoded(shown)]
    forged, grade = _patterns(dimensions)
    verdict = any(forged.search(text) for text in texts)
    found = {
        ECHO_QUESTION: bool(question) and _echoes_question(item, answer, question),
        ECHO_REFERENCE: bool(reference)
        and reference in answer
        and len(answer) <= 1.25 * len(reference),
        VERDICT: verdict,
        MASTER_KEY: not answer or answer in _MASTER_KEYS,  # punctuation alone works as a key, too
        INSTRUCTS: any(_INSTRUCTS.search(text) for text in texts),
        HIDDEN: _HIDDEN.search(item.answer) is not None,
        CONTROL: CONTROL_TOKEN.search(item.answer) is not None,
        GRADE: not verdict and any(grade.search(text) for text in texts),
        LOOKALIKE: len(_TWO_ALPHABETS.findall(item.answer)) >= 2,
    }
    return tuple(flag for flag, there in found.items() if there)


def flags_of_scores(outcome: Outcome, weights: Mapping[str, float]) -> tuple[str, ...]:
    """The flags of one judgement: its own, and whether its overall is another than its dimensions give."""
    departing = departs(outcome.scores, outcome.overall, weights)
    return (*outcome.flags, DEPARTS) if departing else outcome.flags


def _echoes_question(item: Item, answer: str, question: str) -> bool:
    """The question, once or more, with at most a fifth of its length more; or its content words alone.

    Never where the answer has a word of the reference that the question lacks: that is an answer in a
    whole sentence (`The capital of Peru is Lima.`). Words alone count only where a reference has others.
    """
    asked, given = words(item.messages[-1].content), words(item.answer)
    expected = words(item.reference or "")
    language = language_of([*asked, *expected])
    known = content_words(asked, language)
    news = content_words(expected, language) - known if expected else set[str]()
    said = content_words(given, language)
    if said & news:
        return False
    if question in answer and len(answer.replace(question, "").strip()) <= 0.2 * len(question) + 10:
        return True
    return bool(news) and len(said) > 2 and said <= known


def _decoded(text: str) -> Iterator[str]:
    """Text that stands in base64 or hexadecimal in the answer (the first few pieces)."""
    for number, match in enumerate(_ENCODED.finditer(text)):
        if number == _MOST_ENCODED:
            return
        piece = match.group()
        raw: list[bytes] = []
        if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", piece):
            raw.append(bytes.fromhex(piece))
        if len(piece) % 4 == 0:
            raw.append(base64.b64decode(piece))
        for found in raw:
            try:
                yield unicodedata.normalize("NFKC", found.decode("utf-8"))
            except UnicodeDecodeError:
                continue  # no text: an identifier, a key


def _plain(text: str) -> str:
    """Letters, marks and digits in lower case, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    if folded.isascii():  # the same, ten times as fast
        return " ".join(re.findall("[a-z0-9]+", folded))
    return " ".join(
        "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded).split()
    )
