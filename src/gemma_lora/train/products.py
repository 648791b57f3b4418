"""Matrix products by the library that is fastest on this processor, into memory that is there.

PyTorch multiplies fp32 numbers with MKL on a CPU, which is made for Intel's processors; NumPy brings
OpenBLAS, which on others reaches more of what the processor can do (docs/training.md has the figures).
Which one it is follows from the processor alone, never from a measurement: the same machine always
gives the same bits. `Buffers` keeps the large blocks that such products are written to, since a block
that is new to the process costs as much time as it takes to zero it. Reads and writes no file.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Buffers", "by_numpy", "linear"]


def linear(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """x (T, in) times weight (out, in) transposed, without gradient where it is NumPy's; into `out`."""
    if x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and by_numpy():
        if out is None:
            out = torch.empty(x.shape[0], weight.shape[0])
        np.matmul(_array(x), _array(weight).T, out=_array(out))
        return out
    if out is not None:
        return torch.mm(x, weight.t(), out=out)
    return functional.linear(x, weight)


def _array(x: Tensor) -> np.ndarray[Any, Any]:
    # not x.numpy(), after which a storage cannot be resized, as FSDP2 does with gathered weights
    return np.from_dlpack(x.detach())


@cache
def by_numpy() -> bool:
    """Whether fp32 products on this machine's CPU go through NumPy: PyTorch has MKL, the processor
    is not Intel's, and NumPy has OpenBLAS."""
    if not torch.backends.mkl.is_available() or "intel" in _processor().lower():
        return False
    shown = cast(dict[str, Any], np.show_config(mode="dicts"))
    return "openblas" in str(shown["Build Dependencies"]["blas"]["name"])


def _processor() -> str:
    """The maker's name as the system tells it."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line for line in lines if line.startswith("vendor_id")), "")
    return platform.processor()


class Buffers:
    """Blocks that are lent and given back; what is not given back is simply freed when its user is.

    Never more of them than were lent at once, and none larger than the largest that was asked for: what
    is kept is at most what the largest micro-batch takes.
    """

    _STEP = 256
    """Rows are rounded up, so that micro-batches of nearly the same size use the same blocks."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def lend(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """An uninitialised (rows, columns) tensor of the kind and on the device of `like`."""
        if like.device.type != "cpu":  # whose allocator does all this
            return like.new_empty(rows, columns)
        size = rows * columns
        fitting = [b for b in self._free if b.dtype == like.dtype and b.numel() >= size]
        if fitting:
            block = min(fitting, key=torch.numel)
            self._free = [b for b in self._free if b is not block]
        else:
            # all that are free are too small: freed first, side by side, so that larger ones find room there
            self._free = [b for b in self._free if b.dtype != like.dtype]
            most = -(-rows // self._STEP) * self._STEP if rows > self._STEP else rows
            block = like.new_empty(most * columns)
        return _over(block, rows, columns)

    def give_back(self, *lent: Tensor) -> None:
        """To be lent again: whoever gives back must not use them any more."""
        for x in lent:
            if x.device.type == "cpu":
                self._free.append(_over(x, x.untyped_storage().nbytes() // x.element_size()))

    def clear(self) -> None:
        """Free what is not lent."""
        self._free.clear()


def _over(block: Tensor, *shape: int) -> Tensor:
    """A tensor over the memory of `block`, and not a view of it: autograd would take what is written
    to a view's base later for a change of the view."""
    empty: Any = block.new_empty(0)
    return cast(Tensor, empty.set_(block.untyped_storage(), 0, shape))
