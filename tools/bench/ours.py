"""We: `gemma_lora.train.train`, called as the pipeline calls it, with nothing of it replaced.

The one thing added is a look at the memory when the base model is loaded. No validation rows, so that
only training is compared; saving and proving the adapter at the end counts for the memory.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bench.clock import ConsoleClock
from bench.job import ALPHA, LEARNING_RATE, RANK, Job
from bench.memory import Memory
from gemma_lora import model as models
from gemma_lora.config import Config
from gemma_lora.rundir import RunDir, read_json
from gemma_lora.train import train


def config_of(job: Job, rows: int) -> Config:
    """The settings; as many epochs as make `job.steps` steps."""
    recipe = {
        "batch": job.batch,
        "accumulation": job.accumulation,
        "epochs": job.steps * job.sequences / rows,
        "learning_rate": LEARNING_RATE,
        "max_length": job.longest,
        "eval_steps": job.steps,
        **job.options,
    }
    return Config.model_validate(
        {
            "model": {"model": job.model, "device": job.device, "precision": job.precision},
            "lora": {"rank": RANK, "alpha": ALPHA, "dropout": job.dropout},
            "train": recipe,
            "seed": job.seed,
        }
    )


def run(job: Job, clock: ConsoleClock | None = None) -> dict[str, Any]:
    """Train for `job.steps` steps; `clock` may be one that acts between steps."""
    memory, clock = Memory(job.device), clock or ConsoleClock()
    work = Path(job.work)
    shutil.rmtree(work, ignore_errors=True)
    folder = RunDir(work)
    shutil.copytree(RunDir(Path(job.rows)).split, folder.split)
    rows = len(folder.train_rows.read_text(encoding="utf-8").splitlines())
    load = models.load_base

    def noted(*args: Any, **kwargs: Any) -> Any:
        model = load(*args, **kwargs)
        memory.loaded(model)
        return model

    models.load_base = noted
    try:
        trained = train(config_of(job, rows), folder, clock)
    finally:
        models.load_base = load
    lines = [read for read in _lines(folder.metrics) if read["step"] > 0]
    if len(lines) != job.steps:
        raise RuntimeError(f"{len(lines)} steps were made, {job.steps} were asked for")
    return {
        "steps": clock.steps(lines),
        "first_step_at": clock.ends[1],
        "loss": [line["loss"] for line in lines],
        "decisions": trained["decisions"],
        "notes": clock.notes,
        "warnings": clock.warnings,
        "adapter_parameters": _adapter_size(folder),
        **memory.result(),
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _adapter_size(folder: RunDir) -> int:
    from safetensors import safe_open

    settings = read_json(folder.adapter / "adapter_config.json")
    if settings["r"] != RANK:
        raise RuntimeError(f"the adapter has rank {settings['r']}, not {RANK}")
    with safe_open(folder.adapter / "adapter_model.safetensors", "pt") as tensors:
        return sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
