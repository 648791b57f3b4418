"""The judgements of one judge on disk: appended one by one, continued after a kill.

Writes into judgements/<judge>/: `judgements.jsonl` (one Judgement a line; while the stage works the
last line of a question, arm and repeat counts; when it is done the file is put in order with one line
each), `usage.jsonl` (tokens of every reply, paid or from the cache) and `inputs.json` (the judge's
identity and a digest of each text that was judged). Judgements of another identity or of an answer
that has changed since are dropped, with a notice; those without a reply are asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gemma_lora.console import Console
from gemma_lora.judge.items import NO_REPLY, Item, Key, Usage
from gemma_lora.records import Judgement
from gemma_lora.rundir import append_jsonl, digest, read_jsonl, read_saved, write_json, write_jsonl

__all__ = ["Ledger", "UsageLine"]


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


class Ledger:
    """Opens the folder for `items` and `identity`; `known` holds what need not be asked again."""

    def __init__(
        self, folder: Path, items: Sequence[Item], identity: dict[str, Any], console: Console
    ) -> None:
        self.judgements = folder / "judgements.jsonl"
        self.usage = folder / "usage.jsonl"
        self._inputs = folder / "inputs.json"
        self._items = items
        self.known: dict[Key, Judgement] = {}
        self._open(identity, console)

    @property
    def open_items(self) -> list[Item]:
        """What is still to be judged."""
        return [item for item in self._items if item.key not in self.known]

    def record(self, judgement: Judgement, usage: Usage, cached: bool) -> None:
        """Append both lines; on the disk when this returns."""
        key = (judgement.id, judgement.arm, judgement.repeat)
        line = UsageLine(
            id=judgement.id,
            arm=judgement.arm,
            repeat=judgement.repeat,
            requests=usage.requests,
            input=usage.input,
            output=usage.output,
            cached=cached,
        )
        append_jsonl(self.usage, line)  # first, so that nothing paid goes uncounted
        append_jsonl(self.judgements, judgement)
        self.known[key] = judgement

    def close(self) -> list[Judgement]:
        """Put the file in order, one line for each item, and return it."""
        rows = [self.known[item.key] for item in self._items if item.key in self.known]
        write_jsonl(self.judgements, rows)
        return rows

    def spent(self, console: Console) -> tuple[Usage, int]:
        """Everything this folder's judgements took, over all calls; and how many came from the cache."""
        lines = read_jsonl(self.usage, UsageLine, console)
        total = Usage()
        for line in lines:
            total += Usage(line.requests, line.input, line.output)
        return total, sum(line.cached for line in lines)

    def _open(self, identity: dict[str, Any], console: Console) -> None:
        texts = {_name(item.key): item.fields() for item in self._items}
        now = {"identity": digest(identity), "texts": texts}
        before = read_saved(self._inputs) if self._inputs.exists() else {}
        rows = read_jsonl(self.judgements, Judgement, console)
        if rows and before.get("identity") != now["identity"]:
            console.note(
                f"{len(rows)} earlier judgements were made with other settings: judged anew"
            )
            rows = []
        old: dict[str, str] = before.get("texts", {})
        wanted = {item.key for item in self._items}
        stale = 0
        for row in rows:
            key = (row.id, row.arm, row.repeat)
            if key in wanted and old.get(_name(key)) == texts[_name(key)]:
                self.known[key] = row
            else:
                stale += 1
        if stale:
            console.note(f"{stale} earlier judgements are of answers that changed: judged anew")
        if before.get("identity") != now["identity"]:
            self.usage.unlink(missing_ok=True)
        read_jsonl(
            self.usage, UsageLine, console
        )  # drops a torn last line before more are appended
        again = [
            key
            for key, row in self.known.items()
            if (row.unscored_reason or "").startswith(NO_REPLY)
        ]
        for key in again:
            del self.known[key]
        if again:
            console.note(f"{len(again)} answers had no reply from the judge: asked again")
        if before != now:
            # judgements first: with the old inputs.json still there a kill in between loses none
            write_jsonl(self.judgements, self.known.values())
            write_json(self._inputs, now)


def _name(key: Key) -> str:
    return " ".join(map(str, key))
