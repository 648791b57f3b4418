"""When each optimiser step ended and how many tokens it had: for the Trainer's family and for ours.

`speed_of` is tokens that are not padding over the seconds of the steps after the warm-up. Step k's
seconds run from the end of step k-1, so everything between two steps counts: data, optimiser, logging.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from gemma_lora.console import Console


class TrainerClock(TrainerCallback):
    """(seconds, tokens so far) at the end of each step; the Trainer itself counts the tokens."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, int]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append((time.monotonic(), int(state.num_input_tokens_seen)))

    def steps(self) -> list[dict[str, float]]:
        """Seconds and tokens of steps 2 and later."""
        pairs = zip(self.ends, self.ends[1:], strict=False)
        return [{"seconds": b[0] - a[0], "tokens": b[1] - a[1]} for a, b in pairs]


class ConsoleClock(Console):
    """Our console, which is told of every step: notes the first moment at which it hears of each."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ends: dict[int, float] = {}
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
        super().note(text)

    def progress(self, text: str, *, final: bool = False) -> None:
        if match := re.match(r"step (\d+)/", text):
            self.ends.setdefault(int(match[1]), time.monotonic())
            self.at_step(int(match[1]))
        super().progress(text, final=final)

    def at_step(self, step: int) -> None:
        """For those who want to act between steps."""

    def steps(self, metrics: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
        """Seconds and tokens of steps 2 and later; `metrics` are the lines of metrics.jsonl."""
        found: list[dict[str, float]] = []
        for line in metrics:
            step = line["step"]
            if step >= 2:
                seconds = self.ends[step] - self.ends[step - 1]
                found.append({"seconds": seconds, "tokens": line["tokens_per_second"] * seconds})
        return found


def speed_of(steps: Sequence[dict[str, float]], warmup: int) -> float:
    """Tokens a second after `warmup` steps; `steps` start with the second one."""
    measured = steps[max(0, warmup - 1) :]
    return sum(s["tokens"] for s in measured) / sum(s["seconds"] for s in measured)
