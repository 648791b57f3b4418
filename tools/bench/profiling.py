"""Where the time of one of our steps goes, by torch.profiler: `python -m bench profile`.

The profiler runs from the end of the warm-up to the end of the next step of `gemma_lora.train.train`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile, record_function

from bench import ours
from bench.clock import ConsoleClock
from bench.job import Job
from gemma_lora.train import trainer

OPS = 25
ROWS = "rows (read, packed, collated)"
"""Always in the table, however little it is: whether the loader holds training up."""


class _ProfiledStep(ConsoleClock):
    """Starts the profiler when `after` steps are done and stops it a step later."""

    def __init__(self, after: int, device: str) -> None:
        super().__init__()
        activities = [ProfilerActivity.CPU]
        if device == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profiler = profile(activities=activities)
        self._after = after
        self._running = False

    def at_step(self, step: int) -> None:
        if step == self._after and not self._running:
            self.profiler.start()
            self._running = True
        elif step == self._after + 1 and self._running:
            self.profiler.stop()
            self._running = False


def _recorded(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, seen by the profiler as an op of this name."""

    def recorded(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return work(*args, **kwargs)

    return recorded


def run(job: Job) -> dict[str, Any]:
    """The ops of step `job.warmup + 1` by their own time."""
    # PyTorch's profiler knows nothing of NumPy's products, nor of what datasets and Arrow do
    plain, fetched = np.matmul, trainer.batches
    np.matmul = _recorded("numpy.matmul", plain)
    trainer.batches = _recorded(ROWS, fetched)
    clock = _ProfiledStep(job.warmup, job.device)
    try:
        ours.run(job, clock)
    finally:
        np.matmul, trainer.batches = plain, fetched
    kind = "self_device_time_total" if job.device == "cuda" else "self_cpu_time_total"

    def own(event: Any) -> float:
        return event.self_cpu_time_total if event.key == ROWS else getattr(event, kind)

    events: list[Any] = sorted(clock.profiler.key_averages(), key=own, reverse=True)
    total = sum(map(own, events))
    shown = events[:OPS] + [event for event in events[OPS:] if event.key == ROWS]
    return {
        "step": job.warmup + 1,
        "seconds": clock.ends[job.warmup + 1] - clock.ends[job.warmup],
        "dropout": job.dropout,
        "ops": [
            {
                "op": event.key,
                "calls": event.count,
                "ms": round(own(event) / 1e3, 1),
                "share": round(own(event) / total, 4),
            }
            for event in shown
        ],
        "others_share": round(1 - sum(map(own, shown)) / total, 4),
        "notes": clock.notes,
    }
