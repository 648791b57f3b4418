"""Who runs when, and what comes of it: contestants in turn, each round in fresh processes.

`run_rounds` runs every contestant once a round, the order reversed every other round, so that a slow
drift of the machine falls on all alike. `summary` makes medians over the rounds, and ratios from the
two figures of one round, of which it takes the median. A contestant that fails stops the run with the
end of its output; only `try_all` (TRL's switches) goes on and keeps the reason.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.clock import speed_of
from bench.flops import training_flops
from bench.job import RANK, Job
from bench.rows import read_tokens, supervised
from bench.shapes import SHAPES

TOOLS = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 3600


class ContestantFailed(Exception):
    """A child ended with an error; the text is its last lines."""


def run_one(job: Job, folder: Path, name: str) -> dict[str, Any]:
    """The result of one contestant in a fresh process; its output goes to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: folder / f"{name}.{kind}" for kind in ("job.json", "result.json", "log")}
    files["result.json"].unlink(missing_ok=True)
    job.write(files["job.json"])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "bench.contestant"]
    command += [str(files["job.json"]), str(files["result.json"])]
    with files["log"].open("w") as log:
        done = subprocess.run(
            command, env=environment, stdout=log, stderr=log, timeout=LIMIT_SECONDS, check=False
        )
    if done.returncode or not files["result.json"].exists():
        lines = files["log"].read_text(errors="replace").strip().splitlines()
        raise ContestantFailed(f"{name} ended with {done.returncode}: " + "\n".join(lines[-12:]))
    return json.loads(files["result.json"].read_text())


def run_rounds(jobs: Mapping[str, Job], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Results of each round by contestant, with `speed` where it trained."""
    results: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        order = list(jobs) if number % 2 else list(reversed(jobs))
        found: dict[str, Any] = {}
        for name in order:
            began = time.monotonic()
            found[name] = _with_speed(run_one(jobs[name], folder, f"{name}-{number}"), jobs[name])
            print(
                f"round {number}: {_said(name, found[name])}, {time.monotonic() - began:.0f} s",
                flush=True,
            )
        results.append({name: found[name] for name in jobs})
    return results


def try_all(
    variants: Mapping[str, Mapping[str, Any]], job: Job, folder: Path
) -> dict[str, dict[str, Any]]:
    """Each variant of TRL once: its figures, or `failed` with the reason."""
    found: dict[str, dict[str, Any]] = {}
    for number, (name, options) in enumerate(variants.items()):
        own = Job(**{**vars(job), "options": dict(options)})
        try:
            result = _with_speed(run_one(own, folder, f"switch-{number:02d}"), own)
            found[name] = {key: value for key, value in result.items() if key != "steps"}
            print(_said(name, result), flush=True)
        except ContestantFailed as failure:
            found[name] = {"failed": reason_of(str(failure))}
            print(f"{name}: failed: {found[name]['failed']}", flush=True)
    return found


def reason_of(output: str) -> str:
    """The last exception of a traceback, on one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = [
        line for line in lines if line.split(":")[0].endswith(("Error", "Exception", "Unsupported"))
    ]
    return (named or lines)[-1][:300]


def _with_speed(result: dict[str, Any], job: Job) -> dict[str, Any]:
    if "steps" in result:
        result["speed"] = round(speed_of(result["steps"], job.warmup), 2)
    return result


def _said(name: str, result: dict[str, Any]) -> str:
    if "gflops" in result:
        return f"{name}: {result['gflops']:,.0f} GFLOP/s"
    return f"{name}: {result['speed']:,.1f} tokens/s, {result['above_weights_mib']:,.0f} MiB above the weights"


def flops_a_token(shape: str, rows: Path) -> float:
    """Mean over the rows' tokens."""
    tokens = read_tokens(rows)
    lengths = [len(row["input_ids"]) for row in tokens]
    return training_flops(SHAPES[shape], RANK, lengths, supervised(tokens)).total / sum(lengths)


def summary(
    rounds: Sequence[Mapping[str, Any]], flops: float, against: Sequence[str]
) -> dict[str, Any]:
    """Medians of each contestant, and `ours` against each of `against`."""
    rate = [r["matmul"]["gflops"] for r in rounds]
    contestants: dict[str, Any] = {}
    for name in rounds[0]:
        if name == "matmul":
            continue
        runs = [r[name] for r in rounds]
        speeds = [run["speed"] for run in runs]
        shares = [run["speed"] * flops / 1e9 / peak for run, peak in zip(runs, rate, strict=True)]
        contestants[name] = {
            "speed": statistics.median(speeds),
            "speed_range": [min(speeds), max(speeds)],
            "memory_mib": statistics.median(run["above_weights_mib"] for run in runs),
            "memory_range": [f(run["above_weights_mib"] for run in runs) for f in (min, max)],
            "share_of_matmul": round(statistics.median(shares), 4),
            "start_up_seconds": [run["start_up_seconds"] for run in runs],
        }
    return {
        "matmul_gflops": statistics.median(rate),
        "flops_a_token": round(flops),
        "contestants": contestants,
        "ratios": {
            other: {
                "speed": _ratio(rounds, other, "speed"),
                "memory": _ratio(rounds, other, "above_weights_mib"),
            }
            for other in against
        },
    }


def _ratio(rounds: Sequence[Mapping[str, Any]], other: str, figure: str) -> float:
    return round(statistics.median(r["ours"][figure] / r[other][figure] for r in rounds), 4)
