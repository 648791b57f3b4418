"""Judging many answers at once: workers, progress, and a stop that keeps what was paid for.

As many workers as the judge takes at once draw keys from one list and load one item each, so memory
holds what is under way and nothing else. Outcomes that arrive together are written and flushed
together, in a thread; a worker draws the next item when its outcome is on the disk. A JudgeError
(nothing can work, the budget is spent) lets the requests under way end and then ends the stage. So do
Ctrl-C and SIGTERM: what is under way is paid for, so it is waited for; a second Ctrl-C drops it.
Judges without a model score one after the other and are written in batches. Writes through `Mixture`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar

from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.asked import LlmScorer
from gemma_lora.judge.budget import Prices, cost
from gemma_lora.judge.canaries import Mixture
from gemma_lora.judge.checks import flags_for, flags_of_scores
from gemma_lora.judge.items import Item, Key, Outcome, Scorer, Usage
from gemma_lora.judge.ledger import Entry
from gemma_lora.records import Judgement

__all__ = ["Progress", "ask_all", "ask_alone", "closing", "run_async", "score_all"]

T = TypeVar("T")
_BATCH = 256
_SPREAD = 0.75
_LARGEST_GAP = 0.006
"""Seconds; after a pause the time that a round took says nothing."""
_STOPPED = "judging was interrupted"


class Progress:
    """The live line: done of all, unscored, from the cache, tokens, cost so far, time left.

    `spent`: what earlier calls took, which tokens and cost are with, as `--max-cost` counts them.
    """

    def __init__(
        self, console: Console, total: int, done: int, prices: Prices, spent: Usage
    ) -> None:
        self.console = console
        self._total, self._before, self._done = total, done, done
        self._prices = prices
        self._unscored = self._cached = 0
        self._spent, self._usage = spent, Usage()
        self._start = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self._usage += outcome.usage
        if outcome.ended is None:
            self._done += 1
            self._unscored += outcome.unscored_reason is not None
            self._cached += outcome.cached
        self.show()

    def show(self, *, final: bool = False) -> None:
        self.console.progress(self._line(), final=final)

    def _line(self) -> str:
        parts = [f"judged {self._done:,} of {self._total:,}", f"{self._unscored:,} unscored"]
        if self._cached:
            parts.append(f"{self._cached:,} from the cache")
        whole = self._spent + self._usage
        if whole.input or whole.output:
            parts.append(f"{whole.input:,} + {whole.output:,} tokens")
        here = self._done - self._before
        left = self._total - self._done
        dollars, newly = cost(whole, self._prices), cost(self._usage, self._prices)
        if dollars is not None and newly is not None:
            parts.append(f"${dollars:,.4f} so far")
            if left and here > self._cached:
                more = newly / (here - self._cached) * left
                parts.append(f"about ${dollars + more:,.2f} in all")
        if here and left:
            seconds = (time.monotonic() - self._start) / here * left
            parts.append(
                f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"
            )
        return " · ".join(parts)


async def score_all(scorer: Scorer, answers: Mixture, keys: list[Key], progress: Progress) -> None:
    """Score `keys` one after the other with a judge that costs nothing; records them in batches."""
    batch: list[Entry] = []
    for number, key in enumerate(keys, start=1):
        item = answers.load(key)
        outcome = await scorer.score(item)
        batch.append((key, outcome, _judgement(scorer, item, outcome)))
        if len(batch) == _BATCH or number == len(keys):
            answers.record(batch)
            for _, done, _ in batch:
                progress.add(done)
            batch = []
            await asyncio.sleep(0)  # where an interrupt is heard
    progress.show(final=True)


async def ask_alone(
    scorer: LlmScorer, item: Item, console: Console, paid: Callable[[Usage], None]
) -> Outcome:
    """The outcome of one item. `paid` is told what it took, also where a signal then ends it as in `ask_all`."""
    with _signals(_stopping(scorer, console)) as signals:
        outcome = await scorer.score(item)
        paid(outcome.usage)
    if signals:
        raise _ending(signals[0])
    return outcome


async def ask_all(scorer: LlmScorer, answers: Mixture, keys: list[Key], progress: Progress) -> None:
    """Put `keys` to a model in this order and record each outcome; raises the first JudgeError.

    KeyboardInterrupt or SystemExit(143) after a signal, when what was under way is recorded.
    """
    queue = iter(keys)
    ended: list[JudgeError] = []
    parallel = min(scorer.parallel, len(keys))
    writer = _Writer(answers, progress, parallel)

    async def work(source: Iterator[Key]) -> None:
        for key in source:
            item = answers.load(key)
            try:
                outcome = await scorer.score(item)
            except JudgeError as error:
                outcome = Outcome(ended=error)
            if outcome.ended is None:
                await writer.write(key, outcome, _judgement(scorer, item, outcome))
            else:
                ended.append(outcome.ended)
                if outcome.usage != Usage():
                    await writer.write(key, outcome, None)
            if ended:
                return

    with _signals(_stopping(scorer, progress.console, ended)) as signals:
        async with asyncio.TaskGroup() as group:
            writing = [group.create_task(part()) for part in (writer.run, writer.release)]
            async with asyncio.TaskGroup() as workers:
                for _ in range(parallel):
                    workers.create_task(work(queue))
            for part in writing:
                part.cancel()
    progress.show(final=True)
    if signals:
        raise _ending(signals[0])
    if ended:
        raise ended[0]


def _stopping(
    scorer: LlmScorer, console: Console, ended: list[JudgeError] | None = None
) -> Callable[[signal.Signals], None]:
    """What a first signal does: nothing else is begun, and `ended` says so."""

    def stop(number: signal.Signals) -> None:
        console.note(
            "stopping: waiting for the requests under way, which are paid for"
            + (" (Ctrl-C again drops them)" if number == signal.SIGINT else "")
        )
        error = JudgeError(_STOPPED)
        if ended is not None:
            ended.append(error)
        scorer.stop(error)

    return stop


def _judgement(scorer: Scorer, item: Item, outcome: Outcome) -> Judgement:
    names = tuple(scorer.weights)
    flags = (*flags_for(item, names), *flags_of_scores(outcome, scorer.weights))
    return outcome.as_judgement(item, flags, names)


class _Writer:
    """Records what arrived since the last flush, all at once, in a thread.

    Those who wait for it go on one at a time, a little apart: together they would take every step in
    lockstep, send together at the end, and be answered together again, and a crowd waits for the processor
    where a stream would not. `parallel`: how many there are.
    """

    def __init__(self, answers: Mixture, progress: Progress, parallel: int) -> None:
        self._answers = answers
        self._progress = progress
        self._parallel = parallel
        self._batch: list[Entry] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._arrived = asyncio.Event()
        self._written: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def write(self, key: Key, outcome: Outcome, judgement: Judgement | None) -> None:
        """Returns when the lines are on the disk."""
        written = asyncio.get_running_loop().create_future()
        self._batch.append((key, outcome, judgement))
        self._waiting.append(written)
        self._arrived.set()
        await written

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch, self._batch = self._batch, []
            waiting, self._waiting = self._waiting, []
            await asyncio.to_thread(self._answers.record, batch)
            for (_, outcome, _), written in zip(batch, waiting, strict=True):
                self._progress.add(outcome)
                self._written.put_nowait(written)

    async def release(self) -> None:
        """At most as fast as all of them could go round in _SPREAD of the time that it took them last."""
        loop = asyncio.get_running_loop()
        recent, turn = deque([loop.time()], self._parallel), 0.0
        while True:
            written = await self._written.get()
            now = loop.time()
            gap = min(_LARGEST_GAP, _SPREAD * (now - recent[0]) / self._parallel)
            turn = max(turn + gap, now - gap)
            await asyncio.sleep(max(0.0, turn - now))
            recent.append(turn)
            if not written.done():
                written.set_result(None)


@contextlib.contextmanager
def _signals(stop: Callable[[signal.Signals], None]) -> Generator[list[signal.Signals]]:
    """Calls `stop` at the first SIGINT or SIGTERM; a second cancels. Yields the list of those that came.

    In a thread of `run_async` they come from there; in any other there are none.
    """
    came: list[signal.Signals] = []
    loop, task, thread = (
        asyncio.get_running_loop(),
        asyncio.current_task(),
        threading.current_thread(),
    )
    main = thread is threading.main_thread()
    if task is None or not (main or isinstance(thread, _Apart)):
        yield came
        return

    def take(number: signal.Signals) -> None:
        came.append(number)
        if len(came) == 1:
            stop(number)
        else:
            task.cancel()

    caught = (signal.SIGINT, signal.SIGTERM) if main else ()
    former = {number: signal.getsignal(number) for number in caught}
    for number in caught:
        loop.add_signal_handler(number, take, number)
    if isinstance(thread, _Apart):
        thread.take = take
    try:
        yield came
    except asyncio.CancelledError:
        if not came:
            raise
        task.uncancel()
        raise _ending(came[0]) from None
    finally:
        if isinstance(thread, _Apart):
            thread.take = None
        for number, handler in former.items():
            loop.remove_signal_handler(number)
            if handler is not None:
                signal.signal(number, handler)


def _ending(number: signal.Signals) -> BaseException:
    """How the shell expects a process to end after the signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def run_async(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run to the end, also from inside a notebook, whose own loop is already running.

    There it runs in a thread. What interrupts the wait for that thread (Ctrl-C, the kernel's end) stops
    it as a signal would, and is raised again when it has ended: the caller gives up the run's lock then.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(make)
    apart = _Apart(make)
    apart.start()
    interrupts: list[BaseException] = []
    while not apart.ended.is_set():
        try:
            apart.ended.wait()  # an interrupted `join` takes the thread for dead (Python 3.11)
        except BaseException as error:  # noqa: BLE001 - raised below, when nothing asks any more
            interrupts.append(error)
            apart.interrupt(
                signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
            )
    apart.join()
    if interrupts:
        raise interrupts[0]
    if apart.faults:
        raise apart.faults[0]
    return apart.results[0]


class _Apart(threading.Thread):
    """Runs `make` on an event loop of its own; `take` is called there with each `interrupt`."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        super().__init__(name="gemma-lora-judge")
        self.results: list[Any] = []
        self.faults: list[BaseException] = []
        self.take: Callable[[signal.Signals], object] | None = None
        """None: an interrupt cancels the work."""
        self._make = make
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._begun = threading.Event()
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            self.results.append(_run(self._work))
        except BaseException as error:  # noqa: BLE001 - carried to the calling thread
            self.faults.append(error)
        finally:
            self._begun.set()
            self.ended.set()

    async def _work(self) -> Any:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._begun.set()
        return await self._make()

    def interrupt(self, number: signal.Signals) -> None:
        self._begun.wait()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._interrupted, number)

    def _interrupted(self, number: signal.Signals) -> None:
        if self.take is not None:
            self.take(number)
        elif self._task is not None:
            self._task.cancel()


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
