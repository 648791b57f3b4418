"""What is seen of a training while it runs: the live line, and `metrics.jsonl`.

`metrics.jsonl` has a line for each optimiser step (and one for step 0, the validation before
training): `step`, `epoch`, `loss` (nats a supervised token of the step), `validation_loss` (null
where the step was not validated), `lr`, `grad_norm` (before clipping), `tokens_per_second` (without
padding), `memory` (peak, MiB: of the GPU where one is used, else of the process). A resumed
training first cuts off the lines beyond the step it resumes from, so each step has one line.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from gemma_lora.console import Console
from gemma_lora.rundir import append_jsonl, write_text

__all__ = ["Progress", "cut_metrics", "peak_memory_mib", "peak_rss_mib"]


def peak_rss_mib() -> float:
    """Peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def peak_memory_mib(device: torch.device) -> float:
    """Peak of the memory that limits training on `device`, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_rss_mib()


def cut_metrics(path: Path, *, keep_to: int) -> None:
    """Drop the lines of steps after `keep_to`, torn lines and second lines of a step."""
    if not path.exists():
        return
    kept: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            step = int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # torn by an interruption
            continue
        if step <= keep_to:
            kept[step] = line
    write_text(path, "".join(kept[step] + "\n" for step in sorted(kept)))


class Progress:
    """The live line of one training. Times are wall-clock seconds of this process."""

    def __init__(
        self, console: Console, metrics: Path | None, *, steps: int, start_step: int
    ) -> None:
        """`metrics`: None in a process that is not the first."""
        self._console, self._metrics = console, metrics
        self._steps, self._start_step = steps, start_step
        self._began = time.monotonic()
        self._loss: float | None = None
        self._validation: float | None = None
        self._speed: float | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def write(self, line: dict[str, Any]) -> None:
        """Append the step's line to the metrics and redraw."""
        if self._metrics is not None:
            append_jsonl(self._metrics, {k: _rounded(v) for k, v in line.items()})
        if line["validation_loss"] is not None:
            self._validation = line["validation_loss"]
        if line["loss"] is not None:
            # the loss of single steps jumps; the line shows a running mean, the file the numbers
            before = self._loss if self._loss is not None else line["loss"]
            self._loss = 0.8 * before + 0.2 * line["loss"]
        speed = line["tokens_per_second"]
        if speed is not None:
            self._speed = speed if self._speed is None else 0.8 * self._speed + 0.2 * speed
        self.draw(line["step"], line["epoch"])

    def draw(self, step: int, epoch: float, doing: str = "") -> None:
        parts = [f"step {step}/{self._steps}", f"epoch {epoch:.2f}"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.3f}")
        if self._validation is not None:
            parts.append(f"validation {self._validation:.3f}")
        if self._speed is not None:
            parts.append(f"{self._speed:,.0f} tokens/s")
        done = step - self._start_step
        if done > 0 and step < self._steps:
            parts.append(f"{_duration(self.seconds / done * (self._steps - step))} left")
        if doing:
            parts.append(doing)
        self._console.progress(" · ".join(parts), final=step >= self._steps and not doing)


def _rounded(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
