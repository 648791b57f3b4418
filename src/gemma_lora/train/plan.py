"""Which rows every optimiser step covers, for the whole training, laid out beforehand.

Step k is the same rows in the same order for the same seed, so a resumed run only has to start at
k. How a step's rows are computed (packed into micro-batches, on one process or several) is decided
when it is their turn. Reads and writes no file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset

__all__ = ["Step", "StepPlan"]


@dataclass(frozen=True)
class Step:
    """One change of the weights."""

    number: int
    """From 0."""
    rows: tuple[int, ...]
    """Row numbers, in drawn order."""


class StepPlan(Dataset[Step]):
    """Item k is the optimiser step after k steps, for the whole training.

    Each epoch is a fresh permutation of all `rows` rows from (`seed`, epoch), cut into steps of
    `per_step` rows; an epoch's last step may be smaller. `epochs` may be a fraction: then the last
    epoch ends early, rounded up to whole steps.
    """

    def __init__(self, rows: int, *, per_step: int, epochs: float, seed: int) -> None:
        self._rows, self._per_step, self._seed = rows, per_step, seed
        self.steps_per_epoch = math.ceil(rows / per_step)
        # 1e-9: 0.1 epochs of 10 steps are 1 step, whatever the last bit of the product says
        self.steps = max(1, math.ceil(epochs * self.steps_per_epoch - 1e-9))
        self._order = lru_cache(maxsize=2)(self._permutation)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Step:
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self._per_step
        chosen = self._order(epoch)[start : start + self._per_step]
        return Step(step, tuple(int(row) for row in chosen))

    def epoch_after(self, steps: int) -> float:
        """Passes over the data that `steps` steps have made."""
        epoch, within = divmod(steps, self.steps_per_epoch)
        return epoch + min(1.0, within * self._per_step / self._rows)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._rows)
