"""The gap between training and validation loss, at the kept step and at the end, in plain words.

`read_gap` reads metrics.jsonl, training.json and forgetting/forgetting.json; `reading` is pure.
Compared are like with like: validation loss and the loss on a sample of training rows, both of the kept
adapter, without dropout and weighted by token. The losses of the training steps (dropout on, each step's
own rows and weights) only tell the direction. Losses in nats a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, cast

from pydantic import BaseModel

from gemma_lora.decision.robustness import number
from gemma_lora.rundir import RunDir, read_jsonl, read_saved

__all__ = ["read_gap", "reading"]

RISE = 0.02
"""A validation loss that ends so much above its lowest has turned; below that it is noise of few rows."""
STILL_FALLING = 0.01
"""The last validation improved on the one before it by at least so much."""
WIDE = 1.5
"""Validation loss over training loss from which on the rows are called known by heart ..."""
WIDE_NATS = 0.3
"""... if it is also so much larger: a token then is a third less likely on new rows."""

Curve = Sequence[tuple[int, float]]


class _Metric(BaseModel):
    step: int
    loss: float | None = None
    validation_loss: float | None = None


def read_gap(run: RunDir) -> dict[str, Any] | None:
    """verdict.json's `overfitting`; None where the folder has no curves."""
    if not run.metrics.exists() or not run.training.exists():
        return None
    metrics = read_jsonl(run.metrics, _Metric)
    # a resumed training logs the steps after its checkpoint again: the later line counts
    training = {m.step: m.loss for m in metrics if m.loss is not None}
    validation = {m.step: m.validation_loss for m in metrics if m.validation_loss is not None}
    facts = read_saved(run.training)
    kept = facts.get("best_step", facts.get("saved_step"))
    path = run.forgetting / "forgetting.json"
    saved: Any = read_saved(path).get("train_sample") if path.exists() else None
    sample = cast(dict[str, Any], saved) if isinstance(saved, dict) else None
    return reading(
        sorted(validation.items()),
        sorted(training.items()),
        kept if isinstance(kept, int) else None,
        sample,
    )


def reading(
    validation: Curve, training: Curve, kept: int | None, sample: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A word, a sentence and the figures.

    `validation`, `training`: (step, loss) in order, validation from step 0 on. `sample`: `loss` and `rows`
    of the kept adapter on training rows, without dropout.
    """
    losses = dict(validation)
    at_kept = losses.get(kept) if kept is not None else None
    figures: dict[str, Any] = {
        "kept_step": kept,
        "validation_loss_kept": number(at_kept),
        "train_loss_kept": number(sample["loss"]) if sample else None,
        "train_rows_sampled": sample["rows"] if sample else None,
        "gap": number(at_kept - sample["loss"]) if sample and at_kept is not None else None,
        "last_step": validation[-1][0] if validation else None,
        "validation_loss_end": number(validation[-1][1]) if validation else None,
        "rise_after_kept": None,
    }
    if kept is None or at_kept is None or len(validation) < 2:
        words = "There were no validation rows, so whether the model memorises was not measured."
        return {"reading": "not measured", "sentence": words, **figures}
    rise = validation[-1][1] / at_kept - 1
    figures["rise_after_kept"] = number(rise)
    word, sentence = _read(validation, training, kept, at_kept, rise, sample)
    return {"reading": word, "sentence": sentence + _gap(at_kept, sample), **figures}


def _read(
    validation: Curve,
    training: Curve,
    kept: int,
    at_kept: float,
    rise: float,
    sample: Mapping[str, Any] | None,
) -> tuple[str, str]:
    before, last = validation[0][1], validation[-1][0]
    if at_kept >= before:
        return "learned nothing", (
            f"Validation loss never fell below the {before:.2f} it had before training: nothing was learned "
            "that helps on new rows."
        )
    if last > kept and rise > RISE:
        rose = f"Validation loss rose by {100 * rise:.0f} % after step {kept}"
        if _fell(training, kept, last):
            return "memorising", (
                f"{rose} while training loss fell: the model began to memorise. The kept checkpoint is from "
                "before that."
            )
        return "unstable", (
            f"{rose}, and training loss did not fall: training became unstable. The kept checkpoint is from "
            "before that; a lower `--learning-rate` may reach further."
        )
    if sample and at_kept > WIDE * sample["loss"] and at_kept - sample["loss"] > WIDE_NATS:
        return "wide gap", (
            "The model knows its training rows far better than new ones: it has them partly by heart. More "
            "rows, fewer `--epochs`, a lower `--rank` or more `--dropout` narrow that."
        )
    previous = validation[-2][1]
    if last == kept and 1 - at_kept / previous > STILL_FALLING:
        return "still learning", (
            f"Validation loss was still falling at the end (from {previous:.2f} to {at_kept:.2f} in the last "
            "stretch): more `--epochs` may help."
        )
    return "healthy", ("Validation loss fell and has levelled off: no sign of memorising.")


def _fell(training: Curve, kept: int, last: int) -> bool:
    """Whether the mean loss of the steps after `kept` lies below that of as many before it."""
    after = [loss for step, loss in training if kept < step <= last]
    before = [loss for step, loss in training if step <= kept][-len(after) :] if after else []
    return bool(before) and fmean(after) < fmean(before)


def _gap(at_kept: float, sample: Mapping[str, Any] | None) -> str:
    if not sample:
        return ""
    gap = at_kept - sample["loss"]
    return (
        f" With the kept adapter and no dropout the loss is {sample['loss']:.2f} nats a token on "
        f"{sample['rows']} training rows and {at_kept:.2f} on the validation rows (gap {gap:+.2f})."
    )
