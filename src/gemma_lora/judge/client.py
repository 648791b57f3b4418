"""Asking a judge's server: the schema ladder, retries, pauses, and what each fault means.

One `ServerAsker` speaks to one server over `Connection`, in the form that a `Wire` gives it (chat
completions or Anthropic's messages). 429, 5xx, time-outs and broken connections are tried again after
a jittered, doubling pause that honours Retry-After; `Pace` holds back all requests at once. What can
never work (401, 403, 404, a redirect, no credit) raises JudgeError. What the server does not take (a
rung of the schema ladder, a temperature, one of the two names for the token limit, a system message)
is found out with the first request, which has a head start, and remembered; a rung that the server accepts
but never fills with a usable reply is left after three of them. The form that first brings a usable reply is
kept beside the reply cache, and the next asker begins with it; where it no longer works, from the top again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import json
import random
import time
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2

from gemma_lora.config import JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.asking import Prompt
from gemma_lora.judge.budget import Budget, most_tokens
from gemma_lora.judge.cache import ReplyCache
from gemma_lora.judge.connection import MOST_BYTES, PACKED, Connection, Lost, SentTwice
from gemma_lora.judge.items import Usage
from gemma_lora.judge.limits import LONGEST_WAIT, Pace, TooLong, retry_after
from gemma_lora.judge.names import Target
from gemma_lora.judge.replies import STATUS, Ended, NoReply, Rejected, Reply
from gemma_lora.judge.wires import ChatWire, Dialect, MessagesWire, Wire

__all__ = ["ServerAsker"]

_LONGEST_PAUSE = 60.0
_FAILED = f"{STATUS}500"
_COPIES = 3
"""Replies that may be copies of others', after which they count as failed tries."""
_HEAD_START = 0.5
"""Seconds that the others let the first request go ahead, to find out what the server takes."""
_PATIENCE = 3
"""Unusable replies in a row, before any usable one, after which a rung is left."""


class _BadRequest(Rejected):
    """Status 400 or 422: something in the form of the request."""


