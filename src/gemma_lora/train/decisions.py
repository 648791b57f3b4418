"""What training decides where the config says `auto`, and what it refuses before it starts.

`decide` settles learning rate, steps, warm-up, validation interval and gradient checkpointing, and
says each in one line; the values are saved in training.json. `need_trackers` and `need_disk` stop
what would fail later. Reads the disk's free space and which
packages are installed; writes nothing.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gemma_lora.config import TrainConfig
from gemma_lora.console import Console
from gemma_lora.errors import ConfigError, EnvironmentFault
from gemma_lora.model.budget import Budget

__all__ = ["Decisions", "decide", "need_disk", "need_trackers", "tell_of_gpus"]

_SMALL_MODEL = 50_000_000
_VALIDATIONS_AN_EPOCH = 4

_Count = Annotated[int, Field(ge=1)]

_TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
}
"""Name in `report_to`: the module it needs, and our extra that installs it."""


@dataclass(frozen=True)
class Decisions:
    """Every value training goes by, after `auto`. The bounds are for those read from a checkpoint."""

    device: str
    precision: Annotated[str, Field(pattern="^(fp32|bf16|fp16)$")]
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    steps: _Count
    steps_per_epoch: _Count
    warmup_steps: Annotated[int, Field(ge=0)]
    eval_steps: _Count
    gradient_checkpointing: bool
    micro_batch_tokens: _Count
    """Budget of a micro-batch; halved where memory did not suffice. 1: each row alone."""
    predicted_bytes: Annotated[int, Field(ge=0)] = 0
    """Peak of memory, before loading (`model.memory`)."""
    path: str = ""
    """Way of computing, see `path.PATHS`; chosen when the model is there."""


def decide(
    train: TrainConfig,
    *,
    device: str,
    precision: str,
    parameters: int,
    steps: int,
    steps_per_epoch: int,
    budget: Budget,
    console: Console,
) -> Decisions:
    """Settle what is open, and print what was settled. `parameters`: of the base model."""
    rate = train.learning_rate
    if rate is None:
        rate = 2e-3 if parameters < _SMALL_MODEL else 2e-4
    interval = train.eval_steps
    if interval is None:
        interval = max(1, round(steps_per_epoch / _VALIDATIONS_AN_EPOCH))
    decided = Decisions(
        device=device,
        precision=precision,
        learning_rate=rate,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        # the first warm-up step has rate zero, so a single step must go without
        warmup_steps=min(math.ceil(train.warmup * steps), steps - 1),
        eval_steps=min(interval, steps),
        gradient_checkpointing=budget.checkpointing,
        micro_batch_tokens=budget.tokens,
        predicted_bytes=budget.forecast.total,
    )
    console.note(
        f"{steps} steps ({steps_per_epoch} an epoch, {train.batch * train.accumulation} rows each), "
        f"validated and saved every {decided.eval_steps}"
    )
    console.note(
        f"learning rate {rate:g}{'' if train.learning_rate else ' (auto)'}, {train.schedule}, "
        f"{decided.warmup_steps} step{'' if decided.warmup_steps == 1 else 's'} of warm-up; "
        f"gradient checkpointing {'on' if budget.checkpointing else 'off'}; "
        f"{decided.micro_batch_tokens} tokens at once"
    )
    console.note(budget.line)
    if budget.warning is not None:
        console.warn(budget.warning)
    return decided


def need_trackers(names: Sequence[str]) -> None:
    """ConfigError for a tracker that is unknown or not installed; all of them at once."""
    faults: list[str] = []
    extras: list[str] = []
    for name in names:
        if name not in _TRACKERS:
            faults.append(f"{name}: unknown; there are {', '.join(sorted(_TRACKERS))}")
            continue
        module, extra = _TRACKERS[name]
        if importlib.util.find_spec(module) is None:
            faults.append(f"{name}: its library is not installed")
            extras.append(extra)
    if faults:
        raise ConfigError(
            f"{len(faults)} tracker{'s' if len(faults) > 1 else ''} cannot be used",
            where="--report-to",
            details=faults,
            remedy=f"pip install 'gemma-lora[{','.join(extras)}]'" if extras else None,
        )


def need_disk(folder: Path, *, trainable: int) -> int:
    """Bytes that training will write; EnvironmentFault where they are not free.

    The adapter (4 bytes a parameter) and four checkpoints (the best, the two newest and the one
    being written; weights and two moments each: 12 bytes a parameter).
    """
    need = 4 * trainable + 4 * 12 * trainable + 16 * 2**20
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < need:
        raise EnvironmentFault(
            f"{free / 2**20:,.0f} MiB are free",
            where=str(folder),
            expected=f"{need / 2**20:,.0f} MiB for the adapter and its checkpoints",
            remedy="free some space, choose another disk with --out, or a smaller --rank",
        )
    return need


def tell_of_gpus(console: Console, *, gpus: int, processes: int) -> None:
    """Say how many processes train, and that more GPUs would need more of them."""
    if processes > 1:
        console.note(f"{processes} processes share the micro-batches of each step")
    elif gpus > 1:
        console.note(
            f"{gpus} GPUs are here; training uses the first one. To use all: "
            f"torchrun --nproc-per-node {gpus} -m gemma_lora.cli ... (docs/scaling.md)"
        )
