"""How a forward pass is computed, and the proof before the first step that it is the model's own.

A `Path` says which attention backend, whether rows are packed, whether the hand-written layers of
`fused.py` are used. `choose` tries the fastest first on a slice of the data, compares its loss with
the model's plain forward (rows alone, mask, cache, full logits), and falls back with a warning.
Refuses (ModelError) where no path gives the plain loss. Reads and writes no file.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel

from gemma_lora.console import Console
from gemma_lora.errors import ModelError
from gemma_lora.train.attention import ROWS, VARLEN, attention, can_varlen
from gemma_lora.train.fused import Installed, installed
from gemma_lora.train.loss import ROOM, Autocast, causal_model, nll_sum, plain_nll_sum
from gemma_lora.train.packing import Batch
from gemma_lora.train.products import Buffers
from gemma_lora.train.sharding import WHOLE, Weights
from gemma_lora.train.trainer import out_of_memory

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


def candidates(model: PeftModel, device: str, *, packs: bool) -> list[Path]:
    """Paths worth trying. `packs`: what the family table says of packing."""
    varlen = can_varlen(causal_model(model), device)
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
    weights: Weights = WHOLE,
) -> tuple[Path, float]:
    """The first of `paths` with the plain forward's loss, and that loss a token.

    `packed` is several rows and `single` one of them, for paths that do not pack. To be called on a
    fresh adapter, whose update is zero; with sharded `weights` by all processes together. ModelError where no path is within `tolerance` (relative).
    """
    model.eval()
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
        fault = _fault(model, path, batch, expected, autocast, tolerance, weights)
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


def _fault(
    model: PeftModel,
    path: Path,
    batch: Batch,
    expected: float,
    autocast: Autocast,
    tolerance: float,
    weights: Weights,
) -> str | None:
    """What is wrong with `path` on `batch`, or None."""
    try:
        with weights.passes(1):
            ours = _loss(model, path, batch, autocast)
    except _MISFITS as error:
        if out_of_memory(error):
            raise
        first = str(error).partition("\n")[0]
        return f"{type(error).__name__}: {first}"
    if abs(ours - expected) <= tolerance * max(1.0, abs(expected)):
        return None
    return f"a loss of {ours:.6f}, the model's plain forward {expected:.6f}"


def _loss(model: PeftModel, path: Path, batch: Batch, autocast: Autocast) -> float:
    """The loss a token as training computes it, gradient included, without dropout."""
    with path.active(model, dropout=0.0, seed=0, shared=True):
        model.eval()
        with autocast():
            total = nll_sum(model, batch) / batch.supervised
        total.backward()
    model.zero_grad(set_to_none=True)
    return float(total.detach())
