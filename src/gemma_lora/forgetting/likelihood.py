"""How likely base and tuned model find given texts, and how far apart their predictions are.

Right-padded batches through the model's body; only the positions that are asked for go through the
output layer, a chunk at a time and for both arms together, so that logits of a whole batch (256,000
columns for Gemma) never exist. fp32, after the family's final soft-capping. A row's figures do not
depend on its batch (in fp32 up to rounding). Reads and writes no file.

Shapes: B rows, T padded tokens, S positions asked for, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from gemma_lora.errors import EnvironmentFault
from gemma_lora.model import Arms
from gemma_lora.model.memory import chunk_rows
from gemma_lora.records import ARMS

__all__ = ["Asked", "Compared", "answer_nll", "choose", "compare", "in_batches"]

BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Padded tokens that go through the body at once."""

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A row of token ids, and the places in it whose token is to be predicted from those before it."""

    ids: tuple[int, ...]
    places: tuple[int, ...]
    """Each at least 1."""


@dataclass(frozen=True)
class Compared:
    """Sums over a row's places, in nats."""

    base_nll: float
    tuned_nll: float
    kl: float
    """Of the tuned from the base model: sum over the vocabulary of p_base (log p_base - log p_tuned)."""


def in_batches(
    arms: Arms, items: Sequence[T], length: Callable[[T], int], work: Callable[[list[T]], None]
) -> None:
    """`work` on `items` in batches of like length, the longest first; halved where a GPU runs full."""
    budget = BATCH_TOKENS.get(arms.model.device.type, 2048)
    order = sorted(items, key=lambda item: -length(item))
    start = 0
    while start < len(order):
        most = max(1, budget // max(1, length(order[start])))
        try:
            work(order[start : start + most])
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            if most == 1:
                raise EnvironmentFault(
                    f"a single text of {length(order[start])} tokens does not fit in the GPU's memory",
                    remedy="use --precision bf16, a --probe of shorter texts, --probe none, or --device cpu",
                ) from None
            budget = most // 2 * length(order[start])
            continue
        start += most


@torch.no_grad()
def compare(arms: Arms, rows: Sequence[Asked]) -> list[Compared]:
    """Both arms on one batch: negative log-likelihood of the tokens asked for, and KL(base || tuned)."""
    hidden = {arm: _hidden(arms, arm, rows) for arm in ARMS}
    targets = torch.tensor([row.ids[p] for row in rows for p in row.places])
    targets = targets.to(hidden["base"].device)
    sums = {
        name: torch.zeros(len(targets), dtype=torch.float64) for name in ("base", "tuned", "kl")
    }
    for part in _chunks(arms, len(targets)):
        logs = {arm: _logits(arms, arm, hidden[arm][part]).log_softmax(-1) for arm in ARMS}
        for arm in ARMS:
            sums[arm][part] = -logs[arm].gather(1, targets[part, None])[:, 0].double().cpu()
        # never below 0 but for rounding
        divergence = (logs["base"].exp() * (logs["base"] - logs["tuned"])).sum(-1).clamp(min=0)
        sums["kl"][part] = divergence.double().cpu()
    ends = [len(row.places) for row in rows]
    split = {
        name: [float(part.sum()) for part in values.split(ends)] for name, values in sums.items()
    }
    return [
        Compared(*figures)
        for figures in zip(split["base"], split["tuned"], split["kl"], strict=True)
    ]


@torch.no_grad()
def choose(
    arms: Arms, prompts: Sequence[Sequence[int]], letters: Sequence[Sequence[int]]
) -> dict[str, list[int]]:
    """For each arm and prompt, which of the prompt's `letters` (token ids) is likeliest to come next."""
    # the token after the prompt is what is asked for; which one stands there does not matter
    rows = [Asked((*prompt, 0), (len(prompt),)) for prompt in prompts]
    found: dict[str, list[int]] = {}
    for arm in ARMS:
        hidden = _hidden(arms, arm, rows)
        picks: list[int] = []
        for part in _chunks(arms, len(rows)):
            logits = _logits(arms, arm, hidden[part]).cpu()
            for line, ids in zip(logits, letters[part], strict=True):
                picks.append(int(line[list(ids)].argmax()))
        found[arm] = picks
    return found


@torch.no_grad()
def answer_nll(arms: Arms, arm: str, rows: Sequence[Asked]) -> list[float]:
    """The sum of each row's negative log-likelihood under one arm, in nats."""
    hidden = _hidden(arms, arm, rows)
    targets = torch.tensor([row.ids[p] for row in rows for p in row.places]).to(hidden.device)
    nll = torch.zeros(len(targets), dtype=torch.float64)
    for part in _chunks(arms, len(targets)):
        logs = _logits(arms, arm, hidden[part]).log_softmax(-1)
        nll[part] = -logs.gather(1, targets[part, None])[:, 0].double().cpu()
    return [float(part.sum()) for part in nll.split([len(row.places) for row in rows])]


def _hidden(arms: Arms, arm: str, rows: Sequence[Asked]) -> Tensor:
    """What predicts each place, (S, H). Nothing comes after what is asked for, so it is not computed."""
    causal, device = _causal(arms), arms.model.device
    lengths = [max(row.places) for row in rows]
    ids = torch.zeros((len(rows), max(lengths)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[number, :length] = torch.tensor(row.ids[:length])
        mask[number, :length] = 1
    places = [(n, place - 1) for n, row in enumerate(rows) for place in row.places]
    positions = torch.arange(ids.shape[1])[None].expand_as(ids)
    with arms.use(arm):
        states: Tensor = causal.base_model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            use_cache=False,
        ).last_hidden_state
    at = torch.tensor(places, device=states.device)
    return states[at[:, 0], at[:, 1]]


def _logits(arms: Arms, arm: str, hidden: Tensor) -> Tensor:
    """(S, V) in fp32, soft-capped where the family does that."""
    causal = _causal(arms)
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    with arms.use(arm):  # the output layer may have an adapter, too
        logits = cast(Tensor, causal.get_output_embeddings()(hidden)).float()
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _chunks(arms: Arms, count: int) -> Iterator[slice]:
    """Slices of as many places as go through the output layer at once."""
    vocabulary = int(_causal(arms).get_output_embeddings().weight.shape[0])
    size = chunk_rows(vocabulary, arms.model.device.type)
    for start in range(0, count, size):
        yield slice(start, start + size)


def _causal(arms: Arms) -> Any:
    """The transformers model, with the adapter's layers inside."""
    model = arms.model
    return model.get_base_model() if hasattr(model, "get_base_model") else model
