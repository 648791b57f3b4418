"""Asking an OpenAI-compatible server: OpenAI, vLLM, Ollama, llama.cpp and others.

One `ServerAsker` holds one `openai.AsyncOpenAI` client. Its retries are off; ours are here: 429, 5xx,
time-outs and broken connections are tried again after a jittered, doubling pause that honours
Retry-After and holds back all requests at once. What can never work (401, 403, 404, a redirect, no
credit) raises JudgeError. What the server does not take (strict JSON schema, a temperature, one of
the two names for the token limit, a system message) is found out with the first request, which goes
alone, and remembered. The key travels only to the address it belongs to: redirects are not followed,
and every header that is not on a short list is removed before a request leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import json
import random
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import urlsplit

import openai

from gemma_lora.config import JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.asking import SCHEMA, Prompt
from gemma_lora.judge.items import Usage
from gemma_lora.judge.names import Target, key_for
from gemma_lora.judge.replies import CONNECTION, STATUS, TIME_OUT, NoReply, Rejected, Reply

__all__ = ["ServerAsker"]

RUNGS = ("json_schema", "json_object", "prose")
_LONGEST_PAUSE = 60.0
_LONGEST_WAIT = 600.0
"""A server that asks for a longer wait than this many seconds ends the stage; it can be continued."""
_HEADERS = frozenset(
    [
        *("host", "accept", "accept-encoding", "connection", "user-agent"),
        *("content-type", "content-length", "transfer-encoding"),
        "x-stainless-raw-response",  # the client looks for it again when the response is there
    ]
)
_OPENAI_HEADERS = frozenset(("openai-organization", "openai-project"))


class _BadRequest(Exception):
    """Status 400 or 422: something in the form of the request."""


@dataclass(frozen=True)
class Dialect:
    """How this server wants to be asked."""

    rung: int = 0
    limit_name: str = "max_tokens"
    temperature: bool = True
    system: bool = True


class ServerAsker:
    """Puts prompts to one server. `backoff`: the first pause in seconds."""

    def __init__(
        self, target: Target, config: JudgeConfig, console: Console, *, backoff: float = 1.0
    ) -> None:
        self.target = target
        self.rung: str | None = None
        self._config = config
        self._console = console
        self._backoff = backoff
        self._key = key_for(target)
        # OpenAI's newer models refuse the old name; most other servers know only that one
        at_openai = target.key_variable == "OPENAI_API_KEY"
        self._dialect = Dialect(limit_name="max_completion_tokens" if at_openai else "max_tokens")
        self._proven = False
        self._settled = False
        self._first = asyncio.Lock()
        self._resume_at = 0.0
        self._limit = config.judge_max_tokens
        self._ended: JudgeError | None = None
        self._stop = asyncio.Event()
        self._random = random.Random()
        self._client = self._connect()
        if target.is_remote and self._key and target.address.startswith("http://"):
            console.warn(f"the judge's key travels to {target.host} unencrypted (http)")

    @property
    def concurrency(self) -> int:
        return self._config.judge_concurrency

    async def ask(self, prompt: Prompt, *, lower: bool = False, longer: bool = False) -> Reply:
        """One usable or faulty reply. `lower`: one rung down; `longer`: four times the token limit.

        Raises NoReply, Rejected (this request only) or JudgeError (nothing can work).
        """
        if not self._settled:
            async with self._first:  # the first request alone finds out what the server takes
                if not self._settled:
                    try:
                        return await self._negotiate(prompt, lower, longer)
                    finally:
                        self._settled = True
        return await self._negotiate(prompt, lower, longer)

    def end(self, error: JudgeError) -> None:
        """Make everything under way give up with `error` before its next try."""
        self._ended = self._ended or error
        self._stop.set()

    async def models(self) -> list[str]:
        """The model names that the server lists; empty where it lists none."""
        try:
            raw = await self._client.models.with_raw_response.list()
            value = json.loads(raw.text)
            return [str(entry["id"]) for entry in value["data"]]
        except (openai.OpenAIError, ValueError, KeyError, TypeError):
            return []

    async def close(self) -> None:
        await self._client.close()

    # -- form of the request ------------------------------------------------------------------

    async def _negotiate(self, prompt: Prompt, lower: bool, longer: bool) -> Reply:
        dialect = self._dialect
        if lower:
            dialect = dataclasses.replace(dialect, rung=min(dialect.rung + 1, len(RUNGS) - 1))
        tried = {dialect}
        while True:
            try:
                reply = await self._persist(self._body(prompt, dialect, longer))
            except _BadRequest as refusal:
                following = None if self._proven else _adapt(dialect, str(refusal), tried)
                if following is None:
                    raise Rejected(str(refusal)) from None
                dialect = following
                tried.add(dialect)
                continue
            if not lower and not self._proven:
                self._remember(dialect)
            if longer and not reply.cut and reply.fault is None:
                self._lengthen()
            return reply

    def _lengthen(self) -> None:
        """A reply fitted into four times the limit: allow that from now on, and say so once."""
        configured = self._config.judge_max_tokens
        if self._limit == configured:
            self._limit = 4 * configured
            self._console.warn(
                f"the judge's replies do not fit into --judge-max-tokens {configured}; "
                f"{self._limit} are allowed from now on (models that think before they answer need it)"
            )

    def _remember(self, dialect: Dialect) -> None:
        self._dialect, self._proven = dialect, True
        self.rung = RUNGS[dialect.rung]
        if dialect.rung:
            self._console.note(
                f"the judge's server does not take {RUNGS[0]} replies; asking for {self.rung} "
                "and checking each reply as strictly"
            )
        if not dialect.temperature:
            self._console.warn(
                "the judge's server does not take temperature 0: its scores vary from call to call"
            )

    def _body(self, prompt: Prompt, dialect: Dialect, longer: bool) -> dict[str, Any]:
        if dialect.system:
            messages = [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ]
        else:
            messages = [{"role": "user", "content": f"{prompt.system}\n\n{prompt.user}"}]
        body: dict[str, Any] = {
            "model": self.target.model,
            "messages": messages,
            dialect.limit_name: 4 * self._config.judge_max_tokens if longer else self._limit,
        }
        if dialect.temperature:
            body["temperature"] = 0
        if RUNGS[dialect.rung] == "json_schema":
            schema = {"name": "judgement", "strict": True, "schema": SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif RUNGS[dialect.rung] == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    # -- tries ----------------------------------------------------------------------------------

    async def _persist(self, body: dict[str, Any]) -> Reply:
        """Try until there is a reply; each failed try waits longer."""
        for attempt in range(self._config.judge_retries + 1):
            await self._pause(self._resume_at - time.monotonic())
            try:
                return await self._once(body)
            except _Passing as fault:
                reason, wait = str(fault), fault.wait
            if attempt == self._config.judge_retries:
                tries = f"{attempt + 1} tries" if attempt else "1 try"
                raise NoReply(f"{reason} ({tries})")
            pause = min(_LONGEST_PAUSE, self._backoff * 2**attempt) * self._random.uniform(0.5, 1)
            if wait is not None:
                if wait > _LONGEST_WAIT:
                    raise self._end(f"asks to wait {wait:.0f} s ({reason})", "run it again later")
                # spread the crowd that was told the same moment
                self._resume_at = max(self._resume_at, time.monotonic() + wait)
                pause = wait + self._random.uniform(0, self._backoff)
            await self._pause(pause)
        raise AssertionError("unreachable")

    async def _pause(self, seconds: float) -> None:
        """Sleep, but wake up and give up where the end was declared meanwhile."""
        if seconds > 0 and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stop.wait()
        if self._ended:
            raise self._ended

    async def _once(self, body: dict[str, Any]) -> Reply:
        """One request. Raises _Passing, _BadRequest, Rejected or JudgeError."""
        try:
            # the client's own limit is for single reads: a server that drips would never reach it
            async with asyncio.timeout(self._config.judge_timeout):
                raw: Any = await self._client.chat.completions.with_raw_response.create(**body)
                return _envelope(raw.http_response, self._scrub)
        except (TimeoutError, openai.APITimeoutError):
            raise _Passing(f"{TIME_OUT}{self._config.judge_timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise _Passing(f"{CONNECTION}{_cause(error)}") from None
        except openai.APIStatusError as error:
            raise await self._status(error) from None

    async def _status(self, error: openai.APIStatusError) -> Exception:
        status, response = error.status_code, error.response
        said = self._scrub(_message(error))
        what = f"{STATUS}{status}" + (f": {said}" if said else "")
        if status == 429 and "insufficient_quota" in f"{error.code} {said}":
            return self._end(f"has no credit left ({what})", "check the account's billing")
        if status in (408, 409, 425, 429) or status >= 500:
            return _Passing(what, _retry_after(response.headers))
        if 300 <= status < 400:
            to = urlsplit(str(response.headers.get("location", ""))).netloc or "another address"
            return self._end(
                f"redirects to {to} ({status})",
                "name the final address; redirects are not followed, so that no key goes astray",
            )
        if status in (401, 403):
            variable = self.target.key_variable
            has = f"{variable} was sent" if self._key else f"no key was sent; {variable} is not set"
            return self._end(
                f"refuses access (HTTP {status})",
                f"check the key: {has}"
                if variable
                else "this server asks for a key: name it as "
                "http://HOST/v1#MODEL with GEMMA_LORA_JUDGE_KEY",
            )
        if status == 402:
            return self._end(f"asks for payment ({what})", "check the account's billing")
        if status in (404, 405):
            return await self._unknown(what)
        if status in (400, 422):
            return _BadRequest(what)
        return Rejected(what)

    async def _unknown(self, what: str) -> JudgeError:
        names = await self.models()
        if not names:
            return self._end(
                f"knows no such address or model ({what})",
                "check the address (it usually ends in /v1) and the model's name",
            )
        close = difflib.get_close_matches(self.target.model, names, n=8, cutoff=0.3)
        shown = (close + [name for name in names if name not in close])[:8]
        more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        return self._end(
            f"does not know the model {self.target.model!r} ({what})",
            "name one that it has",
            expected=", ".join(shown) + more,
        )

    def _end(self, found: str, remedy: str, *, expected: str | None = None) -> JudgeError:
        error = JudgeError(
            f"the judge's server {found}",
            where=f"{self.target.name} ({self.target.host})",
            expected=expected,
            remedy=remedy,
        )
        self.end(error)
        return error

    # -- the client ---------------------------------------------------------------------------

    def _connect(self) -> openai.AsyncOpenAI:
        http = openai.DefaultAsyncHttpxClient(
            follow_redirects=False,
            # a proxy is for the world outside; asking this machine goes straight
            trust_env=not self.target.is_loopback,
            timeout=self._config.judge_timeout,
            event_hooks={"request": [self._guard]},
        )
        return openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self.target.address,  # given, so that OPENAI_BASE_URL counts for nothing
            max_retries=0,
            timeout=self._config.judge_timeout,
            http_client=http,
        )

    async def _guard(self, request: Any) -> None:
        """The last look at a request: right address, our key or none, nothing from the environment."""
        own = urlsplit(self.target.address)
        if (request.url.scheme, request.url.host) != (own.scheme, own.hostname):
            raise JudgeError("a request would have left for another server", where=self.target.name)
        at_openai = self.target.key_variable == "OPENAI_API_KEY"
        allowed = _HEADERS | _OPENAI_HEADERS if at_openai else _HEADERS
        for name in list(request.headers.keys()):
            if name.lower() not in allowed:
                del request.headers[name]
        if self._key:
            request.headers["authorization"] = f"Bearer {self._key}"

    def _scrub(self, text: str) -> str:
        """Server text that may be shown: one line, short, without our key or anything like one."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = re.sub(r"\b(?:sk|Bearer)[-_ ][^\s\"',;]{4,}", "[key]", text)
        text = "".join(char if char.isprintable() else " " for char in text)
        return " ".join(text.split())[:300]