class _Passing(Exception):
    """A fault that may heal. `wait`: seconds that the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class ServerAsker:
    """Puts prompts to one server. `backoff`: the first pause in seconds.

    `forms`: where the form that works is kept; `anew`: find it out from the top, whatever is kept.
    """

    def __init__(
        self,
        target: Target,
        config: JudgeConfig,
        console: Console,
        *,
        backoff: float = 1.0,
        budget: Budget | None = None,
        forms: ReplyCache | None = None,
        anew: bool = False,
    ) -> None:
        self.target = target
        self.pace = Pace(config.judge_concurrency)
        self._config = config
        self._console = console
        self._backoff = backoff
        self._budget = budget
        self._connection = Connection(target, config)
        self._wire: Wire = MessagesWire() if target.protocol == "messages" else ChatWire()
        # OpenAI's newer models refuse the old name; most other servers know only that one
        at_openai = target.key_variable == "OPENAI_API_KEY"
        self._top = Dialect(limit_name="max_completion_tokens" if at_openai else "max_tokens")
        self._forms = forms
        known = None if anew or forms is None else forms.form(target, self._wire)
        self._recalled = None if known == self._top else known
        """The form of an earlier call, where it is another and as long as nothing speaks against it."""
        self._dialect = self._recalled or self._top
        self._proven = False
        self._first: asyncio.Task[Reply] | None = None
        self._usable = False
        self._unusable = 0
        self._left: set[str] = set()
        """Rungs that never brought a usable reply."""
        self._limit = config.judge_max_tokens
        self._random = random.Random()
        self._tokens_a_char, self._output = 0.3, 250.0
        if target.is_remote and self._connection.key and target.address.startswith("http://"):
            console.warn(f"the judge's key travels to {target.host} unencrypted (http)")

    @property
    def concurrency(self) -> int:
        return self.pace.most

    @property
    def width(self) -> int:
        return int(self.pace.width)

    @property
    def temperature(self) -> int | None:
        return 0 if self._dialect.temperature else None

    async def ask(self, prompt: Prompt, *, lower: bool = False, longer: bool = False) -> Reply:
        """One usable or faulty reply. `lower`: one rung down; `longer`: four times the token limit.

        Raises NoReply, Rejected (this request only), JudgeError or Ended (nothing can work).
        """
        if self._first is None:
            if self._recalled and self._recalled.rung:
                self._tell_rung("the judge's server gave usable replies so before")
            self._first = asyncio.create_task(self._negotiate(prompt, lower, longer))
            return await self._first
        if not self._first.done():  # a refusal of the form comes sooner than a judgement
            await asyncio.wait([self._first], timeout=_HEAD_START)
        return await self._negotiate(prompt, lower, longer)

    @property
    def settled(self) -> bool:
        """Whether a form has brought a usable reply, or the last has been tried as often as any."""
        return self._usable or self._unusable >= _PATIENCE

    def judged(self, reply: Reply, usable: bool) -> bool:
        """What became of a reply: a rung that never brings a usable one is left for the next.

        Returns whether the reply's own has been left.
        """
        if not (reply.damaged or self._usable or reply.rung != self._rung_name()):
            self._weigh(reply, usable)
        return reply.rung in self._left and reply.rung != self._rung_name()

    def _weigh(self, reply: Reply, usable: bool) -> None:
        if usable and not reply.ignored:
            self._usable = True
            if self._forms:
                self._forms.set_form(self.target, self._wire, self._dialect)
            return
        self._unusable += 1
        if not (usable and reply.ignored) and self._unusable < _PATIENCE:
            return
        below = self._dialect.rung + 1
        if self._recalled and self._dialect.rung:
            below = 0  # what an earlier call found holds no more: the server may have changed for the better
        if below < len(self._wire.rungs):
            before = self._rung_name()
            self._left.add(before)
            self._dialect = dataclasses.replace(self._dialect, rung=below)
            self._unusable, self._proven, self._recalled = 0, False, None
            self._tell_rung(
                f"the judge's server passes over the demand for a {before} reply"
                if reply.ignored
                else f"the judge gave no usable {before} reply in {_PATIENCE} tries"
            )

    def end(self, error: JudgeError) -> None:
        """Make everything under way give up with `error` before its next try."""
        self.pace.end(error)

    async def close(self) -> None:
        await self._connection.close()

    # -- form of the request ------------------------------------------------------------------

    def _rung_name(self) -> str:
        return self._wire.rungs[self._dialect.rung]

    async def _negotiate(self, prompt: Prompt, lower: bool, longer: bool) -> Reply:
        dialect = self._dialect
        last = len(self._wire.rungs) - 1
        if lower:
            dialect = dataclasses.replace(dialect, rung=min(dialect.rung + 1, last))
        tried, lost = {dialect}, Usage()
        recalled = self._recalled
        while True:
            try:
                reply = await self._persist(prompt, dialect, longer)
            except _BadRequest as refusal:
                lost += refusal.usage
                if dialect == recalled and not self._proven:
                    recalled, dialect = None, self._forget()
                    tried = {dialect}
                    continue
                if not lower and self._proven and self._dialect not in tried:
                    following = self._dialect  # another request found it out meanwhile
                elif self._proven and not (lower and dialect.rung < last):
                    following = None
                else:
                    following = self._adapt(dialect, str(refusal), tried)
                if following is None:
                    raise Rejected(str(refusal), lost) from None
                dialect = following
                tried.add(dialect)
                continue
            except Rejected as refusal:
                raise Rejected(str(refusal), refusal.usage + lost) from None
            except NoReply as silence:
                # servers whose chat template knows no system role (Gemma 1 and 2) may fail instead of refusing
                failed = dialect.system and str(silence).startswith(_FAILED)
                if failed and not lower and self._proven and not self._dialect.system:
                    dialect = self._dialect  # the first request found it out meanwhile
                    tried.add(dialect)
                    lost += silence.usage
                    continue
                early = self._first is None or not self._first.done()
                if self._proven or not (early and failed):
                    raise NoReply(str(silence), silence.usage + lost) from None
                self._console.note(
                    f"the judge's server fails ({silence}); trying without a system message"
                )
                dialect = dataclasses.replace(dialect, system=False)
                tried.add(dialect)
                lost += silence.usage
                continue
            if not lower and not self._proven and dialect.rung >= self._dialect.rung:
                self._remember(dialect)
            if longer and not reply.cut and reply.fault is None:
                self._lengthen()
            return dataclasses.replace(reply, usage=reply.usage + lost)

    def _adapt(self, dialect: Dialect, said: str, tried: set[Dialect]) -> Dialect | None:
        """The next form to try after a 400: what the message names first, else a rung down, and so on."""
        names = self._wire.limit_names
        other = next((name for name in names if name != dialect.limit_name), dialect.limit_name)
        swap = dataclasses.replace(dialect, limit_name=other)
        cold = dataclasses.replace(dialect, temperature=False)
        fold = dataclasses.replace(dialect, system=False)
        last = len(self._wire.rungs) - 1
        down = dataclasses.replace(dialect, rung=min(dialect.rung + 1, last))
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

    def _forget(self) -> Dialect:
        """The server refuses what an earlier call found: all is found out anew, from the top."""
        if self._recalled:
            self._console.note(
                f"the judge's server refuses what it took before ({self._rung_name()}); trying all forms again"
            )
            self._recalled, self._dialect = None, self._top
        return self._dialect

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
        told = self._dialect.rung == dialect.rung
        self._dialect, self._proven = dialect, True
        if not told:
            self._tell_rung(
                f"the judge's server does not take {' or '.join(self._wire.rungs[: dialect.rung])} replies"
            )
        if not dialect.temperature:
            self._console.warn(
                "the judge's server does not take temperature 0: its scores vary from call to call"
            )

    def _tell_rung(self, why: str) -> None:
        self._console.note(
            f"{why}; asking for {self._rung_name()} and checking each reply as strictly"
        )

    # -- tries ----------------------------------------------------------------------------------

    async def _persist(self, prompt: Prompt, dialect: Dialect, longer: bool) -> Reply:
        """Try until there is a reply; each failed try waits longer."""
        limit = 4 * self._config.judge_max_tokens if longer else self._limit
        body = self._wire.body(self.target.model, prompt, dialect, limit)
        rung = self._wire.rungs[dialect.rung]
        lost = [Usage()]
        try:
            reply = await self._tries(body, prompt, limit, rung, lost)
        except JudgeError as error:
            raise (Ended(error, lost[0]) if lost[0].lost else error) from None
        except Rejected as refusal:
            refusal.usage += lost[0]
            raise
        return dataclasses.replace(reply, usage=reply.usage + lost[0])

    async def _tries(
        self, body: dict[str, Any], prompt: Prompt, limit: int, rung: str, lost: list[Usage]
    ) -> Reply:
        """`lost[0]` is what the requests took that may have been charged without a reply."""
        attempt = copies = 0
        while True:
            try:
                return await self._once(body, prompt, limit, rung)
            except Lost as fault:
                reason, wait = str(fault), None
                if fault.sent:
                    lost[0] += Usage(lost=1, most_input=_bound(body), most_output=limit)
                if isinstance(fault, SentTwice) and copies < _COPIES:
                    copies += 1
                    continue  # at once, on another connection
            except TooLong as limit_stated:
                raise self._end(
                    f"states a limit on {limit_stated.kind} that is used up: the next request would have to "
                    f"wait {limit_stated.seconds:.0f} s",
                    "run it again later; what is judged is kept",
                ) from None
            except _Passing as fault:
                reason, wait = str(fault), fault.wait
            if attempt == self._config.judge_retries:
                tries = f"{attempt + 1} tries" if attempt else "1 try"
                raise NoReply(f"{reason} ({tries})", lost[0])
            pause = min(_LONGEST_PAUSE, self._backoff * 2**attempt) * self._random.uniform(0.5, 1)
            if wait is not None:
                if wait > LONGEST_WAIT:
                    raise self._end(f"asks to wait {wait:.0f} s ({reason})", "run it again later")
                self.pace.hold(wait)
                # spread the crowd that was told the same moment
                pause = wait + self._random.uniform(0, self._backoff)
            attempt += 1
            await self.pace.sleep(pause)

    async def _once(self, body: dict[str, Any], prompt: Prompt, limit: int, rung: str) -> Reply:
        """One request. Raises Lost, _Passing, _BadRequest, Rejected or JudgeError."""
        chars = len(prompt.system) + len(prompt.user)
        need = _needs(chars * self._tokens_a_char, self._output)
        async with self.pace.slot(need):
            if self._budget is None:
                reply = await self._exchange(body, need, rung)
                self._learn(chars, reply.usage)
                return _counted(reply, body, limit)
            bound = _bound(body)
            held = await self._budget.hold(bound, limit)
            usage: Usage | None = Usage()  # what was refused, or never sent, costs nothing
            try:
                await self.pace.sleep(0)  # the end may have been declared while waiting
                reply = await self._exchange(body, need, rung)
                usage = reply.usage if reply.usage.input or reply.usage.output else None
                self._learn(chars, reply.usage)
                return _counted(reply, body, limit)
            except Lost as fault:
                usage = None if fault.sent else Usage()
                raise
            except asyncio.CancelledError:
                usage = None
                raise
            finally:
                self._budget.settle(held, bound, usage)

    async def _exchange(self, body: dict[str, Any], need: dict[str, float], rung: str) -> Reply:
        started = time.monotonic()
        try:
            response = await self._connection.send(self._wire.path, body)
        except Lost as fault:
            if fault.slow:
                self.pace.throttled(started)
            raise
        if response.status_code != 200:
            self._connection.doubt(response, scores=False)
            if response.status_code in (429, 503, 529):
                self.pace.throttled(started, response.headers)
            raise await self._status(response)
        reply = self._envelope(response, rung)
        usage = reply.usage
        took = _needs(usage.input, usage.output) if usage.input or usage.output else need
        self.pace.replied(response.headers, time.monotonic() - started, need, took)
        self._connection.doubt(response, scores=reply.fault is None)
        return reply

    def _learn(self, chars: int, usage: Usage) -> None:
        """What the next request will take, for the limits on tokens."""
        if usage.input and usage.output:
            self._tokens_a_char += 0.1 * (usage.input / chars - self._tokens_a_char)
            self._output += 0.1 * (usage.output - self._output)

    def _envelope(self, response: httpx2.Response, rung: str) -> Reply:
        """Status 200 to text and facts; a body that has not the API's form is a damaged reply."""
        if packed := response.extensions.get(PACKED):
            said = self._connection.scrub(packed)
            return Reply(
                "", f"the body is {said}, which was not asked for", damaged=True, rung=rung
            )
        if len(response.content) > MOST_BYTES:
            too_long = f"the body is longer than {MOST_BYTES >> 20} MiB"
            return Reply("", too_long, damaged=True, rung=rung)
        kind = str(response.headers.get("content-type", "")).split(";")[0].strip().lower()
        if not kind.endswith("json"):
            shown = self._connection.scrub(kind) or "unknown"
            return Reply("", f"content type {shown} instead of JSON", damaged=True, rung=rung)
        try:
            value: Any = json.loads(response.content)
        except (ValueError, RecursionError):
            return Reply("", "the body is not JSON or was cut off", damaged=True, rung=rung)
        try:
            reply = self._wire.read(value, rung)
            model, fingerprint = map(self._connection.name, (reply.model, reply.fingerprint))
            return dataclasses.replace(reply, model=model, fingerprint=fingerprint)
        except (KeyError, IndexError, TypeError, AttributeError):
            return Reply("", "the body holds no message", damaged=True, rung=rung)

    # -- faults ---------------------------------------------------------------------------------

    async def _status(self, response: httpx2.Response) -> Exception:
        status = response.status_code
        words, code = _message(response)
        said = self._connection.scrub(words)
        what = f"{STATUS}{status}" + (f": {said}" if said else "")
        empty = "insufficient_quota" in f"{code} {said}" or "credit balance is too low" in said
        if empty and status in (400, 429):
            return self._end(f"has no credit left ({what})", "check the account's billing")
        if status in (408, 409, 425, 429) or status >= 500:
            return _Passing(what, retry_after(response.headers))
        if 300 <= status < 400:
            to = self._connection.scrub(_host_of(response.headers.get("location", "")))
            return self._end(
                f"redirects to {to} ({status})",
                "name the final address; redirects are not followed, so that no key goes astray",
            )
        if status in (401, 403):
            return self._refused(status)
        if status == 402:
            return self._end(f"asks for payment ({what})", "check the account's billing")
        if status in (404, 405):
            return await self._unknown(what)
        if status in (400, 422):
            return _BadRequest(what)
        return Rejected(what)

    def _refused(self, status: int) -> JudgeError:
        variable = self.target.key_variable
        sent = f"{variable} was sent"
        has = sent if self._connection.key else f"no key was sent; {variable} is not set"
        return self._end(
            f"refuses access (HTTP {status})",
            f"check the key: {has}"
            if variable
            else "this server asks for a key: name it as http://HOST/v1#MODEL with GEMMA_LORA_JUDGE_KEY",
        )

    async def _unknown(self, what: str) -> JudgeError:
        names = await self._connection.models()
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


