"""How fast a server may be asked: requests at once, limits read from its headers, pauses for all.

`Pace` lets a request start when three things allow it: the number under way is below a width that
adapts, every limit that the server stated in its headers has room, and no pause is on. The width
falls by half on a 429, 503, 529 or a time-out (once for the requests that were under way together)
and grows back while replies come. Left to itself (`most=None`) it starts at 8 and doubles while the
latency stays within twice the best that was seen, up to 64: a server that only queues what comes in
is not pushed further. Limits are token buckets, `x-ratelimit-*` as OpenAI sends them and
`anthropic-ratelimit-*`: (limit - remaining) / reset is the rate of refill whatever the period is.
Contacts nobody, keeps nothing on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

from gemma_lora.errors import JudgeError

__all__ = ["AUTO_MOST", "LONGEST_WAIT", "Pace", "TooLong", "retry_after", "stated_limits"]

AUTO_FIRST, AUTO_MOST = 8, 64
_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
_FORMS = (("x-ratelimit-{what}-{kind}"), ("anthropic-ratelimit-{kind}-{what}"))
_PERIOD = 60.0
"""Seconds assumed for a limit whose header says nothing of its period."""
_LONGEST_RESET = 86400.0
"""No limit has a longer period; what is above is something else, such as a Unix time, and not believed."""
LONGEST_WAIT = 600.0
"""A server whose wish or limits mean a longer wait than this many seconds ends the stage; it can be continued."""


class TooLong(Exception):
    """A limit that the server states leaves no room for the next request for `seconds`."""

    def __init__(self, kind: str, seconds: float) -> None:
        super().__init__(f"{kind}: {seconds:.0f} s")
        self.kind = kind
        self.seconds = seconds


@dataclass(frozen=True)
class Stated:
    """One limit as a reply's headers stated it. `reset`: seconds until `left` is `limit` again."""

    limit: float
    left: float
    reset: float | None


def stated_limits(headers: Mapping[str, str], *, now: float | None = None) -> dict[str, Stated]:
    """The limits in `headers` by kind; what cannot be read is left out. `now`: Unix time."""
    found: dict[str, Stated] = {}
    for form in _FORMS:
        for kind in _KINDS:
            texts = [
                headers.get(form.format(what=what, kind=kind))
                for what in ("limit", "remaining", "reset")
            ]
            limit, left = (_number(text) for text in texts[:2])
            if limit is not None and left is not None and limit > 0:
                reset = _duration(texts[2], now)
                known = reset is not None and reset <= _LONGEST_RESET
                found[kind] = Stated(limit, min(left, limit), reset if known else None)
    return found


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or `Retry-After` (seconds or a date); None where absent or odd."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * scale
            return max(0.0, seconds) if seconds == seconds else None
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            return None
    return None


