"""Dropout masks that are a function of (seed, step, micro-batch, place), not of what came before.

So a resumed run, a repeated step, a recomputed activation and another process draw the same mask
without any state being saved. On a CPU the bits come from NumPy's SFC64 (20 times as fast as
`torch.bernoulli`, see docs/training.md), elsewhere from the device's own counter-based generator.
Reads and writes no file.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["Masks", "Place"]


class Masks:
    """All masks of a training; `at` says which step and micro-batch they are drawn for."""

    def __init__(self, rate: float, seed: int) -> None:
        """`rate`: share of numbers that become zero. It is rounded to 1/65536 (and the scale with it)."""
        self._drop = round(rate * 65536)
        self.scale = 65536 / (65536 - self._drop)
        self._seed, self._now = seed, (0, 0)
        self._places = 0
        self._generators: dict[torch.device, torch.Generator] = {}

    def at(self, step: int, micro_batch: int) -> None:
        self._now = (step, micro_batch)

    def place(self) -> Place:
        """A further place in the model; the order in which places are made must be the same always."""
        self._places += 1
        return Place(self, self._places)

    def draw(
        self, place: int, shape: torch.Size, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """`scale` where a number is kept, 0 where it is dropped."""
        key = (self._seed, *self._now, place)
        if device.type != "cpu":
            return self._on_device(key, shape, device, dtype)
        count = shape.numel()
        raw = np.random.SFC64(key).random_raw(-(-count // 4)).view(np.int16)[:count]
        kept = torch.from_numpy(raw).view(shape) >= self._drop - 32768
        return kept.to(dtype).mul_(self.scale)

    def _on_device(
        self, key: tuple[int, ...], shape: torch.Size, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        generator = self._generators[device]
        generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        keep = 1 - self._drop / 65536
        mask = torch.empty(shape, device=device, dtype=dtype)
        return mask.bernoulli_(keep, generator=generator).mul_(self.scale)


class Place:
    """Where a mask is applied: projections that read the same input may share one."""

    def __init__(self, masks: Masks, number: int) -> None:
        self._masks, self._number = masks, number

    def __call__(self, x: Tensor) -> Tensor:
        """The mask for `x`; the same for every call in one micro-batch."""
        return self._masks.draw(self._number, x.shape, x.device, x.dtype)
