"""Whether an error is a lack of memory, on each kind of device. Reads and writes no file."""

from __future__ import annotations

import torch

__all__ = ["out_of_memory"]

_LACKS = (
    "can't allocate memory",  # CPU
    "MPS backend out of memory",
    "CUDA error: out of memory",  # torch.AcceleratorError: by the driver, not by torch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What torch says in a plain RuntimeError or one that is no `torch.OutOfMemoryError`."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` is a lack of memory."""
    foreseen = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return foreseen or any(text in str(error) for text in _LACKS)
