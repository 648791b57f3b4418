"""The offline judge: what overlap with the reference answer can measure, and nothing else.

No model, no network; deterministic; labelled everywhere as not an LLM. Scores are 1 to 10:

- accuracy: chrF (character n-grams, Popovic 2015, sacrebleu's sentence chrF) of 0..100 as 1 + 9x/100;
- completeness: 1 + 9 x the share of the reference's content words that the answer has;
- relevance: 1 + 9 x the share of the answer's content words that the question or reference has;
- overall: the mean of the three. Fluency and usefulness stay null.

docs/judging.md says how words and content words are found, with an example to recompute. Without a
reference nothing is measured (unscored, with that reason). An empty answer shares nothing and gets
the lowest measured score. Words of scripts without spaces are compared as character pairs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from gemma_lora.judge.items import Item, Outcome
from gemma_lora.records import DIMENSIONS

__all__ = ["MODEL", "LexicalScorer", "content_words", "language_of", "score", "words"]

MODEL = "lexical-1"
"""Another number for other scores: it is in every verdict, and the examination is of one version."""

NO_REFERENCE = "this question has no reference answer, and the lexical judge measures nothing else"
NO_WORDS = "the reference answer has no words to compare with"


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Closed-class words only (articles, pronouns, prepositions, conjunctions, auxiliaries): every text has
# them, whatever it is about. Negations are left out on purpose: they carry meaning.
_STOP_WORDS: dict[str, frozenset[str]] = {
    "en": _set(
        """a an the this that these those i me my you your he him his she her it its we us our they
        them their who which what and or but if then so as of in on at to from by for with about into
        over is am are was were be been being do does did have has had will would can could should may
        might must shall there here"""
    ),
    "de": _set(
        """der die das den dem des ein eine einen einem einer eines dieser diese dieses ich mich mir
        mein meine du dich dir dein deine er ihn ihm sein seine sie ihr ihre ihnen es wir uns unser
        unsere und oder aber wenn dann so als wie von in im an am auf zu zum zur aus bei für mit über
        um nach ist bin sind war waren sei werden wird wurde haben hat hatte kann können soll sollte
        muss darf es da hier man"""
    ),
    "fr": _set(
        """le la les l un une des du de d ce cet cette ces je j me moi mon ma mes tu te toi ton ta tes
        il lui elle on nous notre nos vous votre vos ils eux elles leur leurs qui que qu quoi et ou
        mais si alors à au aux en dans sur pour par avec est suis sont était être a ai ont avait y
        se s son sa ses"""
    ),
    "es": _set(
        """el la los las lo un una unos unas este esta estos estas ese esa yo me mi mis tú te tu tus
        él le su sus ella nos nuestro nuestra ellos ellas les usted ustedes que quien y e o u pero si
        entonces de del a al en con por para sobre es soy son era ser está están ha he han había hay
        se"""
    ),
    # pairs made of these characters only are dropped
    "zh": frozenset("的了着是在和与及或而也就都这那我你您他她它们吗呢吧啊把被从到对为以之其"),
}
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class LexicalScorer:
    """Scores items by overlap; see the module's docstring for what each number means."""

    kind = "lexical"
    is_llm = False
    parallel = 1
    weights: Mapping[str, float] = dict.fromkeys(DIMENSIONS, 1.0)

    def identity(self) -> dict[str, Any]:
        return {"backend": "lexical", "model": MODEL}

    async def score(self, item: Item) -> Outcome:
        return score(item)

    def facts(self) -> dict[str, Any]:
        return {
            "snapshot": MODEL,
            "measures": ["relevance", "accuracy", "completeness"],
            "dimensions": list(DIMENSIONS),
            # it is given neither a prompt nor a rubric
            "prompt_hash": None,
            "rubric_hash": None,
        }

    async def close(self) -> None:
        pass


def score(item: Item) -> Outcome:
    """Overlap of one answer with its reference and question."""
    if item.reference is None or not item.reference.strip():
        return Outcome.unscored(NO_REFERENCE)
    question = [
        word for turn in item.messages if turn.role == "user" for word in words(turn.content)
    ]
    reference = words(item.reference)
    if not reference:
        return Outcome.unscored(NO_WORDS)
    language = language_of([*question, *reference])
    wanted = content_words(reference, language)
    given = content_words(words(item.answer), language)
    known = wanted | content_words(question, language)
    chrf = _chrf(item.answer, item.reference)
    measured = {
        "relevance": _scale(len(given & known), len(given)),
        "accuracy": round(1 + 9 * chrf / 100, 4),
        "completeness": _scale(len(given & wanted), len(wanted)),
    }
    return Outcome(
        scores={**dict.fromkeys(DIMENSIONS), **measured},
        overall=round(sum(measured.values()) / len(measured), 4),
        reasoning=(
            f"Overlap, not an LLM's opinion: chrF {chrf:.1f} of 100; {len(given & wanted)} of "
            f"{len(wanted)} content words of the reference are in the answer; {len(given & known)} of "
            f"{len(given)} content words of the answer are in the question or the reference."
        ),
    )


def words(text: str) -> list[str]:
    """Words in order, case-folded; character pairs where the script writes no spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():  # the same, ten times as fast
        return re.findall("[a-z0-9]+", folded)
    found: list[str] = []
    run, unspaced = "", False
    for char in folded + " ":
        inside = unicodedata.category(char)[0] in "LMN"
        here = inside and _is_unspaced(char)
        if run and (not inside or here != unspaced):
            found += _pairs(run) if unspaced else [run]
            run = ""
        if inside:
            run, unspaced = run + char, here
    return found


def content_words(found: Sequence[str], language: str | None) -> set[str]:
    """The words that carry content; all of them where none does (`It is.`)."""
    stop = _STOP_WORDS.get(language or "", frozenset[str]())
    zh = _STOP_WORDS["zh"]
    kept = {word for word in found if word not in stop and not all(char in zh for char in word)}
    return kept or set(found)


def language_of(found: Sequence[str]) -> str | None:
    """The list with most hits, so that no language's function words hide another's nouns (`die`)."""
    hits = {
        name: sum(word in stop for word in found)
        for name, stop in _STOP_WORDS.items()
        if name != "zh"
    }
    best = max(hits, key=lambda name: hits[name])
    return best if hits[best] else None


def _scale(part: int, whole: int) -> float:
    return round(1 + 9 * part / whole, 4) if whole else 1.0


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] if len(run) > 1 else [run]


@cache
def _is_unspaced(char: str) -> bool:
    return not char.isascii() and unicodedata.name(char, "").startswith(_UNSPACED)


def _chrf(answer: str, reference: str) -> float:
    """Sentence chrF, 0..100."""
    return float(_metric().sentence_score(answer, [reference]).score)


@cache
def _metric() -> Any:
    from sacrebleu.metrics.chrf import CHRF  # loaded only where this judge is used

    return CHRF()
