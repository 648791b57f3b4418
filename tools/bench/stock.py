"""transformers.Trainer with PEFT as their documents show it: padded to the longest row of a batch.

`loaded_base` and `lora_config` are what the other contestants share. Prompt tokens are masked, the
tokens are those of all others. Trainer's own defaults stand, but for what would write files or print.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from bench.clock import TrainerClock
from bench.job import ALPHA, LEARNING_RATE, RANK, Job
from bench.memory import Memory
from bench.rows import read_tokens
from bench.shapes import SHAPES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def common_arguments(job: Job) -> dict[str, Any]:
    """Settings that are the same for Trainer and SFTTrainer: the recipe, and silence."""
    return {
        "output_dir": job.work,
        "max_steps": job.steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "cosine",
        "seed": job.seed,
        "use_cpu": job.device == "cpu",
        "bf16": job.precision == "bf16",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "include_num_input_tokens_seen": "non_padding",
    }


def loaded_base(job: Job, memory: Memory, **kwargs: Any) -> PreTrainedModel:
    """The base model on its device."""
    model = AutoModelForCausalLM.from_pretrained(
        job.model, dtype=DTYPES[job.precision], **kwargs
    ).to(job.device)
    memory.loaded(model)
    return model


def lora_config(job: Job) -> LoraConfig:
    """The same adapter as ours."""
    return LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=job.dropout,
        target_modules=list(SHAPES[job.shape].linears),
        task_type="CAUSAL_LM",
    )


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def run(job: Job) -> dict[str, Any]:
    """Train for `job.steps` steps."""
    memory, clock = Memory(job.device), TrainerClock()
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    rows = datasets.Dataset.from_list(read_tokens(Path(job.rows)))
    model = get_peft_model(loaded_base(job, memory), lora_config(job))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            **common_arguments(job),
            per_device_train_batch_size=job.batch,
            gradient_accumulation_steps=job.accumulation,
            **job.options,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[clock],
    )
    trainer.train()
    return {
        "steps": clock.steps(),
        "first_step_at": clock.ends[0][0],
        "loss": losses(trainer),
        "adapter_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **memory.result(),
    }
