"""Judges of other packages, found by the entry point group `gemma_lora.judges`.

An entry point's name is what stands before the colon of `--judge NAME:MODEL`; it leads to a callable that
takes the model's name and returns a `Backend`. A plug-in is code that runs with the user's rights: it is
imported only where `--judge` names it, and only its metadata are read before. Prompt, schema, strict
reading, re-ask, cache, flags and the verdict stay ours; the plug-in carries text to a model and back.
Raises JudgeError where it cannot be loaded, and ConfigError for a name that is built in or offered twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, cast

from gemma_lora.config import JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import ConfigError, GemmaLoraError, JudgeError
from gemma_lora.judge.asking import Prompt
from gemma_lora.judge.budget import Budget, most_tokens
from gemma_lora.judge.items import Usage
from gemma_lora.judge.replies import TIME_OUT, NoReply, Reply

__all__ = ["GROUP", "Backend", "PluginAsker", "Replied", "facts_of", "find", "refuse_namesake"]

GROUP = "gemma_lora.judges"
RUNG = "plug-in"


@dataclass(frozen=True)
class Replied:
    """A reply with what is known about it; a plug-in may return the text alone instead."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    model: str | None = None
    """What the model calls itself: its snapshot."""


class Backend(Protocol):
    """What a plug-in's callable returns. It may also have `concurrency` (requests at once, 1 without) and
    `async def close()`."""

    async def ask(
        self, *, system: str, user: str, schema: dict[str, Any], max_tokens: int
    ) -> str | Replied:
        """One reply: text whose last JSON object fits `schema`. It retries by itself what is worth it.

        JudgeError ends judging (a wrong key); any other exception leaves this answer without a reply, and
        of that only the class is shown, since its text might hold a key.
        """
        ...


def find(name: str) -> EntryPoint | None:
    """The entry point called `name`, not loaded; ConfigError where several packages offer it."""
    found = tuple(entry_points(group=GROUP, name=name))
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} packages offer a judge of this name",
            where=f"--judge {name}:...",
            details=_packages(found),
            remedy="uninstall all but one",
        )
    return found[0] if found else None


def refuse_namesake(name: str) -> None:
    """ConfigError where a package offers a judge by the name of a built-in one: which would be meant?"""
    found = tuple(entry_points(group=GROUP, name=name))
    if found:
        raise ConfigError(
            f"a package offers a judge called `{name}`, which is the name of a built-in one",
            where=f"--judge {name}",
            details=_packages(found),
            remedy="uninstall the package, or ask its makers for another name",
        )


def facts_of(name: str) -> dict[str, Any]:
    """Plug-in, package and version: what decides its replies, as far as it can be known without running it."""
    entry = _need(name)
    package = entry.dist
    return {
        "plugin": name,
        "package": None if package is None else package.name,
        "version": None if package is None else package.version,
    }


