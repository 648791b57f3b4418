"""From a judge's reply to scores, or to the reason why there are none.

Strict and closed on failure: the reply's last JSON object with a score in it must fit the schema
exactly (all seven fields, no others, none twice; integers 1 to 10; 8.0 counts as the integer 8, as
JSON Schema has it; "8", "8/10", true, 8.5 and 11 do not). Nothing is clamped, guessed or taken from
an earlier or inner object when another is broken: such an object may be quoted from the answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from gemma_lora.judge.asking import SCORES

__all__ = ["Unusable", "Verdict", "read_verdict", "validate", "verdicts_in"]


@dataclass(frozen=True)
class Verdict:
    """A valid reply. `scores` has the five dimensions and `overall`, each 1..10."""

    reasoning: str
    scores: dict[str, int]


class Unusable(Exception):
    """The reply cannot be used; the text says why, in words of ours that can be shown and sent."""


def read_verdict(text: str) -> Verdict:
    """The verdict in `text`; Unusable where an object is broken or the last one does not fit the schema."""
    if not text.strip():
        raise Unusable("the reply is empty")
    last: dict[str, Any] | None = None
    problem: str | None = None
    for found, fault in _objects(text):
        if fault is not None:
            problem = problem or fault
        elif found is not None and any(name in found for name in SCORES):
            last = found
    if problem is not None:
        raise Unusable(problem)
    if last is None:
        raise Unusable("the reply holds no JSON object with scores")
    return validate(last)


def validate(value: dict[str, Any]) -> Verdict:
    """`value` as a Verdict; Unusable names every field that is wrong."""
    faults: list[str] = []
    expected = ("reasoning", *SCORES)
    missing = [name for name in expected if name not in value]
    if missing:
        faults.append(f"missing: {', '.join(missing)}")
    if len(value) > len(expected) - len(missing):
        faults.append("fields that the schema does not have")
    reasoning = value.get("reasoning", "")
    if not isinstance(reasoning, str):
        faults.append("reasoning is not text")
    scores: dict[str, int] = {}
    for name in SCORES:
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


def verdicts_in(text: str) -> Iterator[Verdict]:
    """Every schema-valid verdict that stands in `text` (an answer that forges one, say)."""
    for found, _ in _objects(text):
        if found is not None:
            try:
                yield validate(found)
            except Unusable:
                continue


def _score(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value in range(1, 11) else None


def _objects(text: str) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
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
            return
        except ValueError:
            rest = text[at : text.find("{", at + 1) if "{" in text[at + 1 :] else len(text)]
            if any(f'"{name}"' in rest for name in ("reasoning", *SCORES)):
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
