"""What a judge is asked about, and what comes back: the types that the judge's parts share.

Reads the answers of both arms from the run folder. Nothing in an `Item` that is put to a judge tells
the arm; `ordered` mixes the arms by a hash, so that neither is always asked first. Refuses answers
that are incomplete or do not match between the arms.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from gemma_lora.console import Console
from gemma_lora.errors import DataError
from gemma_lora.records import ARMS, DIMENSIONS, Answer, Judgement, Message
from gemma_lora.rundir import RunDir, digest, read_jsonl

__all__ = ["NO_REPLY", "Item", "Key", "Outcome", "Scorer", "Usage", "load_items", "ordered"]

Key = tuple[str, str, int]
"""Question id, arm, repeat (from 0)."""

NO_REPLY = "no reply: "
"""Unscored reasons that begin so are faults of the way, not of the judge; they are asked again."""


@dataclass(frozen=True)
class Item:
    """One answer to be judged."""

    id: str
    arm: str
    repeat: int
    messages: tuple[Message, ...]
    reference: str | None
    answer: str

    @property
    def key(self) -> Key:
        return (self.id, self.arm, self.repeat)

    def fields(self) -> str:
        """Digest of what the judge sees: equal for equal texts, whatever the arm."""
        turns = [turn.model_dump() for turn in self.messages]
        return digest(turns, self.reference, self.answer, self.repeat)


@dataclass(frozen=True)
class Usage:
    """Tokens of the requests that an outcome took, as the server counted them."""

    requests: int = 0
    input: int = 0
    output: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests, self.input + other.input, self.output + other.output
        )


def _nothing() -> dict[str, float | None]:
    return dict.fromkeys(DIMENSIONS)


@dataclass(frozen=True)
class Outcome:
    """Scores, or the reason why there are none."""

    scores: dict[str, float | None] = field(default_factory=_nothing)
    overall: float | None = None
    reasoning: str = ""
    unscored_reason: str | None = None
    usage: Usage = Usage()
    cached: bool = False

    @classmethod
    def unscored(cls, reason: str, usage: Usage | None = None) -> Outcome:
        return cls(unscored_reason=reason, usage=usage or Usage())

    @property
    def no_reply(self) -> bool:
        return (self.unscored_reason or "").startswith(NO_REPLY)

    def as_judgement(self, item: Item, flags: tuple[str, ...]) -> Judgement:
        return Judgement(
            id=item.id,
            arm=item.arm,
            repeat=item.repeat,
            scores=self.scores,
            overall=self.overall,
            reasoning=self.reasoning,
            unscored_reason=self.unscored_reason,
            flags=flags,
        )


class Scorer(Protocol):
    """A judge of any kind: `score` never raises for one bad reply, only where nothing can work."""

    kind: str
    parallel: int
    """Items scored at once."""

    @property
    def is_llm(self) -> bool | None:
        """None where nobody can tell (a replay of unknown origin)."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides its scores: judgements of another identity are not continued."""
        ...

    async def score(self, item: Item) -> Outcome: ...

    def facts(self) -> dict[str, Any]:
        """What judge.json tells about it, known after the last item."""
        ...

    async def close(self) -> None: ...


def load_items(run: RunDir, console: Console) -> list[Item]:
    """Every test answer of both arms, by question and then arm; DataError where they do not match."""
    arms: dict[str, list[Answer]] = {}
    for arm in ARMS:
        path = run.answers(arm)
        arms[arm] = read_jsonl(path, Answer, console)
        if not arms[arm]:
            raise DataError(
                "there are no answers to judge",
                where=str(path),
                remedy=f"gemma-lora answer {run.root}",
            )
    first, second = (arms[arm] for arm in ARMS)
    lonely = {row.id for row in first} ^ {row.id for row in second}
    twice = [arm for arm, rows in arms.items() if len({row.id for row in rows}) != len(rows)]
    if lonely or twice:
        raise DataError(
            f"{len(lonely)} questions are answered by one arm only"
            if lonely
            else f"a question is answered twice by {' and '.join(twice)}",
            where=str(run.answers(ARMS[0]).parent),
            expected="one answer of each arm to every test question",
            remedy=f"gemma-lora answer {run.root}",
        )
    by_id = {row.id: row for row in second}
    return [
        Item(row.id, arm, 0, row.messages, row.reference, row.answer)
        for pair in ((row, by_id[row.id]) for row in first)
        for arm, row in zip(ARMS, pair, strict=True)
    ]


def ordered(items: list[Item]) -> list[Item]:
    """The order of asking: by a hash of question, arm and repeat, the same in every run."""
    return sorted(items, key=lambda item: hashlib.sha256(repr(item.key).encode()).digest())
