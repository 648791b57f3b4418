"""The loss: summed negative log-likelihood of the supervised tokens, and nothing else computed.

The hidden states come from the model's body; only positions whose next token is supervised go
through the output layer, a chunk at a time, and where that layer is frozen the gradient is made in
the same pass: logits of a whole batch (256,000 columns for Gemma) never exist. The cross-entropy is
taken in fp32, after the family's final soft-capping (Gemma 2). Callers divide by the supervised
tokens of the whole optimiser step, or of the whole validation set.
`plain_nll_sum` is the model's own plain forward pass, which `path.choose` compares all this with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from gemma_lora.model.memory import chunk_rows, even_chunk
from gemma_lora.train.attention import bounds
from gemma_lora.train.packing import IGNORED, Batch
from gemma_lora.train.products import Buffers, linear

__all__ = ["ROOM", "Autocast", "causal_model", "mean_nll", "nll_sum", "plain_nll_sum"]

Autocast = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which forward passes run; gradients are taken outside of it."""


ROOM = Buffers()
"""For chunks of logits: the same two blocks for every micro-batch, till training ends. Freed and lent anew
by the C library they could be carved up by small blocks in between, which leaves holes as the MLP's
blocks did (docs/training.md); for these blocks alone it is not measured."""


def causal_model(model: PeftModel) -> PreTrainedModel:
    """The transformers model with the adapter's layers inside."""
    return cast(PreTrainedModel, model.get_base_model())


def nll_sum(model: PeftModel, batch: Batch) -> Tensor:
    """Sum over the batch's supervised tokens, in nats: an fp32 scalar with gradient."""
    causal = causal_model(model)
    hidden: Tensor = causal.base_model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        row_lengths=batch.lengths,
        row_bounds=bounds(batch.lengths, batch.input_ids.device),
    ).last_hidden_state  # (1, T, H)
    chosen = batch.labels != IGNORED
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    head = cast(nn.Module, causal.get_output_embeddings())
    return head_nll(hidden[chosen], head, batch.labels[chosen], cap)


def head_nll(hidden: Tensor, head: nn.Module, targets: Tensor, cap: float | None) -> Tensor:
    """Summed cross-entropy of `hidden` (S, H) through the output layer against `targets` (S,)."""
    vocabulary = int(cast(Tensor, cast(Any, head).weight).shape[0])
    most = chunk_rows(vocabulary, hidden.device.type)
    plain = type(head) is nn.Linear and cast(Any, head).bias is None
    if plain and not head.weight.requires_grad:
        return cast(Tensor, _FrozenHead.apply(hidden, head.weight, targets, cap, most))
    # trained or adapted output layer: autograd, with each chunk's logits made again for its gradient
    total = torch.zeros((), device=hidden.device)
    size = even_chunk(len(hidden), most)
    for part, wanted in zip(hidden.split(size), targets.split(size), strict=True):
        total = total + cast(
            Tensor, checkpoint(_part_nll, head, part, wanted, cap, use_reentrant=False)
        )
    return total


def _part_nll(head: nn.Module, hidden: Tensor, targets: Tensor, cap: float | None) -> Tensor:
    logits: Tensor = head(hidden).float()
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return functional.cross_entropy(logits, targets, reduction="sum")


class _FrozenHead(torch.autograd.Function):
    """The gradient is made in the forward pass (as Liger-Kernel does), so no logits are kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None, most: int
    ) -> Tensor:
        total = torch.zeros((), device=hidden.device, dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        wide = hidden.new_empty(0, dtype=torch.float32)
        size = even_chunk(len(hidden), most)
        # of the largest chunk there may be, so that other micro-batches take the same blocks
        room = [ROOM.lend(min(most, len(hidden)), len(weight), wide) for _ in range(2)]
        for start in range(0, len(hidden), size):
            part = hidden[start : start + size].to(weight.dtype)
            wanted = targets[start : start + size, None]
            logits, change = (block[: len(part)] for block in room)
            if part.dtype == torch.float32:
                linear(part, weight, logits)
            else:
                logits.copy_(linear(part, weight))
            if cap is not None:
                logits.div_(cap).tanh_()
            slope = None
            if cap is not None and gradient is not None:
                slope = logits.square().neg_().add_(1)  # in place: one block more, not two
            if cap is not None:
                logits.mul_(cap)
            # -log softmax[wanted] by way of the largest, whose share never underflows
            top, right = logits.amax(dim=1), logits.gather(1, wanted)[:, 0]
            torch.softmax(logits, dim=1, out=change)
            total += (top - change.amax(dim=1).log_() - right).sum()
            if gradient is not None:
                change.scatter_add_(1, wanted, change.new_full((1, 1), -1.0).expand_as(wanted))
                if slope is not None:
                    change *= slope
                gradient[start : start + size] = linear(change.to(weight.dtype), weight.t())
        ROOM.give_back(*room)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0]).to(gradient.dtype), None, None, None, None


def plain_nll_sum(model: PeftModel, batch: Batch) -> Tensor:
    """The same number from the model's own forward: each row alone, full logits, cache on."""
    total = torch.zeros((), device=batch.input_ids.device)
    parts = (line[0].split(batch.lengths) for line in (batch.input_ids, batch.labels))
    for ids, labels in zip(*parts, strict=True):
        output = causal_model(model)(
            input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], use_cache=True
        )
        logits = cast(Tensor, output.logits)[0].float()
        total = total + functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum"
        )
    return total


def mean_nll(
    model: PeftModel,
    batches: Sequence[Batch],
    *,
    device: torch.device,
    autocast: Autocast,
    on_batch: Callable[[int], None] = lambda _: None,
) -> float:
    """Loss a token over all `batches`: weighted by token, so the packing does not matter.

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
