"""The arithmetic of configs/README.md: GPU memory of LoRA training, computed from a model's shape.

Nothing here is measured. Figures in GiB; every row is taken to be as long as `max_length`, with 60 %
of its tokens carrying loss, which is more than most data have.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
SUPERVISED = 0.6
SURROUNDINGS = 1.0
"""GiB for the CUDA context, the allocator's gaps and temporary buffers."""


@dataclass(frozen=True)
class Shape:
    """From the model's config.json; `heads` x `head` need not be `hidden`."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    eager: bool = False
    """Gemma 2: attention scores are written out, and its capping doubles the copies of the logits."""

    @property
    def linear(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's seven linear maps."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        h, f = self.hidden, self.mlp
        return [(h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h)]

    @property
    def parameters(self) -> int:
        """Of the language model, tied embeddings counted once."""
        layer = sum(a * b for a, b in self.linear) + 2 * self.hidden
        return self.vocabulary * self.hidden + self.layers * layer

    def adapter(self, rank: int) -> int:
        """Trained numbers."""
        return self.layers * sum(rank * (a + b) for a, b in self.linear)


SHAPES = {
    "google/gemma-2b-it": Shape(18, 2048, 16384, 8, 1, 256, 256_000),
    "google/gemma-7b-it": Shape(28, 3072, 24576, 16, 16, 256, 256_000),
    "google/gemma-2-2b-it": Shape(26, 2304, 9216, 8, 4, 256, 256_000, eager=True),
    "google/gemma-2-9b-it": Shape(42, 3584, 14336, 16, 8, 256, 256_000, eager=True),
    "google/gemma-3-1b-it": Shape(26, 1152, 6912, 4, 1, 256, 262_144),
    "google/gemma-3-4b-it": Shape(34, 2560, 10240, 8, 4, 256, 262_208),
    "google/gemma-3-12b-it": Shape(48, 3840, 15360, 16, 8, 256, 262_208),
    "google/gemma-3-27b-it": Shape(62, 5376, 21504, 32, 16, 128, 262_208),
}


def training(
    shape: Shape, *, rank: int, batch: int, max_length: int, shards: int = 1
) -> dict[str, float]:
    """Parts and `total` in GiB, with bf16 weights and gradient checkpointing.

    `shards`: processes that hold a part of the layers' weights each.
    """
    tokens = batch * max_length
    q, kv = shape.heads * shape.head, shape.kv_heads * shape.head
    h, f = shape.hidden, shape.mlp
    # one layer is recomputed at a time: bf16 results, the MLP's products, fp32 norms, and the fp32
    # copies of their inputs that the adapter's layers keep
    layer = tokens * (2 * (2 * q + 2 * kv) + 12 * f + 40 * h + 4 * (4 * h + 2 * f + q))
    if shape.eager:
        layer += batch * shape.heads * max_length**2 * 14
    kept = shape.layers * tokens * h * 2
    # bf16 logits, fp32 copy, softmax, and the gradients of both; two more copies where they are capped
    logits = tokens * SUPERVISED * shape.vocabulary * (24 if shape.eager else 16)
    layer_weights = sum(a * b for a, b in shape.linear)
    spread = shape.layers * layer_weights * (1 - 1 / shards)
    parts = {
        "weights": (shape.parameters - spread) * 2 / GIB,
        # two layers gathered, and one as it is received
        **({"gathered": 3 * layer_weights * 2 / GIB} if shards > 1 else {}),
        "adapter": shape.adapter(rank) * 16 / GIB,  # fp32 weight, gradient, two moments
        "activations": (layer + kept) / GIB,
        "logits": logits / GIB,
        "surroundings": SURROUNDINGS,
    }
    return {**parts, "total": sum(parts.values())}


def answering(shape: Shape, *, batch: int, prompt: int, new: int) -> float:
    """GiB: weights, keys and values of every position, surroundings."""
    cache = batch * (prompt + new) * shape.layers * shape.kv_heads * shape.head * 2 * 2
    return (shape.parameters * 2 + cache) / GIB + SURROUNDINGS
