"""Choosing micro-batch and gradient checkpointing so that training fits the device's memory.

`plan` tries the fastest way first and takes the first whose forecast (`memory.forecast`) fits; what
the user set stays as it is, with a warning where it will not fit. Refuses (EnvironmentFault), before
anything is loaded, where nothing fits, and says what would. Imports no torch; reads and writes no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemma_lora.config import Config
from gemma_lora.errors import EnvironmentFault
from gemma_lora.model.memory import BYTES, Forecast, Load, Shape, forecast

__all__ = ["Budget", "Lengths", "of_each", "plan", "share"]

USUAL = {"cuda": 8192, "cpu": 1024}
"""Tokens at once beyond which it gets no faster (CPU: measured; GPU: aimed for)."""
LEAST = 256
"""Tokens at once below which recomputing activations costs less than smaller matrix products."""
_MANY = 4
"""GPUs for which it is said what sharding would give."""
GIB = 2**30


@dataclass(frozen=True)
class Lengths:
    """Tokens of the training rows."""

    longest: int
    shortest: int
    step: int
    """Most tokens that an optimiser step can have (on one process)."""
    checked: int
    """Of the rows with which the way of computing is proven before the first step."""
    supervised: float
    """Share that carries loss."""

    @staticmethod
    def of(lengths: NDArray[Any], supervised: NDArray[Any], *, per_step: int) -> Lengths:
        """From the tokens of each row, those of them with loss, and the rows of a step."""
        ordered = np.sort(lengths)
        return Lengths(
            longest=int(ordered[-1]),
            shortest=int(ordered[0]),
            step=int(ordered[-per_step:].sum()),
            checked=int(ordered[:3].sum()),
            supervised=float(supervised.sum() / ordered.sum()),
        )


@dataclass(frozen=True)
class Budget:
    """A way of training, what it takes and what there is. Bytes."""

    tokens: int
    checkpointing: bool
    forecast: Forecast
    free: int
    warning: str | None = None

    @property
    def line(self) -> str:
        return (
            f"memory: {_gib(self.forecast.total)} GiB predicted at the peak, "
            f"{_gib(self.free)} GiB free"
        )

    def facts(self) -> dict[str, Any]:
        """As audit.json has it; what is free now is no fact of the data."""
        return {
            "micro_batch_tokens": self.tokens,
            "gradient_checkpointing": self.checkpointing,
            "predicted_bytes": self.forecast.total,
            "predicted_parts": self.forecast.parts,
        }


def share(config: Config, lengths: NDArray[Any], processes: int) -> int | None:
    """Tokens of a process's part of a usual step, a tenth more, since packing leaves gaps; None alone."""
    rows = config.train.batch * config.train.accumulation
    return math.ceil(1.1 * rows * float(lengths.mean()) / processes) if processes > 1 else None


def of_each(free: int, device: str, processes: int) -> int:
    """What is free for one of `processes`: each has a GPU of its own, but they share the memory of a CPU."""
    return free if device == "cuda" else free // processes


def plan(
    config: Config,
    shape: Shape,
    lengths: Lengths,
    *,
    name: str,
    device: str,
    precision: str,
    free: int,
    share: int | None = None,
    shards: int = 1,
) -> Budget:
    """The fastest way of training that fits in `free` bytes; EnvironmentFault where none does.

    `name` of the model is for messages; `share`: most tokens of a micro-batch that are of use;
    `shards`: processes that hold a part of the layers' weights each.
    """
    train = config.train

    def at(
        tokens: int,
        checkpointing: bool,
        *,
        kind: str = precision,
        longest: int = 0,
        shards: int = shards,
    ) -> Budget:
        longest = longest or lengths.longest
        found = forecast(
            shape,
            Load(
                device=device,
                precision=kind,
                rank=config.lora.rank,
                targets=config.lora.targets,
                dropout=config.lora.dropout,
                shared=config.lora.shared_dropout,
                checkpointing=checkpointing,
                tokens=max(lengths.checked, min(max(tokens, longest), max(lengths.step, longest))),
                longest=longest,
                shortest=min(lengths.shortest, longest),
                supervised=lengths.supervised,
                shards=shards,
            ),
        )
        return Budget(max(tokens, longest), checkpointing, found, free)

    usual = USUAL.get(device, USUAL["cpu"])
    most = max(lengths.longest, min(usual, share or usual))
    free_ways = [at(*way) for way in _ways(most, lengths.longest)]
    wanted = [
        way
        for way in (
            free_ways
            if train.micro_batch_tokens is None
            else [at(train.micro_batch_tokens, on) for on in (False, True)]
        )
        if train.gradient_checkpointing in (None, way.checkpointing)
    ]
    fits = next((way for way in wanted if way.forecast.total <= free), None)
    if fits is not None:
        return _as_set(fits, train.micro_batch_tokens)
    other = next((way for way in free_ways if way.forecast.total <= free), None)
    least = min(free_ways, key=lambda way: way.forecast.total)
    if other is None:
        smaller = []
        if precision == "fp32":
            half = at(least.tokens, True, kind="bf16").forecast.total
            smaller.append(f"{_needs(name, half, 'bf16')}")
        short = at(LEAST, True, longest=min(LEAST, lengths.longest)).forecast.total
        smaller.append(f"with --max-length {min(LEAST, lengths.longest)}: {_gib(short)} GiB")
        if device == "cuda" and shards == 1:
            part = at(least.tokens, True, shards=_MANY).forecast.total
            smaller.append(f"on {_MANY} GPUs with --shard-weights: {_gib(part)} GiB on each")
        smaller.append(
            f"its weights alone are {_gib(shape.parameters * BYTES[precision])} GiB in {precision}"
        )
        raise EnvironmentFault(
            f"{_needs(name, least.forecast.total, precision)} to be trained on these rows, with "
            f"gradient checkpointing and {least.tokens} tokens at once; {_gib(free)} GiB are free",
            where=device,
            details=smaller,
            remedy=f"use a lower --max-length, {'--precision bf16, ' if precision == 'fp32' else ''}"
            "a smaller model of the family, or a device with more memory",
        )
    chosen = min(wanted, key=lambda way: way.forecast.total)
    warning = (
        f"{_needs(name, chosen.forecast.total, precision)} as set, and {_gib(free)} GiB are free; "
        f"with {other.tokens} tokens at once and gradient checkpointing "
        f"{'on' if other.checkpointing else 'off'} it needs {_gib(other.forecast.total)} GiB"
    )
    return _as_set(replace(chosen, warning=warning), train.micro_batch_tokens)


def _as_set(way: Budget, tokens: int | None) -> Budget:
    return way if tokens is None else replace(way, tokens=tokens)


def _ways(most: int, longest: int) -> Iterator[tuple[int, bool]]:
    """Tokens at once and gradient checkpointing, the fastest first."""
    sizes = [most]
    while sizes[-1] > max(longest, 16):
        sizes.append(max(longest, sizes[-1] // 2, 16))
    for checkpointing in (False, True):
        yield from ((size, checkpointing) for size in sizes if size >= min(LEAST, most))
    yield from ((size, True) for size in sizes if size < min(LEAST, most))


def _needs(name: str, size: int, precision: str) -> str:
    return f"{name} in {precision} needs {_gib(size)} GiB"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"
