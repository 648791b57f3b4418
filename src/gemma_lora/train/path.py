"""How a forward pass is computed, and the proof before the first step that it is the model's own.

A `Path` says which attention backend, whether rows are packed, whether the hand-written layers of
`fused.py` are used. `choose` tries the fastest first on a slice of the data, compares its loss with
the model's plain forward (rows alone, mask, cache, full logits), sees that rows and sliding window
are kept apart to the bit, and falls back with a warning. Refuses (ModelError) where no path gives the plain loss. Reads and writes no file.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from gemma_lora.console import Console
from gemma_lora.errors import ModelError
from gemma_lora.train.attention import ROWS, VARLEN, attention, can_varlen
from gemma_lora.train.fused import Installed, installed
from gemma_lora.train.loss import ROOM, Autocast, causal_model, nll_sum, plain_nll_sum
from gemma_lora.train.packing import IGNORED, Batch
from gemma_lora.train.products import Buffers
from gemma_lora.train.sharding import WHOLE, Weights
from gemma_lora.train.shortage import out_of_memory

__all__ = ["PATHS", "Path", "candidates", "choose"]


@dataclass(frozen=True)
class Path:
    """One way of computing; `name` is what checkpoints and training.json say."""

    name: str
    attention: str | None
    """Backend while training; None: the family's own, which is exact for single rows only."""
    fused: bool

    @property
    def packs(self) -> bool:
        return self.attention is not None

    @contextmanager
    def active(
        self, model: PeftModel, *, dropout: float, seed: int, shared: bool
    ) -> Generator[Installed]:
        """Compute this way inside."""
        causal = causal_model(model)
        try:
            with attention(causal, self.attention):
                if not self.fused:
                    yield Installed(None, [], Buffers())
                    return
                with installed(model, dropout=dropout, seed=seed, shared=shared) as own:
                    yield own
        finally:
            ROOM.clear()


PATHS = {
    path.name: path
    for path in (
        Path("packed-varlen", VARLEN, fused=True),
        Path("packed", ROWS, fused=True),
        Path("single-rows", None, fused=True),
        Path("plain", None, fused=False),
    )
}
"""The fastest first."""

_MISFITS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, ImportError)
"""What a backend raises that does not fit a model, a device or another library's version."""


_TOKENS = 64
"""Supervised tokens over which the tolerance holds: with fewer, rounding averages out less."""
_BEYOND = 64
"""Tokens beyond the sliding window in the row with which that is checked."""


def candidates(model: PeftModel, device: str, *, packs: bool) -> list[Path]:
    """Paths worth trying. `packs`: what the family table says of packing."""
    causal = causal_model(model)
    varlen = can_varlen(causal, device, causal.dtype)
    return [
        path
        for path in PATHS.values()
        if (packs or not path.packs) and (varlen or path.attention != VARLEN)
    ]


def choose(
    model: PeftModel,
    paths: Sequence[Path],
    packed: Batch,
    single: Batch,
    *,
    autocast: Autocast,
    tolerance: float,
    console: Console,
    longest: int = 0,
    weights: Weights = WHOLE,
) -> tuple[Path, float]:
    """The first of `paths` with the plain forward's loss, and that loss a token.

    `packed` is several rows and `single` one of them, for paths that do not pack; `longest`: tokens of
    the longest row of the data, beyond which no window needs to be checked. To be called on a fresh
    adapter, whose update is zero; with sharded `weights` by all processes together. ModelError where no
    path is within `tolerance` (relative, for 64 supervised tokens or more) and keeps rows apart.
    """
    model.eval()
    long = _long_row(model, packed, longest)
    with torch.no_grad(), autocast():
        plain = [float(plain_nll_sum(model, b)) / b.supervised for b in (packed, single)]
    if not all(math.isfinite(loss) for loss in plain):
        raise ModelError(
            f"the base model's loss is {plain[0]} before any training",
            expected="a finite number",
            remedy="use --precision bf16 or fp32; if it stays, the weights are damaged",
        )
    faults: list[str] = []
    for path in paths:
        batch, expected = (packed, plain[0]) if path.packs else (single, plain[1])
        probes = _Probes(batch, long) if path.packs else _Probes(batch, None)
        fault = _fault(model, path, probes, expected, autocast, tolerance, weights)
        weights.catch_up()
        if weights.anywhere(fault is not None):
            fault = fault or "it does not work in another process"
        if fault is None:
            for text in faults:
                console.warn(f"{text}; training goes on with {path.name}, which is slower")
            return path, plain[0]
        faults.append(f"computing {path.name}: {fault}")
    raise ModelError(
        "no way of training gives the loss of the model's plain forward",
        expected=f"equal within {tolerance:g}",
        details=faults,
        remedy="this model and library version do not fit together: report it with the model's name",
    )


@dataclass(frozen=True)
class _Probes:
    """What a path is tried on."""

    batch: Batch
    long: Batch | None
    """One row that is longer than the model's sliding window, where it has one and the data do too."""

    @property
    def passes(self) -> int:
        """Forward and backward passes that `_fault` makes with sharded weights."""
        rows = len(self.batch.lengths)
        return 1 + (rows + 1 if rows > 1 else 0) + (3 if self.long is not None else 0)


