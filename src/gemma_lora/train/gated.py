"""Gemma's gated activation, gelu(gate) * up, and its gradient, in few passes over the memory.

gelu(x) = x s with s = sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) is the tanh approximation that Gemma has
(Hendrycks and Gimpel, arXiv 1606.08415), since tanh(z) = 2 sigmoid(2 z) - 1. On a CPU in fp32 a sigmoid
takes a third of the time of a tanh, and the gradient needs it once where gelu and its own gradient
take a tanh each. Elsewhere PyTorch's kernels do it. Reads and writes no file.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["BLOCK", "gated", "gated_backward", "rows_at_once"]

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR
BLOCK = 256
"""Rows between whose passes the numbers stay in the processor's cache."""


def _by_sigmoid(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def rows_at_once(x: Tensor) -> int:
    """For how many of the rows of `x` (T, F) `gated` is best called: elsewhere all, for every call is a
    kernel's start."""
    return BLOCK if _by_sigmoid(x) else max(1, len(x))


def gated(gate: Tensor, up: Tensor, out: Tensor) -> Tensor:
    """gelu(gate) * up into `out`; all (T, F). Best called for `rows_at_once` rows."""
    if not _by_sigmoid(gate):
        torch.ops.aten.gelu.out(gate, approximate="tanh", out=out)
        return out.mul_(up)
    return _sigmoid(gate, out).mul_(gate).mul_(up)


def gated_backward(gate: Tensor, up: Tensor, dy: Tensor, room: Tensor) -> tuple[Tensor, ...]:
    """(gelu(gate) * up, gradient of gate, gradient of up) for the gradient `dy` of the product.

    All (T, F). The results take the place of `dy`, `gate`, `up` and `room` (uninitialised), in an order
    that is not said; none of these must be used afterwards.
    """
    if not _by_sigmoid(gate):
        torch.ops.aten.gelu.out(gate, approximate="tanh", out=room)
        dup = room * dy
        dgate = torch.ops.aten.gelu_backward(dy.mul_(up), gate, approximate="tanh")
        return room.mul_(up), dgate, dup
    slope = torch.empty_like(gate[:BLOCK])
    for g, u, d, r in zip(*(x.split(BLOCK) for x in (gate, up, dy, room)), strict=True):
        _sigmoid(g, r)
        s = torch.mul(g, g, out=slope[: len(g)]).mul_(3 * _CUBIC).add_(_LINEAR)
        s.mul_(g.mul_(r))  # g is gelu(gate) from here on
        s.addcmul_(r, s, value=-1).add_(
            r
        )  # slope of gelu: s + gelu (1 - s) z', z the sigmoid's argument
        torch.mul(g, u, out=r)
        g.mul_(d)
        d.mul_(s.mul_(u))
    return room, dy, gate


def _sigmoid(x: Tensor, out: Tensor) -> Tensor:
    torch.mul(x, x, out=out)
    return out.mul_(_CUBIC).add_(_LINEAR).mul_(x).sigmoid_()
