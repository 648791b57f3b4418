"""What a training is at a step boundary, beyond the model: its journal, its weights, its dice.

`Journal` is the JSON part, saved in every checkpoint; the functions move adapter weights and the
random states of python, numpy and torch between memory and tensors. Reads and writes no file.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from gemma_lora.errors import ModelError
from gemma_lora.train.checkpoint import Checkpoint

__all__ = [
    "MOMENTS",
    "Journal",
    "load_moments",
    "load_weights",
    "moments_of",
    "random_states",
    "seed_all",
    "seed_torch",
    "set_random_states",
    "trainable",
    "untouched",
]

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each weight."""


@dataclass
class Journal:
    """What has happened so far; saved in every checkpoint, so a resumed run goes on with it."""

    step: int = 0
    validations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """`{"step", "loss"}` in order; step 0 is before training."""
    best_step: int | None = None
    best_loss: float | None = None
    since_best: int = 0
    candidates: int = 0
    """Validations of an adapter that does something, from which the best is chosen."""
    stopped_early: bool = False
    first_loss: float | None = None
    last_loss: float | None = None
    tokens: int = 0
    supervised: int = 0
    skipped: int = 0
    """Steps that fp16 skipped because of overflow."""
    seconds: float = 0.0
    """Wall-clock training time, validation and checkpoints included, over all resumptions."""
    line: dict[str, Any] = field(default_factory=dict[str, Any])
    """The metrics line of `step`."""
    written: bool = True
    """Whether that line is in the metrics: not if `step` was interrupted before its validation."""

    @property
    def validated(self) -> bool:
        """Whether `step` has its validation."""
        return bool(self.validations) and self.validations[-1]["step"] == self.step


def trainable(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def untouched(model: PeftModel) -> bool:
    """Whether the adapter still adds nothing: its second factors are zero."""
    return not any(bool(p.any()) for name, p in trainable(model).items() if "lora_B" in name)


def load_weights(model: PeftModel, found: Checkpoint) -> None:
    """Copy the checkpoint's adapter into `model`; every tensor must be there with its shape."""
    stored, live = found.tensors("weights"), trainable(model)
    if stored.keys() != live.keys() or any(stored[n].shape != live[n].shape for n in live):
        raise ModelError(
            "its weights do not fit the adapter of this run",
            where=str(found.path),
            remedy="delete this folder and run again, to go on from the checkpoint before it",
        )
    with torch.no_grad():
        for name, parameter in live.items():
            parameter.copy_(stored[name])


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state as `{number of the weight}.{name}`, complete.

    A weight that had no gradient yet (every step so far skipped) has none in memory: what AdamW begins
    with, zeros, stands for it, so that anything missing in a checkpoint is known for damage.
    """
    kept = optimizer.state_dict()["state"]
    moments: dict[str, Tensor] = {}
    for number, weight in enumerate(_weights_of(optimizer)):
        absent = {name: torch.zeros_like(weight) for name in MOMENTS} | {"step": torch.zeros(())}
        entry = kept.get(number) or absent
        moments |= {f"{number}.{name}": torch.as_tensor(entry[name]) for name in MOMENTS}
    return moments


def load_moments(optimizer: torch.optim.Optimizer, found: Checkpoint) -> None:
    """AdamW's state and rates from the checkpoint; every weight's must be there with its shape.

    A fused step over moments of another shape would read memory that is not theirs.
    """
    stored, weights = found.tensors("optimizer"), _weights_of(optimizer)
    content = optimizer.state_dict()
    rates = found.state["scheduler"]["_last_lr"]
    shapes = {
        f"{number}.{name}": torch.Size() if name == "step" else weight.shape
        for number, weight in enumerate(weights)
        for name in MOMENTS
    }
    if {key: value.shape for key, value in stored.items()} != shapes or len(rates) != len(
        content["param_groups"]
    ):
        raise ModelError(
            "its optimiser state does not fit the adapter of this run",
            where=str(found.path),
            remedy="delete this folder and run again, to go on from the checkpoint before it",
        )
    state = {
        number: {name: stored[f"{number}.{name}"] for name in MOMENTS}
        for number in range(len(weights))
    }
    groups = [{**g, "lr": lr} for g, lr in zip(content["param_groups"], rates, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """In the order of the numbers in `state_dict`."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_torch(*key: int) -> None:
    """Make what torch draws next (PEFT's own dropout) a function of `key`."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def random_states() -> dict[str, Tensor]:
    _, keys, position, has_gauss, gauss = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    position, has_gauss, gauss = states["numpy_rest"].tolist()
    keys = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
