"""Base models and adapters: naming them, checking them before anything is loaded, loading, saving.

`reference` finds a model (shipped, local, hub) and fetches its files, `safety` refuses folders that
name code or unsafe files, `families` is the one table of what each Gemma family stands, `load`
decides device and precision and loads, `adapter` makes, writes and reads LoRA adapters, `arms`
holds base and tuned model in one, `decoding` generates.
Only safetensors are read, and code that comes with a model is never run.
"""

from __future__ import annotations

from gemma_lora.model.adapter import attach_lora, check_targets, load_adapter, save_adapter
from gemma_lora.model.arms import Arms, has_adapter, load_arms, load_plain
from gemma_lora.model.load import (
    BaseFacts,
    Choice,
    check_access,
    decide_device,
    decide_precision,
    free_memory,
    load_base,
    load_format,
)
from gemma_lora.model.reference import BaseRef, resolve, weights_digest

__all__ = [
    "Arms",
    "BaseFacts",
    "BaseRef",
    "Choice",
    "attach_lora",
    "check_access",
    "check_targets",
    "decide_device",
    "decide_precision",
    "free_memory",
    "has_adapter",
    "load_adapter",
    "load_arms",
    "load_base",
    "load_format",
    "load_plain",
    "resolve",
    "save_adapter",
    "weights_digest",
]
