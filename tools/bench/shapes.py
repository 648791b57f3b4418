"""Model shapes, and random models of them on disk.

`write_model` makes GemmaConfig checkpoints with seeded random weights, one layer at a time and a
shard for each, so that 2.5 billion parameters never stand in memory at once. It writes config.json,
model-*.safetensors, their index and the tokenizer's files; a folder that is complete is kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SEED = 20260
STD = 0.02


@dataclass(frozen=True)
class Shape:
    """The sizes of a Gemma 1 language model with tied embeddings."""

    name: str
    hidden: int
    layers: int
    mlp: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    dtype: str = "float32"

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's seven linear maps."""
        q, kv, h, f = self.heads * self.head, self.kv_heads * self.head, self.hidden, self.mlp
        return {
            "q_proj": (h, q),
            "k_proj": (h, kv),
            "v_proj": (h, kv),
            "o_proj": (q, h),
            "gate_proj": (h, f),
            "up_proj": (h, f),
            "down_proj": (f, h),
        }

    @property
    def linear_parameters(self) -> int:
        """Of all layers, without the embedding."""
        return self.layers * sum(a * b for a, b in self.linears.values())

    @property
    def parameters(self) -> int:
        """All of the model; the tied embedding counts once."""
        norms = (2 * self.layers + 1) * self.hidden
        return self.vocabulary * self.hidden + self.linear_parameters + norms

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all seven linear maps."""
        return self.layers * rank * sum(a + b for a, b in self.linears.values())


# heads as in Gemma 2B (eight, one of keys and values), so that the whole has 72 million parameters
GEMMA_72M = Shape("gemma-72m", 512, 8, 4096, 8, 1, 64, 32_768)
# the published config.json of google/gemma-2b
GEMMA_2B = Shape("gemma-2b", 2048, 18, 16_384, 8, 1, 256, 256_000, "bfloat16")
TINY = Shape("gemma-tiny", 64, 2, 256, 4, 1, 16, 2_048)
SHAPES = {shape.name: shape for shape in (GEMMA_72M, GEMMA_2B, TINY)}


def write_model(shape: Shape, folder: Path, tokenizer: Path) -> Path:
    """The model with its tokenizer in `folder`; made once."""
    if (folder / "model.safetensors.index.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tokenizer, folder)
    _config(shape).save_pretrained(folder)
    _write_weights(shape, folder)
    return folder


def _config(shape: Shape):
    from transformers import GemmaConfig

    return GemmaConfig(
        architectures=["GemmaForCausalLM"],
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head,
        max_position_embeddings=8192,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        dtype=shape.dtype,
    )


def _write_weights(shape: Shape, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    dtype = getattr(torch, shape.dtype)
    generator = torch.Generator().manual_seed(SEED)
    where: dict[str, str] = {}
    size = 0
    for number, tensors in enumerate(_tensors(shape, dtype, generator)):
        name = f"model-{number + 1:05d}-of-{shape.layers + 1:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, name)
        size += sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _tensors(
    shape: Shape, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[dict[str, torch.Tensor]]:
    """A shard's tensors at a time: the embedding with the last norm, then layer after layer."""
    import torch

    def drawn(rows: int, columns: int) -> torch.Tensor:
        return torch.empty(rows, columns, dtype=dtype).normal_(0, STD, generator=generator)

    norm = torch.zeros(shape.hidden, dtype=dtype)  # Gemma scales by 1 + weight
    yield {
        "model.embed_tokens.weight": drawn(shape.vocabulary, shape.hidden),
        "model.norm.weight": norm,
    }
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        tensors = {
            f"{at}{'mlp' if name in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}.{name}.weight": drawn(
                outputs, inputs
            )
            for name, (inputs, outputs) in shape.linears.items()
        }
        tensors[f"{at}input_layernorm.weight"] = norm.clone()
        tensors[f"{at}post_attention_layernorm.weight"] = norm.clone()
        yield tensors
