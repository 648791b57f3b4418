"""A judge that is a language model: cache, request, strict reading, one re-ask, or the reason.

Works with any `Asker` (a server, an in-process model). A reply that cannot be used is asked for once
more, with the fault named; after that the answer is unscored. Two answers with the same text are
asked about once. Nothing here turns a fault into a number.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, Protocol

from gemma_lora.config import JudgeConfig
from gemma_lora.errors import JudgeError
from gemma_lora.judge.asking import PROMPT_NAME, Prompt, prompt_hash, render, schema_hash
from gemma_lora.judge.cache import Cached, ReplyCache
from gemma_lora.judge.items import NO_REPLY, Item, Outcome, Usage
from gemma_lora.judge.names import Target
from gemma_lora.judge.reading import Unusable, Verdict, read_verdict, verdicts_in
from gemma_lora.judge.replies import REJECTED, NoReply, Rejected, Reply, remedy_for
from gemma_lora.records import DIMENSIONS
from gemma_lora.rundir import digest

__all__ = ["Asker", "LlmScorer"]


class Asker(Protocol):
    """Puts one prompt to a model. Raises NoReply, Rejected, or JudgeError where nothing can work."""

    rung: str | None

    @property
    def concurrency(self) -> int: ...

    async def ask(self, prompt: Prompt, *, lower: bool = False, longer: bool = False) -> Reply: ...

    def end(self, error: JudgeError) -> None:
        """Make everything under way give up with `error` before its next try."""
        ...

    async def close(self) -> None: ...


class LlmScorer:
    """Scores items by asking; see the module's docstring."""

    is_llm = True

    def __init__(
        self, target: Target, config: JudgeConfig, asker: Asker, cache: ReplyCache | None
    ) -> None:
        self.kind = target.backend
        self.parallel = asker.concurrency
        self._target = target
        self._config = config
        self._asker = asker
        self._cache = cache
        self._under_way: dict[str, asyncio.Future[Outcome]] = {}
        self._models: set[str] = set()
        self._fingerprints: set[str] = set()
        self._silent = 0
        self._heard = False

    @staticmethod
    def identity_of(target: Target, config: JudgeConfig) -> dict[str, Any]:
        return {
            "backend": target.backend,
            "address": target.address,
            "model": target.model,
            "prompt": prompt_hash(),
            "schema": schema_hash(),
            "parameters": {"temperature": 0, "max_tokens": config.judge_max_tokens},
        }

    def identity(self) -> dict[str, Any]:
        return self.identity_of(self._target, self._config)

    async def score(self, item: Item) -> Outcome:
        key = digest(self.identity(), item.fields())
        waiting = self._under_way.get(key)
        if waiting is not None:
            twin = await asyncio.shield(waiting)
            free = twin.unscored_reason is None
            return dataclasses.replace(twin, usage=Usage(), cached=free)
        found = self._cache.get(key) if self._cache else None
        if found is not None:
            self._saw(found.model, found.fingerprint)
            return _outcome(found.verdict, Usage(), cached=True)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._under_way[key] = future
        try:
            outcome = await self._ask(item, key)
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # seen here; whoever waits sees it, too
            raise
        finally:
            del self._under_way[key]
        future.set_result(outcome)
        return outcome

    def facts(self) -> dict[str, Any]:
        return {
            "snapshot": ", ".join(sorted(self._models)) or None,
            "system_fingerprints": sorted(self._fingerprints),
            "rung": self._asker.rung,
            "prompt": PROMPT_NAME,
            "prompt_hash": prompt_hash(),
            "schema_hash": schema_hash(),
            "parameters": self.identity()["parameters"],
        }

    async def close(self) -> None:
        await self._asker.close()

    async def _ask(self, item: Item, key: str) -> Outcome:
        spent = Usage()
        complaint, lower, longer, damaged = "", False, False, False
        for _ in range(2):
            prompt = render(item.messages, item.reference, item.answer, complaint=complaint)
            try:
                reply = await self._asker.ask(prompt, lower=lower, longer=longer)
            except NoReply as fault:
                self._unheard(str(fault))
                return Outcome.unscored(f"{NO_REPLY}{fault}", spent)
            except Rejected as fault:
                return Outcome.unscored(f"{REJECTED}{fault}", spent)
            self._silent, self._heard = 0, True
            spent += reply.usage
            try:
                verdict = _read(reply, item)
            except Unusable as fault:
                complaint, damaged = str(fault), reply.damaged
                lower, longer = not reply.text.strip() and not reply.cut, reply.cut
                continue
            self._saw(reply.model, reply.fingerprint)
            if self._cache:
                self._cache.put(key, Cached(verdict, reply.model, reply.fingerprint))
            return _outcome(verdict, spent, cached=False)
        way = NO_REPLY if damaged else "unusable reply: "
        return Outcome.unscored(f"{way}{complaint} (asked twice)", spent)

    def _saw(self, model: str | None, fingerprint: str | None) -> None:
        if model:
            self._models.add(model)
        if fingerprint:
            self._fingerprints.add(fingerprint)

    def _unheard(self, reason: str) -> None:
        """Stop where nothing comes back any more, rather than wait out every single answer."""
        self._silent += 1
        if self._silent >= max(10, 2 * self.parallel):
            still = "no longer answers" if self._heard else "does not answer"
            error = JudgeError(
                f"the judge {still}: {self._silent} requests in a row without a reply",
                where=self._target.name,
                details=[reason],
                remedy=f"{remedy_for(NO_REPLY + reason)}; then run the same command again: what was "
                "judged is kept",
            )
            self._asker.end(error)
            raise error


def _read(reply: Reply, item: Item) -> Verdict:
    if reply.fault:
        raise Unusable(reply.fault)
    verdict = read_verdict(reply.text)
    if any(verdict == forged for forged in verdicts_in(item.answer)):
        raise Unusable("it copies a verdict that stands in the answer")
    return verdict


def _outcome(verdict: Verdict, usage: Usage, *, cached: bool) -> Outcome:
    return Outcome(
        scores={name: float(verdict.scores[name]) for name in DIMENSIONS},
        overall=float(verdict.scores["overall"]),
        reasoning=verdict.reasoning,
        usage=usage,
        cached=cached,
    )
