"""What one request to a language model ends in: a reply (usable or not), silence, or a refusal.

Shared by the ways of asking (`client`, `hf`) and by what reads the replies (`asked`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gemma_lora.judge.items import Usage

__all__ = ["NoReply", "Rejected", "Reply"]


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


class NoReply(Exception):
    """Retries are used up; the text says what happened last."""


class Rejected(Exception):
    """The server refuses this one request (too long, filtered); others may pass."""
