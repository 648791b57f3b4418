"""What a run will need, tried before hours are spent and before its folder is claimed.

Reads the model's configuration and weights' hash, the free memory and the free space; loads no weights,
writes nothing. Refuses, with the remedy, what training or answering would refuse much later.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.continuing import is_done
from gemma_lora.errors import EnvironmentFault
from gemma_lora.launcher import launch, shards
from gemma_lora.rundir import RunDir

__all__ = [
    "inspect_base",
    "need_disk",
    "need_room_to_answer",
    "outlook",
    "try_training_settings",
]


def inspect_base(config: Config, console: Console) -> dict[str, Any]:
    """Identity of the base model, found without loading its weights."""
    from gemma_lora import model

    ref = model.resolve(config.model.model)
    facts = model.check_access(ref)
    fmt = model.load_format(ref)
    console.note(
        f"base model: {config.model.model} ({facts.family}, {facts.parameters / 1e6:,.1f} million parameters)"
    )
    for note in facts.notes:
        console.note(note)
    return {
        # of a local folder the last part only: a path may hold the name of a person
        "name": Path(ref.location).name if ref.kind == "local" else config.model.model,
        "kind": ref.kind,
        "family": facts.family,
        "parameters": facts.parameters,
        "revision": facts.revision,
        "licence": facts.licence,
        "weights": model.weights_digest(ref),
        "template": fmt.template_hash,
        "template_source": fmt.template_source,
        "tokenizer": fmt.tokenizer_hash,
        "stop_ids": list(fmt.stop_ids),
    }


def need_disk(run_dir: RunDir) -> None:
    free = shutil.disk_usage(run_dir.root).free
    if free < 200 * 2**20 and not is_done("train", run_dir, {}):
        raise EnvironmentFault(
            f"only {free / 2**20:.0f} MiB are free on the disk",
            where=str(run_dir.root),
            expected="at least 200 MiB for checkpoints, adapter and answers",
            remedy="free some space, then run the same command again",
        )


def try_training_settings(config: Config) -> None:
    """Device, precision, target layers and trackers, which training would refuse much later."""
    from gemma_lora import model
    from gemma_lora.train import need_trackers

    ref = model.resolve(config.model.model)
    device = model.decide_device(config.model)
    model.decide_precision(config.model, device, model.check_access(ref))
    model.check_targets(ref, config.lora.targets)
    need_trackers(config.train.report_to)


def need_room_to_answer(config: Config) -> None:
    """EnvironmentFault where a model that is trained in parts could not answer as a whole."""
    from gemma_lora import model
    from gemma_lora.model.memory import BYTES

    device = model.decide_device(config.model)
    facts = model.check_access(model.resolve(config.model.model))
    precision = model.decide_precision(config.model, device, facts)
    need, free = facts.parameters * BYTES[precision], model.free_memory(device)
    if need > free:
        raise EnvironmentFault(
            f"answering takes the whole model on one device: {need / 2**30:.1f} GiB in {precision}, "
            f"{free / 2**30:.1f} GiB are free on {device}",
            where="run with sharded weights",
            remedy="train with `gemma-lora train` under the launcher; then give the same settings to "
            "`gemma-lora run`, without a launcher, on a machine whose device holds the model "
            "(docs/scaling.md)",
        )


def outlook(config: Config) -> Callable[[Any, Any], dict[str, Any]]:
    """What training will take of memory, from tokens and tokens with loss of each training row."""
    from gemma_lora import model
    from gemma_lora.model.fitting import plan_training

    def plan_of(lengths: Any, supervised: Any) -> dict[str, Any]:
        facts = model.check_access(model.resolve(config.model.model))
        device = str(model.decide_device(config.model))
        processes = launch().size
        try:
            precision, budget = plan_training(
                config,
                facts,
                lengths,
                supervised,
                device=device,
                processes=processes,
                sharded=processes > 1 and shards(config.train.shard_weights),
            )
        except EnvironmentFault as fault:  # training itself stops with it
            return {
                "device": device,
                "precision": config.model.precision,
                "fits": False,
                "problem": fault.found,
                "details": [*fault.details, *([fault.remedy] if fault.remedy else [])],
            }
        return {
            "device": device,
            "precision": str(precision),
            "precision_reason": precision.reason,
            "fits": budget.warning is None,
            "problem": budget.warning,
            "details": [],
            **budget.facts(),
        }

    return plan_of
