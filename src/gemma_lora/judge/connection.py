"""The HTTP connections to one judge's server, and the rule that the key goes nowhere else.

`Connection.send` posts a body and returns the whole response, whatever its status; `Lost` where none
came. Chat completions go through `openai.AsyncOpenAI` with its retries off; messages (Anthropic's API)
through the HTTP library that it brings. Redirects are not followed, variables such as OPENAI_BASE_URL
count for nothing, every header that is not on a short list is removed before a request leaves, and a body
is read up to MOST_BYTES and taken as it came: nothing encoded is asked for, so nothing is unpacked.

A server or gateway that sends one reply twice makes each later reply on that connection answer the
question before it, which HTTP/1.1 cannot tell. So a body that equals the one before it on the same
connection is not believed: the connection is retired and the question asked on another.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary, WeakSet

import httpx2
import openai

from gemma_lora.config import JudgeConfig
from gemma_lora.errors import EnvironmentFault, JudgeError
from gemma_lora.judge.limits import AUTO_MOST
from gemma_lora.judge.names import Target, key_for, without_key
from gemma_lora.judge.replies import CONNECTION, TIME_OUT

__all__ = ["MOST_BYTES", "PACKED", "Connection", "Lost", "SentTwice"]

ANTHROPIC_VERSION = "2023-06-01"
_HEADERS = frozenset(
    [
        *("host", "accept", "accept-encoding", "connection", "user-agent"),
        *("content-type", "content-length", "transfer-encoding"),
    ]
)
_OPENAI_HEADERS = frozenset(("openai-organization", "openai-project"))
"""That OpenAI's own client takes from the environment."""
_POOL = 16
"""Connections of one pool, about: the library looks at each of a pool's at every request and reply."""
MOST_BYTES = 8 << 20
"""What is read of a body, and a part more: a judgement has some kilobytes, and memory is shared by all under way."""
PACKED = "packed"
"""The extension of a response that names how its body is encoded; None: it is as it should be."""
_LIKE_A_KEY = re.compile(r"\b(?:sk|Bearer)[-_ ][^\s\"',;]{4,}")
_LONGEST_NAME = 200
_SURROUNDINGS = (
    *("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
)


class Lost(Exception):
    """No reply. `sent`: the request may have reached the server, and may be charged."""

    def __init__(self, reason: str, *, sent: bool, slow: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent
        self.slow = slow


class SentTwice(Lost):
    """The reply may be a second copy of another question's."""

    def __init__(self) -> None:
        super().__init__(f"{CONNECTION}the server sent a reply twice", sent=True)


@dataclass
class _Pool:
    http: httpx2.AsyncClient
    openai: openai.AsyncOpenAI | None
    under_way: int = 0


class _Capped(httpx2.AsyncByteStream):
    """A body that ends when it is longer than MOST_BYTES."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for part in self._stream:
            yield part
            length += len(part)
            if length > MOST_BYTES:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _cap(response: httpx2.Response) -> None:
    response.stream = _Capped(cast(httpx2.AsyncByteStream, response.stream))
    packed = response.headers.pop("content-encoding", "identity")
    response.extensions[PACKED] = None if packed == "identity" else packed


class Connection:
    """To `target`'s server, with its key."""

    def __init__(self, target: Target, config: JudgeConfig) -> None:
        self.key = key_for(target)
        self._target = target
        self._timeout = config.judge_timeout
        self._own = urlsplit(target.address)
        most = config.judge_concurrency or AUTO_MOST
        self._pools = self._make_pools(-(-most // _POOL))
        self._before: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()
        self._retired: WeakSet[Any] = WeakSet()
        self._doubted: set[bytes] = set()

    async def send(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        """The response to `body`, read to its end. Raises Lost."""
        try:
            # the client's own limit is for single reads: a server that drips would never reach it
            async with asyncio.timeout(self._timeout):
                return await self._post(path, body)
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException) as error:
            sent = not isinstance(_innermost(error), httpx2.ConnectTimeout)
            raise Lost(f"{TIME_OUT}{self._timeout:g} s", sent=sent, slow=True) from None
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            inner = _innermost(error)
            refused = isinstance(inner, httpx2.ConnectError | ConnectionRefusedError)
            raise Lost(f"{CONNECTION}{self.scrub(_words(error))}", sent=not refused) from None

    async def models(self) -> list[str]:
        """The model names that the server lists; empty where it lists none, or not in time."""
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._pools[0].http.get(f"{self._target.address}/models")
            value: Any = json.loads(response.content)
            return [self.scrub(str(entry["id"])) for entry in value["data"]]
        except (TimeoutError, httpx2.HTTPError, ValueError, KeyError, TypeError, RecursionError):
            return []

    async def close(self) -> None:
        for pool in self._pools:
            await pool.http.aclose()

    def scrub(self, text: str) -> str:
        """Server text that may be shown: one line, short, without our key or anything like one."""
        if self.key:
            text = text.replace(self.key, "[key]")
        text = _LIKE_A_KEY.sub("[key]", text)
        text = "".join(char if char.isprintable() else " " for char in text)
        return " ".join(text.split())[:300]

    def name(self, text: str | None) -> str | None:
        """What a server calls itself or its state, without our key or anything like one."""
        if text is None:
            return None
        return _LIKE_A_KEY.sub("[key]", without_key(text, self.key))[:_LONGEST_NAME]

    def _make_pools(self, count: int) -> list[_Pool]:
        # a proxy is for the world outside; asking this machine goes straight
        trust = not self._target.is_loopback
        try:
            # one for all: reading the certificates takes longer than a hundred requests
            secure = httpx2.create_ssl_context(trust_env=trust)
            return [self._pool(secure, trust) for _ in range(count)]
        except (ImportError, ValueError, OSError, httpx2.InvalidURL) as error:
            # the fault's own words may hold a proxy's password
            found = [name for name in _SURROUNDINGS if os.environ.get(name)]
            if isinstance(error, ImportError):
                what = "a proxy of a kind that is not installed (socks)"
            elif isinstance(error, OSError):
                what = "a file of certificates that cannot be read"
            else:
                what = "a proxy whose address is malformed"
            raise EnvironmentFault(
                f"the environment names {what}",
                where=", ".join(found) or self._target.name,
                expected="proxies as http://HOST:PORT or https://HOST:PORT, certificates as a PEM file",
                remedy="correct or unset the variable, or name this host in NO_PROXY",
            ) from None

    def _pool(self, secure: ssl.SSLContext, trust: bool) -> _Pool:
        http = httpx2.AsyncClient(
            follow_redirects=False,
            verify=secure,
            trust_env=trust,
            timeout=self._timeout,
            limits=httpx2.Limits(),  # `Pace` has the limit
            event_hooks={"request": [self._guard], "response": [_cap]},
        )
        if self._target.protocol != "chat":
            return _Pool(http, None)
        return _Pool(
            http,
            openai.AsyncOpenAI(
                api_key=self.key or "none",
                base_url=self._target.address,  # given, so that OPENAI_BASE_URL counts for nothing
                max_retries=0,
                timeout=self._timeout,
                http_client=http,
            ),
        )

    async def _post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        pool = min(self._pools, key=lambda pool: pool.under_way)
        pool.under_way += 1
        try:
            return await self._post_by(pool, path, body)
        finally:
            pool.under_way -= 1

    async def _post_by(self, pool: _Pool, path: str, body: dict[str, Any]) -> httpx2.Response:
        if pool.openai is not None:
            try:
                return await pool.openai.post(path, cast_to=httpx2.Response, body=body)
            except openai.APIStatusError as error:
                return error.response
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return await pool.http.post(f"{self._target.address}{path}", content=content)

    def doubt(self, response: httpx2.Response, *, scores: bool) -> None:
        """Retire the connection where this body equals the one before it there: a second copy, perhaps.

        `scores`: the reply would count; then SentTwice is raised, so that it is asked for again. What
        two connections say alike is believed; what comes over a retired one is not.
        """
        stream: Any = response.extensions.get("network_stream")
        if stream is None:
            return
        if stream in self._retired:  # another request had taken it before it was retired
            raise SentTwice
        body = hashlib.sha256(response.content).digest()
        before = self._before.get(stream)
        self._before[stream] = body
        if body != before:
            return
        self._retire(stream)
        if scores and body not in self._doubted:
            self._doubted.add(body)
            raise SentTwice

    def _retire(self, stream: Any) -> None:
        """Have the pool close the connection when it next looks at it: it takes one with unread bytes for dead."""
        self._retired.add(stream)
        ask = stream.get_extra_info

        def answer(info: str) -> Any:
            return True if info == "is_readable" else ask(info)

        stream.get_extra_info = answer

    async def _guard(self, request: httpx2.Request) -> None:
        """The last look at a request: right address, our key or none, nothing from the environment."""
        if (request.url.scheme, request.url.host) != (self._own.scheme, self._own.hostname):
            raise JudgeError(
                "a request would have left for another server",
                where=f"{self._target.name}: {request.url.host}",
                expected=f"{self._own.scheme}://{self._own.hostname}",
                remedy="name the server by the plain address that it has",
            )
        allowed = _HEADERS
        if self._target.key_variable == "OPENAI_API_KEY":
            allowed |= _OPENAI_HEADERS
        for name in list(request.headers.keys()):
            if name.lower() not in allowed:
                del request.headers[name]
        headers = request.headers
        headers["accept"], headers["accept-encoding"] = "application/json", "identity"
        if request.method == "POST":
            headers["content-type"] = "application/json"
        messages = self._target.protocol == "messages"
        if messages:
            headers["anthropic-version"] = ANTHROPIC_VERSION
        if self.key and messages:
            headers["x-api-key"] = self.key
        elif self.key:
            headers["authorization"] = f"Bearer {self.key}"


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            break
    return error


def _words(error: BaseException) -> str:
    """The innermost reason of a chain, by type where it has no words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
