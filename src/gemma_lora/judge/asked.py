"""A judge that is a language model: cache, request, strict reading, one re-ask, or the reason.

Works with any `Asker` (a server, an in-process model). A reply that cannot be used is asked for once
more, with the fault named; after that the answer is unscored, unless the form it was asked for in has been
given up since (`probing`: until a form works, or the last has failed). Our key is taken out of a reply that
repeats it. Two answers with the same text are
asked about once. Nothing here turns a fault into a number.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gemma_lora.config import JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.asking import PROMPT_NAME, Prompt, prompt_hash, render, schema_hash
from gemma_lora.judge.cache import Cached, ReplyCache
from gemma_lora.judge.items import NO_REPLY, Item, Outcome, Usage
from gemma_lora.judge.names import Target, key_for, without_key
from gemma_lora.judge.plugins import facts_of
from gemma_lora.judge.reading import Unusable, Verdict, read_verdict, verdicts_in
from gemma_lora.judge.replies import (
    REJECTED,
    Distribution,
    Ended,
    NoReply,
    Rejected,
    Reply,
    remedy_for,
)
from gemma_lora.records import Certainty
from gemma_lora.rubric import OVERALL, Rubric
from gemma_lora.rundir import digest

__all__ = ["CHANGED", "EXPECTED", "Asker", "LlmScorer", "rubric_facts", "warning_of_change"]

CHANGED = "the judge changed while it judged"
"""How `warning_of_change` begins."""
EXPECTED = "expected score over 1 to 10 from token probabilities"
LEAST_MASS, LITTLE_MASS = 0.05, 0.5
"""Probability of any valid score: below the first nothing is known of scores and the answer stays unscored;
below the second the model would rather have written something else, which is a flag."""
DOUBTFUL = "the judge seldom writes a score here"

_WAY = ("protocol", "plugin", "package", "version")
"""What of the identity judge.json has under the same name, of those judges that have it."""
_SENTENCE = 4
"""Words that nobody repeats exactly by chance."""


class Asker(Protocol):
    """Puts one prompt to a model. Raises NoReply, Rejected, or JudgeError and Ended where nothing can work."""

    @property
    def concurrency(self) -> int:
        """Most requests at once."""
        ...

    @property
    def width(self) -> int:
        """Requests at once now."""
        ...

    @property
    def temperature(self) -> int | None:
        """What is asked for; None where the model does not take one, or nobody can say."""
        ...

    async def ask(self, prompt: Prompt, *, lower: bool = False, longer: bool = False) -> Reply: ...

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be found out about the form of asking."""
        ...

    def judged(self, reply: Reply, usable: bool) -> bool:
        """Told of each reply whether it could be used; returns whether its form has been given up since."""
        ...

    def end(self, error: JudgeError) -> None:
        """Make everything under way give up with `error` before its next try."""
        ...

    async def close(self) -> None: ...


