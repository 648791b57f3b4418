"""Training rows as examples in the prompt: for each question those whose questions are most like it.

Reads split/train.jsonl; never the validation or test rows. Likeness is the Jaccard similarity of the
questions' five-character shingles, as for near-duplicates, since nearest examples make a stronger
baseline than random ones (Liu et al. 2022, arXiv 2101.06804) and need no second model or word list. Of
a cluster of near-duplicates one row can be an example, and none of the question's own cluster.

Shapes: Q questions, N candidates (one a cluster), B candidates of a block, V different shingles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from gemma_lora.answer.questions import Question
from gemma_lora.data.shingles import END, Hashes, Ints, Texts
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Example, Message
from gemma_lora.rundir import digest, iter_jsonl

__all__ = ["Shown", "few_shot", "nearest"]

_CELLS = 4_000_000  # similarities looked at together
_TIE = 1e-9  # less than two different similarities can differ by

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """What a question is asked with."""

    messages: tuple[Message, ...]
    examples: tuple[str, ...]
    """Ids of the training rows before the question, the most similar one last."""


def nearest(
    asked: Sequence[Question], train: Path, count: int, seed: int
) -> tuple[list[list[Example]], int]:
    """For each question up to `count` training rows, the most similar first; and the candidates' number.

    Equal similarities are put in an order that depends on the seed only.
    """
    ids: list[str] = []
    clusters: dict[str, int] = {}

    def candidates() -> Iterable[str]:
        for row in iter_jsonl(train, Example):
            if clusters.setdefault(row.cluster, len(ids)) == len(ids):
                ids.append(row.id)
                yield _question(row.prompt)

    texts = Texts(candidates())
    # a text that two clusters share (not with the run's own clusters) counts for the first of them
    rows = np.full(len(texts), -1, dtype=np.int64)
    for place in range(len(ids) - 1, -1, -1):
        rows[texts.number[place]] = place
    ties = np.array([int(digest(seed, name)[:8], 16) / 2**32 * _TIE for name in ids])
    own = [clusters.get(question.cluster, -1) for question in asked]
    best = _search(asked, texts, rows, ties, own, count)
    wanted = {ids[place] for places in best for place in places}
    found = {row.id: row for row in iter_jsonl(train, Example) if row.id in wanted}
    return [[found[ids[place]] for place in places] for places in best], len(ids)


def few_shot(
    question: Question, examples: Sequence[Example], fmt: PromptFormat, room: int
) -> Shown:
    """The question after as many examples as leave the prompt within `room` tokens, the nearest last.

    The examples are earlier turns of the conversation, without system texts of their own; the
    question's own system text stays first.
    """
    system = [turn for turn in question.messages if turn.role == "system"]
    talk = [turn for turn in question.messages if turn.role != "system"]
    kept = list(examples)
    while True:
        turns = [turn for row in reversed(kept) for turn in row.messages if turn.role != "system"]
        messages = (*system, *turns, *talk)
        if not kept or len(fmt.prompt(messages)) <= room:
            return Shown(messages, tuple(row.id for row in reversed(kept)))
        kept.pop()


def _question(messages: Sequence[Message]) -> str:
    return "\n".join(turn.content for turn in messages if turn.role == "user")


def _search(
    asked: Sequence[Question],
    texts: Texts,
    rows: Ints,
    ties: Scores,
    own: Sequence[int],
    count: int,
) -> list[list[int]]:
    """(Q, up to count) candidates by falling similarity."""
    vocabulary, of_questions, sizes = _questions_as_sets([_question(q.messages) for q in asked])
    score = np.full((len(asked), count), -1.0)
    place = np.full((len(asked), count), -1, dtype=np.int64)
    mine = np.array(own, dtype=np.int64)
    for block in texts.blocks():
        step = max(1, _CELLS // len(asked))
        for start in range(0, len(block), step):
            chosen = block[start : start + step]
            hashes = texts.hashes(chosen)
            shared = _known(hashes, vocabulary) @ of_questions.T  # (B, Q)
            overlap = np.asarray(shared.toarray(), dtype=np.float64)
            union = (hashes != END).sum(axis=1)[:, None] + sizes[None, :] - overlap
            likeness = overlap / np.maximum(union, 1) + ties[rows[chosen]][:, None]
            likeness[rows[chosen][:, None] == mine[None, :]] = -1.0
            score, place = _merge(score, place, likeness.T, rows[chosen])
    return [
        [int(p) for p, s in zip(places, scores, strict=True) if s >= 0]
        for places, scores in zip(place, score, strict=True)
    ]


def _questions_as_sets(questions: Sequence[str]) -> tuple[Hashes, Any, Scores]:
    """The V shingles that occur, a (Q, V) matrix of which question has which, and how many each has."""
    texts = Texts(questions)
    parts: list[tuple[Ints, Hashes]] = [(block, texts.hashes(block)) for block in texts.blocks()]
    vocabulary: Hashes = np.unique(np.concatenate([hashes.ravel() for _, hashes in parts]))
    vocabulary = vocabulary[vocabulary != END]
    numbers: Ints = np.concatenate([block for block, _ in parts])
    order = np.argsort(numbers)
    stacked = [_known(hashes, vocabulary) for _, hashes in parts]
    different: Any = cast(Any, vstack(stacked, format="csr"))[order]
    of_questions: Any = different[texts.number]
    return vocabulary, of_questions, np.asarray(of_questions.sum(axis=1), dtype=np.float64).ravel()


def _known(hashes: Hashes, vocabulary: Hashes) -> Any:
    """(B, V) sparse: which of the vocabulary's shingles each text has; each counts once."""
    at = np.searchsorted(vocabulary, hashes)
    at[at == len(vocabulary)] = 0
    hit = (vocabulary[at] == hashes) & (hashes != END)
    text, column = np.nonzero(hit)
    values = np.ones(len(text), dtype=np.float32)
    return csr_array((values, (text, at[text, column])), shape=(len(hashes), len(vocabulary)))


def _merge(score: Scores, place: Ints, more: Scores, rows: Ints) -> tuple[Scores, Ints]:
    """The best of both by rows; (Q, K) and (Q, B) to (Q, K), falling."""
    count = score.shape[1]
    scores = np.concatenate([score, more], axis=1)
    places = np.concatenate([place, np.broadcast_to(rows, more.shape)], axis=1)
    if scores.shape[1] > 2 * count:  # a full sort of all candidates would be most of the work
        few = np.argpartition(-scores, count, axis=1)[:, : count + 1]
        scores = np.take_along_axis(scores, few, axis=1)
        places = np.take_along_axis(places, few, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1)
