"""How much arithmetic training needs: the same count for every contestant, whatever it really computes.

Only what is needed counts: no padding, no recomputation, no logits without a label. Per token, 4 for
each parameter of the layers' linear maps (2 forward, 2 for the gradient of the input; frozen weights
get no gradient) and 6 for each LoRA parameter; per supervised token 4 x vocabulary x hidden; and the
attention of each row over its own earlier positions, 4 x head size forward and 8 backward for each
pair of positions and head. Norms, rotations and the activation function are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.shapes import Shape


@dataclass(frozen=True)
class Flops:
    """Floating-point operations by part."""

    layers: int
    head: int
    lora: int
    attention: int

    @property
    def total(self) -> int:
        return self.layers + self.head + self.lora + self.attention


def training_flops(shape: Shape, rank: int, lengths: Sequence[int], supervised: int) -> Flops:
    """Of forward and backward over rows of `lengths` tokens, `supervised` of which carry loss."""
    tokens = sum(lengths)
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    return Flops(
        layers=4 * shape.linear_parameters * tokens,
        head=4 * shape.vocabulary * shape.hidden * supervised,
        lora=6 * shape.adapter(rank) * tokens,
        attention=12 * shape.head * shape.heads * shape.layers * pairs,
    )
