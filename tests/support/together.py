"""Trainings by several forked processes: what they do, how one is spoilt, when two are the same."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file

from gemma_lora.config import Config
from gemma_lora.rundir import RunDir, read_json
from gemma_lora.train import follow, train
from gemma_lora.train import trainer as trainers
from gemma_lora.train.masks import Masks
from support.training import quiet

# dropout; steps of 4, 4, 4, 4, 1 rows in micro-batches of one to two rows; validation every 2nd step
RECIPE: dict[str, Any] = {
    "epochs": 1,
    "eval_steps": 2,
    "micro_batch_tokens": 60,
    "lora": {"dropout": 0.2},
}
ROWS = 17
LOSS, WEIGHTS = 1e-5, 5e-5
"""Largest difference to one process: sums of fp32 numbers in another order. (Seen: 1e-6, 1e-5.)"""


def metrics_of(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def assert_same(run: RunDir, other: RunDir) -> None:
    """The same loss curve and the same adapter."""
    ours, theirs = metrics_of(run), metrics_of(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for name in ("loss", "validation_loss", "grad_norm", "lr"):
        pairs = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True)]
        assert all((a is None) == (b is None) for a, b in pairs)
        off = max(abs(a - b) for a, b in pairs if a is not None)
        assert off <= LOSS, f"{name} is off by {off}"
    a, b = (load_file(r.adapter / "adapter_model.safetensors") for r in (run, other))
    assert a.keys() == b.keys()
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], atol=WEIGHTS, rtol=0)
    results = [read_json(r.training) for r in (run, other)]
    for result in results:
        del result["decisions"]["predicted_bytes"]  # less where weights are sharded
    for key in ("best_step", "saved_step", "steps_done", "rows", "tokens", "decisions"):
        assert results[0][key] == results[1][key]


def work_on(config: Config, run: RunDir):
    """What the processes of a launch do."""

    def work(rank: int) -> None:
        if rank == 0:
            train(config, run, quiet())
        else:
            follow()

    return work


def spoiling(rank: int, step: int, spoil, inner):
    """`inner`, where process `rank` calls `spoil` once in optimiser step `step` (from 0)."""

    def work(mine: int) -> None:
        honest, done = trainers.nll_sum, []

        def at(self: Masks, now: int, number: int) -> None:
            place(self, now, number)
            trainers.nll_sum = spoilt if (mine, now) == (rank, step) else honest

        def spoilt(*args: Any) -> Any:
            if not done:
                done.append(1)
                spoil()
            return honest(*args)

        place, Masks.at = Masks.at, at
        inner(mine)

    return work
