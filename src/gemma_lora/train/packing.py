"""Rows into micro-batches without padding.

`pack` puts rows of known lengths into as few bins of a token budget as best-fit-decreasing finds;
`Batch` is one bin: the rows one after the other, each with positions from 0. What keeps rows apart
in the attention is `attention.py`. Reads and writes no file.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gemma_lora.data.tokens import Tokenised

__all__ = ["IGNORED", "Batch", "batches", "collate", "pack"]

IGNORED = -100
"""Label of positions that carry no loss (the convention of torch and transformers)."""


@dataclass(frozen=True)
class Batch:
    """Rows computed at once, one after the other."""

    input_ids: Tensor
    """(1, T) int64."""
    position_ids: Tensor
    """(1, T) int64; from 0 in each row."""
    labels: Tensor
    """(1, T) int64; the token that this position is to predict where it is supervised, else
    `IGNORED`. Already shifted: the last position of a row predicts nothing."""
    lengths: tuple[int, ...]
    """Tokens of each row; they sum to T."""
    supervised: int
    """Tokens that carry loss (the first of a row never does: nothing predicts it)."""

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.labels.to(device),
            self.lengths,
            self.supervised,
        )


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `budget` tokens; a longer row gets a bin of its own.

    Best fit decreasing (Johnson 1973, at most 11/9 of the fewest possible bins): rows from the
    longest on, each into the fullest bin that still holds it. The same input gives the same bins.
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(free, (lengths[index], 0))
        if place < len(free):
            left, number = free.pop(place)
        else:
            left, number = max(budget, lengths[index]), len(bins)
            bins.append([])
        bins[number].append(index)
        insort(free, (left - lengths[index], number))
    return bins


def collate(rows: Tokenised, chosen: Sequence[int]) -> Batch:
    """The rows numbered `chosen` as one batch."""
    read = rows.table[list(chosen)]  # once: reading is most of the time
    ids = [np.asarray(row, dtype=np.int64) for row in read["ids"]]
    masks = [np.asarray(mask, dtype=np.bool_) for mask in read["mask"]]
    labels = [
        np.append(np.where(mask[1:], row[1:], IGNORED), IGNORED)
        for row, mask in zip(ids, masks, strict=True)
    ]
    return Batch(
        _line(ids),
        _line([np.arange(len(row), dtype=np.int64) for row in ids]),
        _line(labels),
        tuple(len(row) for row in ids),
        supervised=int(sum(rows.supervised[i] for i in chosen)),
    )


def batches(rows: Tokenised, chosen: Sequence[int], budget: int) -> list[Batch]:
    """The rows numbered `chosen`, packed; the fullest first, so that a lack of memory shows at once."""
    bins = pack([int(rows.lengths[i]) for i in chosen], budget)
    made = [[chosen[i] for i in found] for found in bins]
    made.sort(key=lambda found: -sum(int(rows.lengths[i]) for i in found))
    return [collate(rows, found) for found in made]


def _line(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).unsqueeze(0)
