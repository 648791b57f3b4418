"""What one request to a language model ends in: a reply (usable or not), silence, or a refusal.

Shared by the ways of asking (`client`, `hf`) and by what reads the replies (`asked`). An unscored
answer keeps its reason as text, in these words, from which `remedy_for` tells what helps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gemma_lora.errors import JudgeError
from gemma_lora.judge.items import NO_REPLY, Usage, no_reply

__all__ = [
    "CONNECTION",
    "REJECTED",
    "STATUS",
    "TIME_OUT",
    "Distribution",
    "Ended",
    "NoReply",
    "Rejected",
    "Reply",
    "remedy_for",
]

CONNECTION = "connection failed: "
TIME_OUT = "no answer within "
STATUS = "HTTP "
REJECTED = "the server rejects the request: "

_ENDPOINT = "check that the address is an OpenAI-compatible endpoint (it usually ends in /v1)"


def remedy_for(reason: str) -> str:
    """What to do about an unscored answer, from its reason."""
    if reason.startswith(REJECTED):
        return f"{_ENDPOINT} and that it serves this model"
    if not no_reply(reason):
        return "choose a judge that follows instructions, or raise --judge-max-tokens"
    way = reason.removeprefix(NO_REPLY)
    if way.startswith(CONNECTION):
        return "start the server, or check its address and port"
    if way.startswith(TIME_OUT):
        return "raise --judge-timeout; if the server never answers, check its address and its load"
    if way.startswith(STATUS):
        return "wait a while, or lower --judge-concurrency"
    return _ENDPOINT


@dataclass(frozen=True)
class Distribution:
    """How probable a model finds each score from 1 to 10, given that it gives one."""

    probabilities: tuple[float, ...]
    """Ten, of sum 1."""
    mass: float
    """Probability that it gives a score at all, before they were divided by it."""

    @property
    def expected(self) -> float:
        """The mean score."""
        return math.fsum(n * p for n, p in enumerate(self.probabilities, start=1))

    @property
    def mode(self) -> int:
        return 1 + max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def entropy(self) -> float:
        """Bits: 0 where one score has all, 3.32 where all ten are alike."""
        return -math.fsum(p * math.log2(p) for p in self.probabilities if p > 0)


@dataclass(frozen=True)
class Reply:
    """What came back with status 200. `fault`: why its text cannot count, e.g. cut off by the limit."""

    text: str
    fault: str | None = None
    damaged: bool = False
    """The fault is of the way (no JSON, cut off, wrong content type), not of the judge."""
    cut: bool = False
    usage: Usage = field(default_factory=lambda: Usage(1))
    model: str | None = None
    fingerprint: str | None = None
    rung: str | None = None
    """How the reply was held to the schema."""
    ignored: bool = False
    """The server passed over the tool it was told to call, and replied in prose."""
    distributions: Mapping[str, Distribution] | None = None
    """Of each score, where they are known: the expected score counts then, not the one in the text."""


class NoReply(Exception):
    """Retries are used up; the text says what happened last, `usage` what may have been charged."""

    def __init__(self, reason: str, usage: Usage | None = None) -> None:
        super().__init__(reason)
        self.usage = usage or Usage()


class Ended(Exception):
    """Nothing more can work, and `usage` may have been charged for this request before."""

    def __init__(self, error: JudgeError, usage: Usage) -> None:
        super().__init__(str(error))
        self.error = error
        self.usage = usage


class Rejected(Exception):
    """The server refuses this one request (too long, filtered); others may pass. `usage`: what tries before it took."""

    def __init__(self, reason: str, usage: Usage | None = None) -> None:
        super().__init__(reason)
        self.usage = usage or Usage()
