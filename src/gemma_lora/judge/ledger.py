"""The judgements of one judge on disk: appended as they come, continued after a kill.

Writes into judgements/<judge>/: `judgements.jsonl` (one Judgement a line; while the stage works the
last line of a question, arm and repeat counts; when it is done the file is put in order with one line
each), `usage.jsonl` (of every reply, paid or from the cache: tokens, the judge's snapshot, the rung; it
only ever grows, since what was paid stays paid)
and `inputs.json` (the judge's identity and a digest of each text that was judged). Judgements of
another identity or of an answer that has changed since are dropped, with a notice; those without a
reply are asked again. In memory is one entry for each judgement, never its text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gemma_lora.console import Console
from gemma_lora.judge.items import Item, Key, Outcome, Source, Usage, no_reply
from gemma_lora.records import Judgement
from gemma_lora.rubric import OVERALL
from gemma_lora.rundir import append_jsonl, digest, iter_jsonl, read_saved, write_json, write_jsonl

__all__ = [
    "INPUTS",
    "Entry",
    "Ledger",
    "Spent",
    "Tally",
    "UsageLine",
    "charge",
    "text_name",
    "used",
]

INPUTS, _USAGE = "inputs.json", "usage.jsonl"

Entry = tuple[Key, Outcome, Judgement | None]
"""What the engine records: no judgement where an outcome only took something."""


_COUNTED = {part.name for part in fields(Usage)}


class UsageLine(BaseModel):
    """What one outcome took."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    arm: str
    repeat: int
    requests: int
    input: int
    output: int
    cached: bool
    lost: int = 0
    uncounted: int = 0
    most_input: int = 0
    most_output: int = 0
    judge: str | None = None
    """The identity of the judge that was asked, shortened."""
    model: str | None = None
    fingerprint: str | None = None
    rung: str | None = None

    @property
    def usage(self) -> Usage:
        return Usage(**self.model_dump(include=_COUNTED))


@dataclass
class Spent:
    """All that a folder's judgements took, over all calls; the rest is of its present identity."""

    usage: Usage = field(default_factory=Usage)
    cached: int = 0
    models: Counter[str] = field(default_factory=Counter[str])
    fingerprints: set[str] = field(default_factory=set[str])
    rungs: Counter[str] = field(default_factory=Counter[str])

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.usage + other.usage,
            self.cached + other.cached,
            self.models + other.models,
            self.fingerprints | other.fingerprints,
            self.rungs + other.rungs,
        )


