"""What the attention of packed rows asks of PyTorch's kernels, on devices that are not at hand too."""

from __future__ import annotations

import pytest
import torch
from support.stepping import peft_model
from support.tiny import small_tokenizer
from support.training import example
from transformers.integrations.sdpa_attention import use_gqa_in_sdpa

from gemma_lora.data.tokens import tokenise
from gemma_lora.prompt import PromptFormat
from gemma_lora.train import attention
from gemma_lora.train.attention import VARLEN, can_varlen, rows_attention, takes_groups
from gemma_lora.train.loss import causal_model, nll_sum
from gemma_lora.train.packing import collate
from gemma_lora.train.path import PATHS

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("device", "kind", "head", "masked", "grouped"),
    [
        ("cuda", BF16, 256, False, True),
        ("cuda", BF16, 256, True, False),
        ("cuda", BF16, 512, False, False),
        ("cuda", FP32, 256, False, False),
        ("mps", BF16, 256, False, False),
        ("cpu", BF16, 256, False, False),
    ],
)
def test_the_kernel_that_writes_scores_out_is_not_asked_for(device, kind, head, masked, grouped):
    """SDPA takes fewer key heads than query heads only where transformers' `use_gqa_in_sdpa` says so."""
    assert takes_groups(device, kind, head, masked=masked) is grouped
    key = torch.empty(1, 2, 8, head, dtype=kind)
    mask = torch.empty(8, 8) if masked else None
    assert not grouped or use_gqa_in_sdpa(mask, key, key)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("window", [None, 4])
def test_groups_or_copies_of_keys_give_the_same(grouped, window, monkeypatch):
    """As on a GPU, where both occur."""
    monkeypatch.setattr(attention, "takes_groups", lambda *_, **__: grouped)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, n, 12, 16) for n in (8, 2, 2))
    settings = {"row_lengths": (7, 5), "sliding_window": window}
    found, _ = rows_attention(torch.nn.Module(), query, key, value, None, **settings)
    wide = [x.repeat_interleave(4, dim=1) for x in (key, value)]
    expected, _ = rows_attention(torch.nn.Module(), query, *wide, None, **settings)
    torch.testing.assert_close(found, expected)


def test_the_variable_length_kernel_is_for_16_bits(tiny_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    model = causal_model(peft_model(tiny_folder("gemma")))
    assert can_varlen(model, "cuda", BF16)
    assert not can_varlen(model, "cuda", FP32)
    assert not can_varlen(model, "cpu", BF16)
    model.config.attention_dropout = 0.1  # which it has not
    assert not can_varlen(model, "cuda", BF16)


def test_all_layers_use_the_same_bounds(tiny_folder, monkeypatch):
    """Made once a batch: on a GPU each making waits for a copy."""
    seen = []

    def kernel(query, key, value, from_, to, *sizes, **_):
        assert from_ is to
        seen.append((from_, sizes))
        return torch.zeros_like(query)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    fmt = PromptFormat(small_tokenizer(), name="tiny")
    rows = tokenise([example(n) for n in range(3)], fmt, max_length=200, keep_answer=False)
    batch, model = collate(rows, [0, 1, 2]), peft_model(tiny_folder("gemma"))
    assert PATHS["packed-varlen"].attention == VARLEN
    with PATHS["packed-varlen"].active(model, dropout=0.0, seed=0, shared=True):
        nll_sum(model, batch)
    assert len(seen) == 2
    assert len({id(found) for found, _ in seen}) == 1
    found, sizes = seen[0]
    assert found.dtype == torch.int32
    assert found.tolist() == [0, *torch.tensor(batch.lengths).cumsum(0).tolist()]
    assert sizes == (max(batch.lengths),) * 2
    assert attention.bounds([], torch.device("cpu")).tolist() == [0]