def _fault(
    model: PeftModel,
    path: Path,
    probes: _Probes,
    expected: float,
    autocast: Autocast,
    tolerance: float,
    weights: Weights,
) -> str | None:
    """What is wrong with `path`, or None. The number of passes does not depend on what is found."""
    batch, long, faults = probes.batch, probes.long, list[str | None]()
    layers = _layers(model)
    try:
        with weights.passes(probes.passes), path.active(model, dropout=0.0, seed=0, shared=True):
            model.eval()
            ours, first = _pass(model, batch, autocast, layers)
            # sharded weights count on a backward pass after each forward pass; else one is enough
            more = partial(_pass, model, autocast=autocast, backward=weights.sharded)
            if len(batch.lengths) > 1:
                again = more(batch, layers=layers)[1]
                for row, changed in enumerate(_each_changed(model, batch)):
                    other = more(changed, layers=layers)[1]
                    faults.append(_leak(row, batch.lengths, first, again, other))
            if long is not None:
                window = cast(int, layers[0].sliding_window)
                cut = max(1, (long.tokens - window) // 2)
                lines = (long, long, _changed(model, long, slice(0, cut)))
                # no graph: a row of the window's length may take more than a whole step with recomputation
                with torch.set_grad_enabled(weights.sharded):
                    seen = [more(line, layers=layers[:1])[1] for line in lines]
                faults.append(_beyond(window + cut - 1, window, *seen))
    except _MISFITS as error:
        if out_of_memory(error):
            raise
        text = str(error).partition("\n")[0]
        return f"{type(error).__name__}: {text}"
    finally:
        model.zero_grad(set_to_none=True)
    allowed = tolerance * max(1.0, math.sqrt(_TOKENS / batch.supervised))
    if not abs(ours - expected) <= allowed * max(1.0, abs(expected)):
        return f"a loss of {ours:.6f}, the model's plain forward {expected:.6f}"
    return next((fault for fault in faults if fault is not None), None)


# ---------------------------------------------------------------------- kept apart, to the bit


def _layers(model: PeftModel) -> list[Any]:
    """Attention modules up to the first whose inputs depend on what other tokens are there.

    Experts compute the tokens that are sent to them together, so that even the rounding of a row after
    them may change with another row.
    """
    found: list[Any] = []
    for layer in cast(Any, causal_model(model).base_model).layers:
        found.append(layer.self_attn)
        if getattr(layer, "enable_moe_block", False):
            break
    return found


def _pass(
    model: PeftModel,
    batch: Batch,
    autocast: Autocast,
    layers: Sequence[nn.Module],
    *,
    backward: bool = True,
) -> tuple[float, list[Tensor]]:
    """The loss a token as training computes it, gradient included, and what `layers` gave (T, H).

    Without `backward` the same kernels compute the forward pass, and no gradient is made of it.
    """
    seen: list[Tensor] = []

    def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output[0][0].detach())

    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        with autocast():
            total = nll_sum(model, batch) / batch.supervised
    finally:
        for hook in hooks:  # before the backward pass, which may compute layers again
            hook.remove()
    if backward:
        total.backward()
    return float(total.detach()), seen


def _changed(model: PeftModel, batch: Batch, part: slice) -> Batch:
    """`batch` with other ids at `part`."""
    vocabulary = int(cast(Tensor, causal_model(model).get_input_embeddings().weight).shape[0])
    ids = batch.input_ids.clone()
    ids[:, part] = (ids[:, part] + 1) % vocabulary
    return replace(batch, input_ids=ids)


def _each_changed(model: PeftModel, batch: Batch) -> Generator[Batch]:
    """`batch` with other ids in its first row, in its second, ..."""
    start = 0
    for length in batch.lengths:
        yield _changed(model, batch, slice(start, start + length))
        start += length


def _leak(
    row: int,
    lengths: Sequence[int],
    first: Sequence[Tensor],
    again: Sequence[Tensor],
    other: Sequence[Tensor],
) -> str | None:
    """Whether another row than the changed one, number `row`, has changed.

    Exactly equal, for the same kernel computes the same numbers; but where it does not even do that
    when nothing is changed (`again`), within as much.
    """
    for one, same, new in zip(first, again, other, strict=True):
        parts = zip(*(x.split(list(lengths)) for x in (one, same, new)), strict=True)
        for number, (before, repeated, after) in enumerate(parts):
            if number != row and _differ(before, repeated, after):
                return f"row {number + 1} of a packed batch changes when row {row + 1} does"
    return None


def _beyond(
    start: int, window: int, first: list[Tensor], again: list[Tensor], other: list[Tensor]
) -> str | None:
    """Whether tokens from `start` on, out of the window's reach, have changed in the first layer."""
    if _differ(first[0][start:], again[0][start:], other[0][start:]):
        return f"the sliding window of {window} tokens is not kept: tokens before it are seen"
    return None


def _differ(before: Tensor, repeated: Tensor, after: Tensor) -> bool:
    noise = float((before - repeated).abs().max())
    return not float((before - after).abs().max()) <= 2 * noise  # also where it is no number


def _long_row(model: PeftModel, batch: Batch, longest: int) -> Batch | None:
    """A row that leaves the first layer's sliding window, of the ids of `batch`, with loss at its end.

    As long as the window and 64 tokens more, but no longer than the data's own; None where no row of
    the data leaves the window, or the first layer has none.
    """
    window: int | None = getattr(_layers(model)[0], "sliding_window", None)
    if window is None or longest <= window:
        return None
    length = min(window + _BEYOND, longest)
    ids = batch.input_ids.repeat(1, -(-length // batch.tokens))[:, :length]
    labels = torch.full_like(ids, IGNORED)
    labels[0, -2] = ids[0, -1]
    places = torch.arange(length, device=ids.device)[None]
    return Batch(ids, places, labels, (length,), supervised=1)
