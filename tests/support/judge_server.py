"""A real OpenAI-compatible HTTP server on loopback that misbehaves exactly as a test tells it to.

    with JudgeServer() as server:
        server.plan = lambda seen: Act(status=500) if seen.number < 3 else None   # None: judge well
        ... judge with server.name ...
        server.seen          # every request: body, headers, times

`good_reply` judges by a hash of the answer's text, so equal answers get equal scores and a test can
compute what is right (`right_scores`). Thread for each connection; connections are kept alive.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SCORES = ("relevance", "accuracy", "completeness", "fluency", "usefulness", "overall")


@dataclass
class Seen:
    """One request as it arrived."""

    number: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float
    done: float = 0.0

    @property
    def system(self) -> str:
        turns = [m["content"] for m in self.body["messages"] if m["role"] == "system"]
        return "\n".join([*turns, self.body.get("system", "")]).strip("\n")

    @property
    def user(self) -> str:
        return self.body["messages"][-1]["content"]

    @property
    def answer(self) -> str:
        """The answer under examination, decoded from between its markers."""
        return self.field("ANSWER UNDER EXAMINATION")

    def field(self, title: str) -> Any:
        found = re.findall(
            rf"^<<<{title} (\w+)>>>\n(.*?)\n<<<END OF {title} \1>>>$", self.user, re.M | re.S
        )
        assert len(found) == 1, f"{title}: {len(found)} times in the prompt"
        return json.loads(found[0][1])


@dataclass
class Act:
    """What to do instead of judging well."""

    status: int = 200
    body: Any = None
    """dict: sent as JSON; str or bytes: as they are; None: a good reply (status 200) or an error object."""
    content: str | None = None
    """A chat completion with this text."""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    finish: str = "stop"
    refusal: str | None = None
    cut: int | None = None
    """Send only so many bytes of the body, although Content-Length promises all, then close."""
    break_off: bool = False
    """After the body, or what is sent of it, break the connection with a TCP reset."""
    drip: float = 0.0
    """Seconds between the bytes of the body."""
    twice: bool = False
    """Send the whole response a second time, as a broken gateway might."""
    ignore_tool: bool = False
    """Reply with text where a tool call is demanded."""
    reset: bool = False
    """Break the connection with a TCP reset instead of replying."""


def right_scores(answer: str) -> dict[str, int]:
    raw = hashlib.sha256(answer.encode("utf-8", "surrogatepass")).digest()
    return {name: 1 + raw[i] % 10 for i, name in enumerate(SCORES)}


def verdict_text(scores: dict[str, Any], reasoning: str = "because") -> str:
    return json.dumps({"reasoning": reasoning, **scores})


def good_reply(seen: Seen) -> str:
    return verdict_text(right_scores(seen.answer))


class JudgeServer:
    """Starts on entering, stops on leaving. `plan(seen)` returns an Act, or None for a good reply."""

    def __init__(self, model: str = "stub-judge", host: str = "127.0.0.1") -> None:
        self.model = model
        self.plan: Callable[[Seen], Act | None] = lambda seen: None
        self.seen: list[Seen] = []
        self.models = [model, "another-model"]
        self.drip_models = 0.0
        """Seconds between the bytes of the list of models."""
        self.most_in_flight = 0
        self._in_flight = 0
        self._lock = threading.Lock()
        self._http = _Server((host, 0), _handler(self))
        self.port = self._http.server_address[1]
        self.host = host

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    @property
    def name(self) -> str:
        return f"{self.url}#{self.model}"

    @property
    def chats(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.path.endswith("/chat/completions")]

    def answer(self, seen: Seen, act: Act) -> Act:
        """The act with its body in the API's form; one Act may serve many requests."""
        if act.status != 200 or act.body is not None:
            return act
        text = act.content if act.content is not None else good_reply(seen)
        body = completion(self.model, text, act, tool="tools" in seen.body)
        return dataclasses.replace(act, body=body)

    @property
    def now_in_flight(self) -> int:
        return self._in_flight

    def __enter__(self) -> JudgeServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def note(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Seen:
        with self._lock:
            seen = Seen(len(self.seen), path, headers, body, time.monotonic())
            self.seen.append(seen)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        return seen

    def finish(self, seen: Seen) -> None:
        with self._lock:
            seen.done = time.monotonic()
            self._in_flight -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are part of the tests


def _handler(server: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            seen = server.note(self.path, dict(self.headers.items()), {})
            try:
                data = [{"id": name, "object": "model"} for name in server.models]
                listed = {"object": "list", "data": data}
                self._send(Act(body=listed, drip=server.drip_models))
            finally:
                server.finish(seen)

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length))
            seen = server.note(self.path, dict(self.headers.items()), body)
            try:
                act = server.plan(seen) or Act()
                time.sleep(act.delay)
                if act.reset:
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.connection.close()
                    self.close_connection = True
                    return
                self._send(server.answer(seen, act))
            finally:
                server.finish(seen)

        def _send(self, act: Act) -> None:
            body = act.body
            if body is None:
                body = {"error": {"message": f"scripted {act.status}", "type": "test"}}
            kind = "application/json"
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            raw = body if isinstance(body, bytes) else str(body).encode()
            headers = {"content-type": kind, "content-length": str(len(raw)), **act.headers}
            self.send_response(act.status)
            for name, value in headers.items():
                self.send_header(name, value)
            if act.twice:
                head = b"".join(self._headers_buffer)
                raw += head + b"\r\n" + raw
            self.end_headers()
            sent = raw if act.cut is None else raw[: act.cut]
            if act.drip:
                for byte in sent:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(act.drip)
            else:
                self.wfile.write(sent)
            self.wfile.flush()
            if act.cut is not None:
                self.close_connection = True
            if act.break_off:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()

    return Handler


IDS = itertools.count()


def completion(
    model: str, text: str | None, act: Act | None = None, *, tool: bool = False
) -> dict[str, Any]:
    act = act or Act()
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": act.refusal}
    if tool and not act.ignore_tool:
        function = {"name": "record_judgement", "arguments": text}
        message["content"] = None
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
    return {
        "id": f"chatcmpl-{next(IDS)}",
        "object": "chat.completion",
        "created": 1,
        "model": f"{model}-2026-11-01",
        "system_fingerprint": "fp_test",
        "choices": [{"index": 0, "finish_reason": act.finish, "message": message}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }
