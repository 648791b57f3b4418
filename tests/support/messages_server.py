"""Anthropic's messages API on loopback: refuses what the real one refuses, judges as `JudgeServer` does.

    with MessagesServer() as server:
        ... judge with server.name (anthropic+http://...#MODEL) ...

Missing `anthropic-version` or `max_tokens`, a `system` message among the messages, and parameters that the
API does not have are 400s in its form; faults are scripted by `plan`, as for `JudgeServer`.
"""

from __future__ import annotations

import json
from typing import Any

from support.judge_server import IDS, Act, JudgeServer, Seen, good_reply

_KNOWN = {"model", "max_tokens", "messages", "system", "temperature", "output_config", "tools"}
_KNOWN |= {"tool_choice"}


class MessagesServer(JudgeServer):
    path = "/messages"

    @property
    def name(self) -> str:
        return f"anthropic+{self.url}#{self.model}"

    @property
    def chats(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.path.endswith("/v1/messages")]

    def answer(self, seen: Seen, act: Act) -> Act:
        """The act with its body in this API's form."""
        headers = {name.lower(): value for name, value in seen.headers.items()}
        wrong = set(seen.body) - _KNOWN
        if act.status == 200 and "anthropic-version" not in headers:
            return _error(400, "anthropic-version: header is required")
        if act.status == 200 and wrong:
            return _error(400, f"{sorted(wrong)[0]}: Extra inputs are not permitted")
        if act.status == 200 and any(m["role"] == "system" for m in seen.body["messages"]):
            return _error(400, 'messages: Unexpected role "system"')
        if act.status != 200 or act.body is not None:
            return act
        text = act.content if act.content is not None else good_reply(seen)
        return Act(
            body=message(f"{self.model}-20261101", text, act, tool="tools" in seen.body),
            headers=act.headers,
            delay=act.delay,
            cut=act.cut,
            twice=act.twice,
        )


def message(model: str, text: str, act: Act, *, tool: bool) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": text}
    if tool and not act.ignore_tool:
        try:
            value = json.loads(text)
        except ValueError:
            value = {}
        value = value if isinstance(value, dict) else {}
        block = {"type": "tool_use", "id": "toolu_1", "name": "record_judgement", "input": value}
    reason = {"stop": "tool_use" if tool else "end_turn", "length": "max_tokens"}
    return {
        "id": f"msg_{next(IDS)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [block] if text else [],
        "stop_reason": "refusal" if act.refusal else reason.get(act.finish, act.finish),
        "usage": {
            "input_tokens": 40,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 60,
            "output_tokens": 20,
        },
    }


def _error(status: int, said: str) -> Act:
    return Act(
        status=status,
        body={"type": "error", "error": {"type": "invalid_request_error", "message": said}},
    )
