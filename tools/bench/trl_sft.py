"""TRL's SFTTrainer on the same token ids and labels.

Which switches: `trl_options`.
With packing a sequence of TRL's is a pack of `max_length` tokens; its step then takes as many packs as
come closest to the rows of a step, in one batch a pack. Speeds compare tokens of data, never sequences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoTokenizer

from bench.clock import TrainerClock
from bench.job import Job
from bench.memory import Memory
from bench.rows import read_tokens
from bench.stock import common_arguments, loaded_base, lora_config, losses


def run(job: Job) -> dict[str, Any]:
    """Train for `job.steps` steps with the switches in `job.options`."""
    from trl import SFTConfig, SFTTrainer

    memory, clock = Memory(job.device), TrainerClock()
    options = dict(job.options)
    loading = {}
    if attention := options.pop("attention", None):
        loading["attn_implementation"] = attention
    if options.pop("use_kernels", False):
        loading["use_kernels"] = True
    tokens = read_tokens(Path(job.rows))
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = loaded_base(job, memory, **loading)
    batch, accumulation = _batches(job, options, tokens)
    arguments = SFTConfig(
        **{
            **common_arguments(job),
            "max_length": job.longest,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            **options,
        }
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(tokens),
        processing_class=tokenizer,
        peft_config=lora_config(job),
        callbacks=[clock],
    )
    trainer.train()
    return {
        "steps": clock.steps(),
        "first_step_at": clock.ends[0][0],
        "loss": losses(trainer),
        "batches": f"{batch} x {accumulation}",
        "rows_a_step": round(len(tokens) * batch * accumulation / len(trainer.train_dataset), 1),
        "attention": model.config._attn_implementation,
        "threads": torch.get_num_threads(),
        "adapter_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        **memory.result(),
    }


def _batches(
    job: Job, options: dict[str, Any], tokens: list[dict[str, list[int]]]
) -> tuple[int, int]:
    """Batch and accumulation: SFTConfig's default batch of 8, or single packs."""
    if not options.get("packing"):
        batch = min(8, job.sequences)
        return batch, job.sequences // batch
    rows_a_pack = options.get("max_length", job.longest) / (
        sum(len(row["input_ids"]) for row in tokens) / len(tokens)
    )
    return 1, max(1, round(job.sequences / rows_a_pack))
