"""The frozen weights of the decoder layers: whole in every process, or a part in each (FSDP2).

`shard` gives the matrices of each layer to PyTorch's `fully_shard`, which keeps 1/N of them in each of N
processes, gathers a layer around its forward and backward, and gives it back. LoRA weights, norms,
embedding and output layer stay whole, so gradients, optimiser and checkpoints know nothing of it.
A gather needs all processes, so all must make the same passes through the model: `fillers` says what
a process without work computes, `passes` counts, and `catch_up` takes part in what is left after a
pass that failed here, so that nobody waits. EnvironmentFault where the weights did not become
sharded. Reads and writes no file.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from gemma_lora.errors import EnvironmentFault
from gemma_lora.train.loss import causal_model
from gemma_lora.train.processes import World

__all__ = ["WHOLE", "Shards", "Weights", "frozen_bytes", "shard"]

T = TypeVar("T")


class Weights:
    """Every process holds the whole model: nothing is gathered, and none waits for another."""

    sharded = False
    held: int | None = None
    """Bytes of frozen weights in this process, where they are sharded."""

    def fillers(self, items: Sequence[T]) -> list[T]:
        """What this process computes besides its share of `items`, without counting the result."""
        del items
        return []

    @contextmanager
    def passes(self, count: int) -> Generator[None]:
        """Inside, exactly `count` forward and backward passes are made, or an exception is raised."""
        del count
        yield

    def catch_up(self) -> None:
        """To be called when an exception left `passes` and is done with; then all go on together."""

    def anywhere(self, here: bool) -> bool:
        """Whether it is so in any process that must make the same passes as this one."""
        return here


WHOLE = Weights()


class Shards(Weights):
    """The decoder layers' matrices are spread over the processes of `world`."""

    sharded = True

    def __init__(self, body: nn.Module, gathers: _Gathers, held: int, world: World) -> None:
        """`body`: the decoder, FSDP2's root."""
        layers = list(cast(Any, body).layers)
        adapted = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
        # a layer below the first adapter gets no gradient, so it is not gathered for one
        self._order = [*layers, *reversed(layers[adapted.index(True) :])]
        self._root, self._gathers, self._world = cast(FSDPModule, body), gathers, world
        self._due = 0
        self._failed = False
        self.held = held

    def fillers(self, items: Sequence[T]) -> list[T]:
        over = len(items) % self._world.size
        return [items[-1]] if over and self._world.rank >= over else []

    @contextmanager
    def passes(self, count: int) -> Generator[None]:
        # passes without gradient leave traces in FSDP2, for which it would gather a layer too many
        self._root.reset_iter_state()
        self._due, self._gathers.made, self._failed = count * len(self._order), 0, True
        yield
        if self._gathers.made != self._due:
            raise RuntimeError(f"{self._gathers.made} gathers were made, not {self._due}")
        self._failed = False

    def catch_up(self) -> None:
        if not self._failed:
            return
        self._failed = False
        gc.collect()  # activations of the pass that failed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._root.reset_iter_state()
        for number in range(self._gathers.made, self._due):
            layer: FSDPModule = self._order[number % len(self._order)]
            layer.unshard()
            layer.reshard()

    def anywhere(self, here: bool) -> bool:
        return any(bool(flag) for (flag,) in self._world.gather(float(here)))


class _Gathers:
    """`fully_shard`'s all-gather, counted; a failed one says which process is gone."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.made = 0

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> dist.Work | None:
        self.made += 1
        with self._world.noticing():
            return dist.all_gather_single(
                output_tensor, input_tensor, group=group, async_op=async_op
            )


def shard(model: PeftModel, world: World, device: str) -> Shards:
    """Spread the decoder layers' frozen matrices of `model`, which is on the CPU, over `world`.

    The parts go to `device`; the rest of the model stays where it is. EnvironmentFault where this
    PyTorch cannot, or where a weight is whole in spite of it.
    """
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise EnvironmentFault(
            f"PyTorch {torch.__version__} cannot go on after a pass that failed with sharded weights",
            where="--shard-weights",
            expected="PyTorch 2.13 or newer (FSDPModule.reset_iter_state)",
            remedy="pip install --upgrade torch",
        )
    body = causal_model(model).base_model
    layers = list(cast(Any, body).layers)
    shapes = {
        name: p.shape
        for name, p in body.named_parameters()
        if name.startswith("layers.") and _can_be_shared(p)
    }
    mesh, gathers = init_device_mesh(device, (world.size,)), _Gathers(world)
    for layer in layers:
        stay = {p for p in layer.parameters() if not _can_be_shared(p)}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=stay)
        cast(FSDPModule, layer).set_custom_all_gather(cast(Any, gathers))
    # the root: holds nothing, but lets the next layer's gather run beside this one's computation
    fully_shard(body, mesh=mesh, ignored_params=set(body.parameters()))
    _need_sharded(body, shapes, world)
    for parameter in model.parameters():  # else these keep the pages of the whole file
        if not parameter.requires_grad and not isinstance(parameter, DTensor):
            parameter.data = parameter.data.clone()
    return Shards(body, gathers, frozen_bytes(model), world)


def frozen_bytes(model: nn.Module) -> int:
    """Memory of the frozen weights in this process."""
    return sum(_bytes(p) for p in model.parameters() if not p.requires_grad)


def _can_be_shared(parameter: nn.Parameter) -> bool:
    """Frozen matrices; norms are small, and the hand-written ones read theirs at any time."""
    return not parameter.requires_grad and parameter.dim() > 1


def _need_sharded(body: nn.Module, shapes: Mapping[str, torch.Size], world: World) -> None:
    """EnvironmentFault unless each weight is here as its 1/N of the rows, and in no more memory."""
    faults: list[str] = []
    now = dict(body.named_parameters())
    for name, shape in shapes.items():
        weight = now[name]
        if not isinstance(weight, DTensor):
            faults.append(f"{name}: whole")
            continue
        part = -(-shape[0] // world.size)
        rows = max(0, min(part, shape[0] - part * world.rank))
        most = part * shape[1:].numel() * weight.element_size()  # the last parts may be padded
        good = (
            weight.placements == (Shard(0),)
            and weight.device_mesh.size() == world.size
            and weight.to_local().shape == (rows, *shape[1:])
            and _bytes(weight) <= most
        )
        if not good:
            faults.append(
                f"{name}: {tuple(weight.to_local().shape)} of {tuple(shape)} in "
                f"{_bytes(weight):,} bytes, placed {weight.placements}"
            )
    if faults or not shapes:
        raise EnvironmentFault(
            f"{len(faults)} of {len(shapes)} weights of the decoder layers are not sharded",
            where=f"process {world.rank} of {world.size}",
            details=faults[:5],
            expected=f"a part of 1/{world.size} in each process",
            remedy="report it with the model's name and the version of torch",
        )


def _bytes(parameter: Tensor) -> int:
    """Of a part, the memory that is really taken: it might be a view of the whole."""
    if isinstance(parameter, DTensor):
        return parameter.to_local().untyped_storage().nbytes()
    return parameter.numel() * parameter.element_size()