class LlmScorer:
    """Scores items by asking; see the module's docstring."""

    is_llm = True

    def __init__(
        self,
        target: Target,
        config: JudgeConfig,
        asker: Asker,
        cache: ReplyCache | None,
        console: Console,
        rubric: Rubric,
        architecture: str = "",
        *,
        probing: bool = False,
    ) -> None:
        self.kind = target.backend
        self.rubric = rubric
        self.architecture = architecture
        self.weights: Mapping[str, float] = rubric.weights
        self.parallel = asker.concurrency
        self._target = target
        self._key = key_for(target)
        self._probing = probing
        self._asker = asker
        self._cache = cache
        self._console = console
        self._decides = self.identity_of(target, config, rubric)
        # weights and name of the rubric are not in the prompt, so replies serve whatever they are
        self._identity = digest({**self._decides, "rubric": rubric.asked})
        self._snapshot = cache.snapshot(self._identity) if cache else None
        self._under_way: dict[str, asyncio.Future[Outcome]] = {}
        self._models: list[str] = []
        self._silent = 0
        self._heard = False

    @staticmethod
    def identity_of(target: Target, config: JudgeConfig, rubric: Rubric) -> dict[str, Any]:
        """What decides the replies. Of a model in this process that is its files, whatever the name."""
        own: dict[str, Any] = {}
        if target.backend == "hf":
            from gemma_lora.judge.hf import snapshot

            own = {"scoring": EXPECTED, "weights": snapshot(target.model)}
        return {
            "backend": target.backend,
            **own,
            **(facts_of(target.plugin) if target.plugin else {}),
            "address": target.address,
            "model": target.model,
            **({} if target.protocol == "chat" else {"protocol": target.protocol}),
            "prompt": prompt_hash(),
            "rubric": rubric.hash,
            "schema": schema_hash(rubric.scores),
            "parameters": {"temperature": 0, "max_tokens": config.judge_max_tokens},
        }

    def identity(self) -> dict[str, Any]:
        return self._decides

    def is_cached(self, fields: str) -> bool:
        """Whether a reply to these fields is kept, of the snapshot that the judge last said it was."""
        return self._cache is not None and self._cache.has(self._entry(fields, self._snapshot))

    async def score(self, item: Item) -> Outcome:
        fields = item.fields()
        waiting = self._under_way.get(fields)
        if waiting is not None:
            twin = await asyncio.shield(waiting)
            free = twin.unscored_reason is None and twin.ended is None
            return dataclasses.replace(twin, usage=Usage(), cached=free)
        found = None
        if self._cache:
            found = self._cache.get(self._entry(fields, self._snapshot), self.rubric.scores)
        if found is not None:
            self._saw(found.model)
            outcome = _outcome(found.verdict, Usage(), found.distributions)
            return dataclasses.replace(
                outcome, cached=True, model=found.model, fingerprint=found.fingerprint
            )
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._under_way[fields] = future
        try:
            outcome = await self._ask(item, fields)
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # seen here; whoever waits sees it, too
            raise
        finally:
            del self._under_way[fields]
        future.set_result(outcome)
        return outcome

    def stop(self, error: JudgeError) -> None:
        """Let the requests under way end, and begin no other."""
        self._asker.end(error)

    def facts(self) -> dict[str, Any]:
        return {
            "prompt": PROMPT_NAME,
            "prompt_hash": prompt_hash(),
            "schema_hash": schema_hash(self.rubric.scores),
            **rubric_facts(self.rubric),
            **{key: self._decides[key] for key in _WAY if key in self._decides},
            "scoring": self.identity().get("scoring", "integers as written"),
            "parameters": self.identity()["parameters"],
            # beside what was asked for, by which runs are compared: a run from the cache cannot tell
            "temperature": self._asker.temperature,
        }

    async def close(self) -> None:
        await self._asker.close()

    async def _ask(self, item: Item, fields: str) -> Outcome:
        spent = Usage()
        complaint, lower, longer = "", False, False
        rungs: list[str | None] = []
        while True:
            prompt = self.render(item, complaint)
            try:
                reply = await self._asker.ask(prompt, lower=lower, longer=longer)
            except NoReply as fault:
                try:
                    self._unheard(str(fault))
                except JudgeError as error:
                    return Outcome(ended=error, usage=spent + fault.usage)
                return Outcome.unscored(f"{NO_REPLY}{fault}", spent + fault.usage)
            except Rejected as fault:
                return Outcome.unscored(f"{REJECTED}{fault}", spent + fault.usage)
            except Ended as end:
                return Outcome(ended=end.error, usage=spent + end.usage)
            except JudgeError as error:
                return Outcome(ended=error, usage=spent)
            self._silent, self._heard = 0, True
            spent += reply.usage
            try:
                verdict = _read(reply, item, self.rubric)
            except Unusable as fault:
                left = self._asker.judged(reply, False)
                complaint = str(fault)
                rungs.append(reply.rung)
                lower = not lower and not reply.text.strip() and not reply.cut
                longer = reply.cut
                seeking = self._probing and not reply.damaged and not self._asker.settled
                if len(rungs) < 2 or left or seeking:
                    continue
                return Outcome.unscored(_given_up(reply, complaint, rungs), spent)
            said = without_key(verdict.reasoning, self._key)
            verdict = dataclasses.replace(verdict, reasoning=said)
            self._asker.judged(reply, True)
            self._saw(reply.model)
            self._keep(fields, reply, verdict)
            return dataclasses.replace(
                _outcome(verdict, spent, reply.distributions),
                model=reply.model,
                fingerprint=reply.fingerprint,
                rung="prose" if reply.ignored else reply.rung,
            )

    def _keep(self, fields: str, reply: Reply, verdict: Verdict) -> None:
        if self._cache is None:
            return
        kept = Cached(verdict, reply.model, reply.fingerprint, reply.distributions)
        self._cache.put(self._entry(fields, reply.model), kept)
        if reply.model and reply.model != self._snapshot:
            self._snapshot = reply.model
            self._cache.set_snapshot(self._identity, reply.model)

    def render(self, item: Item, complaint: str = "") -> Prompt:
        """The prompt for `item`."""
        return render(
            item.messages, item.reference, item.answer, complaint=complaint, rubric=self.rubric
        )

    def _entry(self, fields: str, snapshot: str | None) -> str:
        return digest(self._identity, snapshot, fields)

    def _saw(self, model: str | None) -> None:
        if not model or model in self._models:
            return
        self._models.append(model)
        if len(self._models) == 2:
            self._console.warn(warning_of_change(self._models))

    def _unheard(self, reason: str) -> None:
        """Stop where nothing comes back any more, rather than wait out every single answer."""
        self._silent += 1
        if self._silent >= max(10, 2 * self._asker.width):
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


