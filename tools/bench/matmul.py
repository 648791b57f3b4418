"""The machine's own matrix-multiply rate: one product alone, in the shapes and the format of the model.

Each shape is multiplied as a linear layer does it (x @ w.T, result into memory that is there), on all
threads torch takes, in five blocks of `seconds`; a shape's rate is the median block. On a CPU
in fp32 both libraries at hand are timed: `torch.mm` (MKL) and `numpy.matmul` (OpenBLAS). The rate of the
machine is that of the fastest shape and library, so shares of it are not flattered.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.shapes import Shape

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
ROWS = {"cpu": 1024, "cuda": 8192}


def measure(shape: Shape, device: str, precision: str, seconds: float) -> dict[str, Any]:
    """GFLOP/s by shape, and the best as `gflops`."""
    wide = [*shape.linears.values(), (shape.hidden, shape.vocabulary)]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    products: dict[str, Product] = {"torch.mm": lambda x, w, out: torch.mm(x, w.T, out=out)}
    if device == "cpu" and precision == "fp32":
        products["numpy.matmul"] = lambda x, w, out: torch.from_numpy(
            np.matmul(x.numpy(), w.numpy().T, out=out.numpy())
        )
    rates = {
        f"{ROWS[device]}x{inputs}x{outputs} {name}": _rate(
            product, ROWS[device], inputs, outputs, dtype, device, seconds
        )
        for inputs, outputs in dict.fromkeys(wide)
        for name, product in products.items()
    }
    return {
        "contestant": "matmul",
        "gflops": max(rates.values()),
        "by_shape": rates,
        "threads": torch.get_num_threads(),
        "dtype": precision,
    }


def _rate(
    product: Product,
    rows: int,
    inputs: int,
    outputs: int,
    dtype: torch.dtype,
    device: str,
    seconds: float,
) -> float:
    x = torch.randn(rows, inputs, device=device).to(dtype)
    w = torch.randn(outputs, inputs, device=device).to(dtype)
    out = torch.empty(rows, outputs, device=device, dtype=dtype)
    _block(product, x, w, out, seconds / 2)
    times = [_block(product, x, w, out, seconds) for _ in range(5)]
    return round(2 * rows * inputs * outputs / statistics.median(times) / 1e9, 1)


def _block(
    product: Product, x: torch.Tensor, w: torch.Tensor, out: torch.Tensor, seconds: float
) -> float:
    """Seconds for one multiplication, repeated for about `seconds`."""
    batch = 50 if x.is_cuda else 1  # a GPU is asked for many at once, so that it never waits
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds or not done:
        for _ in range(batch):
            product(x, w, out)
        if x.is_cuda:
            torch.cuda.synchronize()
        done += batch
    return (time.perf_counter() - began) / done
