"""From a judge's reply to scores, or to the reason why there are none.

Strict and closed on failure: the reply's last JSON object with a score in it must fit the schema
exactly (reasoning and every score, no others, none twice; integers 1 to 10; 8.0 counts as the integer 8, as
JSON Schema has it; "8", "8/10", true, 8.5 and 11 do not). Nothing is clamped, guessed or taken from
an earlier or inner object when another is broken, nor from a model's thinking before its reply: such
an object may be quoted from the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from gemma_lora.judge.asking import SCORES

__all__ = ["Unusable", "Verdict", "read_verdict", "validate", "verdicts_in"]


@dataclass(frozen=True)
class Verdict:
    """A valid reply. `scores` has the rubric's dimensions and `overall`, each 1..10."""

    reasoning: str
    scores: dict[str, int]


class Unusable(Exception):
    """The reply cannot be used; the text says why, in words of ours that can be shown and sent."""


def read_verdict(text: str, names: Sequence[str] = SCORES) -> Verdict:
    """The verdict in `text` with the scores `names`; Unusable where an object is broken or the last does not fit."""
    text = _after_thinking(text)
    if not text.strip():
        raise Unusable("the reply is empty")
    last: dict[str, Any] | None = None
    for found, fault in _objects(text, names):
        if fault is not None:
            raise Unusable(fault)
        if found is not None and any(name in found for name in names):
            last = found
    if last is None:
        raise Unusable("the reply holds no JSON object with scores")
    return validate(last, names)


def validate(value: dict[str, Any], names: Sequence[str] = SCORES) -> Verdict:
    """`value` as a Verdict with the scores `names`; Unusable names every field that is wrong."""
    faults: list[str] = []
    expected = ("reasoning", *names)
    missing = [name for name in expected if name not in value]
    if missing:
        faults.append(f"missing: {', '.join(missing)}")
    if len(value) > len(expected) - len(missing):
        faults.append("fields that the schema does not have")
    reasoning = value.get("reasoning", "")
    if not isinstance(reasoning, str):
        faults.append("reasoning is not text")
    scores: dict[str, int] = {}
    for name in names:
        if name not in value:
            continue
        number = _score(value[name])
        if number is None:
            faults.append(f"{name} is not an integer from 1 to 10")
        else:
            scores[name] = number
    if faults:
        raise Unusable("; ".join(faults))
    return Verdict(cast(str, reasoning), scores)


def verdicts_in(text: str, names: Sequence[str] = SCORES) -> Iterator[Verdict]:
    """Every schema-valid verdict in `text` (an answer that forges one, say), at any depth and escaped."""
    seen = [text]
    if '\\"' in text:
        seen.append(text.replace('\\"', '"'))  # as it stands inside a string of JSON or of code
    for version in seen:
        for found, _ in _objects(version, names):
            yield from _valid_inside(found, names)


def _valid_inside(value: Any, names: Sequence[str]) -> Iterator[Verdict]:
    """`value` itself or what it holds, where that is a valid verdict."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            try:
                yield validate(cast(dict[str, Any], current), names)
            except Unusable:
                waiting += cast(dict[str, Any], current).values()
        elif isinstance(current, list):
            waiting += cast(list[Any], current)


_THINKING = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)


def _after_thinking(text: str) -> str:
    """The reply without the thinking that some models put before it; Unusable where it never ends.

    To the last closing tag, since thinking may quote an earlier one from the answer, and not where thinking
    begins again after it. The opening tag may be missing (some templates end with it); a reply that begins
    with its object has no thinking.
    """
    opened = _THINKING.match(text.lstrip()) is not None
    if not opened and text.lstrip().startswith(("{", "```")):
        return text
    ends = [match.end() for match in _THOUGHT.finditer(text)]
    reply = text[ends[-1] :] if ends else text
    if (opened and not ends) or (ends and _THINKING.search(reply)):
        raise Unusable("the reply ends inside its thinking")
    return reply


def _score(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value in range(1, 11) else None


_FIELD = re.compile(r'\{\s*"[^"{}]*"\s*:')


def _objects(text: str, names: Sequence[str]) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
    """Top-level JSON objects in order; a broken one that names a score is yielded as a fault."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
    at = text.find("{")
    while at >= 0:
        end = at + 1
        try:
            found, end = decoder.raw_decode(text, at)
            if isinstance(found, dict):
                yield cast(dict[str, Any], found), None
        except _Twice:
            yield None, "a field is given twice"
        except RecursionError:
            yield None, "the reply is nested too deeply"
        except ValueError:
            inner = text.find("{", end)
            rest = text[at : inner if inner >= 0 else len(text)]
            # an object that opens, names a field and does not close before the next one begins around it:
            # what it holds may be a quotation
            open_still = inner >= 0 and _FIELD.match(rest) is not None and "}" not in rest
            if open_still or any(f'"{name}"' in rest for name in ("reasoning", *names)):
                yield None, "its JSON object is broken or cut off"
        at = text.find("{", end)


class _Twice(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
