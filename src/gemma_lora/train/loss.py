"""The loss: summed negative log-likelihood of the supervised tokens, and nothing else computed.

The hidden states come from the model's body; only positions whose next token is supervised go
through the output layer, so logits of a whole batch (256,000 columns for Gemma) never exist. The
cross-entropy is taken in fp32, after the family's final soft-capping (Gemma 2). Callers divide by
the supervised tokens of the whole optimiser step, or of the whole validation set.
Batches are padded on the right and attention is causal, so real positions never see padding and no
mask is passed. `check_training_path` compares all this with the model's own plain forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from gemma_lora.errors import ModelError
from gemma_lora.train.batches import IGNORED, Batch

__all__ = ["Autocast", "check_training_path", "mean_nll", "nll_sum", "plain_nll_sum"]

Autocast = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which forward passes run; gradients are taken outside of it."""


def causal_model(model: PeftModel) -> PreTrainedModel:
    """The transformers model with the adapter's layers inside."""
    return cast(PreTrainedModel, model.get_base_model())


def nll_sum(model: PeftModel, batch: Batch) -> Tensor:
    """Sum over the batch's supervised tokens, in nats: an fp32 scalar with gradient."""
    causal = causal_model(model)
    body = causal.base_model
    hidden: Tensor = body(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # (B, T, H)
    targets = batch.labels[:, 1:]
    chosen = targets != IGNORED
    head = cast(nn.Module, causal.get_output_embeddings())
    logits: Tensor = head(hidden[:, :-1][chosen]).float()  # (supervised, V)
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return functional.cross_entropy(logits, targets[chosen], reduction="sum")


def plain_nll_sum(model: PeftModel, batch: Batch, lengths: Sequence[int]) -> Tensor:
    """The same number from the model's own forward: full logits, attention mask, cache on."""
    mask = torch.zeros_like(batch.input_ids)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    output = causal_model(model)(input_ids=batch.input_ids, attention_mask=mask, use_cache=True)
    logits = cast(Tensor, output.logits)[:, :-1].float()
    return functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        batch.labels[:, 1:].reshape(-1),
        ignore_index=IGNORED,
        reduction="sum",
    )


def mean_nll(
    model: PeftModel,
    batches: Sequence[Batch],
    *,
    device: torch.device,
    autocast: Autocast,
    on_batch: Callable[[int], None] = lambda _: None,
) -> float:
    """Loss a token over all `batches`: weighted by token, so the batch size does not matter.

    `on_batch` is called after each batch with the number done; it may raise to abandon.
    """
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        with torch.no_grad():
            for done, batch in enumerate(batches, start=1):
                with autocast():
                    part = nll_sum(model, batch.to(device))
                total += float(part)
                count += batch.supervised
                on_batch(done)
    finally:
        model.train(was_training)
    return total / count


def check_training_path(
    model: PeftModel,
    batch: Batch,
    lengths: Sequence[int],
    *,
    device: torch.device,
    autocast: Autocast,
    tolerance: float,
) -> float:
    """Stop unless the path that training takes gives the plain forward's loss on `batch`.

    To be called on a fresh adapter (whose update is zero, so that its dropout does not matter).
    Returns the loss a token; ModelError where the two differ by more than `tolerance` (relative).
    """
    batch = batch.to(device)
    model.train()
    with autocast():
        ours = float(nll_sum(model, batch).detach()) / batch.supervised
    model.eval()
    with torch.no_grad(), autocast():
        plain = float(plain_nll_sum(model, batch, lengths)) / batch.supervised
    model.train()
    if not math.isfinite(plain):
        raise ModelError(
            f"the base model's loss is {plain} before any training",
            expected="a finite number",
            remedy="use --precision bf16 or fp32; if it stays, the weights are damaged",
        )
    if not abs(ours - plain) <= tolerance * max(1.0, abs(plain)):
        raise ModelError(
            f"the training path gives a loss of {ours:.6f}, the model's plain forward {plain:.6f}",
            expected=f"equal within {tolerance:g}",
            remedy="this model and library version do not fit together: report it with the model's name",
        )
    return plain