class Pace:
    """When the next request may start. `most`: requests under way at once, None to find out."""

    def __init__(self, most: int | None) -> None:
        self.most = most or AUTO_MOST
        self.width = float(most or AUTO_FIRST)
        self.throttles = 0
        """How often the width fell."""
        self._auto = most is None
        self._doubling = self._auto
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._gate = asyncio.Lock()
        self._buckets: dict[str, _Bucket] = {}
        self._resume_at = self._cut_at = 0.0
        self._window: list[float] = []
        self._full = False
        self._best = float("inf")
        self._ended: JudgeError | None = None
        self._stop = asyncio.Event()
        self._heard = asyncio.Event()

    @contextlib.asynccontextmanager
    async def slot(self, need: Mapping[str, float]) -> AsyncGenerator[None]:
        """Room for one request that is expected to take `need` of each limit.

        Raises the JudgeError after `end`, and TooLong.
        """
        await self._enter()
        try:
            async with self._gate:  # one after the other, so that nobody is passed over
                await self._admit(need)
            yield
        finally:
            self._under_way -= 1
            self._wake()

    def replied(
        self,
        headers: Mapping[str, str],
        seconds: float,
        need: Mapping[str, float],
        took: Mapping[str, float],
    ) -> None:
        """A reply with its headers came after `seconds`; `need` was expected, `took` is what it cost."""
        now = time.monotonic()
        for kind, bucket in self._buckets.items():
            bucket.left += need.get(kind, 0.0) - took.get(kind, 0.0)
        for kind, stated in stated_limits(headers).items():
            self._buckets.setdefault(kind, _Bucket(stated.left, now)).hear(stated, now)
        self._heard.set()
        self._full = self._full or self._under_way >= int(self.width)
        self._window.append(seconds)
        if len(self._window) >= self.width:
            self._widen(sum(self._window) / len(self._window))
            self._window, self._full = [], False

    def throttled(self, started: float, headers: Mapping[str, str] | None = None) -> None:
        """The server could not keep up with a request that began at `started` (monotonic)."""
        now = time.monotonic()
        for kind, stated in stated_limits(headers or {}).items():
            self._buckets.setdefault(kind, _Bucket(stated.left, now)).hear(stated, now)
        if started <= self._cut_at:
            return  # sent before the last cut: the same crowd
        self._cut_at = now
        self.width = max(1.0, self.width / 2)
        self._doubling = False
        self._window = []
        self.throttles += 1

    def hold(self, seconds: float) -> None:
        """Nobody starts before `seconds` from now."""
        self._resume_at = max(self._resume_at, time.monotonic() + seconds)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but wake up and give up where the end was declared meanwhile."""
        if seconds > 0 and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stop.wait()
        if self._ended:
            raise self._ended

    def end(self, error: JudgeError) -> None:
        """Everything that waits, now or later, gives up with `error`."""
        self._ended = self._ended or error
        self._stop.set()
        self._heard.set()
        while self._waiting:
            _release(self._waiting.popleft())

    async def _enter(self) -> None:
        while self._under_way >= int(self.width) and not self._ended:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        if self._ended:
            raise self._ended
        self._under_way += 1

    def _wake(self) -> None:
        free = int(self.width) - self._under_way
        while free > 0 and self._waiting:
            free -= _release(self._waiting.popleft())

    async def _admit(self, need: Mapping[str, float]) -> None:
        while True:
            now = time.monotonic()
            waits = {
                kind: bucket.wait(need.get(kind, 0.0), now)
                for kind, bucket in self._buckets.items()
            }
            seconds = max(self._resume_at - now, *waits.values(), 0.0)
            if self._ended:
                raise self._ended
            slowest = max(waits, key=waits.__getitem__, default="")
            if waits.get(slowest, 0.0) > LONGEST_WAIT:
                raise TooLong(slowest, waits[slowest])
            if seconds <= 0:
                break
            self._heard.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._heard.wait()  # a reply may have taken less than was expected
        for kind, bucket in self._buckets.items():
            bucket.left -= need.get(kind, 0.0)

    def _widen(self, latency: float) -> None:
        """After a window of replies: grow where the width was the limit and the server keeps up."""
        self._best = min(self._best * 1.02, latency)
        keeps_up = latency <= 2 * self._best
        if self._auto and not keeps_up:
            self._doubling = False
            self.width = max(1.0, min(self.width, self.width * 2 * self._best / latency))
        elif self._full:
            step = self.width if self._doubling else max(1.0, self.width / 10)
            self.width = min(float(self.most), self.width + step)
        self._wake()


@dataclass
class _Bucket:
    """What is left of one limit, by our own count and never above what the server said."""

    left: float
    at: float
    limit: float = 0.0
    rate: float = 0.0

    def hear(self, stated: Stated, now: float) -> None:
        self._refill(now)
        self.limit = stated.limit
        self.left = min(self.left, stated.left)
        if stated.reset is None:
            self.rate = self.rate or stated.limit / _PERIOD
        elif stated.reset > 0 and stated.left < stated.limit:
            self.rate = (stated.limit - stated.left) / stated.reset
        elif not self.rate:
            self.rate = stated.limit / _PERIOD

    def wait(self, need: float, now: float) -> float:
        """Seconds until `need` is there; a request larger than the limit waits for a full bucket."""
        self._refill(now)
        missing = min(need, self.limit) - self.left
        return missing / self.rate if missing > 0 else 0.0

    def _refill(self, now: float) -> None:
        if self.limit:
            self.left = min(self.limit, self.left + self.rate * (now - self.at))
        self.at = now


def _release(waiter: asyncio.Future[None]) -> bool:
    if waiter.done():
        return False
    waiter.set_result(None)
    return True


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def _duration(text: str | None, now: float | None) -> float | None:
    """Seconds from `6m0s`, `20ms`, a plain number or an RFC 3339 time; None where it is none of them."""
    if not text:
        return None
    plain = _number(text)
    if plain is not None:
        return plain
    if _PART.sub("", text) == "":
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        moment = datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
    return max(0.0, moment - (time.time() if now is None else now))
