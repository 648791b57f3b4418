"""The words put to a judge, and the form its reply must have.

Reads the versioned template in `prompts/`, filled with a rubric's criteria (`gemma_lora.rubric`). Question, reference and answer are JSON-encoded and put
between marker lines with a random code. Inside the markers only, what could be taken for a marker, a
chat template's control token or invisible steering (zero-width and bidirectional characters, Unicode
tags) is written as a JSON escape: the judge sees that it is there, and nothing is lost, since the
escaped text decodes to the original. The template is rendered in one pass in Jinja's immutable
sandbox: text that looks like template syntax stays text. Which arm an answer comes from is not here.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gemma_lora.records import DIMENSIONS, Message
from gemma_lora.rubric import OVERALL, Rubric, load_rubric
from gemma_lora.rundir import digest

__all__ = [
    "CONTROL_TOKEN",
    "PROMPT_NAME",
    "SCHEMA",
    "SCORES",
    "Prompt",
    "encode",
    "prompt_hash",
    "render",
    "schema",
    "schema_hash",
]

PROMPT_NAME = "pointwise-v2"
SCORES: tuple[str, ...] = (*DIMENSIONS, OVERALL)
"""Those of the built-in rubric."""


def schema(scores: Sequence[str] = SCORES) -> dict[str, Any]:
    """The JSON schema of a reply: reasoning, then an integer for each of `scores`."""
    # an enum instead of minimum/maximum, every field required: the subset all strict servers take
    return {
        "type": "object",
        "properties": {
            "reasoning": {"type": "string"},
            **{name: {"type": "integer", "enum": list(range(1, 11))} for name in scores},
        },
        "required": ["reasoning", *scores],
        "additionalProperties": False,
    }


SCHEMA: dict[str, Any] = schema()


@dataclass(frozen=True)
class Prompt:
    """Both messages of one request, the code of its markers, and what the reply has to score."""

    system: str
    user: str
    fence: str
    scores: tuple[str, ...] = SCORES

    @property
    def schema(self) -> dict[str, Any]:
        return schema(self.scores)


def prompt_hash() -> str:
    """SHA-256 of the template file: part of every verdict and of the cache key."""
    return hashlib.sha256(_source().encode("utf-8")).hexdigest()


def schema_hash(scores: Sequence[str] = SCORES) -> str:
    return digest(schema(scores))


def render(
    messages: Sequence[Message],
    reference: str | None,
    answer: str,
    *,
    complaint: str = "",
    rubric: Rubric | None = None,
) -> Prompt:
    """The request for one answer, by `rubric` (None: the built-in one).

    `complaint`: our own words on why the last reply was unusable.
    """
    rubric = rubric or load_rubric(None)
    fence = secrets.token_hex(8)
    turns = [{"role": turn.role, "content": turn.content} for turn in messages]
    alone = len(messages) == 1 and messages[0].role == "user"
    values = {
        "fence": fence,
        "question": encode(messages[0].content if alone else turns),
        "reference": None if reference is None else encode(reference),
        "answer": encode(answer),
        "schema_text": json.dumps(schema(rubric.scores)),
        "complaint": complaint,
        "criteria": [*rubric.dimensions.items(), (OVERALL, rubric.overall)],
        "names": rubric.names,
        "every_second": rubric.every_second,
        "with_reference": rubric.with_reference,
        "without_reference": rubric.without_reference,
        "instructions": rubric.instructions,
    }
    # the same for every answer, so rendered once: a twelfth of a request's CPU
    kind = rubric.asked, reference is None
    if kind not in _systems:
        _systems[kind] = _block("system", values)
    return Prompt(_systems[kind], _block("user", values), fence, rubric.scores)


_systems: dict[tuple[str, bool], str] = {}
"""The system part by what the rubric says and whether there is a reference."""


def _block(name: str, values: dict[str, Any]) -> str:
    template = _template()
    return "".join(template.blocks[name](template.new_context(values)))


def encode(value: Any) -> str:
    """`value` as JSON that holds no marker, no control token and nothing invisible; decodes to `value`."""
    text = json.dumps(value, ensure_ascii=False)
    text = _LOOKALIKE.sub(_escape_brackets, text)
    if text.isascii():
        return text
    return "".join(_escape(c) if _is_hidden(c) else c for c in text)


# runs of angle brackets in any guise (a marker's), and the control tokens of the common chat
# templates, which some servers would take for real ones inside a message
_ANGLES = (
    "<>\u00ab\u00bb\u02c2\u02c3\u1433\u1438\u2039\u203a\u226a\u226b\u22d8\u22d9\u2329\u232a\u276e\u276f"
    "\u27e8\u27e9\u27ea\u27eb\u2aa1\u2aa2\u3008\u3009\u300a\u300b\ufe64\ufe65\uff1c\uff1e"
)
_BARS = "|\uff5c"  # the second is DeepSeek's
CONTROL_TOKEN = re.compile(
    rf"<[{_BARS}][^<>\n]{{0,60}}[{_BARS}]?>|<[{_BARS}]"
    r"|</?(?:s|bos|eos|pad|unk|sop|eop|think(?:ing)?|tools?|tool_(?:call|response)|turn\|?|system|user|assistant"
    r"|(?:start|end)_of_\w{1,20}|(?:unused|extra_id_|special_|reserved_)\d{1,5})>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|ARGS|CALL_ID|THINK|gMASK)\]",
    re.IGNORECASE,
)
_LOOKALIKE = re.compile(rf"[{_ANGLES}]{{2,}}|[\u22d8\u22d9]|{CONTROL_TOKEN.pattern}", re.IGNORECASE)
# letters and marks that are drawn as nothing
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def _escape_brackets(match: re.Match[str]) -> str:
    # only brackets and bars: a match may run across a JSON escape, which must stay whole
    return "".join(
        _escape(c) if c in _ANGLES or c in _BARS or c in "[]" else c for c in match.group()
    )


def _is_hidden(char: str) -> bool:
    if char.isascii():
        return False
    code = ord(char)
    return (
        unicodedata.category(char) in ("Cf", "Cc", "Cs", "Co", "Zl", "Zp")
        or 0xFE00 <= code <= 0xFE0F
        or 0xE0000 <= code <= 0xE0FFF
        or char in _BLANKS
    )


def _escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(
        f"\\u{int.from_bytes(units[i : i + 2], 'big'):04x}" for i in range(0, len(units), 2)
    )


@cache
def _source() -> str:
    file = resources.files("gemma_lora.judge") / "prompts" / f"{PROMPT_NAME}.jinja"
    return file.read_text(encoding="utf-8")


@cache
def _template() -> Any:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False
    )
    return environment.from_string(_source())