class _Passing(Exception):
    """A fault that may heal. `wait`: seconds that the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def _adapt(dialect: Dialect, said: str, tried: set[Dialect]) -> Dialect | None:
    """The next form to try after a 400: what the message names first, else a rung down, and so on."""
    other = "max_tokens" if dialect.limit_name != "max_tokens" else "max_completion_tokens"
    swap = dataclasses.replace(dialect, limit_name=other)
    cold = dataclasses.replace(dialect, temperature=False)
    fold = dataclasses.replace(dialect, system=False)
    down = dataclasses.replace(dialect, rung=min(dialect.rung + 1, len(RUNGS) - 1))
    lower = said.lower()
    named: list[Dialect] = []
    if dialect.limit_name in lower:
        named.append(swap)
    if "temperature" in lower:
        named.append(cold)
    if "system" in lower and "role" in lower:
        named.append(fold)
    for candidate in (*named, down, cold, fold, swap):
        if candidate not in tried:
            return candidate
    return None


def _envelope(response: Any, scrub: Any) -> Reply:
    """Status 200 to text and facts; a body that is no chat completion is a damaged reply."""
    kind = str(response.headers.get("content-type", "")).split(";")[0].strip().lower()
    if not kind.endswith("json"):
        return Reply("", f"content type {scrub(kind) or 'unknown'} instead of JSON", damaged=True)
    try:
        value: Any = json.loads(response.content)
    except (ValueError, RecursionError):
        return Reply("", "the body is not JSON or was cut off", damaged=True)
    try:
        choice: Any = value["choices"][0]
        message = cast(dict[str, Any], choice["message"])
        content, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Reply("", "the body holds no message", damaged=True)
    usage: Any = value.get("usage")
    counts = [usage.get(f"{name}_tokens") if isinstance(usage, dict) else 0 for name in _COUNTS]
    known = [n if isinstance(n, int) and n >= 0 else 0 for n in counts]
    reason = choice.get("finish_reason")
    fault = None
    if refusal:
        fault = "the judge refused"
    elif reason == "length":
        fault = "the reply was cut off by the token limit"
    elif reason == "content_filter":
        fault = "the server's content filter stopped the reply"
    elif not isinstance(content, str) or not content.strip():
        fault = "the reply is empty"
    return Reply(
        content if isinstance(content, str) else "",
        fault,
        cut=reason == "length",
        usage=Usage(1, *known),
        model=_text(value.get("model")),
        fingerprint=_text(value.get("system_fingerprint")),
    )


_COUNTS = ("prompt", "completion")


def _text(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) and value else None


def _message(error: openai.APIStatusError) -> str:
    """The server's own words, from the usual places."""
    body: Any = error.body
    if isinstance(body, dict):
        inner: Any = body.get("error", body)
        body = inner.get("message", inner) if isinstance(inner, dict) else inner
    text = body if isinstance(body, str) else json.dumps(body, default=str) if body else ""
    return "" if text.lstrip().startswith("<") else text


def _cause(error: BaseException) -> str:
    """The innermost reason of a chain, by type where it has no words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"[:200] if str(error) else type(error).__name__


def _retry_after(headers: Any) -> float | None:
    """Seconds from `retry-after-ms` or `Retry-After` (seconds or a date); None where absent or odd."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            return max(0.0, float(text) * scale) if float(text) == float(text) else None
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            return None
    return None
