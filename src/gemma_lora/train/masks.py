"""Dropout as a function of (seed, step, micro-batch, place), not of what came before.

So a resumed run, a repeated step, a recomputed activation and another process drop the same numbers
without any state being saved. On a CPU only the places of the dropped numbers are drawn: the gaps
between them are geometric, so a rate of 0.05 takes a twentieth of the random numbers and of the
writes that a mask takes (docs/training.md: what masks took); they are kept until the next micro-batch.
Elsewhere a mask comes from the device's own counter-based generator, once in the forward and once in
the backward pass: kept in between, masks would take a fifth of what a layer keeps. Reads and writes no
file.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["Masks", "Place"]


class Masks:
    """All dropout of a training; `at` says which step and micro-batch it is drawn for."""

    def __init__(self, rate: float, seed: int) -> None:
        """`rate`: share of numbers that become zero, above 0 and below 1."""
        self.rate = rate
        self.scale = 1 / (1 - rate)
        """What the kept numbers are to be multiplied with; `Place.drop_` leaves that to its caller."""
        self._seed, self._now = seed, (0, 0)
        self._places = 0
        self._generators: dict[torch.device, torch.Generator] = {}
        self._drawn: dict[tuple[int, int], Tensor] = {}
        self._last: tuple[tuple[int, torch.Size, torch.dtype], Tensor] | None = None

    def at(self, step: int, micro_batch: int) -> None:
        self._now = (step, micro_batch)
        self._drawn.clear()
        self._last = None

    def place(self) -> Place:
        """A further place in the model; the order in which places are made must be the same always."""
        self._places += 1
        return Place(self, self._places)

    def mask(self, place: int, x: Tensor) -> Tensor:
        """Zeros and ones like `x`, by the generator of its device; the last one is kept, since a backward
        pass asks for each twice in a row. Not to be changed."""
        asked = (place, x.shape, x.dtype)
        if self._last is not None and self._last[0] == asked and self._last[1].device == x.device:
            return self._last[1]
        self._last = None  # to be freed before the next is made
        if x.device not in self._generators:
            self._generators[x.device] = torch.Generator(x.device)
        generator = self._generators[x.device]
        key = np.random.SeedSequence((self._seed, *self._now, place))
        generator.manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
        drawn = torch.empty_like(x).bernoulli_(1 - self.rate, generator=generator)
        self._last = asked, drawn
        return drawn

    def dropped(self, place: int, count: int) -> Tensor:
        """Which of `count` numbers are dropped, each with probability `rate`, independently. int64.

        The distance from one to the next is geometric: 1 + floor(log(u) / log(1 - rate)), u uniform
        (Devroye, Non-Uniform Random Variate Generation, 1986, X.2).
        """
        found = self._drawn.get((place, count))
        if found is None:
            found = self._draw((self._seed, *self._now, place), count)
            # half the memory while it is kept
            self._drawn[place, count] = found.int() if count < 2**31 else found
        return found.long()

    def _draw(self, key: tuple[int, ...], count: int) -> Tensor:
        generator = np.random.Generator(np.random.SFC64(key))
        expected = count * self.rate
        found = torch.empty(0, dtype=torch.int64)
        last = -1
        while last < count:  # once, but for one time in 10^9
            uniform = generator.random(int(expected + 6 * math.sqrt(expected)) + 16)
            gaps = torch.from_numpy(1 - uniform).log_().div_(math.log1p(-self.rate)).long().add_(1)
            found = torch.cat([found, gaps.cumsum_(0).add_(last)])
            last = int(found[-1])
        return found[: int(torch.searchsorted(found, count))]


class Place:
    """Where numbers are dropped: projections that read the same input may share one."""

    def __init__(self, masks: Masks, number: int) -> None:
        self._masks, self._number = masks, number
        self.scale = masks.scale

    def drop_(self, x: Tensor) -> Tensor:
        """Zeros into contiguous `x`; the same for every call in one micro-batch. Returns `x`."""
        if x.device.type != "cpu":
            return x.mul_(self._masks.mask(self._number, x))
        x.view(-1).index_fill_(0, self._masks.dropped(self._number, x.numel()), 0)
        return x

    def add_product_(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """To contiguous `x` (T, n) add left (T, r) times right (r, n), but where numbers are dropped."""
        if x.device.type != "cpu":
            return x.add_(self.drop_(torch.mm(left, right)))
        dropped, line = self._masks.dropped(self._number, x.numel()), x.view(-1)
        unchanged = line[dropped]
        x.addmm_(left, right)
        line[dropped] = unchanged
        return x