class PluginAsker:
    """Puts prompts to a plug-in's backend."""

    settled = True
    temperature: int | None = None
    """That is up to the plug-in, which is told of none."""

    def __init__(
        self,
        name: str,
        model: str,
        config: JudgeConfig,
        console: Console,
        budget: Budget | None = None,
    ) -> None:
        self._name = name
        self._console = console
        self._budget = budget
        self._config = config
        self._ended: JudgeError | None = None
        self._backend: Any = _made(name, model)
        width = getattr(self._backend, "concurrency", 1)
        most = config.judge_concurrency
        self.concurrency = self.width = max(1, width if most is None else min(width, most))

    async def ask(self, prompt: Prompt, *, lower: bool = False, longer: bool = False) -> Reply:
        if self._ended:
            raise self._ended
        limit = self._config.judge_max_tokens * (4 if longer else 1)
        texts = prompt.system + prompt.user + json.dumps(prompt.schema)
        bound = most_tokens(texts)
        # what it took is known only by its own count, so all else counts at the most it can be
        unknown = Usage(lost=1, most_input=bound, most_output=limit)
        if self._budget is None:
            return await self._call(prompt, limit, unknown)
        held = await self._budget.hold(bound, limit)
        usage: Usage | None = None
        try:
            if self._ended:  # meanwhile
                usage = Usage()
                raise self._ended
            reply = await self._call(prompt, limit, unknown)
            usage = None if reply.usage.uncounted else reply.usage
            return reply
        finally:
            self._budget.settle(held, bound, usage)

    async def _call(self, prompt: Prompt, limit: int, unknown: Usage) -> Reply:
        task = asyncio.current_task()
        asked_to_stop = task.cancelling() if task else 0
        try:
            call = self._backend.ask(
                system=prompt.system, user=prompt.user, schema=prompt.schema, max_tokens=limit
            )
            found = await asyncio.wait_for(call, self._config.judge_timeout)
        except JudgeError:
            raise
        except TimeoutError:
            raise NoReply(f"{TIME_OUT}{self._config.judge_timeout:g} s", unknown) from None
        except asyncio.CancelledError as error:
            if task and task.cancelling() > asked_to_stop:
                raise  # ours: the user stops
            raise NoReply(self._raised(error), unknown) from None
        except Exception as error:  # noqa: BLE001 - code of others; its text may hold a key
            raise NoReply(self._raised(error), unknown) from None
        replied: Any = Replied(found) if isinstance(found, str) else found
        most = replace(unknown, requests=1, lost=0, uncounted=1)
        fault = _fault(found, replied)
        if fault:
            return Reply("", f"the plug-in returned {fault}", usage=most)
        usage = Usage(1, replied.input_tokens, replied.output_tokens)
        counted = bool(usage.input or usage.output)
        return Reply(replied.text, usage=usage if counted else most, model=replied.model, rung=RUNG)

    def judged(self, reply: Reply, usable: bool) -> bool:
        return False  # there is one rung only

    def end(self, error: JudgeError) -> None:
        self._ended = self._ended or error

    async def close(self) -> None:
        closing = getattr(self._backend, "close", None)
        if closing is None:
            return
        try:
            await asyncio.wait_for(closing(), self._config.judge_timeout)
        except Exception as error:  # noqa: BLE001 - as above; what was judged is whole without it
            self._console.warn(f"{self._raised(error)} when it was closed")

    def _raised(self, error: BaseException) -> str:
        return f"the plug-in `{self._name}` raised {type(error).__name__}"


def _fault(found: Any, replied: Any) -> str:
    """What is wrong with a plug-in's return value; empty where it is as promised."""
    if not isinstance(replied, Replied) or not isinstance(cast(Any, replied.text), str):
        return f"{type(found).__name__}, not text"
    for name in ("input_tokens", "output_tokens"):
        count: Any = getattr(replied, name)
        if type(count) is not int or count < 0:
            return f"{type(count).__name__} as {name}, not a number of tokens"
    model: Any = replied.model
    if model is not None and not isinstance(model, str):
        return f"{type(model).__name__} as model, not text"
    return ""


def _made(name: str, model: str) -> Any:
    """The plug-in's backend; the one place where its code is imported and run."""
    entry = _need(name)
    where = f"--judge {name}:{model} (package {entry.dist.name if entry.dist else 'unknown'})"
    try:
        factory: Any = entry.load()
    except Exception as error:  # noqa: BLE001 - code of others may raise anything
        raise JudgeError(
            f"the plug-in cannot be loaded: {type(error).__name__}: {error}"[:400],
            where=where,
            remedy="install or mend the package that offers it",
        ) from None
    try:
        backend: Any = factory(model)
    except GemmaLoraError:
        raise
    except Exception as error:  # noqa: BLE001 - as above; its text may hold a key
        raise JudgeError(
            f"the plug-in raised {type(error).__name__} when it was made",
            where=where,
            remedy="see what the package needs (a model's name, a key in the environment)",
        ) from None
    if not callable(getattr(backend, "ask", None)):
        raise JudgeError(
            f"the plug-in made a {type(backend).__name__}, which has no `ask`",
            where=where,
            expected="a gemma_lora.judge.plugins.Backend",
        )
    return backend


def _need(name: str) -> EntryPoint:
    entry = find(name)
    if entry is None:
        raise JudgeError(f"the plug-in `{name}` is not installed", where=f"--judge {name}:...")
    return entry


def _packages(found: Sequence[EntryPoint]) -> list[str]:
    return [f"{entry.dist.name if entry.dist else 'unknown'}: {entry.value}" for entry in found]
