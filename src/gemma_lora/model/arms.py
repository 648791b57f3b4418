"""Both arms of a run from one load of the base weights: adapter switched off, adapter switched on.

Reads the base model and the run's adapter/; writes nothing. A run without an adapter has the base
arm only.
"""

from __future__ import annotations

import contextlib
from typing import Any

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.errors import DataError
from gemma_lora.model.adapter import load_adapter
from gemma_lora.model.load import check_access, decide_device, decide_precision, load_base
from gemma_lora.model.reference import BaseRef, resolve
from gemma_lora.records import ARMS
from gemma_lora.rundir import RunDir

__all__ = ["Arms", "has_adapter", "load_arms", "load_plain"]


class Arms:
    """Base and tuned model in one: `use("tuned")` is a context in which the model is that arm."""

    def __init__(self, model: Any, names: tuple[str, ...], decisions: dict[str, str]) -> None:
        self.model = model
        self.names = names
        self.decisions = decisions

    def use(self, arm: str) -> contextlib.AbstractContextManager[None]:
        if arm not in self.names:
            raise DataError(f"there is no {arm} model in this run", remedy="train first")
        if arm == "base" and "tuned" in self.names:
            return self.model.disable_adapter()
        return contextlib.nullcontext()


def load_arms(config: Config, run: RunDir, console: Console) -> Arms:
    """The base model and, where the run has one, its adapter; decisions are noted."""
    ref = resolve(config.model.model)
    base, decisions = load_plain(config, ref, console)
    if not has_adapter(run):
        return Arms(base, ("base",), decisions)
    return Arms(load_adapter(base, run.adapter, ref=base.base_ref), ARMS, decisions)


def load_plain(config: Config, ref: BaseRef, console: Console) -> tuple[Any, dict[str, str]]:
    """A model without adapter on the configured device, and what was decided for it."""
    facts = check_access(ref)
    device = decide_device(config.model)
    precision = decide_precision(config.model, device, facts)
    console.note(
        f"device {device} ({device.reason}), precision {precision} ({precision.reason}), "
        f"attention {facts.attention} ({facts.attention_reason})"
    )
    model: Any = load_base(facts.ref, precision=precision, device=device)
    return model, {
        "device": str(device),
        "precision": str(precision),
        "attention": facts.attention,
    }


def has_adapter(run: RunDir) -> bool:
    return (run.adapter / "adapter_config.json").exists()
