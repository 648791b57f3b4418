"""What judging in a folder has taken so far, for a limit that several runs share.

Reads judgements/<judge>/usage.jsonl and that of its canaries, which grow with every reply: so an interrupted
judging counts with what it paid, and tokens count at the prices of today, whatever was known of them then.
It is how a single run counts its own before it goes on (`stage`, `Budget`). Writes nothing, but for a torn
last line, which is dropped.
"""

from __future__ import annotations

from pathlib import Path

from gemma_lora.console import Console
from gemma_lora.judge.budget import Prices, cost
from gemma_lora.judge.canaries import FOLDER
from gemma_lora.judge.items import Usage
from gemma_lora.judge.ledger import USAGE, UsageLine
from gemma_lora.rundir import iter_jsonl

__all__ = ["paid"]


def paid(folder: Path, prices: Prices, console: Console | None = None) -> float:
    """US dollars that `folder` (judgements/<judge>/) took at most, over all calls; 0 where a price is unknown."""
    total = Usage()
    for place in (folder, folder / FOLDER):
        for line in iter_jsonl(place / USAGE, UsageLine, console):
            total += line.usage
    return cost(total.at_most, prices) or 0.0
