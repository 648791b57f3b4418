"""What a finished training says of itself: warnings, training.json, the facts of the card.

Works on what the stage has in memory; reads only the data file's hash, writes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gemma_lora import model as models
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.data.source import is_hub, source_digest, source_name
from gemma_lora.data.tokens import Tokenised
from gemma_lora.model.families import family_of
from gemma_lora.prompt import PromptFormat
from gemma_lora.train.card import CardFacts
from gemma_lora.train.decisions import Decisions
from gemma_lora.train.plan import StepPlan
from gemma_lora.train.progress import peak_memory_mib, peak_rss_mib
from gemma_lora.train.state import Journal

__all__ = ["Base", "Data", "card_facts", "result_of", "say_how_it_went"]


@dataclass(frozen=True)
class Base:
    """The base model as the rest of the stage needs it."""

    ref: models.BaseRef
    facts: models.BaseFacts
    fmt: PromptFormat
    weights: str


@dataclass(frozen=True)
class Data:
    train: Tokenised
    validation: Tokenised
    plan: StepPlan


def say_how_it_went(journal: Journal, data: Data, console: Console) -> None:
    if journal.skipped:
        console.warn(f"{journal.skipped} steps were skipped because fp16 gradients overflowed")
    if journal.stopped_early:
        console.note(f"stopped early after step {journal.step}: validation no longer improved")
    if journal.best_loss is None:
        return
    before = journal.validations[0]["loss"]
    if journal.best_loss >= before:
        console.warn(
            f"the validation loss never fell below {before:.3f}, where it was before training "
            f"(best {journal.best_loss:.3f}): the adapter has learned nothing that helps on other rows"
        )
    elif 0 < journal.since_best == journal.candidates - 1:
        console.warn(
            "the first validation was the best: it got worse from there on, so the adapter saved is "
            "an early one; try a lower --learning-rate or fewer --epochs"
        )
    elif journal.candidates > 1 and journal.best_step == data.plan.steps:
        console.warn(
            "the last validation was the best: the loss was still falling, so more --epochs may help"
        )
    console.note(
        f"validation loss {before:.3f} before, {journal.best_loss:.3f} at step {journal.best_step}, "
        "which is the adapter saved"
    )


def result_of(
    journal: Journal,
    base: Base,
    data: Data,
    decided: Decisions,
    trainable: int,
    warned: list[str],
) -> dict[str, Any]:
    """The content of training.json."""
    before = [v["loss"] for v in journal.validations if v["step"] == 0]
    return {
        "schema_version": 1,
        "decisions": asdict(decided),
        "base": {
            "name": base.ref.name,
            "kind": base.ref.kind,
            "family": base.facts.family,
            "revision": base.facts.revision,
            "parameters": base.facts.parameters,
            "weights": base.weights,
            "licence": base.facts.licence,
            "is_demo": base.ref.is_demo,
        },
        "stop_ids": list(base.fmt.stop_ids),
        "template": base.fmt.template_hash,
        "trainable_parameters": trainable,
        "rows": {"train": len(data.train), "validation": len(data.validation)},
        "rows_dropped": data.train.dropped + data.validation.dropped,
        "rows_shortened": data.train.shortened + data.validation.shortened,
        "supervised_tokens": int(data.train.supervised.sum()),
        "tokens": int(data.train.lengths.sum()),
        "steps_done": journal.step,
        "best_step": journal.best_step,
        "saved_step": journal.best_step if journal.best_step is not None else journal.step,
        "stopped_early": journal.stopped_early,
        "train_loss_first": journal.first_loss,
        "train_loss_last": journal.last_loss,
        "validation_loss_before": before[0] if before else None,
        "validation_loss_best": journal.best_loss,
        "validations": journal.validations,
        "seconds": round(journal.seconds, 3),
        "tokens_per_second": round(journal.tokens / journal.seconds, 1)
        if journal.seconds
        else None,
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "peak_gpu_mib": round(peak_memory_mib(torch.device(decided.device)), 1)
        if decided.device == "cuda"
        else None,
        "skipped_steps": journal.skipped,
        "warnings": warned,
    }


def card_facts(config: Config, base: Base, result: dict[str, Any]) -> CardFacts:
    data = config.data.path
    licence = base.facts.licence
    family = family_of(base.facts.model_type, where=base.ref.name)
    return CardFacts(
        base_name=Path(base.ref.location).name
        if base.ref.kind == "local"
        else base.ref.location
        if base.ref.kind == "hub"
        else base.ref.name,
        base_kind=base.ref.kind,
        base_location=base.ref.location,
        base_revision=base.facts.revision,
        base_weights=base.weights,
        template=base.fmt.template if base.fmt.template_source == "published" else None,
        licence=licence,
        model_class=family.text_class if family.text_config else None,
        key_mapping=dict(family.key_mapping),
        # only the base's card can say that weights of a family under Gemma's terms are not
        gemma_terms=not base.ref.is_demo
        and (licence == "gemma" or (licence is None and family.gemma_terms)),
        is_demo=base.ref.is_demo,
        data_file=source_name(data) if data else None,
        data_sha256=source_digest(data)
        if data and (is_hub(data) or Path(data).is_file())
        else None,
        results=result,
    )
