"""The precision and the way of training that fit the device together, decided in one place.

`plan_training` is what training goes by and what `audit` shows: with `--precision auto` on a CPU it plans
in fp32, which is exact, and where nothing fits in bf16. Reads the free memory; writes nothing. Refuses
(EnvironmentFault) what fits in neither or is longer than the model's positions, and (ConfigError) what `decide_precision` refuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gemma_lora.config import Config
from gemma_lora.errors import EnvironmentFault
from gemma_lora.model.budget import Budget, Lengths, of_each, plan, share
from gemma_lora.model.load import BaseFacts, Choice, decide_precision, free_memory

__all__ = ["plan_training"]


def plan_training(
    config: Config,
    facts: BaseFacts,
    lengths: NDArray[Any],
    supervised: NDArray[Any],
    *,
    device: str,
    processes: int = 1,
    sharded: bool = False,
    precision: str | None = None,
) -> tuple[Choice, Budget]:
    """Precision with its reason, and tokens at once and checkpointing, for one of `processes`.

    `lengths` and `supervised`: tokens and tokens with loss of each training row. `sharded`: each process
    holds a part of the frozen weights. `precision`: one that is settled already (a checkpoint's).
    """
    per_step = config.train.batch * config.train.accumulation
    rows = Lengths.of(lengths, supervised, per_step=per_step)
    free = of_each(free_memory(device), device, processes)
    # what is said here is kept in audit.json, and a path may hold the name of a person
    name = Path(facts.ref.location).name if facts.ref.kind == "local" else facts.ref.name
    if rows.longest > facts.max_positions:
        raise EnvironmentFault(
            f"the longest row has {rows.longest:,} tokens, and {name} takes {facts.max_positions:,}",
            where="training rows",
            remedy=f"use --max-length {facts.max_positions} or less, or another model",
        )

    def within(kind: str) -> Budget:
        return plan(
            config,
            facts.shape,
            rows,
            name=name,
            device=device,
            precision=kind,
            free=free,
            share=share(config, lengths, processes),
            shards=processes if sharded else 1,
        )

    if precision is not None:
        return Choice(precision, "as settled before"), within(precision)
    if config.model.precision != "auto" or device != "cpu":
        chosen = decide_precision(config.model, device, facts)
        return chosen, within(str(chosen))
    try:
        return Choice("fp32", "exact on cpu, and it fits"), within("fp32")
    except EnvironmentFault as fault:
        exact = fault
    try:
        budget = within("bf16")
    except EnvironmentFault as rounded:
        raise EnvironmentFault(
            rounded.found,
            where=rounded.where,
            details=[*rounded.details, exact.found],
            remedy=rounded.remedy,
        ) from None
    return Choice("bf16", f"{exact.found}; slower, but it fits"), budget
