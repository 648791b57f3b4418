"""Generating text: batches, left-padded with masks, that give what single calls give; and a stream.

An own loop over the model's forward pass, because it states all that decides an answer (no defaults
of a checkpoint's generation config creep in), lets finished rows leave the batch, and samples each
row from its own seed. Greedy unless temperature > 0. Prompts are never cut: one that leaves no room
within the model's positions is an error. Reads and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import DynamicCache

from gemma_lora.errors import DataError, EnvironmentFault
from gemma_lora.prompt import PromptFormat
from gemma_lora.rundir import digest

__all__ = ["Generated", "generate", "positions_of", "room", "stream"]

MAX_OTHERS_LISTED = 5


@dataclass(frozen=True)
class Generated:
    """One answer: its text, its token ids without the stop token, and why it ended."""

    text: str
    ids: tuple[int, ...]
    stopped_by: Literal["end", "limit"]


def generate(
    model: Any,
    fmt: PromptFormat,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch: int = 16,
    temperature: float = 0.0,
    seed: int = 0,
    on_done: Callable[[list[tuple[int, Generated]]], None] | None = None,
) -> list[Generated]:
    """Answers in the order of `prompts`; longest prompts first, `on_done` after each batch.

    A row's answer does not depend on its batch (in fp32 up to ties). Where a GPU's memory does not
    suffice, the batch is halved.
    """
    limits = room(positions_of(model), prompts, max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    done: dict[int, Generated] = {}
    start, size = 0, batch
    while start < len(order):
        chosen = order[start : start + size]
        try:
            ids = _batch(model, fmt, prompts, chosen, limits, temperature, seed)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            if size == 1:
                raise EnvironmentFault(
                    f"a single question of {len(prompts[chosen[0]])} tokens does not fit in the "
                    "GPU's memory",
                    remedy="use --precision bf16, a smaller model or --max-new-tokens, or --device cpu",
                ) from None
            size = max(1, size // 2)
            continue
        results = [(i, _generated(fmt, tokens)) for i, tokens in zip(chosen, ids, strict=True)]
        done.update(results)
        start += len(chosen)
        if on_done is not None:
            on_done(results)
    return [done[i] for i in range(len(prompts))]


def stream(
    model: Any,
    fmt: PromptFormat,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[int]:
    """Token ids of one answer as they come, without the stop token."""
    limits = room(positions_of(model), [prompt], max_new_tokens)
    for made in _steps(model, fmt, [prompt], limits, temperature, [_row_seed(seed, prompt)]):
        if made[0][1] in fmt.stop_ids:
            return
        yield made[0][1]


def positions_of(model: Any) -> int:
    """The most tokens that the model takes, prompt and answer together."""
    return int(model.config.max_position_embeddings)


def room(
    positions: int, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, who: str = ""
) -> list[int]:
    """New tokens that each prompt may get; DataError for prompts that fill the model's `positions`."""
    long = [i for i, prompt in enumerate(prompts) if len(prompt) >= positions]
    if long:
        shown = [f"question {i + 1}: {len(prompts[i]):,} tokens" for i in long[:MAX_OTHERS_LISTED]]
        if len(long) > MAX_OTHERS_LISTED:
            shown.append(f"and {len(long) - MAX_OTHERS_LISTED} more")
        raise DataError(
            f"{len(long)} questions are longer than the {positions:,} tokens that the model takes",
            where=who or None,
            details=shown,
            remedy="shorten or remove them; a question that is cut would be another question",
        )
    return [min(max_new_tokens, positions - len(prompt)) for prompt in prompts]


def _batch(
    model: Any,
    fmt: PromptFormat,
    prompts: Sequence[Sequence[int]],
    chosen: Sequence[int],
    limits: Sequence[int],
    temperature: float,
    seed: int,
) -> list[list[int]]:
    made: list[list[int]] = [[] for _ in chosen]
    rows = [prompts[i] for i in chosen]
    seeds = [_row_seed(seed, row) for row in rows]
    for step in _steps(model, fmt, rows, [limits[i] for i in chosen], temperature, seeds):
        for row, token in step:
            made[row].append(token)
    return made


def _generated(fmt: PromptFormat, tokens: list[int]) -> Generated:
    ended = bool(tokens) and tokens[-1] in fmt.stop_ids
    ids = tuple(tokens[:-1] if ended else tokens)
    return Generated(fmt.decode(ids), ids, "end" if ended else "limit")


def _row_seed(seed: int, prompt: Sequence[int]) -> int:
    return int(digest(seed, list(prompt))[:15], 16)


@torch.no_grad()
def _steps(
    model: Any,
    fmt: PromptFormat,
    rows: Sequence[Sequence[int]],
    limits: Sequence[int],
    temperature: float,
    seeds: Sequence[int],
) -> Iterator[list[tuple[int, int]]]:
    """Each step's (row, token) pairs, the stop token included; finished rows leave the batch."""
    model.eval()
    device = model.device
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), fmt.pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(list(row))
        mask[number, width - len(row) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    alive = list(range(len(rows)))
    counts = [0] * len(rows)
    while alive:
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = _pick(logits, temperature, [generators[row] for row in alive])
        yield list(zip(alive, tokens, strict=True))
        keep: list[int] = []
        for place, (row, token) in enumerate(zip(alive, tokens, strict=True)):
            counts[row] += 1
            if token not in fmt.stop_ids and counts[row] < limits[row]:
                keep.append(place)
        ids = torch.tensor([[tokens[place]] for place in keep], device=device)
        if len(keep) < len(alive) and keep:
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            mask, positions = mask[index], positions[index]
        alive = [alive[place] for place in keep]
        mask = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=-1)
        positions = positions[:, -1:] + 1


def _pick(logits: torch.Tensor, temperature: float, generators: list[torch.Generator]) -> list[int]:
    """The likeliest token, or a sample (Gumbel's trick: one noise vector a row, then the maximum)."""
    scores = logits.float()
    if temperature > 0:
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=g) for g in generators])
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        scores = scores / temperature + noise.to(scores.device)
    return [int(token) for token in scores.argmax(-1).tolist()]
