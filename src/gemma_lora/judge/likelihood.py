"""Scores from a model's token probabilities: the expected score over 1 to 10 instead of one sampled number.

The reply so far (prompt, reasoning) is continued by `, "relevance": ` and each number from 1 to 10 with
what ends it (`7,` or, after the last score, `7}`), all as text; each whole continuation is tokenized and
its probability is the product over its tokens, so that 1 and 10 cannot be mixed up and any way of cutting
numbers into tokens is right. The ten are disjoint: their sum is the mass on valid scores, and divided by
it they are a distribution. The most probable number is written down before the next score is read.

The mean of the distribution agrees better with people than its mode (arXiv 2503.03064; G-Eval, arXiv
2303.16634, weighs by token probabilities, too). Loads torch when called; reads and writes nothing.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from gemma_lora.judge.replies import Distribution

__all__ = ["SCALE", "grade"]

SCALE = range(1, 11)


def grade(
    model: Any, encode: Callable[[str], list[int]], text: str, names: Sequence[str]
) -> tuple[dict[str, Distribution], str]:
    """The distribution of each of `names`, and the rest of the JSON object with the most probable scores.

    `text`: prompt and reply up to the end of the reasoning string. One forward pass over the text, then a
    short one for each score and each beginning of a number, all on one KV cache.
    """
    walk = _Walk(model)
    found: dict[str, Distribution] = {}
    tail = ""
    for name in names:
        tail += f', "{name}": '
        end = "}" if name == names[-1] else ","
        whole = [encode(f"{text}{tail}{number}{end}") for number in SCALE]
        shared = _shared(whole)
        walk.go(whole[0][:shared])
        logs = [walk.log_probability(ids[shared:]) for ids in whole]
        found[name] = _distribution(logs)
        tail += str(found[name].mode)
    return found, tail + "}"


class _Walk:
    """A model at the end of a token sequence, with the cache of all before."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._ids: list[int] = []
        self._cache: Any = None
        self._after: dict[tuple[int, ...], Any] = {}
        # of the whole vocabulary the last position only: thousands of positions would take gigabytes
        last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._options: dict[str, Any] = {"logits_to_keep": 1} if last_only else {}

    def go(self, ids: list[int]) -> None:
        """Move to the end of `ids`, from where it stands if that lies on the way."""
        if ids[: len(self._ids)] != self._ids or len(ids) == len(self._ids):
            self._ids, self._cache = [], None
        logs, self._cache = self._forward(ids[len(self._ids) :], self._cache)
        self._ids, self._after = ids, {(): logs}

    def log_probability(self, ids: Sequence[int]) -> float:
        """Natural logarithm of the probability that the text goes on with `ids`."""
        total = 0.0
        for place, token in enumerate(ids):
            before = tuple(ids[:place])
            if before not in self._after:
                # a copy: layers with a sliding window cannot be cut back
                cache = copy.deepcopy(self._cache)
                self._after[before], _ = self._forward(list(before), cache)
            total += float(self._after[before][token])
        return total

    def _forward(self, ids: list[int], cache: Any) -> tuple[Any, Any]:
        import torch

        given = torch.tensor([ids], device=self._model.device)
        with torch.inference_mode():
            out = self._model(
                input_ids=given, past_key_values=cache, use_cache=True, **self._options
            )
            return torch.log_softmax(out.logits[0, -1].float(), dim=-1).cpu(), out.past_key_values


def _shared(sequences: Sequence[list[int]]) -> int:
    """How many first tokens all have in common."""
    count = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count


def _distribution(logs: Sequence[float]) -> Distribution:
    most = max(logs)
    if not math.isfinite(
        most
    ):  # the model computes no numbers: nothing is known, and no mass says so
        return Distribution((1 / len(logs),) * len(logs), 0.0)
    parts = [math.exp(value - most) for value in logs]
    total = math.fsum(parts)
    return Distribution(tuple(part / total for part in parts), min(1.0, math.exp(most) * total))
