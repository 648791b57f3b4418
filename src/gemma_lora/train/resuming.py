"""Which checkpoint a training goes on from, and what one must hold for it.

A manifest says that files are as they were written, not that they are a training's: state, moments and
random states are checked before anything is made from them. A checkpoint that fails is passed over with
a notice, as a truncated one is, and the next older one is taken. What is not gone on from, for this or for
other inputs, is set aside under another name. Reads the checkpoints of a run and renames their folders; writes none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, cast

import numpy as np
import safetensors
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from gemma_lora.console import Console
from gemma_lora.rundir import RunDir
from gemma_lora.train import checkpoint as checkpoints
from gemma_lora.train.checkpoint import Checkpoint
from gemma_lora.train.decisions import Decisions
from gemma_lora.train.path import PATHS
from gemma_lora.train.state import MOMENTS, Journal

__all__ = ["ASKED", "resumable"]

ASKED = {
    "--micro-batch-tokens": "micro_batch_tokens",
    "--gradient-checkpointing": "gradient_checkpointing",
}
"""What the user may change when a training goes on: parts of its identity that are no reason to start
over, and their names in the config and in `Decisions`."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


class _Validation(BaseModel):
    model_config = ConfigDict(extra="forbid")
    step: Annotated[int, Field(ge=0)]
    loss: _Finite


class _Schedule(BaseModel):
    model_config = ConfigDict(extra="forbid")
    last_epoch: Annotated[int, Field(ge=0)]
    step_count: Annotated[int, Field(alias="_step_count", ge=0)]
    last_lr: Annotated[list[_Finite], Field(alias="_last_lr", min_length=1)]
    base_lrs: Annotated[list[_Finite], Field(min_length=1)]


class _State(BaseModel):
    """state.json. Rules of single entries; `_disagreement` has those between them."""

    model_config = ConfigDict(extra="forbid")
    identity: dict[str, str]
    decisions: Decisions
    journal: Journal
    scheduler: _Schedule
    scaler: dict[str, _Finite] | None
    python_random: tuple[Literal[3], list[int], float | None]


class _Validations(BaseModel):
    validations: list[_Validation]


def resumable(
    run: RunDir, identity: Mapping[str, str], steps: int, console: Console
) -> Checkpoint | None:
    """The newest checkpoint of the same inputs that holds all it must; newer ones, and those of other
    inputs, are set aside.

    `steps`: of the whole training. Where the best checkpoint that it names is damaged, its journal goes
    back to the best one that is whole.
    """

    def fault(found: Checkpoint) -> str | None:
        return _fault(found, identity, steps)

    found = checkpoints.newest(run.checkpoints, console, fault=fault)
    if found is None:
        return None
    saved: dict[str, str] = found.state["identity"]
    # also what only the checkpoint names: nothing of it was checked then (`_fault`)
    names = dict.fromkeys([*identity, *saved])
    changed = [n for n in names if n not in ASKED and saved.get(n) != identity.get(n)]
    changed += [f"what gemma-lora keeps as {name}" for name in _of_another_version(found.state)]
    if changed:
        console.note(f"training starts over: {', '.join(changed)} changed since the checkpoints")
        checkpoints.set_aside(run.checkpoints, console)
        return None
    console.note(f"going on from the checkpoint of step {found.step}")
    return _with_whole_best(run, found, console)


# ---------------------------------------------------------------------- what it must hold


def _of_another_version(state: Mapping[str, Any]) -> list[str]:
    """Parts whose entries have other names than here."""
    parts = (("decisions", Decisions), ("journal", Journal))
    return [name for name, kind in parts if set(state[name]) != {f.name for f in fields(kind)}]


def _fault(found: Checkpoint, identity: Mapping[str, str], steps: int) -> str | None:
    """Why a training cannot go on from `found`, or None."""
    try:
        json.dumps(found.state, allow_nan=False)  # as it was written
        parts = [found.state[name] for name in ("identity", "decisions", "journal")]
        if not all(isinstance(part, dict) for part in parts):
            return "its state is not a training's"
        saved = {**found.state["identity"], **{name: identity.get(name) for name in ASKED}}
        if saved == identity and not _of_another_version(found.state):
            state = _State.model_validate_json(found.raw_state, strict=True)
            validations = _Validations.model_validate({"validations": state.journal.validations})
            fault = _disagreement(found, state, validations.validations, steps)
            if fault is not None:
                return fault
            return _tensor_fault(found) or _dice_fault(found)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        return f"state.json: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    except ValueError:
        return "its state holds what is not a finite number"
    except KeyError as error:
        return f"its state has no {error}"
    except TypeError:
        return "its state is not a training's"
    except (safetensors.SafetensorError, OSError) as error:
        return f"its tensors cannot be read ({error})"
    return None


