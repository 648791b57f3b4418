"""The memory figures of configs/: the planner's own, for published shapes. No figure is measured on a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gemma_lora.config import Config
from gemma_lora.model.budget import Budget, Lengths, plan
from gemma_lora.model.memory import SURROUNDINGS, Shape

GIB = 2**30
TARGETS = {8: 7.5, 16: 15.0, 24: 22.6, 80: 74.0}
"""GiB that a card of so many GB is asked for at most."""


def _shape(
    layers: int, hidden: int, mlp: int, heads: int, kv: int, head: int, words: int, **more: Any
) -> Shape:
    """From the numbers in the model's config.json."""
    layer = hidden * (2 * heads * head + 2 * kv * head + 3 * mlp)
    return Shape(
        *(layers, hidden, mlp, heads, kv, head, words),
        parameters=words * hidden + layers * (layer + 2 * hidden),
        shared_out=layers * layer,
        largest_layer=layer,
        **more,
    )


def _gemma_2(layers: int, *sizes: int) -> Shape:
    capped = {"capped_attention": True, "capped_head": True}
    return _shape(layers, *sizes, norms=4, window=4096, windowed_layers=layers // 2, **capped)


def _gemma_3(layers: int, *sizes: int, window: int = 1024) -> Shape:
    windowed = {"window": window, "windowed_layers": layers - layers // 6}
    return _shape(layers, *sizes, norms=4, head_norms=True, **windowed)


SHAPES = {
    "google/gemma-2b-it": _shape(18, 2048, 16384, 8, 1, 256, 256_000),
    "google/gemma-7b-it": _shape(28, 3072, 24576, 16, 16, 256, 256_000),
    "google/gemma-2-2b-it": _gemma_2(26, 2304, 9216, 8, 4, 256, 256_000),
    "google/gemma-2-9b-it": _gemma_2(42, 3584, 14336, 16, 8, 256, 256_000),
    "google/gemma-3-1b-it": _gemma_3(26, 1152, 6912, 4, 1, 256, 262_144, window=512),
    "google/gemma-3-4b-it": _gemma_3(34, 2560, 10240, 8, 4, 256, 262_208),
    "google/gemma-3-12b-it": _gemma_3(48, 3840, 15360, 16, 8, 256, 262_208),
    "google/gemma-3-27b-it": _gemma_3(62, 5376, 21504, 32, 16, 128, 262_208),
}


def card(path: Path) -> int:
    """GB of the GPU that a config file is for, by its folder."""
    return int(re.split("[-x]", path.parent.name.removesuffix("gb"))[-1])


def training(path: Path, config: Config) -> Budget:
    """What the planner does on that card for rows of `max_length` tokens, 60 % of them with loss."""
    longest = config.train.max_length
    rows = config.train.batch * config.train.accumulation
    shards = int(re.findall(r"\d+", path.parent.name)[0]) if config.train.shard_weights else 1
    return plan(
        config,
        SHAPES[config.model.model],
        Lengths(longest, shortest=40, step=rows * longest, checked=130, supervised=0.6),
        name=config.model.model,
        device="cuda",
        precision="bf16",
        free=int(TARGETS[card(path)] * GIB),
        shards=shards,
    )


def answering(shape: Shape, *, batch: int, prompt: int, new: int) -> float:
    """GiB: weights, keys and values of every position, surroundings."""
    cache = batch * (prompt + new) * shape.layers * shape.kv_heads * shape.head * 2 * 2
    return (shape.parameters * 2 + cache + SURROUNDINGS["cuda"]) / GIB


def line(plan: Budget) -> str:
    """What a config file says of its training."""
    recomputed = "with" if plan.checkpointing else "without"
    return (
        f"Training: {plan.forecast.total / GIB:.1f} GiB predicted, not measured: "
        f"{plan.tokens:,} tokens at once {recomputed} gradient checkpointing."
    )


def cell(plan: Budget, config: Config) -> str:
    """The same in the README's table."""
    return f"{config.train.max_length:,}: {plan.tokens:,}{' r' if plan.checkpointing else ''}"
