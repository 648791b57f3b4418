"""Several processes that train one adapter: meeting, exchanging numbers, and noticing the dead.

Every process computes its share of each step's micro-batches (with the whole frozen model, or a
part of it: `train/sharding.py`);
then the gradients of the adapter are summed, and each makes the same change of the weights. The
first process leads: it alone prepares, decides, reads and writes the run folder, and calls the others
when training begins (`led`, `following`). Small numbers always go over gloo, which reports a closed
connection at once; gradients on GPUs over NCCL, entered only when all are known to be there.
Every failed exchange becomes an EnvironmentFault that names the process that is gone, if one is (one that
hangs still gives signs of life); a lack of memory in it stays one.
Reads and writes no file.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from gemma_lora.errors import EnvironmentFault
from gemma_lora.launcher import Launch, launch
from gemma_lora.train.shortage import out_of_memory

__all__ = ["ALONE", "World", "flat_gradients", "following", "led", "put_gradients", "release"]

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""Longest wait for another process in an exchange; a dead one is noticed at once."""
_BEAT = 0.5
"""Seconds between two signs of life."""
_CALL, _LEFT = "gemma-lora/call", "gemma-lora/left"
_HIDDEN = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
    *("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP"),
)
"""What makes accelerate wrap the model, shard the loader, or cast."""


class World:
    """The processes that train together; exchanges must be made by all, in the same order."""

    def __init__(self, here: Launch, watch: _Watch | None = None) -> None:
        self.rank, self.size, self.local_rank = here.rank, here.size, here.local_rank
        self._here, self._watch = here, watch

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> Iterator[tuple[int, T]]:
        """This process's share of `items`, each with its number among all."""
        return ((n, item) for n, item in enumerate(items) if n % self.size == self.rank)

    def gather(self, *numbers: float) -> list[list[float]]:
        """The numbers of every process, by rank."""
        mine = torch.tensor(numbers, dtype=torch.float64)
        if self.size == 1:
            return [mine.tolist()]
        every = [torch.empty_like(mine) for _ in range(self.size)]
        with self.noticing():
            dist.all_gather(every, mine)
        return [part.tolist() for part in every]

    def share(self, value: T) -> T:
        """The leader's `value` (JSON), whatever the others pass."""
        if self.size == 1:
            return value
        data = json.dumps(value).encode()
        length = int(self.gather(len(data))[0][0])
        buffer = torch.zeros(length, dtype=torch.uint8)
        if self.leads:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        with self.noticing():
            dist.broadcast(buffer, src=0)
        return json.loads(bytes(buffer.tolist()))

    def add(self, values: Tensor) -> None:
        """Replace `values` by their sum over all processes: the same bits everywhere."""
        if self.size > 1:
            with self.noticing():
                dist.all_reduce(values)

    @contextmanager
    def noticing(self) -> Generator[None]:
        """A failure inside becomes an EnvironmentFault that says who is gone; a lack of memory stays one."""
        try:
            yield
        except RuntimeError as error:  # gloo: closed connection, timeout; NCCL: DistBackendError
            if out_of_memory(error):  # here, and not in another process
                raise
            gone = self._watch.silent() if self._watch is not None else [0]
            names = ", ".join(str(rank) for rank in gone)
            raise EnvironmentFault(
                f"process {names} of {self.size} is gone"
                if gone
                else f"an exchange between the {self.size} processes failed",
                where=str(self._here),
                details=[str(error).splitlines()[0]],
                remedy="see the message of that process, if it could leave one (one killed for lack of "
                "memory cannot: dmesg tells); run the same command again to go on",
            ) from error


ALONE = World(Launch(0, 1, 0))


# ---------------------------------------------------------------------- gradients