def _bound(body: dict[str, Any]) -> int:
    """Most tokens that the request can be; schema and tool count, too."""
    return most_tokens(json.dumps(body, ensure_ascii=False))


def _counted(reply: Reply, body: dict[str, Any], limit: int) -> Reply:
    """The reply; where it does not say what it took, with the most that this can be."""
    if reply.usage.input or reply.usage.output:
        return reply
    usage = Usage(reply.usage.requests, uncounted=1, most_input=_bound(body), most_output=limit)
    return dataclasses.replace(reply, usage=usage)


def _host_of(location: str) -> str:
    try:
        return urlsplit(location).netloc or "another address"
    except ValueError:
        return "an address that is none"


def _needs(into: float, out: float) -> dict[str, float]:
    return {"requests": 1.0, "tokens": into + out, "input-tokens": into, "output-tokens": out}


def _message(response: httpx2.Response) -> tuple[str, str]:
    """The server's own words and its code for the fault, from the usual places."""
    try:
        body: Any = json.loads(response.content)
    except (ValueError, RecursionError):
        body = response.text
    code: Any = ""
    if isinstance(body, dict):
        inner: Any = cast(dict[str, Any], body).get("error", body)
        if isinstance(inner, dict):
            code = cast(dict[str, Any], inner).get("code") or ""
            inner = cast(dict[str, Any], inner).get("message", inner)
        body = inner
    text = body if isinstance(body, str) else json.dumps(body, default=str) if body else ""
    return ("" if text.lstrip().startswith("<") else text), str(code)
