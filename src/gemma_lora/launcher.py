"""What `torchrun` or `accelerate launch` said when it started this process, read from the environment.

A launch is several processes with the same command line. The first works as if it were alone; the
others wait until it trains and then take part (`train/processes.py`). Loads no torch, because the
GPU that a process may use must be settled before. Refuses ways of launching that would be ignored
or would shard the model (FSDP, DeepSpeed, Megatron). Reads and changes environment variables only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from gemma_lora.console import Console
from gemma_lora.errors import EnvironmentFault

__all__ = ["Launch", "launch", "need_plain_launch", "own_gpu"]

_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}


@dataclass(frozen=True)
class Launch:
    """Place of this process among those started together."""

    rank: int
    """From 0; 0 is the one that writes and prints."""
    size: int
    local_rank: int
    """Rank among the processes of this machine."""

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size}"


def launch() -> Launch:
    """This process's place; (0, 1) where no launcher started it. EnvironmentFault for nonsense."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = [os.environ.get(name) or usual for name, usual in zip(names, "010", strict=True)]
    try:
        rank, size, local = (int(value) for value in given)
    except ValueError:
        rank, size, local = -1, 0, -1
    if not (0 <= rank < size and local >= 0):
        raise EnvironmentFault(
            ", ".join(f"{name}={value}" for name, value in zip(names, given, strict=True)),
            where="the launcher's variables in the environment",
            expected="RANK from 0 to below WORLD_SIZE",
            remedy="start with torchrun, or unset these variables",
        )
    return Launch(rank, size, local)


def own_gpu() -> None:
    """Let this process see its own GPU only: one of those named, else the one with its number.

    To be called before torch looks for GPUs. Then `cuda` means the same in every process, and no
    library can spread one process over several GPUs (the Trainer would: `DataParallel`).
    """
    here = launch()
    if here.size == 1:
        return
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else []
    if gpus and here.local_rank < len(gpus):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[here.local_rank]
    elif named is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(here.local_rank)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def need_plain_launch(console: Console) -> None:
    """EnvironmentFault where the launcher was told to shard the model, which we cannot do."""
    wanted = [name for key, name in _SHARDING.items() if os.environ.get(key, "").lower() == "true"]
    if wanted:
        raise EnvironmentFault(
            f"accelerate launch was told to use {' and '.join(wanted)}",
            expected="data parallelism: every process holds the whole frozen model",
            remedy="torchrun --nproc-per-node GPUS -m gemma_lora.cli ...; a model that does not fit "
            "one GPU needs a larger one: sharded weights are not supported (docs/scaling.md)",
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision.lower() != "no":
        console.warn(
            f"accelerate's mixed precision `{precision}` is not used: --precision decides that here"
        )
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        console.note("accelerate's --cpu is not used: --device decides that here")
