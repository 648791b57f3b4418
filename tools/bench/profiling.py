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

OPS = 25


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


def _recorded(product: Callable[..., Any]) -> Callable[..., Any]:
    def matmul(*args: Any, **kwargs: Any) -> Any:
        with record_function("numpy.matmul"):
            return product(*args, **kwargs)

    return matmul


def run(job: Job) -> dict[str, Any]:
    """The ops of step `job.warmup + 1` by their own time."""
    # PyTorch's profiler knows nothing of NumPy's products
    plain = np.matmul
    np.matmul = _recorded(plain)
    clock = _ProfiledStep(job.warmup, job.device)
    ours.run(job, clock)
    np.matmul = plain
    kind = "self_device_time_total" if job.device == "cuda" else "self_cpu_time_total"
    events = sorted(clock.profiler.key_averages(), key=lambda e: -getattr(e, kind))
    total = sum(getattr(e, kind) for e in events)
    return {
        "step": job.warmup + 1,
        "seconds": clock.ends[job.warmup + 1] - clock.ends[job.warmup],
        "dropout": job.dropout,
        "ops": [
            {
                "op": event.key,
                "calls": event.count,
                "ms": round(getattr(event, kind) / 1e3, 1),
                "share": round(getattr(event, kind) / total, 4),
            }
            for event in events[:OPS]
        ],
        "others_share": round(sum(getattr(e, kind) for e in events[OPS:]) / total, 4),
        "notes": clock.notes,
    }