def flat_gradients(parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    """All gradients in one fp32 line, and for each parameter whether it had one (1 or 0)."""
    device = parameters[0].device
    parts = [
        torch.zeros(p.numel(), device=device) if p.grad is None else p.grad.float().flatten()
        for p in parameters
    ]
    there = [0.0 if p.grad is None else 1.0 for p in parameters]
    return torch.cat([*parts, torch.tensor(there, device=device)])


def put_gradients(parameters: Sequence[torch.nn.Parameter], line: Tensor) -> None:
    """The inverse, of a sum of such lines. A parameter without gradient anywhere keeps none."""
    sizes = [p.numel() for p in parameters]
    *parts, there = line.split([*sizes, len(sizes)])
    for parameter, part, count in zip(parameters, parts, there.tolist(), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype) if count else None


# ---------------------------------------------------------------------- meeting


@contextmanager
def led(message: Mapping[str, Any], device: str) -> Generator[World]:
    """The first process: call the others with `message` (JSON) and train with them inside."""
    here = launch()
    if here.size == 1:
        with _hidden():
            yield ALONE
        return
    store = _store()
    store.set(_CALL, json.dumps(message))
    with _joined(here, store, device) as world, _hidden():
        yield world


@contextmanager
def following() -> Generator[tuple[World, dict[str, Any]] | None]:
    """Another process: wait for the call, however long; None where there is nothing to train."""
    here, store = launch(), _store()
    with World(here).noticing():  # the leader's death ends this: through the launcher or the store
        while not store.check([_CALL]):
            time.sleep(0.2)
        message = json.loads(store.get(_CALL))
        if message is None:
            store.add(_LEFT, 1)
    if message is None:
        yield None
        return
    with _joined(here, store, str(message["device"])) as world, _hidden():
        yield world, message


def release() -> None:
    """The first process: let the others end, where they were not called."""
    here = launch()
    if here.size > 1 and not (store := _store()).check([_CALL]):
        store.set(_CALL, json.dumps(None))
        end = time.monotonic() + TIMEOUT.total_seconds()
        while store.add(_LEFT, 0) < here.size - 1 and time.monotonic() < end:
            time.sleep(0.05)  # the store may end with this process


def _store() -> Store:
    """The launcher's meeting point (torchrun's own, or one that the first process keeps)."""
    try:
        store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    except (RuntimeError, ValueError) as error:
        raise EnvironmentFault(
            f"the processes cannot meet: {str(error).splitlines()[0]}",
            where=str(launch()),
            expected="MASTER_ADDR and MASTER_PORT of a reachable machine, as torchrun sets them",
            remedy="start with torchrun (docs/scaling.md)",
        ) from error
    return store


@contextmanager
def _joined(here: Launch, store: Store, device: str) -> Generator[World]:
    watch = _Watch(here, _store())
    world = World(here, watch)
    try:
        with world.noticing():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo",
                store=PrefixStore("gemma-lora", store),
                rank=here.rank,
                world_size=here.size,
                timeout=TIMEOUT,
            )
        yield world
    finally:
        watch.stop()
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _hidden() -> Generator[None]:
    """Keep the launcher's variables from accelerate: the dealing and the summing are ours."""
    kept = {name: os.environ.pop(name) for name in _HIDDEN if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


class _Watch:
    """Each process leaves a sign of life in the store all the time, also while it computes."""

    def __init__(self, here: Launch, store: Store) -> None:
        self._here, self._store = here, store
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="signs of life", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        count = 0
        while not self._stopped.wait(_BEAT):
            count += 1
            try:
                self._store.set(f"gemma-lora/alive/{self._here.rank}", str(count))
            except RuntimeError:  # the store is gone; the next exchange will say so
                return

    def silent(self) -> list[int]:
        """Ranks without a sign of life for four beats; the store's keeper where it is gone."""
        try:
            before = self._seen()
            time.sleep(4 * _BEAT)
            return [rank for rank, seen in self._seen().items() if seen == before[rank]]
        except RuntimeError:
            return [0]

    def _seen(self) -> dict[int, bytes]:
        others = [rank for rank in range(self._here.size) if rank != self._here.rank]
        keys = {rank: f"gemma-lora/alive/{rank}" for rank in others}
        return {r: self._store.get(k) if self._store.check([k]) else b"" for r, k in keys.items()}

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
