"""Attention of packed rows: each row sees itself only, exactly as if it were alone.

`rows_attention` is an attention backend in the sense of transformers (`ROWS` is its name): the
decoder's `row_lengths` and `row_bounds` keywords reach it through the layers. Rows are computed one by one with the
kernel that is exact for the family - PyTorch's SDPA, or written out where scores are soft-capped -
so there is no mask of (T, T) and no work between rows. On CUDA in 16 bits one call of PyTorch's
variable-length FlashAttention (`VARLEN`) does all rows. Reads and writes no file.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["ROWS", "VARLEN", "attention", "bounds", "can_varlen", "takes_groups"]

ROWS, VARLEN = "gemma_lora_rows", "gemma_lora_varlen"
_LARGEST_HEAD = 256
"""Of FlashAttention 2, which `varlen_attn` is."""


@contextmanager
def attention(model: PreTrainedModel, name: str | None) -> Generator[None]:
    """Compute `model`'s attention with the backend `name` inside; None changes nothing."""
    if name is None:
        yield
        return
    config: Any = model.config.get_text_config()
    before: str = config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def can_varlen(model: PreTrainedModel, device: str, kind: torch.dtype) -> bool:
    """Whether the variable-length kernel has what this model's attention needs, computed in `kind`."""
    config: Any = model.config.get_text_config()
    # asked of the layers: they differ in Gemma 4, whose config refuses to name one size for all
    layers = cast(Any, model.base_model).layers
    heads = {int(layer.self_attn.head_dim) for layer in layers}
    return (
        device == "cuda"
        and kind in (torch.float16, torch.bfloat16)
        and getattr(config, "attn_logit_softcapping", None) is None
        and not getattr(config, "attention_dropout", None)
        and max(heads) <= _LARGEST_HEAD
        and torch.cuda.get_device_capability() >= (8, 0)
    )


def bounds(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Where rows begin and the last ends, (rows + 1,) int32 on `device`: `row_bounds` of `VARLEN`.

    Once a batch, for all layers: a copy to a GPU waits for it.
    """
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)


def rows_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: tuple[int, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, T, d), key and value (1, kv_heads, T, d); returns (1, T, heads, d)."""
    _expect(module, attention_mask, row_lengths, query)
    # split, not slices: the gradient of a slice is as long as the whole line
    rows = zip(*(x.split(row_lengths, dim=2) for x in (query, key, value)), strict=True)
    parts = [_row(q, k, v, scaling, dropout, sliding_window, softcap) for q, k, v in rows]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def varlen_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: tuple[int, ...],
    row_bounds: Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The same for all rows at once, on CUDA."""
    from torch.nn.attention.varlen import varlen_attn

    _expect(module, attention_mask, row_lengths, query)
    left = -1 if sliding_window is None else sliding_window - 1
    out = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        key[0].transpose(0, 1).contiguous(),
        value[0].transpose(0, 1).contiguous(),
        row_bounds,
        row_bounds,
        max(row_lengths),
        max(row_lengths),
        scale=scaling,
        window_size=(left, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)
    return out.unsqueeze(0), None


def _expect(
    module: torch.nn.Module, mask: Tensor | None, lengths: tuple[int, ...], query: Tensor
) -> None:
    """Nothing that this backend would have to ignore without a word."""
    if mask is not None or query.shape[0] != 1 or sum(lengths) != query.shape[2]:
        raise ValueError("packed rows come as one line, with their lengths and without a mask")
    if not getattr(module, "is_causal", True):
        raise ValueError("attention to later tokens is not what a language model is trained with")


def _row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    length = query.shape[2]
    grouped = query.shape[1] != key.shape[1]
    narrow = window if window is not None and window < length else None
    if grouped:
        kernel = query.device.type, query.dtype, query.shape[3]
        grouped = softcap is None and takes_groups(*kernel, masked=narrow is not None)
        if not grouped:
            key, value = (_for_each_head(x, query.shape[1]) for x in (key, value))
    if softcap is None and narrow is None:
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped
        )
    mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if narrow is not None:
        mask = mask.triu(1 - narrow)
    if softcap is None:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, dropout_p=dropout, enable_gqa=grouped
        )
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[3] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, -torch.inf)
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return functional.dropout(weights, p=dropout, training=dropout > 0) @ value


def takes_groups(device: str, kind: torch.dtype, head: int, *, masked: bool) -> bool:
    """Whether a fused kernel of SDPA takes fewer key heads than query heads itself.

    On CUDA that is FlashAttention alone: 16 bits, no mask, heads of at most 256; elsewhere it would be
    the kernel that writes all scores out (transformers' `use_gqa_in_sdpa`). The CPU's kernel does, but
    takes a fifth longer than with keys and values written out.
    """
    return (
        device == "cuda"
        and not masked
        and kind in (torch.float16, torch.bfloat16)
        and head <= _LARGEST_HEAD
    )


def _for_each_head(x: Tensor, heads: int) -> Tensor:
    """Keys or values (1, K, T, D) as (1, heads, T, D); a view where K is 1."""
    groups = x.unsqueeze(2).expand(-1, -1, heads // x.shape[1], -1, -1)
    return groups.flatten(1, 2)


ALL_ATTENTION_FUNCTIONS.register(ROWS, rows_attention)
ALL_ATTENTION_FUNCTIONS.register(VARLEN, varlen_attention)
