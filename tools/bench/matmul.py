"""The machine's own matrix-multiply rate: torch.mm alone, in the shapes and the format of the model.

Each shape is multiplied as a linear layer does it (x @ w.T, result into memory that is there), on all
threads torch takes, in five blocks of `seconds`; a shape's rate is the median block. The rate of the
machine is that of the fastest shape, so shares of it are not flattered by a slow one.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from bench.shapes import Shape

ROWS = {"cpu": 1024, "cuda": 8192}


def measure(shape: Shape, device: str, seconds: float) -> dict[str, Any]:
    """GFLOP/s by shape, and the best as `gflops`."""
    wide = [*shape.linears.values(), (shape.hidden, shape.vocabulary)]
    rates = {
        f"{ROWS[device]}x{inputs}x{outputs}": _rate(
            ROWS[device], inputs, outputs, getattr(torch, shape.dtype), device, seconds
        )
        for inputs, outputs in dict.fromkeys(wide)
    }
    return {
        "contestant": "matmul",
        "gflops": max(rates.values()),
        "by_shape": rates,
        "threads": torch.get_num_threads(),
        "dtype": shape.dtype,
    }


def _rate(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype, device: str, seconds: float
) -> float:
    x = torch.randn(rows, inputs, device=device).to(dtype)
    w = torch.randn(outputs, inputs, device=device).to(dtype)
    out = torch.empty(rows, outputs, device=device, dtype=dtype)
    _block(x, w, out, seconds / 2)
    times = [_block(x, w, out, seconds) for _ in range(5)]
    return round(2 * rows * inputs * outputs / statistics.median(times) / 1e9, 1)


def _block(x: torch.Tensor, w: torch.Tensor, out: torch.Tensor, seconds: float) -> float:
    """Seconds for one multiplication, repeated for about `seconds`."""
    batch = 50 if x.is_cuda else 1  # a GPU is asked for many at once, so that it never waits
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds or not done:
        for _ in range(batch):
            torch.mm(x, w.T, out=out)
        if x.is_cuda:
            torch.cuda.synchronize()
        done += batch
    return (time.perf_counter() - began) / done
