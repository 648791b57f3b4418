"""The rows that stages hand to each other, as frozen models with a JSON form.

`Example` (split/*.jsonl), `Answer` (answers/<set>/<arm>.jsonl), `Judgement`
(judgements/<judge>/judgements.jsonl) and `ProbeResult` (forgetting/items.jsonl) are the whole
interface between stages: one JSON object a
line, unknown fields and scores outside 1 to 10 refused. Texts are exactly as in the user's file.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "AGAIN",
    "ARMS",
    "DIMENSIONS",
    "Answer",
    "Certainty",
    "Example",
    "Judgement",
    "Message",
    "ProbeResult",
    "Role",
]

Role = Literal["system", "user", "assistant"]

DIMENSIONS: tuple[str, ...] = ("relevance", "accuracy", "completeness", "fluency", "usefulness")
"""What a judge scores, each 1 to 10; `overall` comes on top."""

ARMS: tuple[str, str] = ("base", "tuned")

AGAIN = "base-again"
"""The arm of a second judging of the base's answers (`--aa`); it has judgements, and no answers of its own."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(_Record):
    """One turn. `assistant` is the model's side, whatever the family's template calls it."""

    role: Role
    content: str


class Example(_Record):
    """One row of the user's data: a conversation that ends with the assistant's answer."""

    id: str
    """Hash of the messages (16 hex digits; `-2`, `-3`, ... for exact repeats): stable under reordering."""
    messages: tuple[Message, ...]
    cluster: str
    """Rows that are duplicates or near-duplicates of each other share it; the unit of splitting."""
    line: int
    """First line of the row in the source file, from 1."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns before the last answer."""
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        """The last answer."""
        return self.messages[-1].content


class Answer(_Record):
    """What one arm said to one test question."""

    id: str
    messages: tuple[Message, ...]
    """The prompt: all turns before the answer."""
    reference: str | None
    """The user's own answer; None for questions that came without one."""
    answer: str
    tokens: int
    """Generated tokens, the stop token not counted."""
    stopped_by: Literal["end", "limit"]
    """`end`: a stop token; `limit`: `max_new_tokens` ran out."""
    cluster: str


class Certainty(_Record):
    """How sure a judge is of one score that is an expectation over its token probabilities."""

    entropy: float
    """Bits, of the scores 1 to 10: 0 (one has all) to 3.32 (all alike)."""
    mass: float
    """Probability that it writes any of them."""


class Judgement(_Record):
    """A judge's word on one answer; either scored, or unscored with the reason: never a made-up number."""

    id: str
    arm: str
    repeat: int
    scores: dict[str, float | None]
    """Dimension to 1..10; None where this judge cannot measure the dimension."""
    overall: float | None
    reasoning: str
    unscored_reason: str | None
    flags: tuple[str, ...] = ()
    """Observations that never change a score, e.g. `empty answer`, `repeats the question`."""
    certainty: dict[str, Certainty] | None = None
    """Of each score and of `overall`; None where the judge wrote plain numbers."""

    @model_validator(mode="after")
    def _on_the_scale(self) -> Self:
        scores = {**self.scores, "overall": self.overall}
        # written so that NaN is off the scale, too
        wrong = [f"{k} = {v}" for k, v in scores.items() if v is not None and not 1 <= v <= 10]
        if wrong:
            raise ValueError(f"scores go from 1 to 10, found {', '.join(wrong)}")
        return self


class ProbeResult(_Record):
    """What base and tuned model make of one question of the probe set; sums over its tokens, in nats."""

    id: str
    category: str
    cluster: str
    """Items that ask the same share it."""
    tokens: Annotated[int, Field(ge=1)]
    """Tokens of the reference answer, the end of turn not counted."""
    base_nll: float
    tuned_nll: float
    kl: Annotated[float, Field(ge=0)]
    """KL divergence of the tuned from the base model's next-token distribution, over the whole vocabulary."""
    options: int | None
    """How many options there are to choose from; None: no multiple choice."""
    right: str | None
    """Letter of the right option."""
    base_choice: str | None
    tuned_choice: str | None
