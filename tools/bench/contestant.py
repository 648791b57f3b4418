"""One contestant in a process of its own: `python -m bench.contestant JOB.json RESULT.json`.

Writes the result, with the seconds from the start of the process to the end of its first step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.job import Job
from gemma_lora.cli import ENVIRONMENT


def _ours(job: Job) -> dict[str, Any]:
    os.environ.update({**ENVIRONMENT, **os.environ})  # as `gemma-lora train` does
    from bench import ours

    return ours.run(job)


def _stock(job: Job) -> dict[str, Any]:
    from bench import stock

    return stock.run(job)


def _trl(job: Job) -> dict[str, Any]:
    from bench import trl_sft

    return trl_sft.run(job)


def _matmul(job: Job) -> dict[str, Any]:
    from bench import matmul
    from bench.shapes import SHAPES

    return matmul.measure(SHAPES[job.shape], job.device, job.precision, job.seconds)


def _profile(job: Job) -> dict[str, Any]:
    os.environ.update({**ENVIRONMENT, **os.environ})
    from bench import profiling

    return profiling.run(job)


RUNNERS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "ours": _ours,
    "stock": _stock,
    "trl": _trl,
    "matmul": _matmul,
    "profile": _profile,
}


def _started() -> float:
    """When this process began, on the clock of time.monotonic."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def main(job_file: Path, result_file: Path) -> None:
    job = Job.read(job_file)
    result = RUNNERS[job.contestant](job)
    result["process_seconds"] = round(time.monotonic() - _started(), 2)
    if "first_step_at" in result:
        result["start_up_seconds"] = round(result.pop("first_step_at") - _started(), 2)
    result_file.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