@dataclass
class Tally:
    """The judgements of a folder in figures."""

    judged: int = 0
    scored: Counter[str] = field(default_factory=Counter[str])
    """By arm."""
    unscored: Counter[str] = field(default_factory=Counter[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    flags: Counter[str] = field(default_factory=Counter[str])
    spread: float | None = None
    """Standard deviation of overall between the repeats of one answer, pooled; None without repeats."""
    certain: int = 0
    """Judgements whose scores are expectations; the next two are sums over these, of overall."""
    entropy: float = 0.0
    mass: float = 0.0

    @property
    def certainty(self) -> dict[str, float] | None:
        """Means of entropy (bits) and mass of overall; None where scores are plain numbers."""
        if not self.certain:
            return None
        return {"entropy": self.entropy / self.certain, "mass": self.mass / self.certain}


class Ledger:
    """Opens the folder for `items` and `identity`; `known` holds what need not be asked again.

    `noun`: what its judgements are called in notices.
    """

    def __init__(
        self,
        folder: Path,
        items: Source,
        identity: dict[str, Any],
        console: Console,
        *,
        noun: str = "judgements",
    ) -> None:
        self.judgements = folder / "judgements.jsonl"
        self.usage = folder / _USAGE
        self._inputs = folder / INPUTS
        self._items = items
        self._noun = noun
        self.known: set[Key] = set()
        self._open(identity, console)

    @property
    def open_keys(self) -> list[Key]:
        """What is still to be judged."""
        return [key for key in self._items.keys if key not in self.known]

    def record(self, batch: Sequence[Entry]) -> None:
        """Append the lines of all; on the disk when this returns. No judgement: only what it took."""
        lines = [
            UsageLine(
                id=key[0],
                arm=key[1],
                repeat=key[2],
                **asdict(outcome.usage),
                judge=self._judge,
                cached=outcome.cached,
                model=outcome.model,
                fingerprint=outcome.fingerprint,
                rung=outcome.rung,
            )
            for key, outcome, _ in batch
        ]
        append_jsonl(self.usage, *lines)  # first, so that nothing paid goes uncounted
        append_jsonl(self.judgements, *(row for _, _, row in batch if row is not None))
        self.known.update(key for key, _, row in batch if row is not None)

    def close(self) -> Tally:
        """Put the file in order, one line for each item, and count what is in it."""
        places = {_key(row): place for place, row in self._placed()}
        tally, spread = Tally(), _Spread()

        def rows() -> Iterator[Judgement]:
            with self.judgements.open("rb") as stream:
                for key in self._items.keys:
                    if key in places:
                        stream.seek(places[key])
                        row = Judgement.model_validate_json(stream.readline())
                        _count(tally, row)
                        spread.add(row)
                        yield row

        if self.judgements.exists():
            write_jsonl(self.judgements, rows())
        tally.spread = spread.pooled()
        return tally

    def spent(self, console: Console) -> Spent:
        """Everything this folder's judgements took, over all calls and identities; who replied, of this one."""
        total = Spent()
        for line in iter_jsonl(self.usage, UsageLine, console):
            total.usage += line.usage
            if line.judge != self._judge:
                continue  # paid for, but by an earlier identity, which says nothing of this one
            total.cached += line.cached
            if line.model:
                total.models[line.model] += 1
            if line.fingerprint:
                total.fingerprints.add(line.fingerprint)
            if line.rung:
                total.rungs[line.rung] += 1
        return total

    def _open(self, identity: dict[str, Any], console: Console) -> None:
        texts = {text_name(key): text for key, text in self._items.digests.items()}
        whole = digest(identity)
        now = {"identity": whole, "texts": texts}
        self._judge = whole[:16]
        before = read_saved(self._inputs) if self._inputs.exists() else {}
        same = before.get("identity") == whole
        old: dict[str, str] = before.get("texts", {})
        wanted = self._items.digests
        last: dict[Key, int] = {}
        silent: set[Key] = set()
        stale = more = left_out = gone = total = 0
        for row in iter_jsonl(self.judgements, Judgement, console):
            key = _key(row)
            last[key] = total
            total += 1
            if no_reply(row.unscored_reason):
                silent.add(key)
            else:
                silent.discard(key)
        for key in last:
            if not same:
                break
            if key in wanted and old.get(text_name(key)) == wanted[key]:
                self.known.add(key)
            elif key[1] not in self._items.arms:
                left_out += 1
            elif (*key[:2], 0) in wanted and key not in wanted:
                more += 1
            elif key not in wanted:
                gone += 1
            else:
                stale += 1
        if total and not same:
            console.note(f"{total} earlier {self._noun} were made with other settings: judged anew")
        if stale:
            console.note(f"{stale} earlier {self._noun} are of answers that changed: judged anew")
        if left_out:
            console.note(
                f"{left_out} earlier {self._noun} are of arms that are left out now (--baseline, --aa)"
            )
        if more:
            console.note(f"{more} earlier {self._noun} are further repeats, which are left out now")
        if gone:
            console.note(f"{gone} earlier {self._noun} are of what is no longer asked: left out")
        for _ in iter_jsonl(self.usage, UsageLine, console):
            break  # drops a torn last line before more are appended
        again = silent & self.known
        self.known -= again
        if again:
            console.note(f"{len(again)} answers had no reply from the judge: asked again")
        if before != now:
            # judgements first: with the old inputs.json still there a kill in between loses none
            self._keep(lambda number, key: key in self.known and last[key] == number)
            write_json(self._inputs, now)

    def _keep(self, wanted: Callable[[int, Key], bool]) -> None:
        rows = enumerate(iter_jsonl(self.judgements, Judgement))
        write_jsonl(self.judgements, (row for number, row in rows if wanted(number, _key(row))))

    def _placed(self) -> Iterator[tuple[int, Judgement]]:
        place = 0
        if self.judgements.exists():
            with self.judgements.open("rb") as stream:
                for line in stream:
                    yield place, Judgement.model_validate_json(line)
                    place += len(line)


def used(folder: Path) -> Usage:
    """What `usage.jsonl` of a folder of judgements says that was taken, by whatever settings."""
    return sum((line.usage for line in iter_jsonl(folder / _USAGE, UsageLine)), Usage())


def charge(folder: Path, item: Item, identity: dict[str, Any], usage: Usage) -> None:
    """Put into the account of a folder what was taken beside its judgements; who replied is not told."""
    line = UsageLine(
        id=item.id,
        arm=item.arm,
        repeat=item.repeat,
        **asdict(usage),
        cached=False,
        judge=digest(identity)[:16],
    )
    append_jsonl(folder / _USAGE, line)


class _Spread:
    """Pooled variance within the answers; the rows come with the repeats of an answer together."""

    def __init__(self) -> None:
        self._now: tuple[str, str] | None = None
        self._scores: list[float] = []
        self._squares = 0.0
        self._freedom = 0

    def add(self, row: Judgement) -> None:
        if (row.id, row.arm) != self._now:
            self._finish()
            self._now = (row.id, row.arm)
        if row.overall is not None:
            self._scores.append(row.overall)

    def pooled(self) -> float | None:
        self._finish()
        return math.sqrt(self._squares / self._freedom) if self._freedom else None

    def _finish(self) -> None:
        if len(self._scores) > 1:
            mean = sum(self._scores) / len(self._scores)
            self._squares += sum((score - mean) ** 2 for score in self._scores)
            self._freedom += len(self._scores) - 1
        self._scores = []


def _count(tally: Tally, row: Judgement) -> None:
    tally.judged += 1
    tally.flags.update(row.flags)
    if row.unscored_reason is None:
        tally.scored[row.arm] += 1
        if row.certainty is not None:
            tally.certain += 1
            tally.entropy += row.certainty[OVERALL].entropy
            tally.mass += row.certainty[OVERALL].mass
    else:
        tally.unscored[row.arm] += 1
        tally.reasons[row.unscored_reason] += 1


def _key(row: Judgement) -> Key:
    return (row.id, row.arm, row.repeat)


def text_name(key: Key) -> str:
    """How inputs.json names the text of `key`."""
    return " ".join(map(str, key))