def _disagreement(
    found: Checkpoint, state: _State, validations: list[_Validation], steps: int
) -> str | None:
    """What does not fit together in the state."""
    journal, decided = state.journal, state.decisions
    losses = {entry.step: entry.loss for entry in validations}
    rules = {
        "step": journal.step == found.step <= steps,
        "steps": decided.steps == steps,
        "device": decided.device == state.identity["device"],
        "path": decided.path in PATHS,
        "validations": [*losses] == sorted(losses) and len(losses) == len(validations),
        "validated steps": all(step <= found.step for step in losses),
        "candidates": 0 <= journal.candidates <= len(validations),
        "best": (None if journal.best_step is None else losses.get(journal.best_step, "none"))
        == journal.best_loss,
        "rates": len(state.scheduler.last_lr) == len(state.scheduler.base_lrs),
        "scaler": not state.scaler or set(state.scaler) == _SCALER,
    }
    wrong = [name for name, right in rules.items() if not right]
    return f"its state contradicts itself: {', '.join(wrong)}" if wrong else None


def _tensor_fault(found: Checkpoint) -> str | None:
    """Weights and moments must be of one adapter: names, number and shapes, and all finite.

    Which moments are which weight's only the optimiser knows: the trainer compares again.
    """
    weights, moments = found.tensors("weights"), found.tensors("optimizer")
    for tensor in (*weights.values(), *moments.values()):
        if not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            return "weights or optimiser hold what is not a finite number"
    if moments.keys() != {f"{n}.{name}" for n in range(len(weights)) for name in MOMENTS}:
        return "its optimiser state is not that of its weights"
    wanted = sorted(tuple(tensor.shape) for tensor in weights.values())
    for name in ("exp_avg", "exp_avg_sq"):
        if sorted(tuple(moments[f"{n}.{name}"].shape) for n in range(len(weights))) != wanted:
            return "its optimiser state has other shapes than its weights"
    if any(moments[f"{n}.step"].numel() != 1 for n in range(len(weights))):
        return "its optimiser state has other shapes than its weights"
    return None


def _dice_fault(found: Checkpoint) -> str | None:
    """Random states are tried on generators of their own."""
    states = found.tensors("rng")
    version, numbers, gauss = found.state["python_random"]
    try:
        random.Random().setstate((version, tuple(numbers), gauss))
        torch.Generator().set_state(states["torch"])
        position, has_gauss, cached = states["numpy_rest"].tolist()
        if not 0 <= position <= 624 or states["numpy"].dtype != torch.int64:
            return "its random states cannot be used"
        keys = states["numpy"].numpy().astype(np.uint32)
        np.random.RandomState().set_state(("MT19937", keys, int(position), int(has_gauss), cached))
        if "cuda" in states and torch.cuda.is_available():
            torch.Generator("cuda").set_state(states["cuda"])
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError):
        return "its random states cannot be used"
    return None


# ---------------------------------------------------------------------- the best one


def _with_whole_best(run: RunDir, found: Checkpoint, console: Console) -> Checkpoint:
    """`found`, with the best of its validations whose checkpoint is whole.

    Said where that is another one than its journal names: the weights of the best are needed at the end.
    """
    journal = Journal(**found.state["journal"])
    best = journal.best_step
    if best is None or best == found.step:
        return found
    weights = found.tensors("weights")

    def whole(step: int) -> bool:
        if step == found.step:
            return True
        there = checkpoints.at_step(run.checkpoints, step)
        return there is not None and _same_form(there, weights)

    if whole(best):
        return found
    candidates = journal.validations[len(journal.validations) - journal.candidates :]
    left = [entry for entry in candidates if whole(cast(int, entry["step"]))]
    now = min(left, key=lambda entry: entry["loss"]) if left else None
    journal.best_step = now["step"] if now else None
    journal.best_loss = now["loss"] if now else None
    journal.since_best = len(candidates) - 1 - candidates.index(now) if now else 0
    console.warn(
        f"the best checkpoint (step {best}) is gone or damaged; "
        + (f"the best that is left is step {now['step']}" if now else "none is left")
    )
    return replace(found, state={**found.state, "journal": vars(journal)})


def _same_form(found: Checkpoint, weights: Mapping[str, Tensor]) -> bool:
    try:
        stored = found.tensors("weights")
    except (safetensors.SafetensorError, OSError):
        return False
    return stored.keys() == weights.keys() and all(
        stored[name].shape == tensor.shape and bool(stored[name].isfinite().all())
        for name, tensor in weights.items()
    )
