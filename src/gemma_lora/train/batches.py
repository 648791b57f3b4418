"""From rows to the exact batches of every optimiser step.

`StepPlan` lays out the whole training beforehand: step k is the same rows in
the same order for the same seed, so a resumed run only has to start at k. Rows of one step are
sorted by length before they are cut into batches: that changes nothing in the sum over the step,
and saves padding. Reads and writes no file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gemma_lora.data.tokens import Tokenised

__all__ = ["IGNORED", "Batch", "Step", "StepPlan", "by_length", "collate"]

IGNORED = -100
"""Label of positions that carry no loss (the convention of torch and transformers)."""


@dataclass(frozen=True)
class Batch:
    """Sequences computed at once, padded on the right to the longest of them."""

    input_ids: Tensor
    """(B, T) int64."""
    labels: Tensor
    """(B, T) int64; `input_ids` where the token is supervised, else `IGNORED`."""
    supervised: int
    """Tokens that carry loss (the first of a row never does: nothing predicts it)."""
    tokens: int
    """Tokens that are not padding."""

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids.to(device), self.labels.to(device), self.supervised, self.tokens
        )


@dataclass(frozen=True)
class Step:
    """Everything that one change of the weights sees."""

    batches: tuple[Batch, ...]

    @property
    def supervised(self) -> int:
        return sum(batch.supervised for batch in self.batches)

    @property
    def tokens(self) -> int:
        return sum(batch.tokens for batch in self.batches)


def collate(rows: Tokenised, chosen: Sequence[int], pad_id: int) -> Batch:
    """The rows numbered `chosen` as one batch."""
    width = int(max(rows.lengths[i] for i in chosen))
    input_ids = torch.full((len(chosen), width), pad_id, dtype=torch.long)
    labels = torch.full((len(chosen), width), IGNORED, dtype=torch.long)
    for line, index in enumerate(chosen):
        row = rows.table[int(index)]
        ids = torch.from_numpy(np.asarray(row["ids"], dtype=np.int64))
        mask = torch.from_numpy(np.asarray(row["mask"], dtype=np.bool_))
        mask[0] = False
        input_ids[line, : len(ids)] = ids
        labels[line, : len(ids)] = torch.where(mask, ids, IGNORED)
    return Batch(
        input_ids,
        labels,
        supervised=int(sum(rows.supervised[i] for i in chosen)),
        tokens=int(sum(rows.lengths[i] for i in chosen)),
    )


def by_length(rows: Tokenised, size: int, pad_id: int) -> list[Batch]:
    """All rows in batches of up to `size`, longest first, so that a lack of memory shows at once."""
    order = np.argsort(-rows.lengths, kind="stable")
    return [collate(rows, order[i : i + size].tolist(), pad_id) for i in range(0, len(order), size)]


class StepPlan(Dataset[Step]):
    """Item k is the optimiser step after k steps, for the whole training.

    Each epoch is a fresh permutation of all rows from (`seed`, epoch), cut into steps of
    `batch * accumulation` rows; an epoch's last step may be smaller. `epochs` may be a fraction:
    then the last epoch ends early, rounded up to whole steps.
    """

    def __init__(
        self,
        rows: Tokenised,
        *,
        batch: int,
        accumulation: int,
        epochs: float,
        seed: int,
        pad_id: int,
    ) -> None:
        self._rows, self._batch, self._seed, self._pad_id = rows, batch, seed, pad_id
        self._per_step = batch * accumulation
        self.steps_per_epoch = math.ceil(len(rows) / self._per_step)
        # 1e-9: 0.1 epochs of 10 steps are 1 step, whatever the last bit of the product says
        self.steps = max(1, math.ceil(epochs * self.steps_per_epoch - 1e-9))
        self._order = lru_cache(maxsize=2)(self._permutation)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Step:
        rows = self.rows_of(step)
        ordered = sorted(rows, key=lambda i: (-self._rows.lengths[i], i))
        return Step(
            tuple(
                collate(self._rows, ordered[i : i + self._batch], self._pad_id)
                for i in range(0, len(ordered), self._batch)
            )
        )

    def rows_of(self, step: int) -> list[int]:
        """Row numbers that step `step` (from 0) covers, in drawn order."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self._per_step
        return self._order(epoch)[start : start + self._per_step].tolist()

    def epoch_after(self, steps: int) -> float:
        """Passes over the data that `steps` steps have made."""
        epoch, within = divmod(steps, self.steps_per_epoch)
        return epoch + min(1.0, within * self._per_step / len(self._rows))

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))
