"""The two forms of API that judges speak: chat completions (OpenAI's) and messages (Anthropic's).

A wire makes the body of a request and reads the body of a reply. Its rungs are the ways in which it
can be held to the schema, the strictest first: a native JSON schema, a forced tool call, JSON mode,
and prose, whose last JSON object must fit the schema. Pure: sends nothing, knows no key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol, cast

from gemma_lora.judge.asking import Prompt
from gemma_lora.judge.items import Usage
from gemma_lora.judge.replies import Reply

__all__ = ["ChatWire", "Dialect", "MessagesWire", "Wire"]

_TOOL = "record_judgement"
_PURPOSE = "Record the judgement of the answer under examination."
CUT = "the reply was cut off by the token limit"
REFUSED = "the judge refused"
EMPTY = "the reply is empty"
NO_CALL = "the reply does not call the tool it was told to"


@dataclass(frozen=True)
class Dialect:
    """How one server wants to be asked."""

    rung: int = 0
    limit_name: str = "max_tokens"
    temperature: bool = True
    system: bool = True


class Wire(Protocol):
    rungs: tuple[str, ...]
    path: str
    limit_names: tuple[str, ...]

    def body(self, model: str, prompt: Prompt, dialect: Dialect, limit: int) -> dict[str, Any]: ...

    def read(self, value: Any, rung: str) -> Reply:
        """A parsed body as a Reply. Raises KeyError, IndexError, TypeError or AttributeError where it
        has not the form."""
        ...


class ChatWire:
    """`POST /chat/completions`."""

    rungs: tuple[str, ...] = ("json_schema", "tool", "json_object", "prose")
    path = "/chat/completions"
    limit_names: tuple[str, ...] = ("max_tokens", "max_completion_tokens")

    def body(self, model: str, prompt: Prompt, dialect: Dialect, limit: int) -> dict[str, Any]:
        if dialect.system:
            messages = [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ]
        else:
            messages = [{"role": "user", "content": f"{prompt.system}\n\n{prompt.user}"}]
        body: dict[str, Any] = {"model": model, "messages": messages, dialect.limit_name: limit}
        if dialect.temperature:
            body["temperature"] = 0
        rung = self.rungs[dialect.rung]
        if rung == "json_schema":
            schema = {"name": "judgement", "strict": True, "schema": prompt.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif rung == "tool":
            function: dict[str, Any] = {"name": _TOOL, "description": _PURPOSE, "strict": True}
            function["parameters"] = prompt.schema
            body["tools"] = [{"type": "function", "function": function}]
            body["tool_choice"] = {"type": "function", "function": {"name": _TOOL}}
        elif rung == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def read(self, value: Any, rung: str) -> Reply:
        choice: Any = value["choices"][0]
        message = cast(dict[str, Any], choice["message"])
        content, calls = message.get("content"), message.get("tool_calls") or ()
        called = [call["function"]["arguments"] for call in calls if isinstance(call, dict)]
        text = content if isinstance(content, str) else ""
        if called and isinstance(called[-1], str):
            text = called[-1]
        fault = None
        if message.get("refusal"):
            fault = REFUSED
        elif choice.get("finish_reason") == "length":
            fault = CUT
        elif choice.get("finish_reason") == "content_filter":
            fault = "the server's content filter stopped the reply"
        elif not text.strip():
            fault = NO_CALL if rung == "tool" and not called else EMPTY
        usage: Any = value.get("usage")
        return Reply(
            text,
            fault,
            cut=choice.get("finish_reason") == "length",
            usage=Usage(1, _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")),
            model=_text(value.get("model")),
            fingerprint=_text(value.get("system_fingerprint")),
            rung=rung,
            ignored=rung == "tool" and not called,
        )


class MessagesWire:
    """`POST /messages`; there is no JSON mode."""

    rungs: tuple[str, ...] = ("json_schema", "tool", "prose")
    path = "/messages"
    limit_names: tuple[str, ...] = ("max_tokens",)

    def body(self, model: str, prompt: Prompt, dialect: Dialect, limit: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": limit,
            "system": prompt.system,
            "messages": [{"role": "user", "content": prompt.user}],
        }
        if not dialect.system:
            del body["system"]
            body["messages"][0]["content"] = f"{prompt.system}\n\n{prompt.user}"
        if dialect.temperature:
            body["temperature"] = 0
        rung = self.rungs[dialect.rung]
        if rung == "json_schema":
            body["output_config"] = {"format": {"type": "json_schema", "schema": prompt.schema}}
        elif rung == "tool":
            body["tools"] = [
                {"name": _TOOL, "description": _PURPOSE, "input_schema": prompt.schema}
            ]
            body["tool_choice"] = {"type": "tool", "name": _TOOL}
        return body

    def read(self, value: Any, rung: str) -> Reply:
        blocks = [cast(dict[str, Any], b) for b in value["content"] if isinstance(b, dict)]
        called = [block["input"] for block in blocks if block.get("type") == "tool_use"]
        texts = [block["text"] for block in blocks if block.get("type") == "text"]
        text = json.dumps(called[-1]) if called else "".join(t for t in texts if isinstance(t, str))
        reason = value.get("stop_reason")
        fault = None
        if reason == "refusal":
            fault = REFUSED
        elif reason in ("max_tokens", "model_context_window_exceeded"):
            fault = CUT
        elif not text.strip():
            fault = NO_CALL if rung == "tool" and not called else EMPTY
        usage: Any = value.get("usage")
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        return Reply(
            text,
            fault,
            cut=reason == "max_tokens",
            usage=Usage(1, sum(_count(usage, n) for n in names), _count(usage, "output_tokens")),
            model=_text(value.get("model")),
            rung=rung,
            ignored=rung == "tool" and not called,
        )


def _count(usage: Any, name: str) -> int:
    found: Any = cast(dict[str, Any], usage).get(name) if isinstance(usage, dict) else 0
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else 0


def _text(value: Any) -> str | None:
    """A name of theirs; a lone surrogate, which no file of ours could hold, becomes a question mark."""
    if not isinstance(value, str) or not value:
        return None
    return value.encode("utf-8", "replace").decode()
