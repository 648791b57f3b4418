"""Rows as token ids and loss masks, kept in Arrow.

`tokenise` encodes examples once, through `PromptFormat.example`. Rows over the maximum length are
cut or dropped, and counted. Reads and writes no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gemma_lora.errors import DataError
from gemma_lora.records import Example

if TYPE_CHECKING:
    import datasets

    from gemma_lora.prompt import PromptFormat

__all__ = ["Tokenised", "tokenise"]


@dataclass(frozen=True)
class Tokenised:
    """Token ids and loss masks of rows, with what had to be changed to get them."""

    table: datasets.Dataset
    """Row i is `table[i]`: `ids` (int32) and `mask` (bool), both (T,) numpy arrays."""
    lengths: np.ndarray = field(repr=False)
    """(rows,) tokens of each row."""
    supervised: np.ndarray = field(repr=False)
    """(rows,) tokens with loss of each row."""
    shortened: int
    """Rows whose question was cut from the left to fit."""
    dropped: int
    """Rows left out because they are too long."""

    def __len__(self) -> int:
        return len(self.lengths)


def tokenise(
    rows: Sequence[Example], fmt: PromptFormat, *, max_length: int, keep_answer: bool
) -> Tokenised:
    """Encode `rows`; those over `max_length` tokens are cut (`keep_answer`) or dropped, and counted."""
    import datasets  # a second to load, which other commands need not wait for

    ids: list[list[int]] = []
    masks: list[list[bool]] = []
    shortened = dropped = 0
    for row in rows:
        encoded = fmt.example(row.messages)
        if len(encoded.ids) > max_length:
            if not keep_answer:
                dropped += 1
                continue
            try:
                encoded = fmt.example(row.messages, max_length=max_length)
            except DataError:  # the answer alone is too long
                dropped += 1
                continue
            shortened += 1
        ids.append(list(encoded.ids))
        masks.append(list(encoded.supervised))
    features = datasets.Features(
        {
            "ids": datasets.List(datasets.Value("int32")),
            "mask": datasets.List(datasets.Value("bool")),
        }
    )
    table = datasets.Dataset.from_dict({"ids": ids, "mask": masks}, features=features)
    return Tokenised(
        table=table.with_format("numpy"),
        lengths=np.array([len(row) for row in ids], dtype=np.int64),
        supervised=np.array([sum(mask[1:]) for mask in masks], dtype=np.int64),
        shortened=shortened,
        dropped=dropped,
    )
