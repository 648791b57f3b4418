"""What `torchrun` or `accelerate launch` said when it started this process, read from the environment.

A launch is several processes with the same command line. The first works as if it were alone; the
others wait until it trains and then take part (`train/processes.py`). Loads no torch, because the
GPU that a process may use must be settled before. Refuses ways of launching that would be ignored
(FSDP 1, DeepSpeed, Megatron), and sharded weights where there is one process to hold them.
Reads and changes environment variables only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from gemma_lora.console import Console
from gemma_lora.errors import ConfigError, EnvironmentFault

__all__ = ["Launch", "launch", "need_known_launch", "own_gpu", "shards"]

_UNKNOWN = {
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


def shards(asked: bool | None) -> bool:
    """Whether frozen weights are sharded: as set, else as accelerate's launcher was told.

    `asked` is the setting `shard_weights`. ConfigError where the two contradict each other,
    EnvironmentFault where there is one process only.
    """
    told = _on("ACCELERATE_USE_FSDP")
    if told and asked is False:
        raise ConfigError(
            "accelerate launch was told to use FSDP",
            where="--no-shard-weights",
            remedy="leave one of the two away",
        )
    if not told and not asked:
        return False
    if launch().size == 1:
        raise EnvironmentFault(
            "there is one process, and no other to hold a part of the weights",
            where="--use_fsdp" if told else "--shard-weights",
            expected="several processes, one for each GPU",
            remedy="torchrun --nproc-per-node GPUS -m gemma_lora.cli ..., or --no-shard-weights",
        )
    return True


def need_known_launch(console: Console) -> None:
    """EnvironmentFault where the launcher was told to spread the model in a way we cannot."""
    wanted = [name for key, name in _UNKNOWN.items() if _on(key)]
    if _on("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        wanted.append("FSDP version 1")
    if wanted:
        raise EnvironmentFault(
            f"accelerate launch was told to use {' and '.join(wanted)}",
            expected="data parallelism, with the whole frozen model in every process or sharded by FSDP 2",
            remedy="accelerate launch --use_fsdp --fsdp_version 2, or torchrun --nproc-per-node GPUS -m "
            "gemma_lora.cli ... --shard-weights (docs/scaling.md)",
        )
    for line in _not_used():
        console.warn(line)
    if _on("ACCELERATE_USE_CPU"):
        console.note("accelerate's --cpu is not used: --device decides that here")


def _not_used() -> list[str]:
    """A line for each setting of accelerate's that asks for what is not done."""
    lines: list[str] = []
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision.lower() != "no":
        lines.append(
            f"accelerate's mixed precision `{precision}` is not used: --precision decides that here"
        )
    if not _on("ACCELERATE_USE_FSDP"):
        return lines
    if _on("FSDP_OFFLOAD_PARAMS"):
        lines.append("accelerate's fsdp_offload_params is not used: weights stay on the device")
    if _on("FSDP_ACTIVATION_CHECKPOINTING"):
        lines.append(
            "accelerate's fsdp_activation_checkpointing is not used: --gradient-checkpointing "
            "decides that here"
        )
    if os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false":
        lines.append(
            "accelerate's fsdp_reshard_after_forward is not used: a layer is given back after its "
            "forward pass"
        )
    return lines


def _on(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"