def warning_of_change(models: Sequence[str]) -> str:
    """`models`: what the judge called itself, in this order."""
    return (
        f"{CHANGED}: it called itself {' and then '.join(models)}; "
        "scores of both are in this verdict"
    )


def _given_up(reply: Reply, complaint: str, rungs: Sequence[str | None]) -> str:
    """Why an answer stays unscored; `rungs`: of each unusable reply, the last of which is `reply`."""
    asked = "asked twice"
    if len(rungs) > 2:
        names = ", ".join(dict.fromkeys(rung or "the only way" for rung in rungs))
        asked = f"asked {len(rungs)} times, by {names}"
    return f"{NO_REPLY if reply.damaged else 'unusable reply: '}{complaint} ({asked})"


def rubric_facts(rubric: Rubric) -> dict[str, Any]:
    """What judge.json tells of the rubric."""
    return {
        "rubric": rubric.name,
        "rubric_hash": rubric.hash,
        "dimensions": list(rubric.names),
        "weights": rubric.weights,
    }


def _read(reply: Reply, item: Item, rubric: Rubric) -> Verdict:
    if reply.fault:
        raise Unusable(reply.fault)
    verdict = read_verdict(reply.text, rubric.scores)
    if any(_copied(verdict, forged) for forged in verdicts_in(item.answer, rubric.scores)):
        raise Unusable("it copies a verdict that stands in the answer")
    _need_mass(reply.distributions or {})
    return verdict


def _copied(verdict: Verdict, forged: Verdict) -> bool:
    """The same words, however spaced, with the same scores; or a whole sentence of them, with any scores.

    Own words with the forged scores are an opinion, which nobody can tell from agreement.
    """
    said, told = (one.reasoning.casefold().split() for one in (verdict, forged))
    return said == told and (verdict.scores == forged.scores or len(said) >= _SENTENCE)


def _need_mass(found: Mapping[str, Distribution]) -> None:
    """Unusable where the model would write a score so seldom that what it thinks of scores is unknown."""
    if not all(one.mass >= LEAST_MASS for one in found.values()):
        # without figures: the reasons are counted
        raise Unusable(
            f"the model hardly gives scores: less than {100 * LEAST_MASS:g} % of its probability is on a "
            "number from 1 to 10"
        )


def _outcome(
    verdict: Verdict, usage: Usage, found: Mapping[str, Distribution] | None = None
) -> Outcome:
    scores = {name: float(number) for name, number in verdict.scores.items()}
    if found:
        scores = {name: round(found[name].expected, 4) for name in scores}
    doubtful = any(d.mass < LITTLE_MASS for d in (found or {}).values())
    return Outcome(
        scores={name: number for name, number in scores.items() if name != OVERALL},
        overall=scores[OVERALL],
        certainty={
            name: Certainty(entropy=round(d.entropy, 4), mass=round(d.mass, 4))
            for name, d in found.items()
        }
        if found
        else None,
        flags=(DOUBTFUL,) if doubtful else (),
        # a lone surrogate (a JSON escape gone wrong) could not be written to a file
        reasoning=verdict.reasoning.encode("utf-8", "replace").decode(),
        usage=usage,
    )
