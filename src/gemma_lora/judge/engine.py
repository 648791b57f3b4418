"""Judging many answers at once: workers, progress, and a stop that keeps what was paid for.

As many workers as the judge takes at once draw answers from one list; each outcome is on the disk
before the next answer is drawn. A JudgeError of one worker (nothing can work) lets the others finish
the request they are in and then ends the stage with that error. Writes through `Ledger` only.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.checks import flags_for
from gemma_lora.judge.items import Item, Outcome, Scorer, Usage
from gemma_lora.judge.ledger import Ledger

__all__ = ["Progress", "closing", "cost", "judge_all", "run_async"]

T = TypeVar("T")


def cost(usage: Usage, prices: tuple[float | None, float | None]) -> float | None:
    """US dollars for `usage` at `prices` for a million input and output tokens; None where unknown."""
    if prices[0] is None or prices[1] is None:
        return None
    return (usage.input * prices[0] + usage.output * prices[1]) / 1e6


class Progress:
    """The live line: done of all, unscored, from the cache, tokens, cost so far, time left."""

    def __init__(
        self, console: Console, total: int, done: int, prices: tuple[float | None, float | None]
    ) -> None:
        self._console = console
        self._total, self._before, self._done = total, done, done
        self._prices = prices
        self._unscored = self._cached = 0
        self._usage = Usage()
        self._start = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self._done += 1
        self._unscored += outcome.unscored_reason is not None
        self._cached += outcome.cached
        self._usage += outcome.usage
        self.show()

    def show(self, *, final: bool = False) -> None:
        self._console.progress(self._line(), final=final)

    def _line(self) -> str:
        parts = [f"judged {self._done:,} of {self._total:,}", f"{self._unscored:,} unscored"]
        if self._cached:
            parts.append(f"{self._cached:,} from the cache")
        if self._usage.input or self._usage.output:
            parts.append(f"{self._usage.input:,} + {self._usage.output:,} tokens")
        dollars = cost(self._usage, self._prices)
        if dollars is not None:
            parts.append(f"${dollars:,.4f} so far")
        here = self._done - self._before
        if here and self._done < self._total:
            left = (time.monotonic() - self._start) / here * (self._total - self._done)
            parts.append(f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left")
        return " · ".join(parts)


async def judge_all(scorer: Scorer, items: list[Item], ledger: Ledger, progress: Progress) -> None:
    """Score `items` in this order and record each outcome; raises the first JudgeError."""
    queue = iter(items)
    ended: list[JudgeError] = []

    async def work(source: Iterator[Item]) -> None:
        for item in source:
            try:
                outcome = await scorer.score(item)
            except JudgeError as error:
                ended.append(error)
                return
            ledger.record(
                outcome.as_judgement(item, flags_for(item)), outcome.usage, outcome.cached
            )
            progress.add(outcome)
            if ended:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(min(scorer.parallel, len(items))):
            group.create_task(work(queue))
    progress.show(final=True)
    if ended:
        raise ended[0]


def run_async(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run to the end, also from inside a notebook, whose own loop is already running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(make)
    results: list[T] = []
    faults: list[BaseException] = []

    def target() -> None:
        try:
            results.append(_run(make))
        except BaseException as error:  # noqa: BLE001 - carried to the calling thread
            faults.append(error)

    thread = threading.Thread(target=target, name="gemma-lora-judge")
    thread.start()
    thread.join()
    if faults:
        raise faults[0]
    return results[0]


def _run(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    try:
        return asyncio.run(make())
    except ExceptionGroup as group:  # of the workers; each one's fault is the same or as good
        raise _first(group) from None


def _first(group: ExceptionGroup[Exception]) -> Exception:
    inner: Exception = group
    while isinstance(inner, ExceptionGroup):
        inner = inner.exceptions[0]
    return inner


@contextlib.asynccontextmanager
async def closing(scorer: Scorer) -> AsyncGenerator[Scorer]:
    """Close the scorer's connections whatever happens."""
    try:
        yield scorer
    finally:
        await scorer.close()
