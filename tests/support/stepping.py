"""Single optimiser steps for tests: a model with an adapter, and a `StepTrainer` around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from gemma_lora import model as models
from gemma_lora.config import LoraConfig
from gemma_lora.console import Console
from gemma_lora.data.tokens import Tokenised
from gemma_lora.model.families import family_of
from gemma_lora.train import trainer as trainers
from gemma_lora.train.decisions import Decisions
from gemma_lora.train.interrupts import Interrupts
from gemma_lora.train.masks import Masks
from gemma_lora.train.plan import StepPlan
from gemma_lora.train.products import Buffers
from gemma_lora.train.progress import Progress
from gemma_lora.train.state import trainable
from support.tiny import FAMILIES, save_tiny
from support.training import make_config, quiet
from support.variants import VARIANTS, save_variant

CPU = torch.device("cpu")
NEWER = ("gemma3n-text", "gemma4-small", "gemma4-large", "gemma4-experts")
"""Shapes of Gemma 3n and 4 with all that is special in them."""
EVERY = (*FAMILIES, *NEWER)


def rounding(name: str) -> float:
    """Share of the largest gradient that two fp32 ways of computing may differ by. The small models
    of Gemma 3n and 4 magnify what is rounded off, one of them much: for some rows PEFT's own
    gradients there are 2e-4 from those in fp64, and ours up to three times that."""
    return {"gemma4-small": 2e-3}.get(name, 1e-4 if name in NEWER else 1e-5)


def model_folder(root: Path, name: str) -> Path:
    """A tiny random model: of `support.tiny`, or one of `support.variants`."""
    if name in FAMILIES:
        return save_tiny(root / name, name)
    variant = next(v for v in VARIANTS if v.name == name)
    family = family_of(variant.model_type, where=name)
    return save_variant(root / name, variant, family.text_class, family.attention)


def peft_model(
    folder: Path,
    *,
    precision: str = "fp32",
    disturbed: bool = True,
    dropout: float = 0.0,
    **lora: Any,
) -> PeftModel:
    """A model with an adapter; `disturbed`: one whose update is not zero."""
    base = models.load_base(models.resolve(str(folder)), precision=precision, device="cpu")
    config = LoraConfig.model_validate({"rank": 8, "alpha": 16, "dropout": dropout, **lora})
    model = models.attach_lora(base, config, 0)
    return disturb(model) if disturbed else model


def disturb(model: PeftModel) -> PeftModel:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    """Copies of all gradients, which are then removed."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in trainable(model).items():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    model.zero_grad(set_to_none=True)
    return found


def assert_near(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float
) -> None:
    """Every difference at most `tolerance` times the largest of all numbers expected."""
    assert found.keys() == expected.keys()
    most = max(float(value.abs().max()) for value in expected.values())
    assert most > 1e-4  # else everything would be near
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * most, msg=name)


def trainer_for(
    model: PeftModel,
    rows: Tokenised,
    folder: Path,
    *,
    budget: int,
    per_step: int = 4,
    epochs: float = 1,
    masks: Masks | None = None,
    precision: str = "fp32",
    console: Console | None = None,
    **recipe: Any,
) -> tuple[trainers.StepTrainer, StepPlan]:
    """A trainer over `rows` that computes `budget` tokens at once; validates nothing."""
    config = make_config(folder, batch=per_step, accumulation=1, **recipe)
    plan = StepPlan(len(rows), per_step=per_step, epochs=epochs, seed=0)
    decided = Decisions(
        device="cpu",
        precision=precision,
        learning_rate=config.train.learning_rate or 1e-3,
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        warmup_steps=0,
        eval_steps=plan.steps,
        gradient_checkpointing=False,
        micro_batch_tokens=budget,
        path="packed",
    )
    trainer = trainers.StepTrainer(
        model,
        trainers.training_arguments(config, decided, folder / "checkpoints"),
        plan=plan,
        rows=rows,
        masks=masks,
        buffers=Buffers(),
        validation=(),
        decided=decided,
        patience=0,
        folder=folder / "checkpoints",
        identity={},
        interrupts=Interrupts(quiet()),
        console=console or quiet(),
        progress=lambda step: Progress(
            quiet(), folder / "metrics.jsonl", steps=plan.steps, start_step=step
        ),
        resume=None,
    )
    return trainer, plan
