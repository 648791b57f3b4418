"""What a judge is asked about, and what comes back: the types that the judge's parts share.

Reads the answers of all arms from the run folder; the texts stay on the disk until they are asked
about, so that memory does not grow with them. Nothing in an `Item` that is put to a judge tells the
arm; `ordered` mixes the arms by a hash, so that none is always asked first. A second judging of the
base's answers is an arm like any other. Refuses answers that are incomplete or do not match between the
arms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from gemma_lora.console import Console
from gemma_lora.errors import DataError, JudgeError
from gemma_lora.records import AGAIN, ARMS, DIMENSIONS, Answer, Certainty, Judgement, Message
from gemma_lora.rundir import RunDir, digest, iter_jsonl

__all__ = [
    "NO_REPLY",
    "Item",
    "Items",
    "Key",
    "Outcome",
    "Scorer",
    "Source",
    "Usage",
    "no_reply",
    "ordered",
]

Key = tuple[str, str, int]
"""Question id, arm, repeat (from 0)."""

NO_REPLY = "no reply: "
"""Unscored reasons that begin so are faults of the way, not of the judge; they are asked again."""


def no_reply(reason: str | None) -> bool:
    """Whether this is why an answer is unscored."""
    return (reason or "").startswith(NO_REPLY)


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
        """Digest of what the judge sees: equal for equal texts, whatever the arm.

        But for a second judging, which is to be another request and must meet no reply to the first.
        """
        turns = [turn.model_dump() for turn in self.messages]
        again = [AGAIN] if self.arm == AGAIN else []
        return digest(turns, self.reference, self.answer, self.repeat, *again)


@dataclass(frozen=True)
class Usage:
    """Tokens of the requests that an outcome took, as the server counted them."""

    requests: int = 0
    input: int = 0
    output: int = 0
    lost: int = 0
    """Requests that were sent and whose reply never came; the server may have charged for them."""
    uncounted: int = 0
    """Replies, among `requests`, that did not say what they took."""
    most_input: int = 0
    """With `most_output`: what the lost and the uncounted ones together can have taken at most."""
    most_output: int = 0

    @property
    def at_most(self) -> Usage:
        """The same with what is not known at its most."""
        return Usage(self.requests, self.input + self.most_input, self.output + self.most_output)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.input + other.input,
            self.output + other.output,
            self.lost + other.lost,
            self.uncounted + other.uncounted,
            self.most_input + other.most_input,
            self.most_output + other.most_output,
        )


@dataclass(frozen=True)
class Outcome:
    """Scores, or the reason why there are none."""

    scores: dict[str, float | None] = field(default_factory=dict[str, float | None])
    """By dimension; one that is absent was not measured."""
    overall: float | None = None
    reasoning: str = ""
    unscored_reason: str | None = None
    usage: Usage = Usage()
    cached: bool = False
    model: str | None = None
    """What the judge calls itself: its snapshot."""
    fingerprint: str | None = None
    rung: str | None = None
    """How the reply was held to the schema."""
    ended: JudgeError | None = None
    """Nothing more can work; `usage` was spent on this item, which is neither scored nor unscored."""
    certainty: dict[str, Certainty] | None = None
    """Of each score, where the scores are expectations."""
    flags: tuple[str, ...] = ()
    """What there is to say of the judgement, beside what there is to say of the answer."""

    @classmethod
    def unscored(cls, reason: str, usage: Usage | None = None) -> Outcome:
        return cls(unscored_reason=reason, usage=usage or Usage())

    def as_judgement(
        self, item: Item, flags: tuple[str, ...], dimensions: Sequence[str] = DIMENSIONS
    ) -> Judgement:
        """The line of the file, with every one of `dimensions`: null where it was not measured."""
        return Judgement(
            id=item.id,
            arm=item.arm,
            repeat=item.repeat,
            scores={name: self.scores.get(name) for name in dimensions},
            overall=self.overall,
            reasoning=self.reasoning,
            unscored_reason=self.unscored_reason,
            flags=flags,
            certainty=self.certainty,
        )


class Scorer(Protocol):
    """A judge of any kind: `score` never raises for one bad reply, only where nothing can work."""

    kind: str
    parallel: int
    """Items scored at once."""
    weights: Mapping[str, float]
    """What it scores beside overall, with the weight of each; some it may leave unmeasured."""

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


class Source(Protocol):
    """Where items come from: what there is, by key, with a digest of what the judge sees."""

    arms: tuple[str, ...]
    keys: list[Key]
    digests: dict[Key, str]

    def load(self, key: Key) -> Item: ...


class Items:
    """Every test answer of all `arms`, `repeats` times; DataError where the arms do not match.

    `keys` are by question, arm and repeat. What is kept for each is where its line is and a digest of
    what the judge sees; `load` reads the text.
    """

    def __init__(
        self, run: RunDir, console: Console, repeats: int = 1, arms: Sequence[str] = ARMS
    ) -> None:
        self._streams: dict[str, IO[bytes]] = {}
        self._places: dict[tuple[str, str], int] = {}
        self.digests: dict[Key, str] = {}
        self.arms = tuple(arms)
        names = {arm: self._scan(run, arm, console, repeats) for arm in arms}
        first = names[arms[0]]
        lonely = {name for others in names.values() for name in set(first) ^ set(others)}
        twice = [arm for arm in arms if len(set(names[arm])) != len(names[arm])]
        if lonely or twice:
            raise DataError(
                f"{len(lonely)} questions are answered by {'one arm' if len(arms) == 2 else 'some arms'} only"
                if lonely
                else f"a question is answered twice by {' and '.join(twice)}",
                where=str(run.answers(ARMS[0]).parent),
                expected="one answer of each arm to every test question",
                remedy=f"gemma-lora answer {run.root}",
            )
        self.keys: list[Key] = [
            (name, arm, repeat) for name in first for arm in arms for repeat in range(repeats)
        ]

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, key: Key) -> Item:
        """The item with its texts, read from the arm's file."""
        name, arm, repeat = key
        stream = self._streams[arm]
        stream.seek(self._places[name, arm])
        row = Answer.model_validate_json(stream.readline())
        return Item(name, arm, repeat, row.messages, row.reference, row.answer)

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def _scan(self, run: RunDir, arm: str, console: Console, repeats: int) -> list[str]:
        path = run.answers("base" if arm == AGAIN else arm)
        names: list[str] = []
        for row, place in zip(iter_jsonl(path, Answer, console), _line_starts(path), strict=False):
            names.append(row.id)
            self._places[row.id, arm] = place
            for repeat in range(repeats):
                item = Item(row.id, arm, repeat, row.messages, row.reference, row.answer)
                self.digests[item.key] = item.fields()
        if not names:
            raise DataError(
                "there are no answers to judge",
                where=str(path),
                remedy=f"gemma-lora answer {run.root}",
            )
        self._streams[arm] = path.open("rb")
        return names


def _line_starts(path: Path) -> Iterator[int]:
    if not path.exists():
        return
    start = 0
    with path.open("rb") as stream:
        for line in stream:
            yield start
            start += len(line)


def ordered(keys: Iterable[Key]) -> list[Key]:
    """The order of asking: by a hash of question, arm and repeat, the same in every run."""
    return sorted(keys, key=lambda key: hashlib.sha256(repr(key).encode()).digest())
